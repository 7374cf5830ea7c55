# SPDX-License-Identifier: Apache-2.0
"""Sparse TSDF fusion on CUDA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recon.kernels.cuda.program import assign, params_of, program_for

if TYPE_CHECKING:
    from recon.kernels.tsdf.op import DepthView, GridFrame, TsdfGrid

_FIRST_CAPACITY = 1 << 16
_GROWTH = 4
_COORDINATE_BITS = 21


def allocate_blocks_cuda(
    views: Iterable[DepthView], frame: GridFrame, max_blocks: int, device: torch.device, capacity: int = _FIRST_CAPACITY
) -> tuple[torch.Tensor, bool]:
    """As `recon.kernels.tsdf.op.allocate_blocks`; the views' maps are on one GPU.

    Returns:
        [B, 3] int32 there, sorted, and whether these are all.
    """
    from recon.kernels.tsdf.op import check_view

    program = program_for(device)
    table = torch.full((capacity,), -1, dtype=torch.int64, device=device)
    numbers = torch.zeros(2, dtype=torch.int64, device=device)
    launch = params_of("TsdfAllocateLaunch", full=numbers[1:])
    inner = launch.allocate
    inner.first_block[:], inner.last_block[:] = frame.first_block, frame.last_block
    complete = True
    for view in views:
        maps = check_view("allocate_blocks", view)
        pose = _matrix(np.linalg.inv(frame.world_from_grid) @ view.camera.world_from_cam, device)
        assign(inner, grid_from_cam=pose, truncation=frame.truncation)
        fill_tsdf_view(inner.view, view, maps)
        pixels = view.camera.width * view.camera.height
        while True:
            most = min(max_blocks, len(table) // 2)
            assign(inner, table=table, capacity=len(table), count=numbers, max_count=most)
            program.launch("tsdf_allocate", pixels, launch)
            if not int(numbers[1]):
                break
            if most == max_blocks:
                complete = False
                break
            table = _larger(table, launch, numbers)
        if not complete:
            break
    return _blocks_of(table), complete


def _larger(table: torch.Tensor, launch: Any, numbers: torch.Tensor) -> torch.Tensor:
    """Returns a larger table with the same keys."""
    larger = torch.full((_GROWTH * len(table),), -1, dtype=torch.int64, device=table.device)
    numbers.zero_()
    assign(launch, old_keys=table, old_capacity=len(table))
    assign(launch.allocate, table=larger, capacity=len(larger), max_count=len(larger) // 2)
    program_for(table.device).launch("tsdf_refill", len(table), launch)
    return larger


def _blocks_of(table: torch.Tensor) -> torch.Tensor:
    from recon.kernels.tsdf.op import MAX_COORDINATE

    keys = table[table >= 0].sort().values
    low = (1 << _COORDINATE_BITS) - 1
    parts = [keys >> (2 * _COORDINATE_BITS), (keys >> _COORDINATE_BITS) & low, keys & low]
    return (torch.stack(parts, -1) - MAX_COORDINATE).to(torch.int32)


def fill_tsdf_view(params: Any, view: DepthView, maps: tuple[torch.Tensor, ...]) -> None:
    """Sets a `TsdfView` but for its pose."""
    camera = view.camera
    assign(
        params, inverse_depth=maps[0], slant=maps[1], confidence=maps[2], color=maps[3] if len(maps) > 3 else None,
        width=camera.width, height=camera.height, fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy,
    )  # fmt: skip


def integrate_cuda(grid: TsdfGrid, view: DepthView, maps: tuple[torch.Tensor, ...]) -> None:
    """As `recon.kernels.tsdf.op.integrate`, for arguments that were checked.

    Args:
        grid, view: as there, on one GPU.
        maps: inverse depth, slant, confidence and, if there is one, colour, contiguous.
    """
    device = grid.blocks.device
    pose = _matrix(view.camera.cam_from_world @ grid.frame.world_from_grid, device)
    params = params_of(
        "TsdfIntegrateParams",
        blocks=grid.blocks, block_count=len(grid), distance_sum=grid.distance_sum, weight_sum=grid.weight_sum,
        color_sum=grid.color_sum, truncation=grid.frame.truncation, jump=grid.frame.jump,
    )  # fmt: skip
    assign(params.view, cam_from_grid=pose)
    fill_tsdf_view(params.view, view, maps)
    program_for(device).launch_blocks("tsdf_integrate", len(grid), params)


def _matrix(matrix: np.ndarray, device: torch.device) -> torch.Tensor:
    """The upper three rows, float64."""
    return torch.from_numpy(np.array(matrix[:3], dtype=np.float64)).to(device)
