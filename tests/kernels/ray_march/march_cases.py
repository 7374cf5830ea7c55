# SPDX-License-Identifier: Apache-2.0
"""Rays, spaces and grids for the tests of marching."""

from __future__ import annotations

import torch

from recon.kernels.occupancy.op import OccupancyGrid, update_occupancy
from recon.kernels.ray_march.op import Space

CONTRACTED = Space((0.1, -0.2, 0.3), 1.3, True)
BOUNDED = Space((0.1, -0.2, 0.3), 1.3, False)
SPACES = [CONTRACTED, BOUNDED]


def random_rays(count: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Origins, unit directions and jitter; from afar the rays look at the middle."""
    generator = torch.Generator().manual_seed(seed)
    origins = spread * torch.randn((count, 3), generator=generator)
    directions = torch.randn((count, 3), generator=generator)
    if spread > 5:
        directions = directions - origins
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return origins, directions, torch.rand(count, generator=generator)


def grid_with(occupied: torch.Tensor) -> OccupancyGrid:
    """A grid whose cells [G, G, G] (z, y, x) are as given."""
    grid = OccupancyGrid.full(len(occupied))
    cells = torch.arange(grid.cells, dtype=torch.int32)
    update_occupancy(grid, cells, occupied.flatten().float(), 0.5 if bool(occupied.any()) else 1.0, backend="reference")
    return grid


def blobs(resolution: int, seed: int = 0) -> OccupancyGrid:
    """A grid of thin shells."""
    generator = torch.Generator().manual_seed(seed)
    places = (torch.arange(resolution) + 0.5) / resolution
    z, y, x = torch.meshgrid(places, places, places, indexing="ij")
    centers, radii = torch.rand((10, 3), generator=generator), 0.02 + 0.1 * torch.rand(10, generator=generator)
    distance = (torch.stack([x, y, z], -1)[..., None, :] - centers).norm(dim=-1)
    return grid_with(((distance - radii).abs() < 1 / resolution).any(-1))


def spotted(resolution: int, share: float, seed: int = 0) -> OccupancyGrid:
    """A grid of single cells here and there."""
    generator = torch.Generator().manual_seed(seed)
    return grid_with(torch.rand((resolution,) * 3, generator=generator) < share)
