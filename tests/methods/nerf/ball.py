# SPDX-License-Identifier: Apache-2.0
"""A coloured ball before nothing: its pictures and depths follow from a formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recon.cameras import Camera, look_at
from recon.scene import Scene

SIDE = 32
RADIUS = 0.8
SceneMaker = Callable[..., Scene]


def ball_camera(angle: float, height: float, side: int = SIDE) -> Camera:
    """A camera that looks at the ball from a distance of about 3."""
    eye = np.array([3 * np.cos(angle), 3 * np.sin(angle), height])
    pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
    return Camera(side, side, 1.3 * side, 1.3 * side, side / 2, side / 2, cam_from_world=pose)


def see_ball(camera: Camera, sky: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns the picture [H, W, 3] in 0..1, over black or a coloured sky, and the depth along z, 0 beside the ball."""
    rays = camera.ray_directions_in_cam(camera.pixel_grid())
    directions = rays @ camera.world_from_cam[:3, :3].T
    eye = camera.center_in_world
    a, b, c = (directions**2).sum(-1), directions @ eye, eye @ eye - RADIUS**2
    inside = b * b - a * c
    depth = np.where(inside > 0, (-b - np.sqrt(inside.clip(0))) / a, 0.0)
    points = eye + depth[..., None] * directions
    colors = 0.5 + 0.4 * np.sin(4 * points + [0.0, 1.0, 2.0])
    infinite = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    behind = 0.5 + 0.4 * np.sin(5 * infinite + [2.0, 0.0, 1.0]) if sky else np.zeros(3)
    return np.where(depth[..., None] > 0, colors, behind), depth
