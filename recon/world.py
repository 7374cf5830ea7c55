# SPDX-License-Identifier: Apache-2.0
"""Moving whole scenes between worlds, and turning imported ones so that +Z is up.

Poses that come from elsewhere are in whatever world their program chose.  People hold cameras level, so the
horizontal axes of the pictures lie in the ground plane, and the direction that is most perpendicular to all of them
is up or down; the pictures' own upward axes say which.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.scene import Scene, Similarity

FloatArray = npt.NDArray[np.float64]


def transform_scene(scene: Scene, new_from_old: Similarity) -> Scene:
    """Returns the scene in a new world, with the transform recorded in its `WorldFrame`.

    Depth maps are in world units; a scene that has some must keep its scale.
    """
    assert new_from_old.scale == 1.0 or all(frame.depth_path is None for frame in scene.frames)
    frames = tuple(
        replace(frame, camera=frame.camera.with_pose(new_from_old.apply_to_pose(frame.camera.cam_from_world)))
        for frame in scene.frames
    )
    meters = scene.world.meters_per_unit
    world = replace(
        scene.world,
        world_from_source=new_from_old.compose(scene.world.world_from_source),
        meters_per_unit=None if meters is None else meters / new_from_old.scale,
    )
    points = replace(scene.points, positions=new_from_old.apply(scene.points.positions))
    return replace(scene, frames=frames, points=points, world=world)


def up_direction(cameras: list[Camera]) -> FloatArray:
    """Returns the unit vector that the photographers held upwards, in the cameras' world; +Z without any cameras."""
    if not cameras:
        return np.array([0.0, 0.0, 1.0])
    poses = np.array([camera.cam_from_world for camera in cameras])
    mean_up = -poses[:, 1, :3].mean(0)
    if np.linalg.norm(mean_up) < 1e-6:
        return np.array([0.0, 0.0, 1.0])
    mean_up = mean_up / np.linalg.norm(mean_up)
    right = poses[:, 0, :3]
    values, vectors = np.linalg.eigh(right.T @ right / len(right))
    normal = vectors[:, 0] * (1.0 if vectors[:, 0] @ mean_up >= 0 else -1.0)
    # Cameras that all look the same way leave the normal undetermined about their common axis.
    level = values[1] > 0.03 and values[0] < 0.2 * values[1] and normal @ mean_up > np.cos(np.radians(50))
    return normal if level else mean_up


def turned_upright(scene: Scene, tolerance_deg: float = 0.0) -> Scene:
    """Returns the scene turned by the smallest rotation that brings its up direction to +Z.

    A scene whose up direction is within `tolerance_deg` of +Z already is returned as it is; one that is turned has
    `up_is_known` False, since its photos alone said where up is.
    """
    up = up_direction([frame.camera for frame in scene.frames])
    if np.degrees(np.arccos(np.clip(up[2], -1, 1))) <= tolerance_deg:
        return scene
    turned = transform_scene(scene, Similarity(1.0, rotation_between(up, np.array([0.0, 0.0, 1.0])), np.zeros(3)))
    return replace(turned, world=replace(turned.world, up_is_known=False))


def rotation_between(source: FloatArray, target: FloatArray) -> FloatArray:
    """Returns the smallest 3×3 rotation that takes the unit vector `source` to the unit vector `target`."""
    cosine = float(source @ target)
    if cosine < -1 + 1e-12:
        # Opposite: half a turn about any axis perpendicular to them.
        axis = np.cross(source, np.eye(3)[int(np.argmin(np.abs(source)))])
        axis = axis / np.linalg.norm(axis)
        return 2 * np.outer(axis, axis) - np.eye(3)
    x, y, z = np.cross(source, target)
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)
