# SPDX-License-Identifier: Apache-2.0
"""Fusing a depth map on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recon.kernels.cuda.program import assign, params_of, program_for

if TYPE_CHECKING:
    from recon.kernels.tsdf.op import DepthView, TsdfGrid


def integrate_cuda(grid: TsdfGrid, view: DepthView, maps: tuple[torch.Tensor, ...]) -> None:
    """As `recon.kernels.tsdf.op.integrate`, for arguments that were checked.

    Args:
        grid, view: as there, on one GPU.
        maps: inverse depth, slant, confidence and, if there is one, colour, contiguous.
    """
    device, camera = grid.blocks.device, view.camera
    pose = (
        torch.from_numpy((camera.cam_from_world @ grid.frame.world_from_grid)[:3].copy()).to(torch.float64).to(device)
    )
    params = params_of(
        "TsdfIntegrateParams",
        blocks=grid.blocks, block_count=len(grid), distance_sum=grid.distance_sum, weight_sum=grid.weight_sum,
        color_sum=grid.color_sum, truncation=grid.frame.truncation, jump=grid.frame.jump,
    )  # fmt: skip
    assign(
        params.view, cam_from_grid=pose, inverse_depth=maps[0], slant=maps[1], confidence=maps[2],
        color=maps[3] if len(maps) > 3 else None, width=camera.width, height=camera.height,
        fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy,
    )  # fmt: skip
    program_for(device).launch_blocks("tsdf_integrate", len(grid), params)
