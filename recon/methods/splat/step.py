# SPDX-License-Identifier: Apache-2.0
"""One step of training in two ways that give the same numbers.

`FusedStep` is the fast one: six native calls on memory that lives from step to step, without autograd, and without work
in Python or torch that grows with the number of Gaussians or pixels.  `AutogradStep` runs wherever torch does: on the
plain-torch reference and on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.binning.op import TileBinner, TileLists
from recon.kernels.blend.op import DensityAccumulators, blend_backward_into, blend_forward_into
from recon.kernels.projection.op import Projected, ProjectionOptions, project_into
from recon.kernels.ssim.op import photometric_into, photometric_loss
from recon.kernels.update.op import UpdateRates, update_splats
from recon.kernels.workspace import Workspace
from recon.methods.profile import Profile
from recon.methods.splat.costs import StepCosts
from recon.methods.splat.model import SplatParameters
from recon.methods.targets import Target
from recon.rasterization import Rasterization, RasterizeOptions, rasterize

if TYPE_CHECKING:
    from recon.kernels.backend import Backend

_NO_COSTS = StepCosts()
Correction = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class StepRequest:
    """What a step is made on.

    Attributes:
        target: the photograph.
        cam_from_world: [4, 4]; its gradient is wanted where it requires one.
        background: colour behind everything.
        sh_degree: degree of the spherical harmonics in use.
        ssim_weight: λ of the loss.
        correction: maps the rendered picture [H, W, 3] to what this photograph would show, differentiable; or None.
        rates: the optimiser's.
        accumulators: what density control gathers of each Gaussian; None where nothing is gathered any more.
    """

    target: Target
    cam_from_world: torch.Tensor
    background: tuple[float, float, float]
    sh_degree: int
    ssim_weight: float
    correction: Correction | None
    rates: UpdateRates
    accumulators: DensityAccumulators | None


class TrainingStep(Protocol):
    """Renders, compares, goes back and updates the splats."""

    def make(self, parameters: SplatParameters, request: StepRequest) -> float:
        """Makes a step and returns the loss; if that is not finite, nothing is updated.

        Gradients of the pose and of what `correction` depends on are left in their `grad`.
        """


class FusedStep:
    """The step on the CPU kernels."""

    def __init__(self, profile: Profile) -> None:
        self._workspace = Workspace()
        self._binner = TileBinner()
        self._profile = profile

    def make(self, parameters: SplatParameters, request: StepRequest) -> float:
        stage, workspace, camera = self._profile.stage, self._workspace, request.target.camera
        splats, size = parameters.values(), (request.target.camera.width, request.target.camera.height)
        pose = request.cam_from_world.detach()
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=request.sh_degree)
        with stage("project"):
            projected = project_into(splats, pose, camera, options, workspace)
        with stage("bin"):
            tiles = self._binner.bin(projected, *size, options.alpha_cutoff)
        costs = self._costs(projected, tiles, size, request)
        picture = (projected, projected.colors, tiles)
        background = torch.tensor(request.background)
        with stage("blend forward", costs.forward_bytes):
            blended = blend_forward_into(*picture, *size, workspace, background)
        with stage("loss", costs.loss_bytes, costs.loss_flops):
            loss, gradient = self._compare(blended.channels, request, background)
        if not math.isfinite(loss):
            return loss
        with stage("blend backward", costs.backward_bytes):
            screen = blend_backward_into(*picture, blended, gradient, workspace, request.accumulators)
        with stage("update", costs.update_bytes):
            by_pose = update_splats(
                splats, parameters.moments(), projected, tiles.touched, screen, pose, camera, options, request.rates,
                pose_gradient=request.cam_from_world.requires_grad,
            )  # fmt: skip
        if by_pose is not None:
            request.cam_from_world.backward(by_pose)
        return loss

    def _costs(self, projected: Projected, tiles: TileLists, size: tuple[int, int], request: StepRequest) -> StepCosts:
        """Returns what this step moves, where somebody profiles, and tells it to the stages that ran already."""
        profile = self._profile
        if not profile.on:
            return _NO_COSTS
        with profile.aside():
            floats = 3 * (request.sh_degree + 1) ** 2
            costs = StepCosts.of(projected, tiles, *size, (floats, floats if request.rates.sh_detail > 0 else 3))
        profile.add_bytes("project", costs.project_bytes)
        profile.add_bytes("bin", costs.bin_bytes)
        StepCosts.note_pairs(profile, projected, tiles, *size)
        return costs

    def _compare(
        self, picture: torch.Tensor, request: StepRequest, background: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        """Returns the loss and its gradient by the rendered picture."""
        target, shown = request.target, picture
        if request.correction is not None:
            picture = picture.detach().requires_grad_(True)
            shown = request.correction(picture)
        result = photometric_into(
            shown.detach(), target.image, self._workspace, request.ssim_weight,
            mask=target.mask, mask_is_alpha=target.is_alpha, background=background,
        )  # fmt: skip
        if request.correction is None or not math.isfinite(result.loss):
            return result.loss, result.gradient
        shown.backward(result.gradient)
        assert picture.grad is not None
        return result.loss, picture.grad


class AutogradStep:
    """The step by autograd, on any device and backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # gsplat rasterizes only; the loss and the optimiser are our own on every device.
        self._kernels: Backend = "reference" if backend == "reference" else "auto"

    def make(self, parameters: SplatParameters, request: StepRequest) -> float:
        options = RasterizeOptions(background=request.background, sh_degree=request.sh_degree)
        raster = rasterize(
            parameters.splats, request.target.camera, options, request.cam_from_world, backend=self._backend
        )
        rgb = raster.output.rgb
        if request.correction is not None:
            rgb = request.correction(rgb)
        image, weight = request.target.over(request.background)
        loss = photometric_loss(rgb, image, request.ssim_weight, weight, self._kernels)
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        loss.backward()
        self._penalise(parameters, request.rates)
        if request.accumulators is not None:
            _accumulate(raster, request.accumulators)
        self._update(parameters, request.rates, raster.visible)
        return value

    @torch.no_grad()
    def _penalise(self, parameters: SplatParameters, rates: UpdateRates) -> None:
        """Adds the gradients of the opacity and scale penalties, whose closed forms are cheaper than autograd."""
        if rates.opacity_penalty > 0:
            opacity = torch.sigmoid(parameters.opacity_logits)
            parameters["opacity_logits"].gradient.add_(opacity * (1 - opacity), alpha=rates.opacity_penalty)
        if rates.scale_penalty > 0:
            parameters["log_scales"].gradient.add_(parameters.log_scales.exp(), alpha=rates.scale_penalty)

    @torch.no_grad()
    def _update(self, parameters: SplatParameters, rates: UpdateRates, visible: torch.Tensor) -> None:
        by_name = {
            "means": rates.means,
            "quats": rates.quats,
            "log_scales": rates.log_scales,
            "opacity_logits": rates.opacity_logits,
            "sh": rates.sh_constant,
        }
        for name, rate in by_name.items():
            parameter, scale = parameters[name], None
            rows = [parameter.value.data, parameter.gradient, parameter.first_moment, parameter.second_moment]
            used = rows
            if name == "sh" and rates.sh_detail == 0:
                used = [tensor[:, :1].contiguous() for tensor in rows]
            elif name == "sh":
                scale = torch.full((parameters.sh[0].numel(),), rates.sh_detail / max(rate, 1e-30))
                scale[:3] = 1
                scale = scale.to(visible.device)
            hyper = AdamHyper(rate, rates.step, rates.beta1, rates.beta2, rates.epsilon, column_scale=scale)
            value, gradient, first, second = used
            adam_step(value, gradient, first, second, hyper, visible, self._kernels)
            if used is not rows:
                for tensor, part in zip(rows, used):
                    tensor[:, :1] = part
            parameter.value.grad = None


@torch.no_grad()
def _accumulate(raster: Rasterization, accumulators: DensityAccumulators) -> None:
    accumulators.gradient_sum.add_(raster.gradient_abs_px)
    accumulators.seen.add_(raster.visible)
    if raster.statistics.weight_max is not None:  # gsplat does not tell the weights
        torch.maximum(accumulators.most_weight, raster.statistics.weight_max, out=accumulators.most_weight)
