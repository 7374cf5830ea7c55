# SPDX-License-Identifier: Apache-2.0
"""A method as a third party would write it: it learns one colour for all pixels."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recon.cameras import Camera
from recon.files import write_json
from recon.methods.config import TrainConfig, ranged
from recon.methods.method import Method, TrainerState, TrainingData
from recon.render import RenderOptions, RenderOutput


@dataclass(frozen=True)
class ToyConfig(TrainConfig):
    """Options of the toy."""

    rate: float = ranged(0.05, 0.0, 1.0, live="value")
    """Of gradient descent; 0 to 1."""
    nan_after: int = ranged(0, 0)
    """Step after which the loss is NaN; 0 for never."""
    kill_at: int = ranged(0, 0, resume=True)
    """Step in which the process kills itself; 0 for never."""
    interrupt_at: int = ranged(0, 0, resume=True)
    """Step in which the process sends itself Ctrl-C; 0 for never."""


class ToyRenderer:
    def __init__(self, color: torch.Tensor) -> None:
        self.color = color

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        rgb = self.color.expand(camera.height, camera.width, 3)
        return RenderOutput(rgb=rgb.clone(), alpha=torch.ones(camera.height, camera.width))


class ToyTrainer:
    def __init__(self, data: TrainingData, config: ToyConfig) -> None:
        self.data, self.config = data, config
        self.color = torch.rand(3)

    def step(self, step: int, view_index: int) -> Mapping[str, float]:
        if step == self.config.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.config.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        target = torch.from_numpy(self.data.views[view_index].image).float().mean((0, 1)) / 255
        noise = 1e-3 * (torch.randn(3) + float(self.data.random.normal()))
        self.color = self.color + self.config.rate * (target - self.color) + noise
        bad = self.config.nan_after and step > self.config.nan_after
        return {"loss": float("nan") if bad else float((target - self.color).abs().mean())}

    def reconfigure(self, config: ToyConfig) -> None:
        self.config = config

    def snapshot(self) -> ToyRenderer:
        return ToyRenderer(self.color.clone())

    def state(self) -> TrainerState:
        return TrainerState({"color": self.color}, {})

    def restore(self, state: TrainerState) -> None:
        self.color = state.tensors["color"].clone()

    def export(self, folder: Path) -> None:
        write_json(folder / "toy.json", {"color": self.color.tolist()}, 1)


def _open(folder: Path, config: Any, state: TrainerState | None) -> ToyRenderer:
    assert state is not None
    return ToyRenderer(state.tensors["color"])


METHOD = Method(
    name="toy",
    summary="one colour",
    config_type=ToyConfig,
    check=lambda scene, config: None,
    start=ToyTrainer,
    open=_open,
)


def random_picture(seed: int, height: int, width: int) -> np.ndarray:
    """Returns a smooth random picture, uint8."""
    coarse = np.random.default_rng(seed).random((4, 4, 3))
    rows, columns = np.linspace(0, 3, height).astype(int), np.linspace(0, 3, width).astype(int)
    return (coarse[rows][:, columns] * 255).astype(np.uint8)
