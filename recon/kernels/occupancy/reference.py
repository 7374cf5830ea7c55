# SPDX-License-Identifier: Apache-2.0
"""The occupancy grid in plain torch; see `recon.kernels.occupancy.op`."""

from __future__ import annotations

import torch

from recon.kernels.occupancy.op import LEVELS, NEVER, OccupancyGrid
from recon.kernels.ray_march.types import Space

_WORD = 0xFFFFFFFF
_CELLS_AT_ONCE = 1 << 18


def unpacked(packed: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the first `count` bits of bytes as bool."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> places) & 1).bool().reshape(-1)[:count]


def packed(flags: torch.Tensor) -> torch.Tensor:
    """Returns flags [n] as bits in whole words of four bytes."""
    places = torch.arange(8, dtype=torch.uint8, device=flags.device)
    padded = torch.nn.functional.pad(flags, (0, -len(flags) % 32)).to(torch.uint8).reshape(-1, 8)
    return (padded << places).sum(-1, dtype=torch.uint8)


def bits_of(occupied: torch.Tensor, resolution: int) -> torch.Tensor:
    """Returns all levels' bits of occupied cells [G³]."""
    levels = [packed(occupied)]
    blocks = occupied.reshape(1, 1, resolution, resolution, resolution).float()
    for _ in range(1, LEVELS):
        blocks = torch.nn.functional.max_pool3d(blocks, 2)
        around = torch.nn.functional.max_pool3d(blocks, 3, stride=1, padding=1)
        levels.append(packed(around.flatten() > 0))
    return torch.cat(levels)


def mixed(words: torch.Tensor) -> torch.Tensor:
    """Returns 32-bit words (as int64), each bit of which depends on all: the last steps of MurmurHash3 (Appleby)."""
    words = words ^ (words >> 16)
    words = (words * 0x85EBCA6B) & _WORD
    words = words ^ (words >> 13)
    words = (words * 0xC2B2AE35) & _WORD
    return words ^ (words >> 16)


def random_key(seed: int) -> int:
    """Returns the 32-bit word that chooses the random numbers."""
    return (int(mixed(torch.tensor(seed & _WORD))) + (seed >> 32 & _WORD) * 0x9E3779B9) & _WORD


def random_words(seed: int, numbers: torch.Tensor) -> torch.Tensor:
    """Returns random 32-bit words (as int64) for whole numbers."""
    return mixed((mixed(numbers) + random_key(seed)) & _WORD)


def occupancy_cells_reference(grid: OccupancyGrid, seed: int, count: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    possible = (grid.densities >= 0).nonzero()[:, 0]
    occupied = grid.occupied().nonzero()[:, 0]
    if count is None:
        cells = possible
    else:
        half = 0 if len(occupied) == 0 else count // 2
        rest = count - half if len(possible) else 0
        cells = torch.cat([_spread(possible, seed, rest, 0), _spread(occupied, seed, half, rest)])
    numbers = 4 * torch.arange(len(cells), device=cells.device)
    places = torch.stack([random_words(seed, numbers + axis) >> 8 for axis in (1, 2, 3)], -1).float() * 2.0**-24
    g = grid.resolution
    corners = torch.stack([cells % g, cells // g % g, cells // (g * g)], -1)
    return cells.int(), (corners + places) / g


def _spread(choices: torch.Tensor, seed: int, count: int, first: int) -> torch.Tensor:
    """Takes one of each of `count` equal parts of the choices."""
    total = len(choices)
    if total == 0 or count == 0:
        return choices[:0]
    part = torch.arange(count, device=choices.device)
    begin, end = part * total // count, (part + 1) * total // count
    word = random_words(seed, 4 * (part + first))
    return choices[begin + ((word * (end - begin)) >> 32)]


def update_occupancy_reference(
    grid: OccupancyGrid, cells: torch.Tensor, densities: torch.Tensor, threshold: float, decay: float
) -> None:
    known = densities >= 0
    found = torch.full_like(grid.densities, -1)
    values = densities[known].clamp_max(1)
    found.scatter_reduce_(0, cells[known].long(), values, "amax")
    old = grid.densities
    faded = torch.where(old.isinf(), 0, old * decay)
    looked_at = (found >= 0) & (old >= 0)
    grid.densities.copy_(torch.where(looked_at, torch.maximum(faded, found), old))
    ever = (grid.densities >= 0) & grid.densities.isfinite()
    if bool(ever.any()):
        threshold = min(threshold, float(grid.densities[ever].double().mean()))
    grid.bits.copy_(bits_of(grid.densities > threshold, grid.resolution))


def mark_unseen_reference(grid: OccupancyGrid, space: Space, table: torch.Tensor, min_views: int) -> None:
    """`table`: of `recon.kernels.occupancy.op.cameras_table`."""
    never = torch.cat(
        [
            _never(grid, space, table, min_views, range(first, min(first + _CELLS_AT_ONCE, grid.cells)))
            for first in range(0, grid.cells, _CELLS_AT_ONCE)
        ]
    )
    grid.densities[never] = NEVER
    grid.bits.copy_(bits_of(grid.occupied() & ~never, grid.resolution))


def _never(grid: OccupancyGrid, space: Space, table: torch.Tensor, min_views: int, cells: range) -> torch.Tensor:
    """Whether each of the cells can never be occupied."""
    device = grid.densities.device
    centers, radii = cell_spheres(grid.resolution, space, torch.arange(cells.start, cells.stop, device=device))
    views = torch.zeros(len(radii), dtype=torch.int32, device=device)
    in_the_way = torch.zeros(len(radii), dtype=torch.bool, device=device)
    for camera in table:
        pose = camera[:12].reshape(3, 4)
        x, y, z = (centers @ pose[:, :3].T + pose[:, 3]).unbind(-1)
        # How far the centre lies inside the planes through the picture's sides; below -radius nothing of the sphere is.
        inside = torch.full_like(z, torch.inf)
        for number, coordinate in ((13, x), (15, x), (17, y), (19, y)):
            inside = inside.minimum(camera[number] * z + camera[number + 1] * coordinate)
        near = camera[12]
        views += ((inside >= -radii) & (z + radii >= near) & (z + radii > 0)).int()
        in_the_way |= (inside >= radii) & (z + radii < near)
    return (views < min_views) | in_the_way


def cell_spheres(resolution: int, space: Space, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns centres [M, 3] in the world and radii [M] of spheres around cells [M].

    The cells at the faces of a contracted cube reach to infinity; they count as ending halfway there, in the contracted
    space.
    """
    g = resolution
    corner = torch.stack([cells % g, cells // g % g, cells // (g * g)], -1).float()
    limits = (0.5 / g, 1 - 0.5 / g) if space.contracted else (0.0, 1.0)

    def at(shift: torch.Tensor | float) -> torch.Tensor:
        return space.from_unit(((corner + shift) / g).clamp(*limits))

    centers = at(0.5)
    radii = torch.zeros_like(centers[:, 0])
    for number in range(8):
        shift = torch.tensor([number & 1, number >> 1 & 1, number >> 2], dtype=torch.float32, device=cells.device)
        radii = radii.maximum((at(shift) - centers).norm(dim=-1))
    return centers, radii
