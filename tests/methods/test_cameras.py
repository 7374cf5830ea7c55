# SPDX-License-Identifier: Apache-2.0
"""Motions of poses and colour corrections, for one photograph at a time and for rays of many."""

from __future__ import annotations

import pytest
import torch

from recon.errors import ReconError
from recon.methods.cameras import Exposure, PoseDeltas, motion_matrix, rows_of


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-4, 1e-3, 0.3, 3.0])
def test_motions_are_the_exponential_map(size: float) -> None:
    omega = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    omega = size * omega / omega.norm()
    x, y, z = omega.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    matrix = motion_matrix(torch.cat([omega, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)]), 2.0)
    torch.testing.assert_close(matrix[:3, :3], torch.matrix_exp(cross), rtol=1e-10, atol=1e-12)
    assert matrix[:3, 3].tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("size", [0.0, 1e-2, 0.7])
def test_gradients_of_motions(size: float) -> None:
    motion = (size * torch.tensor([0.3, -0.5, 0.8, 0.1, 0.2, 0.3], dtype=torch.float64)).requires_grad_()
    torch.autograd.gradcheck(lambda m: motion_matrix(m, 1.5), (motion,))


def test_only_the_photograph_of_the_step_moves() -> None:
    poses = PoseDeltas(4, 1.0, torch.device("cpu"))
    poses.apply(2, torch.eye(4))[0, 3].backward()
    poses.update(1, 0.1)
    moved = poses.state()["pose"].abs().sum(1) > 0
    assert moved.tolist() == [False, False, True, False]


def test_exposures_average_to_the_identity() -> None:
    exposure = Exposure(3, torch.device("cpu"))
    picture = torch.rand(4, 5, 3)
    torch.testing.assert_close(exposure.apply(1, picture), picture)
    for step in range(1, 4):
        (exposure.apply(1, picture) - 0.5 * picture).square().sum().backward()
        exposure.update(step, 0.1)
    value = exposure.state()["exposure"]
    assert value.mean(0).abs().max() < 1e-6
    assert float(exposure.apply(1, picture).detach().mean()) < float(picture.mean())


def test_motions_of_many_are_those_of_each() -> None:
    motions = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    motions[2] = 0
    together = motion_matrix(motions, 1.5)
    apart = torch.stack([motion_matrix(motion, 1.5) for motion in motions])
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-7)


def test_rays_of_many_photographs_move_those_photographs() -> None:
    """A batch of rays from photographs 0 and 3 gives them the gradients of one at a time, and leaves the others be."""
    given = motion_matrix(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), 1.0)
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    photographs = torch.tensor([0, 3, 3, 0, 3, 0, 0])
    together, apart = PoseDeltas(4, 2.0, torch.device("cpu")), PoseDeltas(4, 2.0, torch.device("cpu"))
    for step in (1, 2):
        poses = rows_of(together.apply_all(given), photographs)
        (poses[:, :3, :3] @ points[:, :, None]).pow(3).sum().backward()
        together.update(step, 0.01)
        loss = torch.zeros(())
        for point, photograph in zip(points, photographs.tolist()):
            loss = loss + (apart.apply(photograph, given[photograph])[:3, :3] @ point).pow(3).sum()
        loss.backward()
        apart.update(step, 0.01)
    moved = together.state()["pose"]
    assert (moved.abs().sum(1) > 0).tolist() == [True, False, False, True]
    torch.testing.assert_close(moved, apart.state()["pose"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_gradients_of_rows(dtype: torch.dtype) -> None:
    values = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([1, 3, 3, 0, 1, 1], dtype=dtype)
    assert torch.equal(rows_of(values, rows), values[rows.long()])
    torch.autograd.gradcheck(lambda v: rows_of(v, rows), (values,))
    rows_of(values, rows[:0]).sum().backward()
    assert not bool(values.grad.any())


def test_exposures_of_rays_are_those_of_pictures() -> None:
    exposure = Exposure(3, torch.device("cpu"))
    state = exposure.state()
    state["exposure"].copy_(0.1 * torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(3)))
    colors = torch.rand(6, 3, requires_grad=True)
    photographs = torch.tensor([2, 0, 0, 1, 2, 2])
    shown = exposure.apply(photographs, colors)
    for color, photograph, ray in zip(colors, photographs.tolist(), shown):
        torch.testing.assert_close(ray, exposure.apply(photograph, color[None, None])[0, 0])
    before = state["exposure"].clone()
    shown[photographs != 1].sum().backward()
    assert bool((colors.grad[photographs != 1] != 0).all())
    exposure.update(1, 0.1)
    steps = exposure.state()["exposure"] - before
    assert (steps - steps[1]).abs().amax((1, 2)).tolist()[::2] == pytest.approx([0.1, 0.1], rel=1e-3)
    assert exposure.state()["exposure"].mean(0).abs().max() < 1e-6


def test_a_state_that_does_not_fit_is_refused() -> None:
    poses = PoseDeltas(3, 1.0, torch.device("cpu"))
    with pytest.raises(ReconError, match="pose is missing"):
        poses.restore({})
    with pytest.raises(ReconError, match=r"(?s)pose is of shape \(4, 6\).*3×6"):
        poses.restore(PoseDeltas(4, 1.0, torch.device("cpu")).state())
    exposure = Exposure(3, torch.device("cpu"))
    exposure.restore(exposure.state())
