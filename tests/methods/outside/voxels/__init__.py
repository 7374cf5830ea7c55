# SPDX-License-Identifier: Apache-2.0
"""A grid of densities and colours, rendered with plain torch: the smallest radiance field there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.methods.method import Method, Trainer, TrainerState, TrainingData
from recon.scene import Scene
from voxels.config import VoxelConfig

if TYPE_CHECKING:
    from recon.render import Renderer


def _check(scene: Scene, config: Any) -> None:
    from recon.methods.memory import available_bytes, require_memory

    needs = {f"a grid of {config.resolution}³ voxels": 4.0 * 4 * 3 * config.resolution**3}
    require_memory("planning the voxels", needs, available_bytes(), "lower --resolution")


def _start(data: TrainingData, config: Any) -> Trainer:
    from voxels.train import VoxelTrainer

    return VoxelTrainer(data, config)


def _open(folder: Path, config: Any, state: TrainerState | None) -> Renderer:
    from voxels.model import VoxelRenderer, grid_of

    if state is None:
        raise ReconError(f"opening the run {folder}", "it has no checkpoint left", "a run with its checkpoints")
    return VoxelRenderer(grid_of(state), config.samples)


METHOD = Method(
    name="voxels",
    summary="a grid of densities and colours",
    config_type=VoxelConfig,
    check=_check,
    start=_start,
    open=_open,
    exports=("voxels.json",),
    uses_points=False,
)
