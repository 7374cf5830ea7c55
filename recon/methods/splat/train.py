# SPDX-License-Identifier: Apache-2.0
"""Training of Gaussian splats: each step renders a photograph's view, compares, goes back and updates what was seen.

Source: Kerbl et al. 2023, section 5; the optimiser touches visible Gaussians only, as in Taming 3DGS (Mallick et al.
2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from recon.kernels.update.op import UpdateRates
from recon.methods.cameras import Exposure, PoseDeltas
from recon.methods.method import TrainerState, TrainingData
from recon.methods.splat.density import DensityContext, make_density
from recon.methods.splat.model import SplatParameters, initial_splats
from recon.methods.splat.plan import check_memory
from recon.methods.splat.step import AutogradStep, FusedStep, StepRequest, TrainingStep
from recon.methods.targets import Target, Targets, choose_background
from recon.rasterization import SplatRenderer

if TYPE_CHECKING:
    from recon.methods.splat.config import SplatConfig

# Splats that are still far from the scene would push poses and exposures about.
_CAMERAS_WAIT = 0.1


class SplatTrainer:
    """Gaussian splats under training; implements `recon.methods.method.Trainer`."""

    def __init__(self, data: TrainingData, config: SplatConfig) -> None:
        self._data, self._config, self._device = data, config, data.device
        self._extent = data.scene.extent
        splats = initial_splats(data.scene, config, data.random).to(data.device)
        self._parameters = SplatParameters(splats, capacity=self._capacity())
        self._density = make_density(config, len(self._parameters), data.device)
        self._targets = Targets([Target.of(view, config.masks, data.device) for view in data.views])
        self._poses = PoseDeltas(len(data.views), self._extent, data.device) if config.refine_poses else None
        self._exposure = Exposure(len(data.views), data.device) if config.exposure else None
        self._step: TrainingStep
        if data.device.type == "cpu" and config.backend in ("auto", "cpu"):
            self._step = FusedStep(data.profile)
        elif config.backend == "cuda" or (data.device.type == "cuda" and config.backend == "auto"):
            from recon.methods.splat.cuda_step import CudaStep

            self._step = CudaStep(data.device, data.profile)
        else:
            self._step = AutogradStep(config.backend)

    def step(self, step: int, view_index: int) -> Mapping[str, float]:
        request = self._request(step, view_index)
        loss = self._step.make(self._parameters, request)
        numbers = {"loss": loss, "gaussians": float(len(self._parameters))}
        if not math.isfinite(loss):
            return numbers
        if self._fits_cameras(step):
            if self._poses is not None:
                self._poses.update(step, self._config.rates.pose * self._decay(step))
            if self._exposure is not None:
                self._exposure.update(step, self._config.rates.exposure * self._decay(step))
        with self._data.profile.stage("density control"):
            context = DensityContext(step, self._extent, request.rates.means)
            self._density.update(self._parameters, context)
        return numbers

    def reconfigure(self, config: SplatConfig) -> None:
        """Goes on with other learning rates, another end of density control or another budget."""
        if config.max_gaussians > self._config.max_gaussians:
            check_memory(self._data.scene, config)
        self._config = config
        self._density.reconfigure(config)

    def _capacity(self) -> int:
        return 0 if self._config.density.strategy == "none" else self._config.max_gaussians

    def _request(self, step: int, view_index: int) -> StepRequest:
        config = self._config
        target = self._target(step, view_index)
        degree = config.sh_degree
        if config.sh_every > 0:
            degree = min(degree, int(step / (config.sh_every * config.steps)))
        pose, correction = target.cam_from_world, None
        if self._fits_cameras(step):
            if self._poses is not None:
                pose = self._poses.apply(view_index, pose)
            if self._exposure is not None:
                correction = partial(self._exposure.apply, view_index)
        return StepRequest(
            target=target,
            cam_from_world=pose,
            background=choose_background(config.background, self._data.random),
            sh_degree=degree,
            ssim_weight=config.ssim_weight,
            correction=correction,
            rates=self._rates(step),
            accumulators=self._density.accumulators(step),
        )

    def _target(self, step: int, view_index: int) -> Target:
        """The photograph at the resolution of this step."""
        if step > self._config.coarse * self._config.steps:
            self._targets.forget_reduced()
            return self._targets.at(view_index)
        return self._targets.at(view_index, 2)

    def _rates(self, step: int) -> UpdateRates:
        rates, density, count = self._config.rates, self._config.density, max(len(self._parameters), 1)
        others = rates.end_ratio ** (step / self._config.steps)
        detail = rates.color * rates.color_detail_ratio * others if step % self._config.sh_detail_every == 0 else 0.0
        return UpdateRates(
            means=rates.position * self._extent * self._decay(step),
            quats=rates.rotation * others,
            log_scales=rates.scale * others,
            opacity_logits=rates.opacity * others,
            sh_constant=rates.color * others,
            sh_detail=detail,
            step=step,
            opacity_penalty=density.opacity_penalty / count,
            scale_penalty=density.scale_penalty / (3 * count * self._extent),
        )

    def _fits_cameras(self, step: int) -> bool:
        return step > _CAMERAS_WAIT * self._config.steps

    def _decay(self, step: int) -> float:
        return self._config.rates.position_end_ratio ** (step / self._config.steps)

    def snapshot(self) -> SplatRenderer:
        return SplatRenderer(self._parameters.copied(), backend=self._config.backend)

    def state(self) -> TrainerState:
        tensors = self._parameters.state()
        tensors.update({f"density.{name}": tensor for name, tensor in self._density.state().items()})
        for part in (self._poses, self._exposure):
            tensors.update(part.state() if part is not None else {})
        return TrainerState(tensors, {"sh_degree": self._config.sh_degree, "extent": self._extent})

    def restore(self, state: TrainerState) -> None:
        tensors = dict(state.tensors)
        self._parameters.restore(tensors, self._device)
        density = {n.removeprefix("density."): t for n, t in tensors.items() if n.startswith("density.")}
        self._density.restore(density)
        for part in (self._poses, self._exposure):
            if part is not None:
                part.restore(tensors)

    def export(self, folder: Path) -> None:
        from recon.formats.splat_ply import write_splat_ply

        write_splat_ply(self._parameters.values().to("cpu"), folder / "splats.ply")
