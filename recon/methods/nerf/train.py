# SPDX-License-Identifier: Apache-2.0
"""Training of a radiance field: each step renders rays through random pixels of all photographs and goes back.

Source: Müller et al., "Instant Neural Graphics Primitives", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.kernels.occupancy.op import OccupancyGrid
from recon.methods.cameras import Exposure, PoseDeltas
from recon.methods.method import TrainerState, TrainingData
from recon.methods.nerf.field import FieldParameters
from recon.methods.nerf.files import FIELD_FILE, write_field
from recon.methods.nerf.occupied import OccupancyKeeper, initial_occupancy
from recon.methods.nerf.pixels import PixelBank, RayBatch, rays_of
from recon.methods.nerf.render import NerfRenderer
from recon.methods.nerf.space import choose_space
from recon.methods.nerf.step import AutogradStep, FusedStep, Stage, StepRequest, TrainingStep
from recon.methods.nerf.trained import FieldRates, TrainedField

if TYPE_CHECKING:
    from recon.methods.nerf.config import NerfConfig

_BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
# A field that is still far from the scene would push poses and exposures about.
_CAMERAS_WAIT = 0.1


class NerfTrainer:
    """A radiance field under training; implements `recon.methods.method.Trainer`."""

    def __init__(self, data: TrainingData, config: NerfConfig) -> None:
        self._data, self._config, self._device = data, config, data.device
        self._stage = Stage.of(config, choose_space(data.scene, data.views, config))
        self._bank = PixelBank(data.views, config, data.device)
        poses = np.stack([view.camera.cam_from_world for view in data.views]).astype(np.float32)
        self._given_poses = torch.from_numpy(poses).to(data.device)
        seed = int(data.random.integers(0, 1 << 31))
        parameters = FieldParameters.fresh(self._stage.shape, len(data.views), seed)
        self._field = TrainedField(parameters.to(data.device))
        grid = initial_occupancy(data.scene, data.views, self._stage, config.space.grid)
        grid = OccupancyGrid(grid.resolution, grid.densities.to(data.device), grid.bits.to(data.device))
        backend = "auto" if config.backend == "gsplat" else config.backend
        self._keeper = OccupancyKeeper(grid, self._stage, config.space.threshold, backend)
        self._proposal = self._stage.proposal(config.space.intervals)
        extent = data.scene.extent
        self._poses = PoseDeltas(len(data.views), extent, data.device) if config.refine_poses else None
        self._exposure = Exposure(len(data.views), data.device) if config.exposure else None
        self._step: TrainingStep
        if data.device.type == "cpu" and backend in ("auto", "cpu"):
            self._step = FusedStep(self._stage, config, data.profile)
        else:
            self._step = AutogradStep(self._stage, backend)

    def step(self, step: int, view_index: int) -> Mapping[str, float]:
        """As `Trainer.step`; the rays are drawn from all photographs, whichever has its turn."""
        with self._data.profile.stage("rays"):
            request = self._request(step)
        result = self._step.make(self._field, self._keeper.grid, request)
        numbers = {
            "loss": result.loss,
            "psnr_db": -10 * math.log10(max(result.squared_error, 1e-10)) if math.isfinite(result.loss) else math.nan,
            "rays": float(result.rays),
            "samples": float(result.samples),
        }
        if not math.isfinite(result.loss):
            self._field.forget_gradients()
            return numbers
        with self._data.profile.stage("update", self._update_bytes()):
            self._field.update(self._rates(step))
        if self._fits_cameras(step):
            if self._poses is not None:
                self._poses.update(step, self._config.rates.pose * self._decay(step))
            if self._exposure is not None:
                self._exposure.update(step, self._config.rates.exposure * self._decay(step))
        if step % self._config.space.grid_every == 0:
            with self._data.profile.stage("occupancy"):
                self._keeper.update(self._field.parameters(), self._data.random)
        return numbers

    def reconfigure(self, config: NerfConfig) -> None:
        """Goes on with other learning rates or other weights of the loss's parts."""
        self._config = config

    def _request(self, step: int) -> StepRequest:
        config, random = self._config, self._data.random
        count = max(config.samples // config.space.intervals, 1)
        pixels = self._bank.draw(count, random)
        poses, correction = self._given_poses, None
        if self._fits_cameras(step):
            if self._poses is not None:
                poses = self._poses.apply_all(poses)
            if self._exposure is not None:
                correction = partial(self._exposure.apply, pixels.photographs)
        batch = rays_of(pixels, poses)
        return StepRequest(
            batch=RayBatch(
                batch.origins.contiguous(), batch.directions.contiguous(), batch.photographs, batch.colors,
                batch.opacity,
            ),
            background=self._background(count),
            jitter=torch.from_numpy(random.random(count, np.float32)).to(self._device),
            proposal=self._proposal,
            correction=correction,
            loss=config.loss,
        )  # fmt: skip

    def _background(self, count: int) -> torch.Tensor:
        if self._config.background == "random":
            return torch.from_numpy(self._data.random.random((count, 3), np.float32)).to(self._device)
        return torch.tensor(_BACKGROUNDS[self._config.background], device=self._device).expand(count, 3)

    def _rates(self, step: int) -> FieldRates:
        rates = self._config.rates
        factor = self._decay(step) * min(1.0, step / max(rates.warm_up, 1))
        return FieldRates(rates.table * factor, rates.network * factor, rates.appearance * factor, step)

    def _decay(self, step: int) -> float:
        return self._config.rates.end_ratio ** (step / self._config.steps)

    def _fits_cameras(self, step: int) -> bool:
        return step > _CAMERAS_WAIT * self._config.steps

    def _update_bytes(self) -> float:
        return 4.0 * self._field.table_gradient.numel()

    def snapshot(self) -> NerfRenderer:
        """Returns a renderer of the present state that later steps leave alone."""
        grid = self._keeper.grid
        kept = OccupancyGrid(grid.resolution, grid.densities.clone(), grid.bits.clone())
        backend = "auto" if self._config.backend == "gsplat" else self._config.backend
        return NerfRenderer(self._field.parameters().copied(), self._stage, kept, backend)

    def state(self) -> TrainerState:
        tensors = self._field.state()
        tensors["occupancy"], tensors["occupancy.bits"] = self._keeper.grid.densities, self._keeper.grid.bits
        for part in (self._poses, self._exposure):
            tensors.update(part.state() if part is not None else {})
        space = self._stage.space
        values = {
            "center": list(space.center),
            "half_size": space.half_size,
            "contracted": space.contracted,
            "occupancy_updates": self._keeper.updates,
        }
        return TrainerState(tensors, values)

    def restore(self, state: TrainerState) -> None:
        tensors, values = dict(state.tensors), state.values
        self._field.restore(tensors)
        grid = self._keeper.grid
        for name, tensor in (("occupancy", grid.densities), ("occupancy.bits", grid.bits)):
            tensor.copy_(tensors[name])
        self._keeper.updates = values["occupancy_updates"]
        for part in (self._poses, self._exposure):
            if part is not None:
                part.restore(tensors)

    def export(self, folder: Path) -> None:
        write_field(self.snapshot(), folder / FIELD_FILE)
