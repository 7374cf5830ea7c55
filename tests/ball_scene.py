# SPDX-License-Identifier: Apache-2.0
"""A ball of known colours on black, photographed from all around: a surface whose place is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from recon.cameras import Camera, look_at
from recon.render import RenderOptions, RenderOutput
from recon.scene import Frame, Scene
from recon.scene_io import load_scene, save_scene

RADIUS = 1.0
"""The ball's; its middle is the world's origin."""


def ball_color(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the colours [..., 3] in 0..1 of points on the ball: smooth, and different all around."""
    return 0.5 + 0.42 * np.sin(2.2 * points + np.array([0.3, 1.1, 2.0]))


def ball_points(camera: Camera) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Returns where the pixels' rays meet the ball [H, W, 3], and whether they do [H, W]."""
    rays = camera.ray_directions_in_cam(camera.pixel_grid()) @ camera.world_from_cam[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    eye = camera.center_in_world
    along = rays @ eye
    inside = along**2 - (eye @ eye - RADIUS**2)
    return eye + rays * (-along - np.sqrt(np.maximum(inside, 0)))[..., None], inside > 0


class BallRenderer:
    """Renders the ball exactly; a `recon.render.Renderer`."""

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        points, hit = ball_points(camera)
        pose = camera.cam_from_world
        depth = np.where(hit, points @ pose[2, :3] + pose[2, 3], 0)
        rgb = np.where(hit[..., None], ball_color(points), np.array(options.background))
        shown = [torch.from_numpy(np.asarray(part, np.float32)) for part in (rgb, hit, depth)]
        return RenderOutput(shown[0], shown[1], shown[2], shown[2]) if options.depth else RenderOutput(*shown[:2])


def ball_picture(camera: Camera, samples: int = 2) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns the exact picture [H, W, 3] in 0..1 over black and its coverage [H, W]."""
    points, hit = ball_points(camera.resized(camera.width * samples, camera.height * samples))
    rgb = np.where(hit[..., None], ball_color(points), 0.0)

    def shrink(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        shape = (camera.height, samples, camera.width, samples, *picture.shape[2:])
        return np.asarray(picture.reshape(shape).mean((1, 3)))

    return shrink(rgb), shrink(hit.astype(np.float64))


def ball_cameras(count: int = 20, side: int = 40) -> list[Camera]:
    """Returns cameras around the ball, above and below it."""
    cameras = []
    for index in range(count):
        angle, height = 2 * np.pi * index / count, 1.6 * np.sin(2.4 * index)
        eye = 3.2 * np.array([np.cos(angle), np.sin(angle), 0.0]) + np.array([0.0, 0.0, height])
        pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
        cameras.append(Camera(side, side, 1.25 * side, 1.25 * side, side / 2, side / 2, cam_from_world=pose))
    return cameras


def ball_scene(folder: Path, count: int = 20, side: int = 40) -> Scene:
    """Writes a scene folder of the ball below `folder`, without sparse points, and opens it."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    frames = []
    for index, camera in enumerate(ball_cameras(count, side)):
        path = photos / f"{index:02d}.png"
        Image.fromarray((255 * ball_picture(camera)[0] + 0.5).astype(np.uint8)).save(path)
        frames.append(Frame(path.name, path, camera))
    save_scene(Scene(tuple(frames)), folder / "scene")
    return load_scene(folder / "scene")
