# SPDX-License-Identifier: Apache-2.0
"""Whole steps of training on the emulated CUDA kernels make the numbers that the CPU's kernels make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.cuda.conftest import emulated, emulation  # noqa: F401, fixtures
from splat_steps import CONFIG, STEPS, VARIANTS, compare, trained, trainer

from recon.methods.splat.config import SplatConfig
from recon.methods.splat.cuda_step import CudaStep
from recon.scene import Scene

_FEW = ("antialiased", "random background", "seldom detail", "penalties", "poses and exposure")


def on_cuda(scene: Scene, config: SplatConfig, masked: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
    """As `trained`; the losses are those of the steps but for the last."""
    made = trainer(scene, replace(config, backend="cuda"), masked)
    assert isinstance(made._step, CudaStep)
    losses = [made.step(step, step % 4)["loss"] for step in range(1, STEPS + 1)]
    assert losses[0] == losses[1]
    return losses[1:], dict(made.state().tensors)


@pytest.mark.parametrize("name", _FEW)
def test_the_cuda_step_equals_the_fused_step(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
    name: str,
) -> None:
    scene = make_scene()
    losses, found = on_cuda(scene, VARIANTS[name])
    expected_losses, expected = trained(scene, VARIANTS[name])
    assert losses == pytest.approx(expected_losses[:-1], rel=2e-4)
    compare(found, expected)
    assert {"blend_forward_3", "blend_backward_3", "ssim_backward", "sort_pass"} <= set(emulated.launches)


@pytest.mark.parametrize("masks", ["ignore", "alpha"])
def test_masks_count_alike(make_scene: Callable[..., Scene], emulated: EmulatedProgram, masks: str) -> None:  # noqa: F811
    scene, config = make_scene(), replace(CONFIG, masks=masks, background="random")
    losses, found = on_cuda(scene, config, masked=True)
    expected_losses, expected = trained(scene, config, masked=True)
    assert losses == pytest.approx(expected_losses[:-1], rel=2e-4)
    compare(found, expected)


def test_statistics_and_density_control(make_scene: Callable[..., Scene], emulated: EmulatedProgram) -> None:  # noqa: F811
    """Several rounds of density control, which rests on the statistics, change the number of Gaussians alike."""
    scene = make_scene()
    density = replace(CONFIG.density, start=0.0, stop=1.0, every=2)
    config = replace(CONFIG, density=density, coarse=0.0)
    gathered = []
    for backend in ("cuda", "cpu"):
        made = trainer(scene, replace(config, backend=backend))
        made.step(1, 0)
        gathered.append(made._density.state())
        counts = [made.step(step, step % 4)["gaussians"] for step in range(2, 5)]
        gathered[-1]["counts"] = torch.tensor(counts)
    for name, found in gathered[0].items():
        torch.testing.assert_close(found, gathered[1][name], rtol=1e-3, atol=1e-6, msg=name)


def test_a_step_without_room_changes_nothing_and_makes_room(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
) -> None:
    made = trainer(make_scene(), replace(CONFIG, backend="cuda", coarse=0.0))
    step = made._step
    assert isinstance(step, CudaStep)
    loss = made.step(1, 0)["loss"]
    step._binner._capacity = 10
    before = {name: tensor.clone() for name, tensor in made.state().tensors.items() if not name.startswith("density")}
    made.step(2, 0)
    after = made.state().tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    made.step(3, 0)
    assert step.lost_steps == 1
    assert step._binner.capacity > 1000
    made.step(4, 0)
    assert not torch.equal(made.state().tensors["means"], before["means"])
    assert made.step(5, 0)["loss"] < loss


def test_a_loss_that_is_no_number_changes_nothing(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
) -> None:
    made = trainer(make_scene(), replace(CONFIG, backend="cuda", coarse=0.0, background="white"))
    made.step(1, 0)
    made._step._backgrounds = {(1.0, 1.0, 1.0): torch.full((3,), float("nan"))}  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in made.state().tensors.items() if not name.startswith("density")}
    made.step(2, 1)
    after = made.state().tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
