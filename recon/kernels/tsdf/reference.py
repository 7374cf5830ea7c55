# SPDX-License-Identifier: Apache-2.0
"""Sparse TSDF fusion in plain torch and in any precision: what the kernel must equal."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from recon.kernels.tsdf.op import BLOCK_SIDE, BlockList, DepthView, GridFrame, TsdfGrid, check_view

MIN_SLANT = 0.25
PLATEAU = 0.5
FREE_WEIGHT = 0.1


def allocate_blocks_reference(views: Iterable[DepthView], frame: GridFrame, max_blocks: int) -> BlockList:
    """Tests every ray against every block that may exist; see `recon.kernels.tsdf.op.allocate_blocks`."""
    axes = [torch.arange(low, high + 1) for low, high in zip(frame.first_block, frame.last_block)]
    candidates = torch.cartesian_prod(*axes).to(torch.int32)
    wanted = torch.zeros(len(candidates), dtype=torch.bool)
    for view in views:
        check_view("allocate_blocks", view)
        known = (view.inverse_depth > 0) & (view.confidence > 0)
        rays = torch.from_numpy(view.camera.ray_directions_in_cam(view.camera.pixel_grid()))[known]
        depth = 1 / view.inverse_depth[known].double()
        half = frame.truncation / view.slant[known].double().clamp_min(MIN_SLANT)
        grid_from_cam = torch.from_numpy(np.linalg.inv(frame.world_from_grid) @ view.camera.world_from_cam)
        ends = [
            (rays * d[:, None] @ grid_from_cam[:3, :3].T + grid_from_cam[:3, 3]) / BLOCK_SIDE
            for d in ((depth - half).clamp_min(0), depth + half)
        ]
        for start, stop in zip(*ends):
            wanted |= _crosses(start, stop, candidates.double())
    found = candidates[wanted]
    return BlockList(found[:max_blocks], len(found) <= max_blocks)


def _crosses(start: torch.Tensor, stop: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Whether the segment crosses each of the unit boxes at `low` [B, 3]: the slab test."""
    direction = stop - start
    direction = torch.where(direction.abs() < 1e-12, torch.full_like(direction, 1e-12), direction)
    first, second = (low - start) / direction, (low + 1 - start) / direction
    enter = torch.minimum(first, second).amax(1).clamp_min(0)
    leave = torch.maximum(first, second).amin(1).clamp_max(1)
    return enter <= leave


def integrate_reference(grid: TsdfGrid, view: DepthView) -> None:
    """Adds one depth map; see `recon.kernels.tsdf.op.integrate`.  Works in the precision of the grid's sums."""
    check_view("integrate", view)
    dtype = grid.distance_sum.dtype
    seen = observe(voxel_positions(grid).to(torch.float64), view, grid.frame)
    weight = seen.weight.to(dtype)
    grid.distance_sum.add_(weight * seen.distance.to(dtype))
    grid.weight_sum.add_(weight)
    if view.color is not None:
        near_weight = weight * (seen.distance < 1)
        grid.color_sum[:, :3] += near_weight[:, None] * view.color.reshape(3, -1)[:, seen.pixel].transpose(0, 1)
        grid.color_sum[:, 3] += near_weight


def voxel_positions(grid: TsdfGrid) -> torch.Tensor:
    """World positions of all voxels, [B, 512, 3] float64."""
    steps = torch.arange(BLOCK_SIDE)
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    local = torch.stack([x, y, z], -1).reshape(-1, 3)
    lattice = grid.blocks[:, None].long() * BLOCK_SIDE + local
    return lattice * grid.frame.voxel_size + torch.tensor(grid.frame.origin_in_world, dtype=torch.float64)


class Observations:
    """What a view says about voxels: distance in truncations, weight, and the nearest pixel's flat index."""

    def __init__(self, distance: torch.Tensor, weight: torch.Tensor, pixel: torch.Tensor) -> None:
        self.distance, self.weight, self.pixel = distance, weight, pixel


def observe(positions_in_world: torch.Tensor, view: DepthView, frame: GridFrame) -> Observations:
    """Projects voxels [..., 3] and compares their depths with the map; differentiable to the map's inverse depth."""
    camera = view.camera
    pose = torch.tensor(camera.cam_from_world)
    x, y, z = (positions_in_world @ pose[:3, :3].T + pose[:3, 3]).unbind(-1)
    in_front = z > 0
    safe_z = torch.where(in_front, z, torch.ones_like(z))
    u, v = camera.fx * x / safe_z + camera.cx, camera.fy * y / safe_z + camera.cy
    inside = in_front & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    u, v = (torch.where(inside, a, torch.zeros_like(a)) for a in (u, v))
    pixel = v.long() * camera.width + u.long()
    inverse = _interpolate(view.inverse_depth.double(), u, v, pixel, frame.jump)
    slant = view.slant.double().reshape(-1)[pixel].clamp_min(MIN_SLANT)
    confidence = view.confidence.double().reshape(-1)[pixel]
    known = inside & (inverse > 0) & (confidence > 0)
    depth = 1 / torch.where(known, inverse, torch.ones_like(inverse))
    distance = ((depth - z) * slant / frame.truncation).clamp_max(1)
    behind = ((distance + 1) / (1 - PLATEAU)).clamp_max(1)
    before = FREE_WEIGHT + (1 - FREE_WEIGHT) * ((1 - distance) / (1 - PLATEAU)).clamp_max(1)
    ramp = torch.minimum(behind, before)
    observed = known & (distance > -1)
    zero = torch.zeros_like(distance)
    return Observations(torch.where(observed, distance, zero), torch.where(observed, confidence * ramp, zero), pixel)


def _interpolate(
    inverse: torch.Tensor, u: torch.Tensor, v: torch.Tensor, pixel: torch.Tensor, jump: float
) -> torch.Tensor:
    """Bilinear within one surface, the nearest pixel elsewhere."""
    height, width = inverse.shape
    x, y = (u - 0.5).clamp_min(0), (v - 0.5).clamp_min(0)
    x0, y0 = x.long(), y.long()
    x1, y1 = (x0 + 1).clamp_max(width - 1), (y0 + 1).clamp_max(height - 1)
    s, t = x - x0, y - y0
    taps = torch.stack([inverse[y0, x0], inverse[y0, x1], inverse[y1, x0], inverse[y1, x1]])
    low, high = taps.amin(0), taps.amax(0)
    top = taps[0] + s * (taps[1] - taps[0])
    bottom = taps[2] + s * (taps[3] - taps[2])
    smooth = (low > 0) & (high - low <= jump * high)
    return torch.where(smooth, top + t * (bottom - top), inverse.reshape(-1)[pixel])
