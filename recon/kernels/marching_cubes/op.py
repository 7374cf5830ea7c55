# SPDX-License-Identifier: Apache-2.0
"""The zero surface of a sparse distance field as triangles whose vertices are shared.

Source: Lorensen and Cline, "Marching cubes", SIGGRAPH 1987, with the case table of
`recon.kernels.marching_cubes.table`.  Every crossed lattice edge carries one vertex, whichever cells and blocks
touch it, so a surface inside the observed field is watertight and two-manifold.  A cell with an unobserved corner is
left out.  Triangles are counter-clockwise as seen from the side of positive distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.marching_cubes.table import case_table
from recon.kernels.native import native
from recon.kernels.tsdf.op import BLOCK_VOXELS, TsdfGrid, block_keys


@dataclass(frozen=True, eq=False)
class IsoSurface:
    """A triangle mesh.

    Attributes:
        vertices: [V, 3] float64, world.
        normals: [V, 3] float32 unit gradients of the field (towards positive distance); 0 where it has none.
        colors: [V, 3] float32 as fused; 0 where nothing was seen.  None when the field has no colours.
        faces: [T, 3] int32.
    """

    vertices: torch.Tensor
    normals: torch.Tensor
    colors: torch.Tensor | None
    faces: torch.Tensor


def marching_cubes(
    grid: TsdfGrid, min_weight: float = 0.0, with_colors: bool = True, backend: Backend = "auto"
) -> IsoSurface:
    """Extracts the surface where the field's mean distance is zero.

    Args:
        grid: the field.
        min_weight: lattice points of less weight (and of none) count as unobserved.
        with_colors: interpolate colours.
        backend: see `recon.kernels.backend`; "reference" wants a field small enough to be dense.

    Raises:
        ReconError: wrong shapes, or more than 2³¹ vertices.
    """
    from recon.kernels.marching_cubes.reference import marching_cubes_reference

    resolved = resolve_backend(backend, grid.blocks.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        return marching_cubes_reference(grid, min_weight, with_colors)
    count = len(grid)
    blocks = check_tensor("marching_cubes", "blocks", grid.blocks, (count, 3), torch.int32)
    distance = check_tensor("marching_cubes", "distance_sum", grid.distance_sum, (count, BLOCK_VOXELS))
    weight = check_tensor("marching_cubes", "weight_sum", grid.weight_sum, (count, BLOCK_VOXELS))
    color = check_tensor("marching_cubes", "color_sum", grid.color_sum, (count, 4, BLOCK_VOXELS))
    if resolved == "cuda":
        return _on_cuda(grid, min_weight, with_colors)
    neighbors = torch.from_numpy(neighbor_rows(blocks.numpy()))
    crossings = torch.empty(count, 24, dtype=torch.int64)
    counts = torch.zeros(2, count, dtype=torch.int64)
    table = case_table()
    module = native()
    params = module.MarchingCubesParams()
    params.blocks, params.neighbors = blocks.data_ptr(), neighbors.data_ptr()
    params.distance_sum, params.weight_sum = distance.data_ptr(), weight.data_ptr()
    params.color_sum = color.data_ptr() if with_colors else 0
    params.table, params.table_stride = table.ctypes.data, table.shape[1]
    params.block_count, params.min_weight = count, min_weight
    params.crossings = crossings.data_ptr()
    params.vertex_counts, params.triangle_counts = counts[0].data_ptr(), counts[1].data_ptr()
    module.marching_cubes_count(params)

    offsets = counts.cumsum(1) - counts
    surface = _room_for(counts, with_colors)
    params.vertex_offsets, params.triangle_offsets = offsets[0].data_ptr(), offsets[1].data_ptr()
    params.vertices, params.normals = surface.vertices.data_ptr(), surface.normals.data_ptr()
    params.colors = surface.colors.data_ptr() if surface.colors is not None else 0
    params.faces = surface.faces.data_ptr()
    module.marching_cubes_write(params)
    return _placed(_without_unused(surface), grid)


def _on_cuda(grid: TsdfGrid, min_weight: float, with_colors: bool) -> IsoSurface:
    from recon.kernels.marching_cubes.cuda import queue_count, queue_write

    params, (counts, *kept) = queue_count(grid, min_weight, with_colors)
    surface = _room_for(counts, with_colors)
    offsets = counts.cumsum(1) - counts
    queue_write(params, offsets, surface.vertices, surface.normals, surface.colors, surface.faces)
    del kept
    return _placed(_without_unused(surface), grid)


def _room_for(counts: torch.Tensor, with_colors: bool) -> IsoSurface:
    """Returns a surface that is still to be written; `counts` are vertices and triangles of each block [2, B]."""
    vertex_count, triangle_count = counts.sum(1).tolist()
    if max(vertex_count, triangle_count) >= 1 << 31:
        raise ReconError(
            "calling marching_cubes", f"the surface has {vertex_count} vertices", "fewer than 2³¹", "use larger voxels"
        )
    device = counts.device
    return IsoSurface(
        torch.empty((vertex_count, 3), dtype=torch.float64, device=device),
        torch.empty((vertex_count, 3), device=device),
        torch.empty((vertex_count, 3), device=device) if with_colors else None,
        torch.empty((triangle_count, 3), dtype=torch.int32, device=device),
    )


def neighbor_rows(blocks: np.ndarray) -> np.ndarray:
    """Returns [B, 27] int32: the row of each block's neighbour at (dx, dy, dz) in -1..1, dx fastest; -1 for none."""
    count = len(blocks)
    keys = block_keys(blocks)
    assert (np.diff(keys) > 0).all(), "the blocks of a grid are sorted"
    rows = np.full((count, 27), -1, np.int32)
    for i in range(27):
        step = np.array([i % 3 - 1, i // 3 % 3 - 1, i // 9 - 1])
        wanted = block_keys(blocks + step)
        place = np.searchsorted(keys, wanted).clip(max=max(count - 1, 0))
        rows[:, i] = np.where(keys[place] == wanted, place, -1) if count else -1
    return rows


def _without_unused(surface: IsoSurface) -> IsoSurface:
    """Drops the vertices that only cells with an unobserved corner would have used."""
    used = torch.zeros(len(surface.vertices), dtype=torch.bool, device=surface.faces.device)
    used[surface.faces.reshape(-1).long()] = True
    if bool(used.all()):
        return surface
    renumbered = (used.cumsum(0) - 1).to(torch.int32)
    return IsoSurface(
        surface.vertices[used],
        surface.normals[used],
        None if surface.colors is None else surface.colors[used],
        renumbered[surface.faces.long()],
    )


def _placed(surface: IsoSurface, grid: TsdfGrid) -> IsoSurface:
    """Moves vertices from lattice units to the world."""
    origin = torch.tensor(grid.frame.origin_in_world, dtype=torch.float64, device=surface.vertices.device)
    vertices = surface.vertices * grid.frame.voxel_size + origin
    return IsoSurface(vertices, surface.normals, surface.colors, surface.faces)
