# SPDX-License-Identifier: Apache-2.0
"""Where a scene's field is: the cube that holds what was photographed, by the cameras, the points and the masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from recon.errors import ReconError
from recon.kernels.ray_march.op import Space
from recon.methods.nerf.config import NerfConfig

if TYPE_CHECKING:
    from recon.scene import Scene, View

_MARGIN = 1.05
_FEWEST_POINTS = 8
_HULL_CELLS = 64
_HULL_MARGIN = 1.1
# Masks are never perfect: a point of the object may miss the mask of a view or two.
_HULL_SHARE = 0.9
_HULL_SEEN = 0.5


def choose_space(scene: Scene, views: Sequence[View], config: NerfConfig) -> Space:
    """Returns the region of the field.

    Contracted, the unit region holds all cameras and is centred on what they look at: the mean of the points on the
    optical axes at the median depth of what each camera sees.  Bounded, it is the least cube around the visual hull of
    the masks, or the same region where there are none.

    Raises:
        ReconError: cameras that are not finite, or masks that leave no object.
    """
    kind = config.space.kind
    if kind == "auto":
        kind = "bounded" if config.masks == "alpha" else "contracted"
    center, half_size = _looked_at(scene)
    if kind == "bounded" and config.masks == "alpha" and any(view.mask is not None for view in views):
        center, half_size = _hull(views, center, half_size)
    if config.space.half_size > 0:
        half_size = config.space.half_size
    x, y, z = center.tolist()
    return Space((x, y, z), float(half_size), kind == "contracted")


def _looked_at(scene: Scene) -> tuple[np.ndarray, float]:
    """Returns the middle of what the cameras look at, and the half size of the cube around it that holds them."""
    centers = scene.camera_centers
    if not np.isfinite(centers).all():
        raise ReconError("placing the radiance field", "a camera's position is not finite", "finite poses")
    forward = np.array([frame.camera.forward_in_world for frame in scene.frames])
    depths = _typical_depths(scene)
    if depths is None:
        depths = _depths_to_focus(centers, forward)
    targets = centers + forward * depths[:, None]
    middle = targets.mean(0)
    reach = float(np.abs(np.concatenate([centers, targets]) - middle).max())
    return middle, max(_MARGIN * reach, 1e-3 * scene.extent, 1e-6)


def _typical_depths(scene: Scene) -> np.ndarray | None:
    """Returns the median depth of the points in each camera's picture [F]; None where most cameras see too few."""
    points = scene.points.positions
    points = points[np.isfinite(points).all(1)]
    depths = np.full(len(scene.frames), np.nan)
    for index, frame in enumerate(scene.frames):
        if len(points) < _FEWEST_POINTS:
            break
        pixels, z = frame.camera.project(points)
        seen = (z > 0) & (pixels >= 0).all(1) & (pixels < (frame.camera.width, frame.camera.height)).all(1)
        if seen.sum() >= _FEWEST_POINTS:
            depths[index] = np.median(z[seen])
    known = np.isfinite(depths)
    if known.mean() < 0.5:
        return None
    return np.where(known, depths, np.median(depths[known]))


def _depths_to_focus(centers: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Returns the depth in each camera [F] of the point that is nearest to all optical axes."""
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    focus = np.linalg.lstsq(across.sum(0), np.einsum("fij,fj->i", across, centers), rcond=1e-6)[0]
    depths = ((focus - centers) * forward).sum(1)
    spread = float(np.linalg.norm(centers - centers.mean(0), axis=1).max())
    return np.maximum(depths, max(0.1 * spread, 1e-6))


def _hull(views: Sequence[View], center: np.ndarray, half_size: float) -> tuple[np.ndarray, float]:
    """Returns the cube around the points that the masks of nearly all views that see them contain."""
    ticks = (np.arange(_HULL_CELLS) + 0.5) / _HULL_CELLS * 2 - 1
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3) * half_size + center
    seen, inside = np.zeros(len(points)), np.zeros(len(points))
    for view in views:
        if view.mask is None:
            continue
        pixels, z = view.camera.project(points)
        visible = (z > 0) & (pixels >= 0).all(1) & (pixels < (view.camera.width, view.camera.height)).all(1)
        column, row = pixels[visible].astype(int).T
        seen[visible] += 1
        inside[visible] += view.mask[row, column] > 127
    # What few cameras see may hide behind, or right before, the object in all of them.
    often = np.maximum(_HULL_SEEN * seen.max(), 2)
    kept = points[(seen >= often) & (inside >= _HULL_SHARE * seen)]
    if len(kept) == 0:
        raise ReconError(
            "placing the radiance field",
            "the masks have nothing in common that the cameras could be looking at",
            "masks that show one object from all sides",
            "check the masks, or give --masks ignore",
        )
    low, high = kept.min(0), kept.max(0)
    cell = 2 * half_size / _HULL_CELLS
    return (low + high) / 2, _HULL_MARGIN * (float((high - low).max()) / 2 + cell)
