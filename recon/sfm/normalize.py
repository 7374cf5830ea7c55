# SPDX-License-Identifier: Apache-2.0
"""From the mapper's arbitrary world to one with +Z up, its origin among the points and a scale of a few units.

People hold cameras level, so photos' right axes are horizontal: up is the direction that is perpendicular to all of
them.  A photo held upright or aslant contradicts, so its say shrinks (iteratively reweighted least squares).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.scene import Similarity

FloatArray = npt.NDArray[np.float64]

MEDIAN_DEPTH = 3.0
_HINT_WEIGHT = 0.005


def up_direction(cameras: Sequence[Camera]) -> FloatArray:
    """Returns the unit vector that is most likely up, in the world of `cameras`."""
    rotations = np.array([camera.cam_from_world[:3, :3] for camera in cameras])
    right, up, forward = rotations[:, 0], -rotations[:, 1], rotations[:, 2]
    # Where all photos look the same way, "perpendicular to right" leaves a circle; the photos' own up picks from it,
    # and where they look straight down, so does "cameras look down rather than up".
    steady = float(np.linalg.norm(up.mean(0)))
    hint = up.mean(0) - 0.3 * (1.0 - steady) ** 2 * forward.mean(0)
    weights = np.ones(len(cameras))
    found = hint / max(np.linalg.norm(hint), 1e-12)
    for _ in range(20):
        normal = (right * weights[:, None]).T @ right / weights.sum() + _HINT_WEIGHT * np.eye(3)
        solved = np.linalg.solve(normal, _HINT_WEIGHT * hint)
        length = np.linalg.norm(solved)
        if length < 1e-12:
            break
        found = solved / length
        weights = 1.0 / (1.0 + (right @ found / 0.15) ** 2)
    return found


def rotation_to_z(up: FloatArray, forward: FloatArray) -> FloatArray:
    """Returns the rotation that takes `up` to +Z and the horizontal part of `forward` to +Y."""
    z = up / np.linalg.norm(up)
    y = forward - (forward @ z) * z
    if np.linalg.norm(y) < 1e-6:
        y = np.cross(z, [1.0, 0.0, 0.0] if abs(z[0]) < 0.9 else [0.0, 1.0, 0.0])
    y = y / np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z])


def normalizing_similarity(
    cameras: Sequence[Camera], positions: FloatArray, depths: FloatArray, meters_per_unit: float | None = None
) -> Similarity:
    """Returns the transform from the mapper's world to the scene's.

    Args:
        cameras: posed in the mapper's world.
        positions: the sparse points, [N, 3].
        depths: the depths of the observations, [O]; their median becomes `MEDIAN_DEPTH`.
        meters_per_unit: a known scale of the mapper's world, which is then kept.
    """
    up = up_direction(cameras)
    rotation = rotation_to_z(up, cameras[0].forward_in_world)
    usable = depths[np.isfinite(depths) & (depths > 0)]
    scale = MEDIAN_DEPTH / float(np.median(usable)) if len(usable) and meters_per_unit is None else 1.0
    centers = np.array([camera.center_in_world for camera in cameras])
    middle = np.median(positions, axis=0) if len(positions) else centers.mean(0)
    return Similarity(scale, rotation, -scale * rotation @ middle)
