# SPDX-License-Identifier: Apache-2.0
"""The grid, and pictures of it.

Samples lie at even steps within the sphere around the grid's middle that the cube of the grid holds; a ray's weights
are w_i = T_i (1 - exp(-σ_i δ)) with T_i = exp(-Σ_{j<i} σ_j δ) (Max 1995).
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from recon.cameras import Camera
from recon.methods.method import TrainerState
from recon.render import RenderOptions, RenderOutput

_CHUNK_RAYS = 8192


@dataclass(frozen=True, eq=False)
class Grid:
    """Raw densities and colours [4, G, G, G] (z, y, x; softplus, sigmoid) of a cube, its middle [3], half its edge."""

    values: torch.Tensor
    middle: torch.Tensor
    half_size: float

    def at(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns densities [N] in 1 / world unit and colours [N, 3] at points [N, 3]; nothing outside the cube."""
        places = (points - self.middle) / self.half_size
        raw = torch.nn.functional.grid_sample(self.values[None], places[None, None, None], align_corners=True)
        raw = raw[0, :, 0, 0].T
        density = torch.nn.functional.softplus(raw[:, 0]) * 10 / self.half_size
        return density * (places.abs() <= 1).all(1), torch.sigmoid(raw[:, 1:])


@dataclass(frozen=True, eq=False)
class Traced:
    """What R rays see: colour [R, 3] over black, alpha, mean and median distance [R]."""

    color: torch.Tensor
    alpha: torch.Tensor
    distance: torch.Tensor
    median: torch.Tensor


def trace(grid: Grid, origins: torch.Tensor, directions: torch.Tensor, samples: int, offset: float = 0.5) -> Traced:
    """Follows R rays from origins [R, 3] or [3] with unit directions [R, 3] through the grid."""
    origins = origins.expand_as(directions)
    toward = ((grid.middle - origins) * directions).sum(1, keepdim=True)
    step = 2 * grid.half_size / samples
    places = toward - grid.half_size + (torch.arange(samples) + offset) * step
    points = origins[:, None] + directions[:, None] * places[:, :, None]
    density, color = grid.at(points.reshape(-1, 3))
    depth = torch.where(places > 0, density.reshape(places.shape), torch.zeros(())) * step
    through = torch.exp(-torch.cumsum(depth, 1))
    before = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], 1)
    weights = before - through
    alpha = weights.sum(1)
    crossed = (through < 0.5).int().argmax(1, keepdim=True)
    median = torch.where(through[:, -1] < 0.5, places.gather(1, crossed)[:, 0], torch.zeros(()))
    return Traced(
        (weights[:, :, None] * color.reshape(*places.shape, 3)).sum(1),
        alpha,
        (weights * places).sum(1) / alpha.clamp_min(1e-6),
        median,
    )


def grid_of(state: TrainerState) -> Grid:
    """Returns the grid that a trainer's state holds."""
    return Grid(state.tensors["grid"].clone(), torch.tensor(state.values["middle"]), state.values["half_size"])


class VoxelRenderer:
    """Shows a grid; a `recon.render.Renderer` and a `recon.render.DensitySource`."""

    def __init__(self, grid: Grid, samples: int) -> None:
        self._grid, self._samples = grid, samples
        self._turn = Lock()

    @torch.no_grad()
    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        """Renders the view of a PINHOLE camera; without normals."""
        rays = camera.ray_directions_in_cam(camera.pixel_grid()).reshape(-1, 3)
        lengths = torch.from_numpy(np.linalg.norm(rays, axis=1)).float()
        directions = torch.from_numpy(rays @ camera.world_from_cam[:3, :3].T).float() / lengths[:, None]
        origin = torch.from_numpy(camera.center_in_world).float()
        with self._turn:
            parts = [trace(self._grid, origin, some, self._samples) for some in directions.split(_CHUNK_RAYS)]
        color, alpha, distance, median = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("color", "alpha", "distance", "median")
        )
        shape = (camera.height, camera.width)
        behind = torch.tensor(options.background)
        return RenderOutput(
            rgb=(color + (1 - alpha)[:, None] * behind).reshape(*shape, 3),
            alpha=alpha.reshape(shape),
            depth=(distance / lengths).reshape(shape) if options.depth else None,
            median_depth=(median / lengths).reshape(shape) if options.depth else None,
        )

    @property
    def density_bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The cube of the grid."""
        middle, half = self._grid.middle.tolist(), self._grid.half_size
        low, high = ([value + sign * half for value in middle] for sign in (-1, 1))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    @torch.no_grad()
    def density(self, points: torch.Tensor) -> torch.Tensor:
        """Returns the density [N] in 1 / world unit at points [N, 3]."""
        return self._grid.at(points)[0]
