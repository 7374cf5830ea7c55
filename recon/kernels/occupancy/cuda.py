# SPDX-License-Identifier: Apache-2.0
"""Updating an occupancy grid on CUDA."""

from __future__ import annotations

import torch

from recon.kernels.cuda.program import params_of, program_for
from recon.kernels.occupancy.op import LEVELS, OccupancyGrid

_THREADS = 256


def update_occupancy_cuda(
    grid: OccupancyGrid, cells: torch.Tensor, densities: torch.Tensor, threshold: float, decay: float
) -> None:
    """As `recon.kernels.occupancy.op.update_occupancy`, for arguments that were checked; waits for nothing."""
    device, bits = grid.densities.device, grid.aligned_bits()
    blocks = -(-grid.cells // _THREADS)
    touched = torch.empty(grid.cells, dtype=torch.int32, device=device).zero_()
    sums = torch.empty(blocks, dtype=torch.float64, device=device)
    counts = torch.empty(blocks, dtype=torch.int64, device=device)
    half = (grid.resolution // 2) ** 3
    flags = [torch.empty(half, dtype=torch.uint8, device=device) for _ in range(2)]
    params = params_of(
        "OccupancyUpdateParams",
        densities=grid.densities, bits=bits, cells=cells, found=densities, count=len(cells), resolution=grid.resolution,
        decay=decay, touched=touched, sums=sums, counts=counts,
    )  # fmt: skip
    program = program_for(device)
    program.launch("occupancy_merge", len(cells), params)
    program.launch("occupancy_fade", grid.cells, params)
    known = counts.sum()
    mean = torch.where(known > 0, sums.sum() / known, torch.inf).float()
    limit = mean.clamp_max(threshold).reshape(1)
    params.limit = limit.data_ptr()
    program.launch("occupancy_bits", grid.cells, params)
    for level in range(1, LEVELS):
        here, below = flags[level % 2], flags[1 - level % 2]
        params.level, params.flags, params.other_flags = level, here.data_ptr(), below.data_ptr()
        program.launch("occupancy_join", (grid.resolution >> level) ** 3, params)
        program.launch("occupancy_spread", (grid.resolution >> level) ** 3, params)
    if bits is not grid.bits:
        grid.bits.copy_(bits)
