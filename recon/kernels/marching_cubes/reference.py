# SPDX-License-Identifier: Apache-2.0
"""Marching cubes over a dense copy of the field, one cell at a time: what the kernel must equal."""

from __future__ import annotations

import numpy as np
import torch

from recon.kernels.marching_cubes.op import IsoSurface
from recon.kernels.marching_cubes.table import case_table, edge_ends
from recon.kernels.tsdf.op import BLOCK_SIDE, TsdfGrid

EDGE_MARGIN = 1e-3


def dense_field(grid: TsdfGrid, min_weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns distances [Z, Y, X] (NaN where unobserved), colours with weight [Z, Y, X, 4], and the lattice index of
    the first element (x, y, z).  A margin of one block is unobserved."""
    blocks = grid.blocks.numpy()
    first = blocks.min(0) - 1
    shape = (blocks.max(0) + 1 - first + 1) * BLOCK_SIDE
    distance = np.full(shape[::-1], np.nan)
    color = np.zeros((*shape[::-1], 4))
    for row, block in enumerate(blocks):
        x, y, z = (block - first) * BLOCK_SIDE
        place = (slice(z, z + BLOCK_SIDE), slice(y, y + BLOCK_SIDE), slice(x, x + BLOCK_SIDE))
        weight = grid.weight_sum[row].double().numpy().reshape(8, 8, 8)
        observed = (weight >= min_weight) & (weight > 0)
        mean = grid.distance_sum[row].double().numpy().reshape(8, 8, 8) / np.where(observed, weight, 1)
        distance[place] = np.where(observed, mean, np.nan)
        color[place] = grid.color_sum[row].double().numpy().reshape(4, 8, 8, 8).transpose(1, 2, 3, 0)
    return distance, color, first * BLOCK_SIDE


def marching_cubes_reference(grid: TsdfGrid, min_weight: float, with_colors: bool) -> IsoSurface:
    """See `recon.kernels.marching_cubes.op.marching_cubes`; vertices come in the order of the cells."""
    if len(grid) == 0:
        no_colors = torch.zeros(0, 3) if with_colors else None
        return IsoSurface(
            torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3), no_colors, torch.zeros(0, 3, dtype=torch.int32)
        )
    distance, color, first = dense_field(grid, min_weight)
    gradient = _gradient(distance)
    table = case_table()
    corners = np.array([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)])
    vertex_of: dict[tuple[int, ...], int] = {}
    vertices: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    faces: list[list[int]] = []
    z, y, x = np.nonzero(np.isfinite(distance))
    for cell in np.stack([x, y, z], 1):
        places = cell + corners
        values = distance[places[:, 2], places[:, 1], places[:, 0]]
        if not np.isfinite(values).all():
            continue
        case = int((values < 0) @ (1 << np.arange(8)))
        for triangle in table[case, 1 : 1 + 3 * table[case, 0]].reshape(-1, 3):
            face = []
            for edge in triangle:
                a, b = edge_ends(int(edge))
                key = (*places[a].tolist(), int(edge) // 4)
                if key not in vertex_of:
                    vertex_of[key] = len(vertices)
                    t = np.clip(values[a] / (values[a] - values[b]), EDGE_MARGIN, 1 - EDGE_MARGIN)
                    ends = [tuple(places[c][::-1]) for c in (a, b)]
                    vertices.append(places[a] + t * (places[b] - places[a]) + first)
                    normals.append(_unit((1 - t) * gradient[ends[0]] + t * gradient[ends[1]]))
                    colors.append(_mix(color[ends[0]], color[ends[1]], t))
                face.append(vertex_of[key])
            faces.append(face)
    placed = np.array(vertices).reshape(-1, 3) * grid.frame.voxel_size + np.array(grid.frame.origin_in_world)
    return IsoSurface(
        torch.from_numpy(placed),
        torch.from_numpy(np.array(normals, np.float32).reshape(-1, 3)),
        torch.from_numpy(np.array(colors, np.float32).reshape(-1, 3)) if with_colors else None,
        torch.from_numpy(np.array(faces, np.int32).reshape(-1, 3)),
    )


def _gradient(distance: np.ndarray) -> np.ndarray:
    """[Z, Y, X, 3]: central differences, one-sided beside unobserved points, 0 between them."""
    parts = []
    for axis in (2, 1, 0):
        after, before = np.roll(distance, -1, axis), np.roll(distance, 1, axis)
        one_sided = np.where(np.isfinite(after), after - distance, distance - before)
        both = np.isfinite(after) & np.isfinite(before)
        parts.append(np.nan_to_num(np.where(both, (after - before) / 2, one_sided), nan=0.0))
    return np.stack(parts, -1)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _mix(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    shares = np.array([(1 - t) * (a[3] > 0), t * (b[3] > 0)])
    if shares.sum() == 0:
        return np.zeros(3)
    means = np.stack([end[:3] / end[3] if end[3] > 0 else np.zeros(3) for end in (a, b)])
    return shares @ means / shares.sum()
