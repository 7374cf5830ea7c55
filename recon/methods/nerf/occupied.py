# SPDX-License-Identifier: Apache-2.0
"""Where the field is looked for: the occupancy grid, kept up to date with the field under training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.kernels.composite.op import CompositeOptions
from recon.kernels.composite.types import MOST_EXPONENT
from recon.kernels.hash_encoding.op import hash_encode_into
from recon.kernels.mlp.op import mlp_forward_into
from recon.kernels.occupancy.op import OccupancyGrid, mark_unseen, occupancy_cells, update_occupancy
from recon.kernels.ray_march.op import Space
from recon.kernels.workspace import Workspace
from recon.methods.nerf.field import field_latent

if TYPE_CHECKING:
    from recon.kernels.backend import Backend
    from recon.methods.nerf.field import FieldParameters, FieldShape
    from recon.methods.nerf.step import Stage
    from recon.scene import Scene, View

_DECAY = 0.7
_ALL_CELLS_UPDATES = 24
_PART = 4
_CHUNK = 1 << 16
_NEAR_SHARE = 0.5
_NEAR_PERCENTILE = 2.0
_FEWEST_POINTS = 16


def initial_occupancy(scene: Scene, views: Sequence[View], stage: Stage, resolution: int) -> OccupancyGrid:
    """Returns the grid before training: all that the cameras see from where their rays begin.

    Half of the depth of the nearest sparse points that a camera sees is empty in front of it, too.
    """
    grid = OccupancyGrid.full(resolution)
    cameras = [view.camera for view in views]
    mark_unseen(grid, stage.space, cameras, [nearest(scene, view, stage.march.near) for view in views])
    return grid


def nearest(scene: Scene, view: View, least: float) -> float:
    """Returns the depth up to which nothing stands in front of a camera, as far as its sparse points tell."""
    points = scene.points.positions
    points = points[np.isfinite(points).all(1)]
    if len(points) < _FEWEST_POINTS:
        return least
    pixels, z = view.camera.project(points)
    seen = (z > 0) & (pixels >= 0).all(1) & (pixels < (view.camera.width, view.camera.height)).all(1)
    if seen.sum() < _FEWEST_POINTS:
        return least
    return max(least, _NEAR_SHARE * float(np.percentile(z[seen], _NEAR_PERCENTILE)))


class OccupancyKeeper:
    """Looks at cells of the grid from time to time: at all of them at first, then at some."""

    def __init__(self, grid: OccupancyGrid, stage: Stage, threshold: float, backend: Backend) -> None:
        self.grid = grid
        self.updates = 0
        self._threshold = threshold
        self._stage, self._backend = stage, backend
        self._workspace = Workspace(grid.densities.device)

    @torch.no_grad()
    def update(self, parameters: FieldParameters, random: np.random.Generator) -> None:
        """Evaluates the field in cells and decides anew which are occupied."""
        count = None if self.updates < _ALL_CELLS_UPDATES else self.grid.cells // _PART
        cells, positions = occupancy_cells(self.grid, int(random.integers(0, 1 << 31)), count)
        depths = torch.empty(len(cells), device=positions.device)
        for first in range(0, len(cells), _CHUNK):
            part = slice(first, first + _CHUNK)
            depths[part] = self._cell_depth(parameters, positions[part])
        update_occupancy(self.grid, cells, depths, self._threshold, _DECAY)
        self.updates += 1

    def _cell_depth(self, parameters: FieldParameters, positions: torch.Tensor) -> torch.Tensor:
        """Returns the optical depth along a side of the cells at positions [S, 3] of the unit cube."""
        stage = self._stage
        density = density_at(stage.shape, parameters, positions, stage.composite, self._workspace, self._backend)
        side = (4 if stage.space.contracted else 2) / self.grid.resolution
        return density * (side * spread(positions, stage.space))


def density_at(
    shape: FieldShape,
    parameters: FieldParameters,
    positions: torch.Tensor,
    options: CompositeOptions,
    workspace: Workspace,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Returns the density [S], per half size of the space, at positions [S, 3] of the unit cube."""
    if positions.device.type == "cpu" and backend in ("auto", "cpu"):
        encoded = hash_encode_into(positions.contiguous(), parameters.table.detach(), shape.grid, workspace)
        latent = mlp_forward_into(encoded, parameters.density.detach(), shape.density, workspace, "density")
    else:
        latent = field_latent(shape, parameters, positions.contiguous(), backend)
    return torch.exp((latent[:, 0] + options.density_shift).clamp(-MOST_EXPONENT, MOST_EXPONENT))


def spread(positions: torch.Tensor, space: Space) -> torch.Tensor:
    """Returns how much longer than in the inner region a step is at positions [S, 3] of the unit cube, [S]."""
    if not space.contracted:
        return torch.ones(len(positions), device=positions.device)
    inner = (4 * positions - 2).abs().amax(1).clamp(1.0, 2 - 1e-3)
    return (2 - inner) ** -2
