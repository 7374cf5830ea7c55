# SPDX-License-Identifier: Apache-2.0
"""Marching and occupancy: the emulated CUDA kernels against plain torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.occupancy.test_occupancy import copy, random_findings, random_grid
from kernels.ray_march.march_cases import SPACES, blobs, random_rays
from kernels.ray_march.test_ray_march import OPTIONS, assert_close

from recon.errors import ReconError
from recon.kernels.occupancy.op import OccupancyGrid, update_occupancy
from recon.kernels.ray_march.op import MarchOptions, Space, march, march_backward
from recon.kernels.ray_march.reference import march_backward_reference, march_reference


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("spread", "most", "far"), [(1.5, 1024, math.inf), (0.3, 9, math.inf), (30.0, 1024, 29.0)])
def test_samples_are_those_of_the_reference(
    emulated: EmulatedProgram, space: Space, spread: float, most: int, far: float
) -> None:
    origins, directions, jitter = random_rays(300, int(spread), spread)
    options, grid = replace(OPTIONS, max_samples=most, far=far), blobs(32)
    starts = torch.linspace(0, spread / 2, 300)
    for given in (None, starts):
        double = None if given is None else given.double()
        expected = march_reference(origins.double(), directions.double(), space, grid, options, jitter.double(), double)
        found = march(origins, directions, space, grid, options, jitter, given, backend="cuda")
        assert len(expected.distances) > 40
        assert_close(found, expected)
    assert emulated.launches == ["march_count", "march_place"] * 2


@pytest.mark.parametrize("space", SPACES)
def test_portions_and_limits(emulated: EmulatedProgram, space: Space) -> None:
    """Marching in portions of few samples and few rays gives the samples of marching at once."""
    origins, directions, jitter = random_rays(130, 2, 0.8)
    grid, parts = blobs(32), []
    whole = march(origins, directions, space, grid, OPTIONS, jitter, backend="cuda")
    options, starts = replace(OPTIONS, max_samples=7, max_total=40), None
    for _ in range(100):
        part = march(origins, directions, space, grid, options, jitter, starts, backend="cuda")
        again = march(origins, directions, space, grid, options, jitter, starts, backend="cpu")
        assert part.served == again.served
        assert torch.equal(part.offsets, again.offsets)
        assert len(part.distances) <= 40
        parts.append(part)
        starts = part.ends.clone()
        if bool(starts.isinf().all()):
            break
    assert parts[0].served is not None
    assert bool(starts.isinf().all())
    ray_of, distances = (torch.cat([getattr(part, name) for part in parts]) for name in ("ray_of", "distances"))
    order = ray_of.argsort(stable=True)
    assert torch.equal(ray_of[order], whole.ray_of)
    assert torch.equal(distances[order], whole.distances)


@pytest.mark.parametrize("space", SPACES)
def test_the_backward_pass(emulated: EmulatedProgram, space: Space) -> None:
    origins, directions, jitter = random_rays(150, 9)
    samples = march(origins, directions, space, blobs(32), OPTIONS, jitter, backend="cuda")
    gradient = torch.randn(samples.positions.shape, generator=torch.Generator().manual_seed(1))
    found = march_backward(samples, origins, directions, space, gradient, backend="cuda")
    double = replace(samples, distances=samples.distances.double())
    expected = march_backward_reference(double, origins.double(), directions.double(), space, gradient.double())
    for mine, other in zip(found, expected):
        torch.testing.assert_close(mine.double(), other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_broken_rays_get_nothing(emulated: EmulatedProgram, space: Space) -> None:
    for which, value in enumerate((math.nan, 0.0, math.nan, math.inf)):
        rays = [*random_rays(64, 11), torch.zeros(64)]
        rays[which][:2] = value
        rays[which][2] = math.inf
        found = march(rays[0], rays[1], space, blobs(32), OPTIONS, rays[2], rays[3], backend="cuda")
        assert not found.offsets.diff()[:3].any()
        assert found.offsets.diff()[3:].any()
        assert found.ends[:3].isinf().all()
        assert found.positions.isfinite().all()
    none = march(rays[0][:0], rays[1][:0], space, OccupancyGrid.full(8), MarchOptions(0.1), backend="cuda")
    assert none.offsets.tolist() == [0]


@pytest.mark.parametrize("side", [8, 24, 40])
def test_updates_equal_those_of_the_reference(emulated: EmulatedProgram, side: int) -> None:
    grid = random_grid(side)
    for count, threshold in ((0, 0.3), (1, 0.01), (3000, 0.999)):
        cells, densities = random_findings(grid, count, count)
        found, expected = copy(grid), copy(grid)
        update_occupancy(found, cells, densities, threshold, 0.9, backend="cuda")
        update_occupancy(expected, cells, densities, threshold, 0.9, backend="reference")
        assert torch.equal(found.densities, expected.densities)
        assert torch.equal(found.bits, expected.bits)
    with pytest.raises(ReconError, match="cells reach from"):
        update_occupancy(grid, torch.full((1,), grid.cells, dtype=torch.int32), torch.ones(1), 0.1, backend="cuda")
