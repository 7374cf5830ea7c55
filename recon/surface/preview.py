# SPDX-License-Identifier: Apache-2.0
"""Pictures of meshes without OpenGL, and meshes as a `recon.render.Renderer`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera, look_at
from recon.kernels.triangles.op import Fragments, draw_triangles
from recon.render import RenderOptions, RenderOutput
from recon.surface.mesh import Mesh

Style = Literal["color", "shaded", "normals"]

CLAY = (0.78, 0.76, 0.73)
"""Colour of shaded surfaces."""


@dataclass(frozen=True, eq=False)
class MeshRenderer:
    """Renders a mesh by a z-buffer; implements `recon.render.Renderer`.

    Attributes:
        mesh: what is seen.
        style: "color" shows the vertices' colours as they are (shaded clay where the mesh has none), "shaded" clay
            under a light beside the camera, "normals" world normals as colours.
        supersample: pictures are drawn at so many times their size and averaged; depth and normals come from the
            pixel's middle sample, so use an odd number where they matter.
    """

    mesh: Mesh
    style: Style = "color"
    supersample: int = 1

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        """Renders the view of a PINHOLE camera; depth and median depth are the same."""
        fine = self._draw(camera.resized(camera.width * self.supersample, camera.height * self.supersample))
        hit = fine.face_ids >= 0
        flat = self.style == "color" and self.mesh.colors is not None
        normals = None if flat and not options.normal else self._normals(fine, camera)
        colors = self._colors(fine) if flat or normals is None else self._shade(normals, camera)
        rgb = torch.where(hit[..., None], colors, torch.tensor(options.background))
        middle = slice(self.supersample // 2, None, self.supersample)
        depth = fine.depth[middle, middle].contiguous()
        return RenderOutput(
            rgb=_average(rgb, self.supersample),
            alpha=_average(hit.float()[..., None], self.supersample)[..., 0],
            depth=depth if options.depth else None,
            median_depth=depth.clone() if options.depth else None,
            normal=normals[middle, middle].contiguous() if options.normal and normals is not None else None,
        )

    def _draw(self, camera: Camera) -> Fragments:
        center = camera.center_in_world
        reach = float(np.abs(self.mesh.vertices - center).max()) if len(self.mesh.vertices) else 1.0
        return draw_triangles(
            torch.from_numpy(np.ascontiguousarray(self.mesh.vertices)),
            torch.from_numpy(np.ascontiguousarray(self.mesh.faces)),
            camera,
            near=max(1e-5 * reach, 1e-12),
        )

    def _interpolate(self, fragments: Fragments, values: npt.NDArray[np.float32]) -> torch.Tensor:
        """Values [V, D] at the pixels [H, W, D]; anything where nothing is seen."""
        if len(self.mesh.faces) == 0:
            return torch.zeros(*fragments.face_ids.shape, values.shape[1])
        corners = torch.from_numpy(self.mesh.faces)[fragments.face_ids.clamp_min(0).long()].long()
        return (torch.from_numpy(values)[corners] * fragments.weights()[..., None]).sum(-2)

    def _normals(self, fragments: Fragments, camera: Camera) -> torch.Tensor:
        """Unit normals in the world towards the camera; 0 where nothing is seen."""
        size = fragments.face_ids.shape
        rays = camera.resized(size[1], size[0])
        directions = rays.ray_directions_in_cam(rays.pixel_grid()) @ camera.cam_from_world[:3, :3]
        normal = self._interpolate(fragments, self._vertex_normals)
        away = (normal * torch.from_numpy(directions.astype(np.float32))).sum(-1, keepdim=True) > 0
        normal = torch.nn.functional.normalize(torch.where(away, -normal, normal), dim=-1)
        return normal * (fragments.face_ids >= 0)[..., None]

    @cached_property
    def _vertex_normals(self) -> npt.NDArray[np.float32]:
        return self.mesh.vertex_normals()

    def _colors(self, fragments: Fragments) -> torch.Tensor:
        assert self.mesh.colors is not None
        return self._interpolate(fragments, self.mesh.colors.astype(np.float32)) / 255

    def _shade(self, normals: torch.Tensor, camera: Camera) -> torch.Tensor:
        if self.style == "normals":
            return normals * 0.5 + 0.5
        # The light stands a little to the left of the camera and above it, so that relief shows.
        light = torch.from_numpy(np.array([-0.35, -0.5, -0.8]) @ camera.cam_from_world[:3, :3]).float()
        lit = (normals @ torch.nn.functional.normalize(light, dim=0)).clamp_min(0)
        return torch.tensor(CLAY) * (0.25 + 0.75 * lit)[..., None]


def orbit_cameras(mesh: Mesh, count: int, width: int, height: int, elevation_rad: float = 0.45) -> list[Camera]:
    """Returns cameras evenly around a mesh that see all of it, +Z up."""
    center = (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2
    radius = max(float(np.linalg.norm(mesh.vertices - center, axis=1).max()), 1e-9)
    focal = 1.2 * min(width, height)
    # The sphere around the mesh touches the picture's border.
    distance = radius * float(np.hypot(1, 2 * focal / min(width, height)))
    cameras = []
    for azimuth in np.arange(count) * 2 * np.pi / count + 0.6:
        level = np.cos(elevation_rad)
        direction = np.array([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(elevation_rad)])
        pose = look_at(center + distance * direction, center, np.array([0.0, 0.0, 1.0]))
        cameras.append(Camera(width, height, focal, focal, width / 2, height / 2, cam_from_world=pose))
    return cameras


def preview_sheet(
    mesh: Mesh, cameras: list[Camera], background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> npt.NDArray[np.uint8]:
    """Returns one picture [H, W, 3]: a column for each camera (of one size), in colour above and shaded below."""
    styles: tuple[Style, ...] = ("color", "shaded") if mesh.colors is not None else ("shaded",)
    rows = []
    for style in styles:
        renderer = MeshRenderer(mesh, style, supersample=2)
        pictures = [renderer.render(camera, RenderOptions(background)).rgb for camera in cameras]
        rows.append(torch.cat(pictures, 1))
    return (torch.cat(rows, 0).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def _average(picture: torch.Tensor, factor: int) -> torch.Tensor:
    """Averages blocks of factor × factor pixels of [H, W, D]."""
    if factor == 1:
        return picture
    height, width, channels = picture.shape
    return picture.reshape(height // factor, factor, width // factor, factor, channels).mean((1, 3))
