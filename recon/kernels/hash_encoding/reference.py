# SPDX-License-Identifier: Apache-2.0
"""The multiresolution hash encoding in plain torch: what the kernels must equal; differentiable, any float type."""

from __future__ import annotations

import torch

from recon.kernels.hash_encoding.grid import HashGrid

PRIMES = (1, 2654435761, 805459861)
"""Factors of the hash by axis (eq. 4)."""


def hash_encode_reference(positions: torch.Tensor, table: torch.Tensor, grid: HashGrid) -> torch.Tensor:
    """Returns [S, levels · features]; see `recon.kernels.hash_encoding.op.hash_encode`.

    The cell is found as the kernels find it, in float32, so that a position on a cell's face falls to the same side.
    """
    inside = (positions >= 0) & (positions <= 1)
    # What lies outside stands on the border, and not a number at 0, without a gradient.
    bounded = torch.where(inside, positions, positions.detach().nan_to_num(nan=0.0).clamp(0, 1))
    encoded = []
    for level in range(grid.levels):
        scaled = bounded * grid.resolutions[level] + 0.5
        rows, fractions = level_rows(bounded.detach(), grid, level), scaled - _cells(bounded, grid, level)
        total = torch.zeros((len(positions), grid.features), dtype=table.dtype, device=table.device)
        for corner in range(8):
            weight = torch.ones_like(fractions[:, 0])
            for axis in range(3):
                upper = bool(corner >> axis & 1)
                weight = weight * (fractions[:, axis] if upper else 1 - fractions[:, axis])
            total = total + weight[:, None] * table[rows[:, corner]]
        encoded.append(total)
    return torch.cat(encoded, 1)


def level_rows(bounded: torch.Tensor, grid: HashGrid, level: int) -> torch.Tensor:
    """Returns the rows [S, 8] int64 of the corners of the cells that positions in 0..1 lie in; bit a of a corner's
    number is 1 at the upper end of axis a."""
    cells = _cells(bounded, grid, level).long()
    side = grid.resolutions[level] + 2
    rows = []
    for corner in range(8):
        x, y, z = (cells[:, axis] + (corner >> axis & 1) for axis in range(3))
        if grid.dense[level]:
            row = x + side * (y + side * z)
        else:
            row = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) & ((1 << grid.log2_entries) - 1)
        rows.append(row + grid.offsets[level])
    return torch.stack(rows, 1)


def _cells(bounded: torch.Tensor, grid: HashGrid, level: int) -> torch.Tensor:
    """Returns the lower corners [S, 3], whole numbers."""
    exact = bounded.detach().to(torch.float64)
    if bounded.dtype == torch.float32:
        # One rounding, as of a fused multiplication and addition.
        exact = exact * grid.resolutions[level] + 0.5
        return exact.to(torch.float32).floor().to(bounded.dtype)
    return (exact * grid.resolutions[level] + 0.5).floor().to(bounded.dtype)
