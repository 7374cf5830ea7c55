# SPDX-License-Identifier: Apache-2.0
"""Which part of the world is worth meshing, and how finely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.surface.config import MeshConfig
from recon.surface.depth_maps import DepthMap

FloatArray = npt.NDArray[np.float64]

SAMPLES = 400_000
"""At most about so many pixels speak for where the surfaces are."""


@dataclass(frozen=True, eq=False)
class Region:
    """An axis-aligned box of the world.

    Attributes:
        low, high: [3] corners.
        kind: "given" by the user, "focus" around what the cameras look at, "all" that was seen.
        pixel_size: median size of a pixel on the surfaces inside, in world units.
    """

    low: FloatArray
    high: FloatArray
    kind: Literal["given", "focus", "all"]
    pixel_size: float


def find_region(maps: Sequence[DepthMap], config: MeshConfig) -> Region:
    """Chooses the box to mesh.

    An object that was photographed from around it is worth its voxels, the wall behind it is not: where the cameras
    share a focus, the box is cut to the sphere around it that reaches to the middle camera.  Percentiles keep
    outliers from widening the box.

    Raises:
        ReconError: no map shows any surface (in the box that was given).
    """
    seen = _surface_samples(maps)
    if config.bounds is not None:
        low, high = np.array(config.bounds[:3]), np.array(config.bounds[3:])
        inside = np.asarray(((seen.points >= low) & (seen.points <= high)).all(1))
        _refuse_if_empty(inside, f"in the bounds {config.bounds}")
        return Region(low, high, "given", float(np.median(seen.pixel_sizes[inside])))
    _refuse_if_empty(np.ones(len(seen.points), bool), "at all")
    focus = find_focus([m.camera for m in maps]) if config.region in ("auto", "focus") else None
    kind: Literal["focus", "all"] = "all"
    points, sizes = seen.points, seen.pixel_sizes
    if focus is not None and (config.region == "focus" or focus.is_shared):
        inside = np.linalg.norm(points - focus.position, axis=1) <= focus.radius
        if inside.mean() > 0.02:
            kind, points, sizes = "focus", points[inside], sizes[inside]
    trim = 0.2 if kind == "focus" else 1.0
    low, high = np.percentile(points, [trim, 100 - trim], axis=0)
    margin = 0.03 * np.linalg.norm(high - low)
    return Region(low - margin, high + margin, kind, float(np.median(sizes)))


@dataclass(frozen=True, eq=False)
class Focus:
    """The place where the cameras' optical axes come closest together.

    Attributes:
        position: [3] in the world.
        radius: the median distance of the cameras from it.
        is_shared: whether the cameras look at it from around it, rather than merely in similar directions.
    """

    position: FloatArray
    radius: float
    is_shared: bool


def find_focus(cameras: Sequence[Camera]) -> Focus | None:
    """Finds the point nearest to all optical axes (least squares); None where the axes are parallel or too few."""
    if len(cameras) < 3:
        return None
    centers = np.array([camera.center_in_world for camera in cameras])
    forward = np.array([camera.forward_in_world for camera in cameras])
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.sum(0)
    spread = np.linalg.eigvalsh(normal)[0] / len(cameras)  # mean squared sine between the axes and their mean
    if spread < 0.01:
        return None
    position = np.linalg.solve(normal, np.einsum("nij,nj->i", across, centers))
    offset = position - centers
    distance = np.linalg.norm(offset, axis=1)
    toward = (offset * forward).sum(1) / np.maximum(distance, 1e-12)
    # Within 35° of most axes, and cameras that stand apart: an inward-facing capture.
    is_shared = float((toward > np.cos(np.radians(35))).mean()) >= 0.8
    return Focus(position, float(np.median(distance)), is_shared)


@dataclass(frozen=True, eq=False)
class _SurfaceSamples:
    points: FloatArray
    pixel_sizes: FloatArray


def _surface_samples(maps: Sequence[DepthMap]) -> _SurfaceSamples:
    """Points on the surfaces that the maps show, and the size of a pixel at each."""
    pixels = sum(m.depth.numel() for m in maps)
    step = max(1, round((pixels / SAMPLES) ** 0.5))
    points = [m.points(step) for m in maps]
    sizes = []
    for m, found in zip(maps, points):
        pose = m.camera.cam_from_world
        sizes.append((found @ pose[2, :3] + pose[2, 3]) / np.sqrt(m.camera.fx * m.camera.fy))
    return _SurfaceSamples(np.concatenate([np.zeros((0, 3)), *points]), np.concatenate([np.zeros(0), *sizes]))


def _refuse_if_empty(inside: npt.NDArray[np.bool_], where: str) -> None:
    if inside.sum() < 10:
        raise ReconError(
            "finding the surface to mesh",
            f"the depth maps show no surface {where}",
            "opaque surfaces that several views agree on",
            "train longer, or lower min_alpha or confirmations, or widen the bounds",
        )
