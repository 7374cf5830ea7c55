# SPDX-License-Identifier: Apache-2.0
"""Taking a photograph of a stage: exact rays through the lens, averaged samples, and what the sensor adds.

The response is one curve for all photographs: linear up to 0.7 of white, then a soft shoulder, then sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.data.stage import Stage

if TYPE_CHECKING:
    import torch

Picture = npt.NDArray[np.float32]
HIGHLIGHT_EXPONENT = 60.0
SHOULDER = 0.7
SAMPLES_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Exposed:
    """A picture before the sensor.

    Attributes:
        linear: [H, W, 3] linear light.
        depth: [H, W] float32 along z at pixel centres in metres, 0 where nothing is; without distractors.
        normals: [H, W, 3] float32 unit normals in the world towards the camera, 0 where nothing is.
        triangles: [H, W] int32 triangle at the pixel centre, -1 where nothing is.
        hidden: [H, W] bool, whether a distractor covers any part of the pixel.
    """

    linear: Picture
    depth: Picture
    normals: Picture
    triangles: npt.NDArray[np.int32]
    hidden: npt.NDArray[np.bool_]


class Photographer:
    """Takes photographs of one stage with one lens; the lens's rays are computed once."""

    def __init__(self, stage: Stage, camera: Camera, supersampling: int, gloss: float) -> None:
        self._stage = stage
        self._camera = camera
        self._samples = supersampling
        n = supersampling
        y, x = np.meshgrid(np.arange(camera.height * n), np.arange(camera.width * n), indexing="ij")
        fine = np.stack([(x + 0.5) / n, (y + 0.5) / n], -1)
        self._fine = camera.ray_directions_in_cam(fine).astype(np.float32)
        self._centres = camera.ray_directions_in_cam(camera.pixel_grid()).astype(np.float32)
        self._look = _Look(stage, gloss)

    def expose(self, cam_from_world: npt.NDArray, distractors: Stage | None = None) -> Exposed:
        """Renders one view; `distractors` is a stage of its own that stands in the first one for this view only."""
        view = _View.of(cam_from_world)
        n, height, width = self._samples, self._camera.height, self._camera.width
        linear = np.empty((height, width, 3), np.float32)
        hidden = np.zeros((height, width), bool)
        # Bands of rows bound the memory that the samples take.
        rows = max(1, SAMPLES_AT_ONCE // (width * n * n))
        other = None if distractors is None else _Look(distractors, 0.0)
        for top in range(0, height, rows):
            rays = self._fine[top * n : (top + rows) * n]
            colors, covered = self._samples_of(view, rays.reshape(-1, 3), other)
            linear[top : top + rows] = _mean_of_samples(colors, n, width)
            if other is not None:
                hidden[top : top + rows] = covered.reshape(-1, n, width, n).any((1, 3))
        depth, normals, triangles = self._geometry(view)
        return Exposed(linear, depth, normals, triangles, hidden)

    def _samples_of(
        self, view: _View, rays_in_cam: Picture, other: _Look | None
    ) -> tuple[Picture, npt.NDArray[np.bool_]]:
        origins, directions = view.rays(rays_in_cam)
        colors, distances = self._look.colors(origins, directions)
        if other is None:
            return colors, np.zeros(0, bool)
        over, nearer = other.colors(origins, directions)
        covered = nearer < distances
        colors[covered] = over[covered]
        return colors, covered

    def _geometry(self, view: _View) -> tuple[Picture, Picture, npt.NDArray[np.int32]]:
        height, width = self._camera.height, self._camera.width
        stage = self._stage
        origins, directions = view.rays(self._centres.reshape(-1, 3))
        from recon.kernels.raycast.op import cast_rays

        hits = cast_rays(stage.bvh, origins, directions)
        triangle = hits.triangles.numpy()
        met = triangle >= 0
        # Rays have z = 1 in the camera's frame, so their lengths are depths.
        depth = np.where(met, hits.distances.numpy(), 0).astype(np.float32)
        corners = stage.vertices[stage.triangles[np.maximum(triangle, 0)]]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        away = (normals * directions.numpy()).sum(1) > 0
        normals[away] *= -1
        normals[~met] = 0
        return (
            depth.reshape(height, width),
            normals.astype(np.float32).reshape(height, width, 3),
            triangle.reshape(height, width),
        )


@dataclass(frozen=True, eq=False)
class _View:
    """Where a photograph is taken from: rotation and centre in float32."""

    rotation: torch.Tensor
    center: torch.Tensor

    @staticmethod
    def of(cam_from_world: npt.NDArray) -> _View:
        import torch

        rotation = np.asarray(cam_from_world)[:3, :3]
        center = -rotation.T @ np.asarray(cam_from_world)[:3, 3]
        return _View(torch.from_numpy(rotation.astype(np.float32)), torch.from_numpy(center.astype(np.float32)))

    def rays(self, directions_in_cam: Picture) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns origins and directions [R, 3] in the world."""
        import torch

        directions = torch.from_numpy(np.ascontiguousarray(directions_in_cam)) @ self.rotation
        return self.center.expand_as(directions).contiguous(), directions


class _Look:
    """What rays see of a stage."""

    def __init__(self, stage: Stage, gloss: float) -> None:
        import torch

        self._stage = stage
        self._gloss = gloss if len(stage.highlight_from) else 0.0
        self._atlas = torch.from_numpy(stage.atlas).permute(2, 0, 1)[None]
        height, width = stage.atlas.shape[:2]
        # As grid_sample counts: -1 to 1 over the atlas.  A corner and the two edges from it.
        corners = torch.from_numpy(stage.texels) * torch.tensor([2 / width, 2 / height]) - 1
        edges = corners[:, 1:] - corners[:, :1]
        self._texels = torch.cat([corners[:, :1], edges], 1).reshape(-1, 6)
        self._normals = torch.from_numpy(stage.normals)
        self._lights = torch.from_numpy(stage.highlight_from.astype(np.float32))

    def colors(self, origins: torch.Tensor, directions: torch.Tensor) -> tuple[Picture, Picture]:
        """Returns linear colours [R, 3] and distances [R] (infinity where nothing is, which is black)."""
        import torch
        import torch.nn.functional as functional

        from recon.kernels.raycast.op import cast_rays

        hits = cast_rays(self._stage.bvh, origins, directions)
        triangle = hits.triangles.long().clamp(min=0)
        second, third = hits.barycentrics.unbind(-1)
        corner = self._texels[triangle]
        grid = corner[:, :2] + second[:, None] * corner[:, 2:4] + third[:, None] * corner[:, 4:]
        seen = functional.grid_sample(self._atlas, grid[None, None], align_corners=False)[0, :, 0].T
        colors = seen[:, :3].contiguous()
        colors[hits.triangles < 0] = 0
        if self._gloss > 0:
            shiny = torch.nonzero((seen[:, 3] > 1e-3) & (hits.triangles >= 0))[:, 0]
            points = origins[shiny] + hits.distances[shiny, None] * directions[shiny]
            a, b = second[shiny, None], third[shiny, None]
            first, other, last = self._normals[triangle[shiny]].unbind(1)
            smooth = functional.normalize((1 - a - b) * first + a * other + b * last, dim=-1)
            shine = self._highlight(points, smooth, functional.normalize(-directions[shiny], dim=-1))
            colors[shiny] += (self._gloss * seen[shiny, 3] * shine)[:, None]
        return colors.numpy(), hits.distances.numpy()

    def _highlight(self, points: torch.Tensor, normals: torch.Tensor, viewer: torch.Tensor) -> torch.Tensor:
        """Blinn-Phong with Schlick's Fresnel term (Blinn 1977, Schlick 1994), summed over the lights."""
        import torch
        import torch.nn.functional as functional

        total = torch.zeros(len(points))
        for light in self._lights:
            half = functional.normalize(functional.normalize(light - points, dim=-1) + viewer, dim=-1)
            aligned = (normals * half).sum(-1).clamp(min=0)
            fresnel = 0.04 + 0.96 * (1 - (viewer * half).sum(-1).clamp(0, 1)) ** 5
            total += fresnel * (HIGHLIGHT_EXPONENT + 2) / 8 * aligned**HIGHLIGHT_EXPONENT
        return total


def _mean_of_samples(colors: Picture, samples: int, width: int) -> Picture:
    """Averages colours [rows · n · width · n, 3] over n × n samples to [rows, width, 3]."""
    grid = colors.reshape(-1, samples, width, samples, 3)
    total = grid[:, 0, :, 0].copy()
    for i in range(samples):
        for j in range(samples):
            if i or j:
                total += grid[:, i, :, j]
    return total / np.float32(samples * samples)


def develop(linear: Picture) -> Picture:
    """Returns sRGB values in 0..1 for linear light, by the response that all photographs share."""
    over = np.maximum(linear - SHOULDER, 0.0)
    room = 1.0 - SHOULDER
    soft = np.minimum(linear, SHOULDER) + room * (1.0 - np.exp(-over / room))
    return np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * np.maximum(soft, 1e-8) ** (1 / 2.4) - 0.055)
