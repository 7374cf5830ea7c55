# SPDX-License-Identifier: Apache-2.0
"""Fusion of depth maps into a truncated signed distance field that exists only near surfaces.

Source: Curless and Levoy, "A volumetric method for building complex models from range images", SIGGRAPH 1996; the
sparse blocks follow Nießner et al., "Real-time 3D reconstruction at scale using voxel hashing", 2013.

The field lives on a lattice whose point (i, j, k) stands at `origin_in_world + voxel_size · (i, j, k)`; 8×8×8 lattice
points make a block, and only blocks that some ray crosses within the truncation of its surface exist.  Distances are
positive in front of a surface and are stored as sums together with sums of weights, so that fusing is adding.
Blocks are kept sorted by their coordinates: the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native

BLOCK_SIDE = 8
BLOCK_VOXELS = BLOCK_SIDE**3
BYTES_PER_BLOCK = 4 * BLOCK_VOXELS * 6
"""Memory that one block takes: distance, weight, three colours and their weight, float32 each."""

MAX_COORDINATE = 1 << 20
"""Block coordinates lie in -MAX_COORDINATE .. MAX_COORDINATE - 1."""

_MAX_PIXELS = 1 << 30


@dataclass(frozen=True)
class GridFrame:
    """Where the lattice stands and what of it may exist.

    Attributes:
        origin_in_world: position of lattice point (0, 0, 0).
        voxel_size: distance of lattice points in world units.
        truncation: distance in world units beyond which a surface has no influence; several voxels.
        first_block, last_block: the first and the last block coordinate that may exist along each axis.
        jump: relative difference of inverse depths between neighbouring pixels that parts two surfaces.
    """

    origin_in_world: tuple[float, float, float]
    voxel_size: float
    truncation: float
    first_block: tuple[int, int, int]
    last_block: tuple[int, int, int]
    jump: float = 0.03

    def __post_init__(self) -> None:
        numbers = np.array([*self.origin_in_world, self.voxel_size, self.truncation])
        doing = "making a distance field"
        if not np.isfinite(numbers).all() or self.voxel_size <= 0 or self.truncation < self.voxel_size:
            raise ReconError(
                doing,
                f"voxel size {self.voxel_size:g}, truncation {self.truncation:g}",
                "a positive voxel size and a truncation of at least one voxel",
            )
        corners = np.array([self.first_block, self.last_block])
        if (corners[0] > corners[1]).any() or np.abs(corners).max() >= MAX_COORDINATE:
            raise ReconError(
                doing, f"blocks {self.first_block} to {self.last_block}", f"an ordered range within ±{MAX_COORDINATE}"
            )

    @staticmethod
    def covering(
        low_in_world: np.ndarray, high_in_world: np.ndarray, voxel_size: float, truncation: float
    ) -> GridFrame:
        """Returns the frame whose blocks cover a box, with the lattice's origin in the box's centre."""
        low, high = np.asarray(low_in_world, np.float64), np.asarray(high_in_world, np.float64)
        center = (low + high) / 2
        reach = np.ceil((high - low) / 2 / (voxel_size * BLOCK_SIDE)).clip(1, MAX_COORDINATE - 1).astype(int)
        x, y, z = center.tolist()
        first, last = (-reach).tolist(), (reach - 1).tolist()
        return GridFrame((x, y, z), voxel_size, truncation, (*first,), (*last,))

    @property
    def world_from_grid(self) -> np.ndarray:
        """4×4, from lattice indices to world positions."""
        matrix = np.diag([self.voxel_size] * 3 + [1.0])
        matrix[:3, 3] = self.origin_in_world
        return matrix


@dataclass(frozen=True, eq=False)
class DepthView:
    """One depth map that is to be fused.

    Attributes:
        camera: PINHOLE, of the maps' size.
        inverse_depth: [H, W] float32, 1 / depth along z; 0 where unknown.
        slant: [H, W] float32, n · (x/z, y/z, 1) with the surface's unit normal n pointing away from the camera: the
            distance from the tangent plane per unit of z.
        confidence: [H, W] float32, weight of each pixel; 0 takes it out.
        color: [3, H, W] float32, or None.
    """

    camera: Camera
    inverse_depth: torch.Tensor
    slant: torch.Tensor
    confidence: torch.Tensor
    color: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class TsdfGrid:
    """A sparse field; the sums are updated in place by `integrate`.

    Attributes:
        frame: where it stands.
        blocks: [B, 3] int32 block coordinates in lexicographic order.
        distance_sum: [B, 512] float32, Σ weight · distance / truncation; x runs fastest within a block.
        weight_sum: [B, 512] float32.
        color_sum: [B, 4, 512] float32, Σ weight · (r, g, b, 1) of the observations near the surface.
    """

    frame: GridFrame
    blocks: torch.Tensor
    distance_sum: torch.Tensor
    weight_sum: torch.Tensor
    color_sum: torch.Tensor

    def __len__(self) -> int:
        return int(self.blocks.shape[0])

    @staticmethod
    def empty(frame: GridFrame, blocks: torch.Tensor) -> TsdfGrid:
        """Returns a field without observations over `blocks`."""
        count, device = blocks.shape[0], blocks.device
        return TsdfGrid(
            frame,
            blocks,
            torch.zeros(count, BLOCK_VOXELS, device=device),
            torch.zeros(count, BLOCK_VOXELS, device=device),
            torch.zeros(count, 4, BLOCK_VOXELS, device=device),
        )

    @property
    def distance(self) -> torch.Tensor:
        """[B, 512] mean distance in units of the truncation; 0 where nothing was observed."""
        return self.distance_sum / self.weight_sum.clamp_min(1e-30) * (self.weight_sum > 0)

    def keys(self) -> np.ndarray:
        """[B] int64, one number per block, ascending."""
        return block_keys(self.blocks.cpu().numpy())


@dataclass(frozen=True, eq=False)
class BlockList:
    """What `allocate_blocks` found: [B, 3] int32 coordinates in lexicographic order, and whether these are all."""

    blocks: torch.Tensor
    complete: bool


def block_keys(blocks: np.ndarray) -> np.ndarray:
    """Packs block coordinates [..., 3] into one int64 each, in the blocks' lexicographic order; cpu.cpp packs alike."""
    shifted = np.asarray(blocks, np.int64) + MAX_COORDINATE
    return (shifted[..., 0] << 42) | (shifted[..., 1] << 21) | shifted[..., 2]


def blocks_from_keys(keys: np.ndarray) -> np.ndarray:
    """Inverts `block_keys`: [B] int64 to [B, 3] int32."""
    low = (1 << 21) - 1
    return (np.stack([keys >> 42, (keys >> 21) & low, keys & low], -1) - MAX_COORDINATE).astype(np.int32)


def allocate_blocks(
    views: Iterable[DepthView],
    frame: GridFrame,
    max_blocks: int,
    backend: Backend = "auto",
    device: torch.device | None = None,
) -> BlockList:
    """Finds the blocks that the views' rays cross within the truncation of their surfaces.

    Args:
        views: depth maps; each is read once, in turn.
        frame: the lattice and its bounds.
        max_blocks: stop at this many; the list is then not `complete`.
        backend: see `recon.kernels.backend`.
        device: where the maps are, and the blocks come to stand; the CPU by default.

    Raises:
        ReconError: maps of wrong shape or type.
    """
    from recon.kernels.tsdf.reference import allocate_blocks_reference

    device = device or torch.device("cpu")
    resolved = resolve_backend(backend, device, ("cpu", "cuda", "reference"))
    if resolved == "cuda":
        from recon.kernels.tsdf.cuda import allocate_blocks_cuda

        return BlockList(*allocate_blocks_cuda(views, frame, max_blocks, device))
    if resolved == "reference":
        return allocate_blocks_reference(views, frame, max_blocks)
    module = native()
    capacity = 1 << 12
    table, count = _new_table(capacity)
    for view in views:
        grid_from_cam = np.linalg.inv(frame.world_from_grid) @ view.camera.world_from_cam
        kept, params_view = _view_params(module, "allocate_blocks", view, frame)
        pose = np.ascontiguousarray(grid_from_cam[:3])
        params = module.TsdfAllocateParams()
        params.view = params_view
        params.grid_from_cam = pose.ctypes.data
        params.truncation = frame.truncation
        params.set_block_range(*frame.first_block, *frame.last_block)
        while True:
            params.table, params.count, params.capacity = table.ctypes.data, count.ctypes.data, capacity
            params.max_count = min(max_blocks, capacity // 2)
            if module.tsdf_allocate(params):
                break
            if params.max_count == max_blocks:
                return BlockList(_sorted_blocks(table), False)
            old, capacity = table[table >= 0], capacity * 4
            table, count = _refilled_table(old, capacity)
        del kept
    return BlockList(_sorted_blocks(table), True)


def integrate(grid: TsdfGrid, view: DepthView, backend: Backend = "auto") -> None:
    """Adds one depth map to the field, in place.

    A voxel takes the depth at its place in the picture (bilinear in inverse depth within one surface, the nearest
    pixel elsewhere).  In front of the surface its distance saturates at the truncation, which is what removes
    floaters; behind, weights fall to 0 at the truncation.

    Raises:
        ReconError: maps of wrong shape or type.
    """
    from recon.kernels.tsdf.reference import integrate_reference

    resolved = resolve_backend(backend, grid.blocks.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        integrate_reference(grid, view)
        return
    count = len(grid)
    tensors = (grid.blocks, grid.distance_sum, grid.weight_sum, grid.color_sum)
    assert all(tensor.is_contiguous() for tensor in tensors)
    check_tensor("integrate", "blocks", grid.blocks, (count, 3), torch.int32)
    check_tensor("integrate", "distance_sum", grid.distance_sum, (count, BLOCK_VOXELS))
    check_tensor("integrate", "weight_sum", grid.weight_sum, (count, BLOCK_VOXELS))
    check_tensor("integrate", "color_sum", grid.color_sum, (count, 4, BLOCK_VOXELS))
    if resolved == "cuda":
        from recon.kernels.tsdf.cuda import integrate_cuda

        integrate_cuda(grid, view, check_view("integrate", view))
        return
    module = native()
    kept, params_view = _view_params(module, "integrate", view, grid.frame)
    params = module.TsdfIntegrateParams()
    params.view = params_view
    params.blocks, params.block_count = grid.blocks.data_ptr(), count
    params.distance_sum, params.weight_sum = grid.distance_sum.data_ptr(), grid.weight_sum.data_ptr()
    params.color_sum = grid.color_sum.data_ptr()
    params.truncation, params.jump = grid.frame.truncation, grid.frame.jump
    module.tsdf_integrate(params)
    del kept


def check_view(operation: str, view: DepthView) -> tuple[torch.Tensor, ...]:
    """Returns the view's maps (inverse depth, slant, confidence, colour) made contiguous, or refuses them."""
    camera = view.camera
    if not camera.is_pinhole:
        raise ReconError(f"calling {operation}", f"the camera is {camera.model.value}", "PINHOLE (undistort first)")
    if camera.width * camera.height > _MAX_PIXELS:
        raise ReconError(f"calling {operation}", f"{camera.width}×{camera.height} pixels", f"at most {_MAX_PIXELS}")
    shape = (camera.height, camera.width)
    maps = [
        check_tensor(operation, name, getattr(view, name), shape) for name in ("inverse_depth", "slant", "confidence")
    ]
    if view.color is not None:
        maps.append(check_tensor(operation, "color", view.color, (3, *shape)))
    return tuple(maps)


def _view_params(module: Any, operation: str, view: DepthView, frame: GridFrame) -> tuple[tuple[Any, ...], Any]:
    """Returns what the struct points to, which must outlive the call, and the struct."""
    maps = check_view(operation, view)
    camera = view.camera
    pose = np.ascontiguousarray((camera.cam_from_world @ frame.world_from_grid)[:3])
    params = module.TsdfView()
    params.cam_from_grid = pose.ctypes.data
    params.inverse_depth, params.slant, params.confidence = (tensor.data_ptr() for tensor in maps[:3])
    if len(maps) == 4:
        params.color = maps[3].data_ptr()
    params.width, params.height = camera.width, camera.height
    params.fx, params.fy, params.cx, params.cy = camera.fx, camera.fy, camera.cx, camera.cy
    return (pose, *maps), params


def _new_table(capacity: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(capacity, -1, np.int64), np.zeros(1, np.int64)


def _refilled_table(keys: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a larger table that holds `keys`, placed as cpu.cpp's `insert` would."""
    table, count = _new_table(capacity)
    count[0] = len(keys)
    with np.errstate(over="ignore"):
        place = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        place ^= place >> np.uint64(29)
    place = (place & np.uint64(capacity - 1)).astype(np.int64)
    pending = np.arange(len(keys))
    while len(pending):
        # Of several keys for one free cell the first takes it; the rest move on, as linear probing does.
        free = pending[table[place[pending]] < 0]
        _, first = np.unique(place[free], return_index=True)
        table[place[free[first]]] = keys[free[first]]
        pending = np.setdiff1d(pending, free[first], assume_unique=True)
        place[pending] = (place[pending] + 1) & (capacity - 1)
    return table, count


def _sorted_blocks(table: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(blocks_from_keys(np.sort(table[table >= 0])))
