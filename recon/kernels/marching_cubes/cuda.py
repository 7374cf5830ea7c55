# SPDX-License-Identifier: Apache-2.0
"""Marching cubes on CUDA."""

from __future__ import annotations

import torch

from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.marching_cubes.table import case_table
from recon.kernels.tsdf.op import MAX_COORDINATE, TsdfGrid

_MARK_WORDS = 24
"""Of 64 bits, for each block: whether an edge carries a vertex."""


def queue_count(grid: TsdfGrid, min_weight: float, with_colors: bool) -> tuple[object, tuple[torch.Tensor, ...]]:
    """Marks and counts what each block brings.

    Returns:
        The struct for `queue_write`; and vertices and triangles of each block, [2, B] int64, followed by what the
        struct points to.
    """
    count, device = len(grid), grid.blocks.device
    neighbors = neighbor_rows_of(grid.blocks)
    crossings = torch.empty(count, _MARK_WORDS, dtype=torch.int64, device=device)
    counts = torch.zeros(2, count, dtype=torch.int64, device=device)
    table = torch.from_numpy(case_table().copy()).to(device)
    params = params_of(
        "MarchingCubesParams",
        blocks=grid.blocks, neighbors=neighbors, distance_sum=grid.distance_sum, weight_sum=grid.weight_sum,
        color_sum=grid.color_sum if with_colors else None, table=table, block_count=count,
        table_stride=table.shape[1], min_weight=min_weight, crossings=crossings, vertex_counts=counts[0],
        triangle_counts=counts[1],
    )  # fmt: skip
    program_for(device).launch_blocks("marching_cubes_count", count, params)
    return params, (counts, neighbors, crossings, table)


def queue_write(
    params: object,
    offsets: torch.Tensor,
    vertices: torch.Tensor,
    normals: torch.Tensor,
    colors: torch.Tensor | None,
    faces: torch.Tensor,
) -> None:
    """Writes the surface; `offsets` [2, B] are the sums of the counts before each block."""
    assign(
        params, vertex_offsets=offsets[0], triangle_offsets=offsets[1], vertices=vertices, normals=normals,
        colors=colors, faces=faces,
    )  # fmt: skip
    program_for(offsets.device).launch_blocks("marching_cubes_write", offsets.shape[1], params)  # type: ignore[arg-type]


def neighbor_rows_of(blocks: torch.Tensor) -> torch.Tensor:
    """As `recon.kernels.marching_cubes.op.neighbor_rows`, on the blocks' device."""
    count = len(blocks)
    keys = _keys(blocks)
    rows = torch.full((count, 27), -1, dtype=torch.int32, device=blocks.device)
    for i in range(27):
        step = torch.tensor([i % 3 - 1, i // 3 % 3 - 1, i // 9 - 1], device=blocks.device)
        wanted = _keys(blocks + step)
        place = torch.searchsorted(keys, wanted).clamp(max=max(count - 1, 0))
        if count:
            rows[:, i] = torch.where(keys[place] == wanted, place, -1).to(torch.int32)
    return rows


def _keys(blocks: torch.Tensor) -> torch.Tensor:
    """As `recon.kernels.tsdf.op.block_keys`."""
    x, y, z = (blocks.long() + MAX_COORDINATE).unbind(-1)
    return (x << 42) | (y << 21) | z
