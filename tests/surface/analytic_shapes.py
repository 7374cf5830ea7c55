# SPDX-License-Identifier: Apache-2.0
"""A renderer of exact shapes by sphere tracing, and cameras around them: ground truth without any other part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from recon.cameras import Camera, look_at
from recon.render import RenderOptions, RenderOutput
from recon.surface.mesh import Mesh

Field = Callable[[np.ndarray], np.ndarray]


def sphere_field(center: tuple[float, float, float], radius: float) -> Field:
    return lambda p: np.linalg.norm(p - np.array(center), axis=-1) - radius


def torus_field(radius: float, tube: float) -> Field:
    return lambda p: np.hypot(np.hypot(p[..., 0], p[..., 1]) - radius, p[..., 2]) - tube


def box_field(center: tuple[float, float, float], half: tuple[float, float, float]) -> Field:
    def distance(p: np.ndarray) -> np.ndarray:
        q = np.abs(p - np.array(center)) - np.array(half)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)

    return distance


def union(*fields: Field) -> Field:
    return lambda p: np.min([field(p) for field in fields], axis=0)


def color_at(points: np.ndarray) -> np.ndarray:
    """A smooth colour for every place."""
    return 0.5 + 0.4 * np.sin(points * np.array([3.0, 4.0, 5.0]) + np.array([0.0, 1.0, 2.0]))


@dataclass(frozen=True)
class FieldRenderer:
    """Renders the zero surface of a distance field exactly; implements `recon.render.Renderer`.

    `floaters` adds that many opaque discs per view in front of the camera, elsewhere in each view.
    """

    field: Field
    far: float = 20.0
    floaters: int = 0

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        rays = camera.ray_directions_in_cam(camera.pixel_grid())
        length = np.linalg.norm(rays, axis=-1)
        world = rays @ camera.cam_from_world[:3, :3]
        depth = np.zeros(length.shape)
        active = np.ones(length.shape, bool)
        for _ in range(200):
            step = self.field(camera.center_in_world + world[active] * depth[active][:, None]) / length[active]
            depth[active] = np.minimum(depth[active] + step, self.far)
            active[active] = (np.abs(step) > 1e-6) & (depth[active] < self.far)
            if not active.any():
                break
        hit = depth < self.far * 0.999
        color = color_at(camera.center_in_world + world * depth[..., None])
        seed = int(abs(camera.cam_from_world).sum() * 1e6) % 2**31
        generator = np.random.default_rng(seed)
        pixels = camera.pixel_grid()
        for _ in range(self.floaters):
            spot = generator.random(2) * (camera.width, camera.height)
            disc = np.linalg.norm(pixels - spot, axis=-1) < 0.04 * camera.width
            depth, hit = np.where(disc, 0.3 + 0.3 * generator.random(), depth), hit | disc
        color = np.where(hit[..., None], color, np.array(options.background))
        as_tensor = torch.from_numpy((depth * hit).astype(np.float32))
        return RenderOutput(
            rgb=torch.from_numpy(color.astype(np.float32)),
            alpha=torch.from_numpy(hit.astype(np.float32)),
            depth=as_tensor if options.depth else None,
            median_depth=as_tensor.clone() if options.depth else None,
        )


def cameras_around(
    count: int, distance: float, width: int = 96, height: int = 72, focal: float = 104.0
) -> list[Camera]:
    """Cameras spread evenly over a sphere (Fibonacci), looking at the origin."""
    cameras = []
    for i in range(count):
        height_share = 1 - 2 * (i + 0.5) / count
        level, azimuth = np.sqrt(1 - height_share**2), i * np.pi * (3 - np.sqrt(5))
        eye = distance * np.array([level * np.cos(azimuth), level * np.sin(azimuth), height_share])
        pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
        cameras.append(Camera(width, height, focal, focal, width / 2, height / 2, cam_from_world=pose))
    return cameras


def sphere_mesh(radius: float = 1.0, steps: int = 48, center: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """A sphere of triangles, outwards, with its poles on the z axis."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, steps + 1)[1:-1]
    longitude = np.arange(2 * steps) * np.pi / steps
    ring = np.stack(
        [
            np.cos(latitude)[:, None] * np.cos(longitude),
            np.cos(latitude)[:, None] * np.sin(longitude),
            np.broadcast_to(np.sin(latitude)[:, None], (steps - 1, 2 * steps)),
        ],
        -1,
    ).reshape(-1, 3)
    vertices = np.concatenate([ring, [[0, 0, -1], [0, 0, 1]]]) * radius + np.array(center)
    at = np.arange((steps - 1) * 2 * steps).reshape(steps - 1, 2 * steps)
    after = np.roll(at, -1, axis=1)
    faces = [np.stack([at[:-1], after[:-1], after[1:]], -1), np.stack([at[:-1], after[1:], at[1:]], -1)]
    south, north = len(vertices) - 2, len(vertices) - 1
    caps = [
        np.stack([after[0], at[0], np.full(2 * steps, south)], -1),
        np.stack([at[-1], after[-1], np.full(2 * steps, north)], -1),
    ]
    every = np.concatenate([part.reshape(-1, 3) for part in (*faces, *caps)]).astype(np.int32)
    return Mesh(vertices, every, (color_at(vertices) * 255).astype(np.uint8))


def signed_volume(mesh: Mesh) -> float:
    a, b, c = np.moveaxis(mesh.triangles, 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)
