# SPDX-License-Identifier: Apache-2.0
"""Points on the surface that a renderer shows: depth maps, confirmed by one another, thinned to an even cloud.

Even means even as cameras see it: the cells that points are thinned by have one size where the cameras are and grow
with the square of the distance beyond, as in the contraction of Mip-NeRF 360 (Barron et al. 2022, eq. 10), here by the
largest coordinate:

    m = max |y|,  c = y where m <= 1, else (2 - 1/m) y / m,  y = (x - middle of the cameras) / their extent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.progress import SILENT, Progress
from recon.render import Renderer, SurfaceSource
from recon.scene import SparsePoints
from recon.surface.config import MeshConfig
from recon.surface.depth_maps import DepthMap, confirm, render_depth_maps

FEWEST = 100
"""Fewer points are no surface."""

MOST_PIXELS = 2_000_000
"""At most about so many pixels become points before they are thinned."""

_CELLS_PER_AXIS = (8, 4096)
_SEARCHES = 10


def sample_surface(
    renderer: Renderer, cameras: Sequence[Camera], most: int = 50_000, progress: Progress = SILENT
) -> SparsePoints:
    """Returns points on the surface that the cameras see, with the rendering's colours.

    Args:
        renderer: gives depth, alpha and colour.
        cameras: PINHOLE, as large as the depth maps shall be.
        most: about how many points there shall be at most; where the surface has fewer pixels, there are fewer.
        progress: hears of the stages.

    Returns:
        The points; `track_lengths` says how many cameras saw each.

    Raises:
        ReconError: no cameras, or no surface that they agree on.
    """
    doing = "sampling a trained surface"
    if len(cameras) < 2:
        raise ReconError(doing, f"there are {len(cameras)} cameras", "two or more, which confirm each other")
    if isinstance(renderer, SurfaceSource):
        renderer = renderer.surface_renderer() or renderer
    # Radiance fields are less sharp than splats; twice the tolerance of meshes keeps their surface whole.
    config = MeshConfig(tolerance=0.02)
    maps = confirm(render_depth_maps(renderer, cameras, config, progress), config, progress)
    found = _pixels_of(maps)
    if len(found.positions) < FEWEST:
        raise ReconError(
            doing,
            f"{len(found.positions)} pixels of {len(cameras)} cameras show a surface that other cameras confirm",
            f"{FEWEST} or more",
            "train the run longer, or take one whose depth is right (recon render RUN --channel depth)",
        )
    return _thinned(found, cameras, most)


class _Pixels:
    """Surface pixels of all maps: positions [P, 3], colours [P, 3] in 0..255, weights [P], cameras [P]."""

    def __init__(self, positions: list[np.ndarray], colors: list[np.ndarray], weights: list[np.ndarray]) -> None:
        self.positions = np.concatenate([np.zeros((0, 3)), *positions])
        self.colors = np.concatenate([np.zeros((0, 3)), *colors])
        self.weights = np.concatenate([np.zeros(0), *weights])
        self.cameras = np.repeat(np.arange(len(positions)), [len(part) for part in positions])


def _pixels_of(maps: Sequence[DepthMap]) -> _Pixels:
    pixels = sum(m.depth.numel() for m in maps)
    step = max(1, round((pixels / MOST_PIXELS) ** 0.5))
    positions, colors, weights = [], [], []
    for m in maps:
        depth, confidence = (part[::step, ::step].numpy() for part in (m.depth, m.confidence))
        seen = (depth > 0) & (confidence > 0)
        positions.append(m.points(step))
        colors.append(m.color[::step, ::step].numpy()[seen].astype(np.float64))
        weights.append(confidence[seen].astype(np.float64))
    return _Pixels(positions, colors, weights)


def _thinned(found: _Pixels, cameras: Sequence[Camera], most: int) -> SparsePoints:
    """Returns one point, the weighted mean, of each cell that holds any; cells are as small as `most` allows."""
    places = contracted(found.positions, np.array([camera.center_in_world for camera in cameras]))
    low, high = _CELLS_PER_AXIS
    for _ in range(_SEARCHES):
        middle = round((low * high) ** 0.5)
        if len(np.unique(_cells(places, middle))) > most:
            high = middle
        else:
            low = middle
    _, row = np.unique(_cells(places, low), return_inverse=True)
    count = int(row.max()) + 1
    weight = np.bincount(row, found.weights, count)

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        sums = [np.bincount(row, found.weights * column, count) for column in values.T]
        return np.asarray(np.stack(sums, 1) / weight[:, None])

    views = np.unique(row.astype(np.int64) * len(cameras) + found.cameras) // len(cameras)
    return SparsePoints(
        mean(found.positions),
        (mean(found.colors) + 0.5).clip(0, 255).astype(np.uint8),
        np.ones(count, np.float32),
        np.bincount(views, minlength=count).astype(np.int32),
    )


def contracted(positions: npt.NDArray[np.float64], centers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns positions [N, 3] in -2..2 as the module says, about cameras' centres [F, 3]."""
    middle = centers.mean(0)
    extent = max(float(np.linalg.norm(centers - middle, axis=1).max()), 1e-9)
    scaled = (positions - middle) / extent
    most = np.maximum(np.abs(scaled).max(1, keepdims=True, initial=0.0), 1.0)
    return np.asarray((2 - 1 / most) * scaled / most)


def _cells(places: npt.NDArray[np.float64], per_axis: int) -> npt.NDArray[np.int64]:
    """The number of each position's cell [N] in a grid of so many cells along each axis of -2..2."""
    cells = ((places + 2) / 4 * per_axis).astype(np.int64).clip(0, per_axis - 1)
    return np.asarray((cells[:, 0] * per_axis + cells[:, 1]) * per_axis + cells[:, 2])
