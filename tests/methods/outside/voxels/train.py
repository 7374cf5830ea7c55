# SPDX-License-Identifier: Apache-2.0
"""Training of the voxels: pixels of all photographs, their mean squared error, Adam."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.files import write_json
from recon.kernels.adam.op import AdamHyper
from recon.methods.method import TrainerState, TrainingData
from recon.methods.parameter import Parameter
from voxels.model import Grid, VoxelRenderer, trace

if TYPE_CHECKING:
    from voxels.config import VoxelConfig


class VoxelTrainer:
    """Voxels under training; implements `recon.methods.method.Trainer`."""

    def __init__(self, data: TrainingData, config: VoxelConfig) -> None:
        self._data, self._config = data, config
        self._middle = torch.from_numpy(data.scene.camera_centers.mean(0)).float()
        self._half_size = 0.5 * data.scene.extent
        values = torch.zeros(4, *(3 * [config.resolution]))
        values[0] = -4.0
        self._grid = Parameter.fresh(values)
        self._origins, self._directions, self._colors = _rays(data)

    def step(self, step: int, view_index: int) -> Mapping[str, float]:
        # Pixels come from all photographs, so whose turn it is does not matter.
        with self._data.profile.stage("draw"):
            chosen = torch.from_numpy(self._data.random.integers(0, len(self._colors), self._config.rays))
            offset = float(self._data.random.random())
        grid = self._present(self._grid.value)
        with self._data.profile.stage("trace"):
            seen = trace(grid, self._origins[chosen], self._directions[chosen], self._config.samples, offset)
        loss = (seen.color - self._colors[chosen]).square().mean()
        with self._data.profile.stage("backward"):
            loss.backward()
        with self._data.profile.stage("update"):
            self._grid.step_rows(AdamHyper(self._config.rate, step))
        return {"loss": float(loss.detach()), "solid_voxels": float((self._grid.value[0] > 0).sum())}

    def reconfigure(self, config: VoxelConfig) -> None:
        """Goes on with another rate."""
        self._config = config

    def snapshot(self) -> VoxelRenderer:
        return VoxelRenderer(self._present(self._grid.value.detach().clone()), self._config.samples)

    def state(self) -> TrainerState:
        places = {"middle": self._middle.tolist(), "half_size": self._half_size}
        return TrainerState(self._grid.state("grid"), places)

    def restore(self, state: TrainerState) -> None:
        self._grid = self._grid.restored("grid", state.tensors)

    def export(self, folder: Path) -> None:
        solid = int((self._grid.value[0] > 0).sum())
        write_json(folder / "voxels.json", {"resolution": self._config.resolution, "solid_voxels": solid}, 1)

    def _present(self, values: torch.Tensor) -> Grid:
        return Grid(values, self._middle, self._half_size)


def _rays(data: TrainingData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns origins, unit directions and colours [P, 3] of all pixels of all photographs."""
    origins, directions, colors = [], [], []
    for view in data.views:
        rays = view.camera.ray_directions_in_cam(view.camera.pixel_grid()).reshape(-1, 3)
        rays = rays @ view.camera.world_from_cam[:3, :3].T
        directions.append(rays / np.linalg.norm(rays, axis=1, keepdims=True))
        origins.append(np.broadcast_to(view.camera.center_in_world, rays.shape))
        colors.append(view.image.reshape(-1, 3) / 255)
    return tuple(torch.from_numpy(np.concatenate(part)).float() for part in (origins, directions, colors))  # type: ignore[return-value]
