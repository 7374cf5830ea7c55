# SPDX-License-Identifier: Apache-2.0
"""A neural radiance field of the Instant-NGP kind (Müller et al., SIGGRAPH 2022) as a method of recon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recon.methods.config import TrainConfig
from recon.methods.method import Method, Trainer, TrainerState, TrainingData
from recon.methods.nerf.config import NerfConfig
from recon.scene import Scene

if TYPE_CHECKING:
    from recon.render import Renderer


def _check(scene: Scene, config: TrainConfig) -> None:
    from recon.methods.nerf.plan import check_memory

    assert isinstance(config, NerfConfig)
    check_memory(scene, config)


def _start(data: TrainingData, config: TrainConfig) -> Trainer:
    from recon.methods.nerf.train import NerfTrainer

    assert isinstance(config, NerfConfig)
    return NerfTrainer(data, config)


def _open(folder: Path, config: TrainConfig, state: TrainerState | None) -> Renderer:
    from recon.kernels.ray_march.op import Space
    from recon.methods.device import choose_device
    from recon.methods.nerf.files import FIELD_FILE, field_renderer, read_field

    assert isinstance(config, NerfConfig)
    if state is None:
        renderer = read_field(folder / FIELD_FILE, config)
    else:
        x, y, z = state.values["center"]
        space = Space((x, y, z), state.values["half_size"], state.values["contracted"])
        renderer = field_renderer(state.tensors, space, config, f"opening the run {folder}")
    return renderer.to(choose_device(config.device))


METHOD = Method(
    name="nerf",
    summary="a neural radiance field: hash grid and small networks, good for views between the photographs",
    config_type=NerfConfig,
    check=_check,
    start=_start,
    open=_open,
    exports=("field.safetensors",),
)
