# SPDX-License-Identifier: Apache-2.0
"""Where the photographer stands: walks through the room, and rings around the object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera, CameraModel, look_at
from recon.data.config import CaptureConfig, Kind

FloatArray = npt.NDArray[np.float64]
UP = np.array([0.0, 0.0, 1.0])
FIELD_OF_VIEW_DEG = {"room": 74.0, "object": 50.0}


def lens(kind: Kind, config: CaptureConfig) -> Camera:
    """Returns the camera that takes all photographs, at the origin."""
    view = np.radians(config.field_of_view_deg or FIELD_OF_VIEW_DEG[kind])
    focal = config.width / 2 / np.tan(view / 2)
    pinhole = not any(config.distortion)
    return Camera(
        config.width,
        config.height,
        focal,
        focal,
        config.width / 2 + config.principal_point_px[0],
        config.height / 2 + config.principal_point_px[1],
        CameraModel.PINHOLE if pinhole else CameraModel.OPENCV,
        () if pinhole else config.distortion,
    )


def camera_path(kind: Kind, config: CaptureConfig) -> list[FloatArray]:
    """Returns cam_from_world of each photograph, in the order in which they are taken."""
    rng = np.random.default_rng([config.seed, 7])
    poses = _walk(config.views, rng) if kind == "room" else _rings(config.views, rng)
    assert len(poses) == config.views
    return poses


def _walk(views: int, rng: np.random.Generator) -> list[FloatArray]:
    """Two rounds through the room: an outer one that looks across it, an inner one that looks half aside.

    The rounds share what they see, and each photograph shares more than half of its picture with the next.
    """
    # Few photographs are one round, so that they still overlap.
    outer = -(-views * 3 // 5) if views >= 36 else views
    poses = []
    for k in range(views):
        first = k < outer
        t = (k / outer) if first else (k - outer) / max(views - outer, 1)
        angle = 2 * np.pi * t + (0.4 if first else 0.1)
        reach = np.array([1.22, 0.80]) if first else np.array([0.62, 0.45])
        sway = rng.normal(0, 0.02, 3)
        eye = np.array([*(reach * (np.cos(angle), np.sin(angle))), 1.42 + 0.13 * np.sin(3 * angle)]) + sway
        if not first:
            eye[2] += 0.12 * np.cos(2 * angle)
        # Across the room for the first round; turned 55° from that for the second.
        heading = angle + np.pi + (0.12 * np.sin(2 * angle) if first else 0.96)
        drop = (-0.62 if first else -0.42) + 0.22 * np.sin(2 * angle + 1)
        target = eye + np.array([1.9 * np.cos(heading), 1.9 * np.sin(heading), drop]) + rng.normal(0, 0.03, 3)
        poses.append(_handheld(eye, target, rng))
    return poses


def _rings(views: int, rng: np.random.Generator) -> list[FloatArray]:
    """Rings around the object at three heights, which look at it."""
    shares = (0.40, 0.35, 0.25)
    elevations = np.radians((13.0, 33.0, 56.0))
    counts = [round(views * share) for share in shares]
    counts[0] += views - sum(counts)
    poses = []
    for number, (count, elevation) in enumerate(zip(counts, elevations)):
        for k in range(count):
            angle = 2 * np.pi * (k + 0.33 * number) / count + 0.3
            distance = 0.80 + rng.normal(0, 0.015)
            level = elevation + rng.normal(0, 0.02)
            flat = np.cos(level) * np.array([np.cos(angle), np.sin(angle)])
            middle = np.array([0.0, 0.0, OBJECT_MIDDLE_Z]) + rng.normal(0, 0.008, 3)
            eye = np.array([0.0, 0.0, OBJECT_MIDDLE_Z]) + distance * np.array([*flat, np.sin(level)])
            poses.append(_handheld(eye, middle, rng))
    return poses


OBJECT_MIDDLE_Z = 0.92


def _handheld(eye: FloatArray, target: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Returns the pose of a camera that is not held quite level."""
    roll = rng.normal(0, 0.02)
    pose = look_at(eye, target, UP)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
    return turn @ pose
