# SPDX-License-Identifier: Apache-2.0
"""3D Gaussian splatting (Kerbl et al., SIGGRAPH 2023) as a method of recon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recon.errors import ReconError
from recon.methods.config import TrainConfig
from recon.methods.method import Method, Trainer, TrainerState, TrainingData
from recon.methods.splat.config import SplatConfig
from recon.scene import Scene

if TYPE_CHECKING:
    from recon.render import Renderer


def _check(scene: Scene, config: TrainConfig) -> None:
    from recon.methods.splat.plan import check_memory

    assert isinstance(config, SplatConfig)
    check_memory(scene, config)


def _start(data: TrainingData, config: TrainConfig) -> Trainer:
    from recon.methods.splat.train import SplatTrainer

    assert isinstance(config, SplatConfig)
    return SplatTrainer(data, config)


def _open(folder: Path, config: TrainConfig, state: TrainerState | None) -> Renderer:
    from dataclasses import replace

    from recon.methods.device import choose_device
    from recon.methods.splat.model import PARAMETER_NAMES
    from recon.rasterization import SplatRenderer
    from recon.splats import Splats

    assert isinstance(config, SplatConfig)
    if state is not None:
        missing = [name for name in PARAMETER_NAMES if name not in state.tensors]
        if missing:
            raise ReconError(f"opening the run {folder}", f"its checkpoint lacks {', '.join(missing)}")
        means, quats, log_scales, opacity_logits, sh = (state.tensors[name] for name in PARAMETER_NAMES)
        splats = Splats(means, quats, log_scales, opacity_logits, sh, antialiased=config.antialiased)
    else:
        from recon.formats.splat_ply import read_splat_ply

        splats = replace(read_splat_ply(folder / "splats.ply"), antialiased=config.antialiased)
    return SplatRenderer(splats.to(choose_device(config.device)), backend=config.backend)


METHOD = Method(
    name="splat",
    summary="3D Gaussian splatting: fast to train, fast to look at",
    config_type=SplatConfig,
    check=_check,
    start=_start,
    open=_open,
    exports=("splats.ply",),
)
