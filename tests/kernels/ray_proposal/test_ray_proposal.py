# SPDX-License-Identifier: Apache-2.0
"""Drawing samples: against plain torch in double precision, its laws, and rays that are none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.ray_march.march_cases import BOUNDED, CONTRACTED, SPACES, random_rays
from kernels.ray_proposal.proposal_cases import FIELDS, assert_drawn, edges_of, mixed_grid

from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import Space
from recon.kernels.ray_proposal.op import ProposalOptions, propose, propose_into
from recon.kernels.workspace import Workspace

OPTIONS = ProposalOptions(32, 0.05, float("inf"))
CHOICES = [
    OPTIONS,
    replace(OPTIONS, intervals=5, far=7.0, whole=True),
    replace(OPTIONS, intervals=100, far=2.0, places=48, even=0.5),
    replace(OPTIONS, intervals=2, near=0.0, far=50.0, places=16, even=0.0, unknown_depth=3.0, whole=True),
    replace(OPTIONS, intervals=512, places=512, far=30.0),
]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("options", CHOICES)
def test_edges_lie_at_the_shares_of_the_reference(isa: str, space: Space, options: ProposalOptions) -> None:
    origins, directions, jitter = random_rays(200, 3)
    grid = mixed_grid()
    assert_drawn(propose(origins, directions, space, grid, options, jitter), space, grid, options, 3)


@pytest.mark.parametrize("space", SPACES)
def test_the_reference_keeps_to_itself(space: Space) -> None:
    origins, directions, jitter = (tensor.double() for tensor in random_rays(100, 4))
    grid = mixed_grid()
    found = propose(origins.float(), directions.float(), space, grid, OPTIONS, jitter.float(), backend="reference")
    assert_drawn(found, space, grid, OPTIONS, 4)


def test_samples_stand_at_surfaces(isa: str) -> None:
    """A wall across the ray gets all but the even part, and the rest is spread from end to end."""
    grid = OccupancyGrid.full(32)
    cells = grid.densities.zero_().view(32, 32, 32)
    cells[20] = 1.0
    space = Space((0.0, 0.0, 0.0), 1.0, False)
    found = propose(torch.tensor([[0.01, 0.01, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]]), space, grid, OPTIONS)
    near = (found.positions[:, 2] - 20.5 / 32).abs() < 1.3 / 32
    assert int(near.sum()) >= 27
    assert float(found.positions[0, 2]) < 0.5
    assert float(found.positions[-1, 2]) > 0.7


@pytest.mark.parametrize("space", SPACES)
def test_the_whole_ray_is_covered(isa: str, space: Space) -> None:
    origins, directions, jitter = random_rays(50, 7, 0.2)
    options = replace(OPTIONS, far=20.0, whole=True)
    edges = edges_of(propose(origins, directions, space, mixed_grid(), options, jitter), 32)
    torch.testing.assert_close(edges[:, 0], torch.full_like(edges[:, 0], 0.05), rtol=0, atol=1e-5)
    if space.contracted:
        torch.testing.assert_close(edges[:, -1], torch.full_like(edges[:, 0], 20.0), rtol=1e-4, atol=0)


def test_nothing_known_is_even(isa: str) -> None:
    """Empty, or nowhere possible: even over the places."""
    origins, directions, jitter = random_rays(20, 8, 0.2)
    grid, space = OccupancyGrid.full(8), replace(CONTRACTED, contracted=False)
    options = replace(OPTIONS, far=0.3)
    for density in (0.0, -1.0):
        grid.densities.fill_(density)
        found = propose(origins, directions, space, grid, replace(options, even=0.0), jitter)
        lengths = found.lengths.view(20, 32)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.25 / 33), rtol=5e-3, atol=0)


def test_cells_that_cannot_be_are_avoided(isa: str) -> None:
    grid = OccupancyGrid.full(16)
    cells = grid.densities.zero_().view(16, 16, 16)
    cells[:8] = -1.0
    origins, directions, jitter = random_rays(100, 9, 0.3)
    found = propose(origins, directions, BOUNDED, grid, OPTIONS, jitter)
    share = (found.positions[:, 2] < 0.5).float().view(100, 32).mean(1)
    crossing = (found.positions[:, 2].view(100, 32) > 0.55).any(1)
    assert int(crossing.sum()) > 20
    assert float(share[crossing].max()) < 0.1


def test_threads_and_neighbours_change_nothing(isa: str) -> None:
    origins, directions, jitter = random_rays(300, 10)
    grid, module = mixed_grid(), native()
    together = propose(origins, directions, CONTRACTED, grid, OPTIONS, jitter)
    threads = module.max_threads()
    try:
        module.set_threads(1)
        alone = propose(origins, directions, CONTRACTED, grid, OPTIONS, jitter)
    finally:
        module.set_threads(threads)
    for name in FIELDS:
        assert torch.equal(getattr(together, name), getattr(alone, name)), name
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    moved = propose(origins[order], directions[order], CONTRACTED, grid, OPTIONS, jitter[order])
    assert torch.equal(moved.distances.view(300, 32), together.distances.view(300, 32)[order])
    one = propose(origins[7:8], directions[7:8], CONTRACTED, grid, OPTIONS, jitter[7:8])
    assert torch.equal(one.positions, together.positions[7 * 32 : 8 * 32])


@pytest.mark.parametrize("space", SPACES)
def test_rays_that_are_none(isa: str, space: Space) -> None:
    nan, inf = float("nan"), float("inf")
    broken = [
        ([nan, 0, 0], [0, 0, 1], 0.5), ([inf, 0, 0], [0, 0, 1], 0.5), ([1e30, 0, 0], [0, 0, 1], 0.5),
        ([0, 0, 0], [0, 0, 0], 0.5), ([0, 0, 0], [nan, 0, 1], 0.5), ([0, 0, 0], [inf, 0, 1], 0.5),
        ([0, 0, 0], [0, 0, 1], nan), ([0, 0, 0], [0, 0, 1], 2.0), ([0, 0, 0], [0, 0, 1], -inf),
    ]  # fmt: skip
    missing = [([5, 0, 0], [0, 0, 1], 0.5), ([5, 0, 0], [1, 0, 0], 0.5), ([5, 5, 5], [-0.6, 0.8, 0], 0.5)]
    origins, directions, jitter = (torch.tensor(part).float() for part in zip(*broken, *missing))
    grid = mixed_grid()
    grid.densities[::7] = nan
    for backend in ("cpu", "reference"):
        found = propose(origins, directions, space, grid, OPTIONS, jitter, backend)
        assert all(bool(part.isfinite().all()) for part in (found.positions, found.distances, found.lengths))
        dead = len(broken) * 32 if space.contracted else len(origins) * 32
        assert bool((found.lengths[:dead] == 0).all())
        assert bool((found.positions[:dead] == 0.5).all())
        assert space.contracted or bool((found.distances == torch.tensor(OPTIONS.near)).all())


def test_extremes_stay_finite(isa: str) -> None:
    origins, directions, jitter = random_rays(64, 11)
    jitter[0], jitter[1] = 0.0, 1.0
    directions[2] = torch.tensor([0.0, 0.0, -1.0])
    grid = mixed_grid()
    grid.densities[::3] = 1e38
    for half_size in (1e-3, 1e4):
        for contracted in (False, True):
            space = Space((0.0, 0.0, 0.0), half_size, contracted)
            for near in (0.0, 1e3):
                options = ProposalOptions(17, near, float("inf"), whole=True)
                found = propose(origins * half_size, directions, space, grid, options, jitter)
                for part in (found.positions, found.distances, found.lengths):
                    assert bool(part.isfinite().all())
                assert bool((found.distances.view(64, 17).diff(dim=1) >= 0).all())


def test_workspace_none_and_nothing() -> None:
    origins, directions, jitter = random_rays(10, 12)
    grid, workspace = mixed_grid(), Workspace()
    first = propose_into(origins, directions, BOUNDED, grid, OPTIONS, workspace)
    second = propose_into(origins, directions, BOUNDED, grid, OPTIONS, workspace, torch.full_like(jitter, 0.5))
    assert first.positions.data_ptr() == second.positions.data_ptr()
    fresh = propose(origins, directions, BOUNDED, grid, OPTIONS)
    for name in FIELDS:
        assert torch.equal(getattr(fresh, name), getattr(second, name))
    for backend in ("cpu", "reference"):
        nothing = propose(origins[:0], directions[:0], BOUNDED, grid, OPTIONS, None, backend)
        assert len(nothing.distances) == 0
        assert nothing.offsets.tolist() == [0]


def test_what_is_wrong_is_refused() -> None:
    origins, directions, jitter = random_rays(4, 13)
    grid = mixed_grid(8)
    with pytest.raises(ReconError, match="directions has shape"):
        propose(origins, directions[:3], BOUNDED, grid, OPTIONS)
    with pytest.raises(ReconError, match="jitter"):
        propose(origins, directions, BOUNDED, grid, OPTIONS, jitter[:2])
    with pytest.raises(ReconError, match="float64"):
        propose(origins.double(), directions, BOUNDED, grid, OPTIONS)
    for wrong in (
        {"intervals": 1}, {"intervals": 513}, {"places": 8}, {"places": 528}, {"near": -1.0}, {"near": float("nan")},
        {"far": 0.05}, {"even": 1.5}, {"unknown_depth": float("inf")},
    ):  # fmt: skip
        with pytest.raises(ReconError):
            replace(OPTIONS, **wrong)
