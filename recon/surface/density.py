# SPDX-License-Identifier: Apache-2.0
"""The surface of a density: where it crosses one level, without a detour by depth maps.

The density is sampled on a lattice and its logarithm interpolated between lattice points, since radiance fields are
trained in it; each vertex is then brought to where its normal crosses the level.  The level is the median density where
the views' rays lose half of their light: half of the rays then cross it before that point and half behind it, so the
surface is that of the median depth, without its noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from recon.errors import ReconError
from recon.kernels.marching_cubes.op import IsoSurface, marching_cubes
from recon.kernels.tsdf.op import BLOCK_SIDE, GridFrame, TsdfGrid
from recon.progress import SILENT, Progress
from recon.render import DensitySource
from recon.surface.config import MeshConfig
from recon.surface.depth_maps import DepthMap
from recon.surface.region import Region

LEVEL_SAMPLES = 200_000
"""At most about so many pixels choose the level."""

POINTS_AT_ONCE = 1 << 18
COARSENING = 1.2
PIXELS_PER_VOXEL = 1.5
COLOR_TOLERANCE = 0.02
"""A view lends its colour to what is within this part of the depth that it shows there."""

_LATTICE_SHARE = 8
_MOST_STEEP = 8.0
_HALVINGS = 6


@dataclass(frozen=True, eq=False)
class DensitySurface:
    """A surface without colours, the voxel it was found with in world units, and its level in 1 / world unit."""

    surface: IsoSurface
    voxel_size: float
    level: float


def density_surface(
    source: DensitySource, maps: Sequence[DepthMap], region: Region, config: MeshConfig, progress: Progress = SILENT
) -> DensitySurface:
    """Extracts the surface of a density within a region.

    Args:
        source: the density.
        maps: confirmed depth maps, which choose the level where `config.density_level` does not.
        region: the box to mesh; what lies outside the source's own bounds is left out.
        config: voxel size, level and memory.
        progress: hears of the stages.

    Raises:
        ReconError: the box and the bounds have nothing in common, or the voxels that were asked for need too much
            memory.
    """
    low, high = (np.asarray(corner, np.float64) for corner in source.density_bounds)
    low, high = np.maximum(low, region.low), np.minimum(high, region.high)
    if (low >= high).any():
        raise ReconError(
            "meshing a density",
            f"the region {region.low.tolist()} to {region.high.tolist()} is outside of {source.density_bounds}",
            "a region within the bounds",
            "choose other bounds",
        )
    level = config.density_level or surface_level(source, maps)
    frame = _frame(low, high, region, config, progress)
    field = _sampled(source, frame, level, progress)
    surface = marching_cubes(_grid(frame, field), with_colors=False)
    return DensitySurface(_settled(surface, source, level, frame.voxel_size), frame.voxel_size, level)


def surface_level(source: DensitySource, maps: Sequence[DepthMap]) -> float:
    """Returns the median density at the surface that depth maps show."""
    pixels = sum(m.depth.numel() for m in maps)
    step = max(1, round((pixels / LEVEL_SAMPLES) ** 0.5))
    points = torch.from_numpy(np.concatenate([m.points(step) for m in maps])).float()
    level = float(torch.cat([source.density(some) for some in points.split(POINTS_AT_ONCE)]).median())
    if not level > 0:
        raise ReconError(
            "meshing a density",
            "it is zero at most of the surface that the views show",
            "a density above zero",
            "train longer, or give density_level",
        )
    return level


def _frame(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], region: Region, config: MeshConfig, progress: Progress
) -> GridFrame:
    """Returns a lattice over the box that memory holds, as fine as pixels where no voxel size is given."""
    most = config.max_memory_gib * (1 << 30) / _LATTICE_SHARE / 4
    finest = voxel = config.voxel_size or PIXELS_PER_VOXEL * region.pixel_size
    while True:
        frame = GridFrame.covering(low, high, voxel, voxel)
        if float(np.prod(_blocks_along(frame))) * BLOCK_SIDE**3 <= most:
            break
        if config.voxel_size is not None:
            raise ReconError(
                f"meshing a density with voxels of {voxel:g}",
                f"they need more than {config.max_memory_gib:g} GiB",
                "a lattice that fits into max_memory_gib",
                "use larger voxels, smaller bounds or a larger max_memory_gib",
            )
        voxel *= COARSENING
    if voxel > finest:
        progress.log(f"Voxels of {voxel:.3g} instead of {finest:.3g}, so that the lattice fits into max_memory_gib")
    return frame


def _blocks_along(frame: GridFrame) -> npt.NDArray[np.int64]:
    """How many blocks there are along x, y and z."""
    return np.array(frame.last_block, np.int64) - np.array(frame.first_block, np.int64) + 1


def _sampled(source: DensitySource, frame: GridFrame, level: float, progress: Progress) -> torch.Tensor:
    """Returns ln(level / density) [Z, Y, X] on the lattice: positive where less light is stopped."""
    counts = _blocks_along(frame) * BLOCK_SIDE
    axes = [
        (torch.arange(int(count)) + first * BLOCK_SIDE).double() * frame.voxel_size + start
        for count, first, start in zip(counts, frame.first_block, frame.origin_in_world)
    ]
    field = torch.empty(int(counts[2]), int(counts[1]), int(counts[0]))
    plane = torch.cartesian_prod(axes[1], axes[0]).flip(1)
    with progress.stage("Sampling the density", len(field), "planes") as stage:
        for row, z in zip(field, axes[2].tolist()):
            points = torch.cat([plane, torch.full((len(plane), 1), z, dtype=plane.dtype)], 1).float()
            row.copy_(_log_ratio(source, points, level).reshape(row.shape))
            stage.advance()
    return field


def _log_ratio(source: DensitySource, points: torch.Tensor, level: float) -> torch.Tensor:
    """Returns ln(level / density) [N] at points [N, 3]; bounded, since beside empty space it is a cliff."""
    found = torch.cat([source.density(some) for some in points.split(POINTS_AT_ONCE)]).nan_to_num(0.0, 0.0, 0.0)
    return -torch.log(found.clamp_min(level * math.exp(-_MOST_STEEP)) / level).clamp_max(_MOST_STEEP)


def _settled(surface: IsoSurface, source: DensitySource, level: float, voxel: float) -> IsoSurface:
    """Returns the surface with its vertices where their normals cross the level, by halving a voxel's length.

    A vertex whose normal does not cross it within half a voxel on both sides stays.
    """
    middle, normals = surface.vertices, surface.normals.double()
    inner = torch.full((len(middle),), -voxel / 2, dtype=torch.float64)
    outer = -inner

    def side(along: torch.Tensor) -> torch.Tensor:
        return _log_ratio(source, (middle + normals * along[:, None]).float(), level) >= 0

    crosses = ~side(inner) & side(outer)
    for _ in range(_HALVINGS):
        between = (inner + outer) / 2
        is_outside = side(between)
        outer = torch.where(is_outside, between, outer)
        inner = torch.where(is_outside, inner, between)
    moved = middle + normals * ((inner + outer) / 2 * crosses)[:, None]
    return replace(surface, vertices=moved)


def _grid(frame: GridFrame, field: torch.Tensor) -> TsdfGrid:
    """Returns the blocks whose cells the surface crosses, and those that lend them their far corners."""
    count = [int(n) for n in _blocks_along(frame)]
    padded = torch.nn.functional.pad(field[None, None], (0, 1, 0, 1, 0, 1), mode="replicate")
    side = BLOCK_SIDE + 1
    highest = torch.nn.functional.max_pool3d(padded, side, BLOCK_SIDE)
    lowest = -torch.nn.functional.max_pool3d(-padded, side, BLOCK_SIDE)
    crossed = ((highest >= 0) & (lowest < 0)).float()
    ahead = torch.nn.functional.pad(crossed, (1, 0, 1, 0, 1, 0))
    kept = torch.nn.functional.max_pool3d(ahead, 2, 1)[0, 0].permute(2, 1, 0) > 0
    blocks = kept.nonzero() + torch.tensor(frame.first_block)
    split = field.reshape(count[2], BLOCK_SIDE, count[1], BLOCK_SIDE, count[0], BLOCK_SIDE)
    values = split.permute(4, 2, 0, 1, 3, 5)[kept].reshape(len(blocks), -1)
    grid = TsdfGrid.empty(frame, blocks.int().contiguous())
    grid.distance_sum.copy_(values)
    grid.weight_sum.fill_(1)
    return grid


def colors_of_views(points: npt.NDArray[np.float64], maps: Sequence[DepthMap]) -> npt.NDArray[np.uint8]:
    """Returns colours [P, 3] of surface points [P, 3]: the mean over the views that see each, by their confidence.

    What no view sees gets the colour of the nearest point that one does; grey where none sees any.
    """
    sums, weights = np.zeros((len(points), 3)), np.zeros(len(points))
    for m in maps:
        camera = m.camera
        pixels, depth = camera.project(points)
        inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < [camera.width, camera.height]).all(1)
        rows = np.flatnonzero(inside)
        column, row = pixels[rows].astype(int).T
        shown = m.depth.numpy()[row, column]
        with np.errstate(divide="ignore", invalid="ignore"):
            sees = (shown > 0) & (np.abs(depth[rows] / shown - 1) <= COLOR_TOLERANCE)
        rows, column, row = rows[sees], column[sees], row[sees]
        weight = m.confidence.numpy()[row, column].astype(np.float64)
        sums[rows] += weight[:, None] * m.color.numpy()[row, column]
        weights[rows] += weight
    seen = weights > 0
    colors = np.full((len(points), 3), 128.0)
    colors[seen] = sums[seen] / weights[seen, None]
    if seen.any() and not seen.all():
        from scipy.spatial import cKDTree

        _, nearest = cKDTree(points[seen]).query(points[~seen])
        colors[~seen] = colors[seen][nearest]
    return (colors + 0.5).clip(0, 255).astype(np.uint8)
