# SPDX-License-Identifier: Apache-2.0
"""One step of Gaussian splatting: render a photograph's view, compare, go back, update what was seen.

Source: Kerbl et al. 2023, section 5; the optimiser touches visible Gaussians only, as in Taming 3DGS (Mallick et al.
2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.ssim.op import photometric_loss
from recon.methods.method import TrainerState, TrainingData
from recon.methods.splat.cameras import Exposure, PoseDeltas
from recon.methods.splat.config import SplatConfig
from recon.methods.splat.density import DensityContext, make_density
from recon.methods.splat.model import SplatParameters, initial_splats
from recon.rasterization import Rasterization, RasterizeOptions, SplatRenderer, rasterize

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.kernels.backend import Backend
    from recon.scene import View

_BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
# Splats that are still far from the scene would push poses and exposures about.
_CAMERAS_WAIT = 0.1


class SplatTrainer:
    """Gaussian splats under training; implements `recon.methods.method.Trainer`."""

    def __init__(self, data: TrainingData, config: SplatConfig) -> None:
        self._data, self._config, self._device = data, config, data.device
        self._extent = data.scene.extent
        # gsplat rasterizes only; the loss and the optimiser are our own on every device.
        self._kernels: Backend = "reference" if config.backend == "reference" else "auto"
        self._parameters = SplatParameters(initial_splats(data.scene, config, data.random).to(data.device))
        self._density = make_density(config, len(self._parameters), data.device)
        self._targets = [_Target.of(view, config, data.device) for view in data.views]
        self._coarse: dict[int, _Target] = {}
        self._color_scale = torch.full(((config.sh_degree + 1) ** 2 * 3,), config.rates.color_detail_ratio)
        self._color_scale[:3] = 1
        self._color_scale = self._color_scale.to(data.device)
        self._poses = PoseDeltas(len(data.views), self._extent, data.device) if config.refine_poses else None
        self._exposure = Exposure(len(data.views), data.device) if config.exposure else None

    def step(self, step: int, view_index: int) -> Mapping[str, float]:
        config, target = self._config, self._target(step, view_index)
        background = self._background()
        raster = self._render(step, view_index, target, background)
        rgb = raster.output.rgb
        if self._exposure is not None and self._fits_cameras(step):
            rgb = self._exposure.apply(view_index, rgb)
        image, weight = target.over(background)
        loss = photometric_loss(rgb, image, config.ssim_weight, weight, self._kernels)
        numbers = {"loss": float(loss.detach()), "gaussians": float(len(self._parameters))}
        if not math.isfinite(numbers["loss"]):
            return numbers
        loss.backward()
        self._penalise()
        self._density.observe(raster)
        rate = config.rates.position * self._extent * self._decay(step)
        self._update(step, rate, raster.visible)
        self._density.update(self._parameters, DensityContext(step, self._extent, rate))
        return numbers

    def _target(self, step: int, view_index: int) -> _Target:
        """The photograph at the resolution of this step."""
        if step > self._config.coarse * self._config.steps:
            self._coarse.clear()
            return self._targets[view_index]
        if view_index not in self._coarse:
            self._coarse[view_index] = self._targets[view_index].halved()
        return self._coarse[view_index]

    def _render(
        self, step: int, view_index: int, target: _Target, background: tuple[float, float, float]
    ) -> Rasterization:
        degree = self._config.sh_degree
        if self._config.sh_every > 0:
            degree = min(degree, int(step / (self._config.sh_every * self._config.steps)))
        pose = target.cam_from_world
        if self._poses is not None and self._fits_cameras(step):
            pose = self._poses.apply(view_index, pose)
        options = RasterizeOptions(background=background, sh_degree=degree)
        return rasterize(self._parameters.splats, target.camera, options, pose, backend=self._config.backend)

    def _background(self) -> tuple[float, float, float]:
        if self._config.background == "random":
            red, green, blue = self._data.random.random(3).tolist()
            return (red, green, blue)
        return _BACKGROUNDS[self._config.background]

    @torch.no_grad()
    def _penalise(self) -> None:
        """Adds the gradients of the opacity and scale penalties, whose closed forms are cheaper than autograd."""
        density, parameters = self._config.density, self._parameters
        count = max(len(parameters), 1)
        if density.opacity_penalty > 0:
            opacity = torch.sigmoid(parameters.opacity_logits)
            parameters["opacity_logits"].gradient.add_(opacity * (1 - opacity), alpha=density.opacity_penalty / count)
        if density.scale_penalty > 0:
            weight = density.scale_penalty / (3 * count * self._extent)
            parameters["log_scales"].gradient.add_(parameters.log_scales.exp(), alpha=weight)

    @torch.no_grad()
    def _update(self, step: int, position_rate: float, visible: torch.Tensor) -> None:
        rates, parameters = self._config.rates, self._parameters
        others = rates.end_ratio ** (step / self._config.steps)
        by_name = {
            "means": position_rate,
            "quats": rates.rotation * others,
            "log_scales": rates.scale * others,
            "opacity_logits": rates.opacity * others,
            "sh": rates.color * others,
        }
        for name, rate in by_name.items():
            parameter = parameters[name]
            adam_step(
                parameter.value.data,
                parameter.gradient,
                parameter.first_moment,
                parameter.second_moment,
                AdamHyper(rate, step, column_scale=self._color_scale if name == "sh" else None),
                visible,
                self._kernels,
            )
            parameter.value.grad = None
        if self._poses is not None and self._fits_cameras(step):
            self._poses.update(step, rates.pose * self._decay(step))
        if self._exposure is not None and self._fits_cameras(step):
            self._exposure.update(step, rates.exposure * self._decay(step))

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


@dataclass(frozen=True, eq=False)
class _Target:
    """A training photograph on the device.

    Attributes:
        camera: its camera, at the picture's size.
        cam_from_world: [4, 4] float32.
        image: [H, W, 3] uint8.
        mask: [H, W] uint8; None where all pixels count.
        is_alpha: whether the mask says where there is something, instead of which pixels count.
    """

    camera: Camera
    cam_from_world: torch.Tensor
    image: torch.Tensor
    mask: torch.Tensor | None
    is_alpha: bool

    @staticmethod
    def of(view: View, config: SplatConfig, device: torch.device) -> _Target:
        """Brings a view to the device."""
        mask = view.mask if config.masks != "off" else None
        return _Target(
            camera=view.camera,
            cam_from_world=torch.from_numpy(view.camera.cam_from_world.astype(np.float32)).to(device),
            image=torch.from_numpy(view.image).to(device),
            mask=None if mask is None else torch.from_numpy(mask).to(device),
            is_alpha=config.masks == "alpha",
        )

    def over(self, background: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the rendering should look like, uint8 or float, and each pixel's weight where not all count."""
        if self.mask is None:
            return self.image, None
        share = self.mask.float() / 255
        if not self.is_alpha:
            return self.image, share
        behind = torch.tensor(background, device=share.device)
        return torch.lerp(behind.expand(*share.shape, 3), self.image.float() / 255, share[..., None]), None

    def halved(self) -> _Target:
        """Returns the photograph at half the size, averaged over area; a pixel counts by its share of counted area."""
        height, width = max(1, self.camera.height // 2), max(1, self.camera.width // 2)

        def shrink(picture: torch.Tensor) -> torch.Tensor:
            planes = picture.permute(2, 0, 1)[None].float()
            small = torch.nn.functional.interpolate(planes, size=(height, width), mode="area")
            return small[0].permute(1, 2, 0).round().to(torch.uint8).contiguous()

        return replace(
            self,
            camera=self.camera.resized(width, height),
            image=shrink(self.image),
            mask=None if self.mask is None else shrink(self.mask[..., None])[..., 0],
        )
