# SPDX-License-Identifier: Apache-2.0
"""One step of training in two ways that give the same numbers.

`FusedStep` is the fast one: native calls on memory that lives from step to step, with autograd only for what is counted
per ray or per photograph.  `AutogradStep` runs wherever torch does: on the plain-torch reference and on GPUs.

The density network is evaluated at all samples that the march gives; the samples behind the surface are dropped before
colour and everything backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from recon.kernels.composite.op import (
    Composited,
    CompositeGradients,
    CompositeOptions,
    composite,
    composite_backward_into,
    composite_into,
    truncate_into,
)
from recon.kernels.hash_encoding.op import hash_encode_backward_into, hash_encode_into
from recon.kernels.mlp.op import RowBias, mlp_backward_into, mlp_forward_into
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import MarchOptions, RaySamples, Space, march_backward
from recon.kernels.ray_proposal.op import ProposalOptions, propose, propose_into
from recon.kernels.workspace import Workspace
from recon.methods.nerf.costs import StepCosts
from recon.methods.nerf.field import COLORS, FieldShape, field_color, field_latent, ray_bias
from recon.methods.nerf.trained import TrainedField
from recon.methods.profile import Profile

if TYPE_CHECKING:
    from recon.kernels.backend import Backend
    from recon.methods.nerf.config import LossConfig, NerfConfig
    from recon.methods.nerf.pixels import RayBatch

MIN_TRANSMITTANCE = 1e-4
"""Samples that less light than this reaches are not trained on."""

Correction = Callable[[torch.Tensor], torch.Tensor]
_SMALLEST = 1e-6
_ENDED = 0.99


@dataclass(frozen=True)
class Stage:
    """What stays the same from step to step: the field's shape and where it is.

    Attributes:
        shape: of the field.
        space: where it is.
        march: how rays are sampled.
        composite: how raw outputs become densities.
    """

    shape: FieldShape
    space: Space
    march: MarchOptions
    composite: CompositeOptions

    def proposal(self, intervals: int) -> ProposalOptions:
        """Returns how training and pictures of contracted spaces sample their rays."""
        return ProposalOptions(intervals, self.march.near, self.march.far, whole=True)

    @staticmethod
    def of(config: NerfConfig, space: Space) -> Stage:
        """Returns the stage that options ask for."""
        size = space.half_size
        march = MarchOptions(
            step=config.space.step, near=config.space.near * size, far=config.space.far * size,
            max_total=max(4 * config.samples, 1 << 16),
        )  # fmt: skip
        options = CompositeOptions(length_scale=1 / size, near_scale=config.loss.near_scale * size)
        return Stage(FieldShape.of(config.field), space, march, options)


@dataclass(frozen=True, eq=False)
class StepRequest:
    """What a step is made on.

    Attributes:
        batch: the rays; gradients of origins and directions are wanted where those require them.
        background: [R, 3], behind everything.
        jitter: [R] in 0..1, where on its lattice each ray begins.
        proposal: how the rays are sampled.
        correction: maps rendered colours [R, 3] to what the rays' photographs would show, differentiable; or None.
        loss: weights of the loss's parts.
    """

    batch: RayBatch
    background: torch.Tensor
    jitter: torch.Tensor
    proposal: ProposalOptions
    correction: Correction | None
    loss: LossConfig


@dataclass(frozen=True)
class StepResult:
    """The loss, the mean squared error of the colours, and how many rays and samples there were.

    Attributes:
        marched: samples whose density was evaluated.
        samples: those of them that were trained on.
    """

    loss: float
    squared_error: float
    rays: int
    marched: int
    samples: int


def counted(loss: float, squared_error: float, rays: int, marched: int, samples: int) -> StepResult:
    """Returns the result of a step.

    A field whose density is no number lets no light through to any sample: that is no empty batch but a broken one.
    """
    if samples == 0 and marched > 0:
        loss = math.nan
    return StepResult(loss, squared_error, rays, marched, samples)


class TrainingStep(Protocol):
    """Renders, compares and goes back; the parameters' gradients are left with the field."""

    def make(self, field: TrainedField, occupancy: OccupancyGrid, request: StepRequest) -> StepResult:
        """Leaves gradients of all parameters, of rays and of what `correction` depends on; none if the loss is not
        finite."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The loss of a batch and its gradients to what was composited."""

    loss: float
    squared_error: float
    gradients: CompositeGradients


def batch_loss(
    composited: Composited, samples: RaySamples, request: StepRequest, distortion: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the loss of a batch and the mean squared error of its colours; both scalars, differentiable.

    Colours are compared by Huber's loss, scaled so that small errors count squared; the entropy of opacities pulls each
    ray to 0 or 1.  Rays whose march stopped while they were still transparent tell nothing and do not count.
    """
    batch, loss = request.batch, request.loss
    behind = request.background
    colors = composited.color + (1 - composited.alpha)[:, None] * behind
    if request.correction is not None:
        colors, behind = request.correction(colors), request.correction(behind).detach()
    target = batch.colors
    if batch.opacity is not None:
        target = torch.lerp(behind, target, batch.opacity[:, None])
    counts = (torch.isinf(samples.ends) | (composited.alpha.detach() > _ENDED)).float()
    count = counts.sum().clamp_min(1)
    error = (colors - target).abs()
    near = error.clamp_max(loss.huber)
    per_ray = (near * (2 * error - near)).mean(1)
    if loss.opacity > 0:
        alpha = composited.alpha.clamp(_SMALLEST, 1 - _SMALLEST)
        per_ray = per_ray - loss.opacity * (alpha * alpha.log() + (1 - alpha) * (1 - alpha).log())
    if loss.distortion > 0:
        per_ray = per_ray + loss.distortion * distortion
    return (per_ray * counts).sum() / count, (error.square().mean(1) * counts).sum() / count


@dataclass(frozen=True, eq=False)
class _Shown:
    """What a forward pass leaves for the way back.

    Attributes:
        samples: those that light reaches, S of them.
        marched: how many there were before.
        encoded, latent: [S, width], [S, 16], inputs and outputs of the density network.
        bias: [R, color_width], with its graph.
        rows: the same numbers by sample.
        composited: what the rays see.
    """

    samples: RaySamples
    marched: int
    encoded: torch.Tensor
    latent: torch.Tensor
    bias: torch.Tensor
    rows: RowBias
    composited: Composited


class FusedStep:
    """The step on the CPU kernels."""

    def __init__(self, stage: Stage, config: NerfConfig, profile: Profile) -> None:
        self._stage, self._precision, self._profile = stage, config.precision, profile
        self._workspace = Workspace()

    def make(self, field: TrainedField, occupancy: OccupancyGrid, request: StepRequest) -> StepResult:
        shown = self._forward(field, occupancy, request)
        with self._profile.stage("loss"):
            comparison = self._compare(shown, request)
        samples = len(shown.samples.distances)
        if math.isfinite(comparison.loss) and samples > 0:
            self._backward(field, shown, comparison, request)
        return counted(comparison.loss, comparison.squared_error, len(request.batch.colors), shown.marched, samples)

    def _forward(self, field: TrainedField, occupancy: OccupancyGrid, request: StepRequest) -> _Shown:
        timed, stage, workspace, shape = self._profile.stage, self._stage, self._workspace, self._stage.shape
        batch = request.batch
        with timed("march"):
            marched = propose_into(
                batch.origins.detach(), batch.directions.detach(), stage.space, occupancy, request.proposal, workspace,
                request.jitter,
            )  # fmt: skip
        costs = StepCosts(shape, len(marched.distances))
        with timed("encode", costs.encode_bytes, costs.encode_flops):
            encoded = hash_encode_into(marched.positions, field.table.value.detach(), shape.grid, workspace)
        with timed("density network", costs.density_bytes, costs.density_flops):
            latent = mlp_forward_into(encoded, *field.density_network(shape), workspace, "density", None,
                                      self._precision)  # fmt: skip
        with timed("truncate", costs.truncate_bytes):
            samples, (encoded, latent) = truncate_into(
                latent, marched, MIN_TRANSMITTANCE, [encoded, latent], stage.composite, workspace
            )
        costs = StepCosts(shape, len(samples.distances))
        with timed("ray colours"):
            bias = ray_bias(shape, field.parameters(), batch.directions, batch.photographs)
            rows = RowBias(bias.detach(), samples.ray_of)
        with timed("colour network", costs.color_bytes, costs.color_flops):
            raw = mlp_forward_into(latent, *field.color_network(shape), workspace, "color", rows, self._precision)
        with timed("composite", costs.composite_bytes):
            composited = composite_into(latent, raw, samples, COLORS, stage.composite, workspace)
        return _Shown(samples, len(marched.distances), encoded, latent, bias, rows, composited)

    def _backward(self, field: TrainedField, shown: _Shown, comparison: Comparison, request: StepRequest) -> None:
        timed, stage, workspace, shape = self._profile.stage, self._stage, self._workspace, self._stage.shape
        samples, precision = shown.samples, self._precision
        costs = StepCosts(shape, len(samples.distances))
        with timed("composite backward", costs.composite_backward_bytes):
            by_density = workspace.take("density gradient", (len(samples.distances), 1)).zero_()
            by_raw = composite_backward_into(
                shown.composited, comparison.gradients, samples, stage.composite, by_density, workspace
            )
        with timed("colour network backward", 2 * costs.color_bytes, 2 * costs.color_flops):
            by_color = mlp_backward_into(
                shown.latent, *field.color_network(shape), by_raw[:, :COLORS], workspace, "color", shown.rows, precision
            )
            assert by_color.inputs is not None
            by_color.inputs[:, :1] += by_density
        with timed("density network backward", 2 * costs.density_bytes, 2 * costs.density_flops):
            by_latent = mlp_backward_into(
                shown.encoded, *field.density_network(shape), by_color.inputs, workspace, "density", None, precision
            )
        field.color.value.grad, field.density.value.grad = by_color.parameters, by_latent.parameters
        with timed("encode backward", 2 * costs.encode_bytes, costs.encode_flops):
            by_position = self._encode_backward(field, samples, by_latent.inputs, request)
        with timed("ray colours"):
            self._rays_backward(shown, by_color.row_bias, by_position, request.batch)

    def _compare(self, shown: _Shown, request: StepRequest) -> Comparison:
        """Returns the loss and its gradients; autograd runs over rays only."""
        composited = shown.composited
        leaves = [
            tensor.detach().requires_grad_() for tensor in (composited.color, composited.alpha, composited.distortion)
        ]
        color, alpha, distortion = leaves
        seen = Composited(color, alpha, composited.depth, composited.median_distance, distortion, composited.weights)
        with torch.enable_grad():
            loss, squared = batch_loss(seen, shown.samples, request, distortion)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        return Comparison(
            value, float(squared.detach()), CompositeGradients(gradients[0], gradients[1], None, gradients[2])
        )

    def _encode_backward(
        self, field: TrainedField, samples: RaySamples, gradient: torch.Tensor | None, request: StepRequest
    ) -> torch.Tensor | None:
        """Adds to the table's gradient; returns the gradient by positions [S, 3] where cameras are refined."""
        assert gradient is not None
        by_position = None
        if request.batch.origins.requires_grad:
            by_position = self._workspace.take("position gradient", tuple(samples.positions.shape))
        hash_encode_backward_into(
            samples.positions, field.table.value.detach(), self._stage.shape.grid, gradient, field.table_gradient,
            by_position,
        )  # fmt: skip
        return by_position

    def _rays_backward(
        self, shown: _Shown, by_bias: torch.Tensor | None, by_position: torch.Tensor | None, batch: RayBatch
    ) -> None:
        """Hands on what is left to autograd: directions, appearances and, where they are refined, poses."""
        assert by_bias is not None
        tensors, gradients = [shown.bias], [by_bias]
        if by_position is not None:
            by_origin, by_direction = march_backward(
                shown.samples, batch.origins, batch.directions, self._stage.space, by_position
            )
            tensors += [batch.origins, batch.directions]
            gradients += [by_origin, by_direction]
        torch.autograd.backward(tensors, gradients)


class AutogradStep:
    """The step by autograd, on any device and backend."""

    def __init__(self, stage: Stage, backend: Backend) -> None:
        self._stage, self._backend = stage, backend

    def make(self, field: TrainedField, occupancy: OccupancyGrid, request: StepRequest) -> StepResult:
        stage, batch, backend = self._stage, request.batch, self._backend
        shape, parameters = stage.shape, field.parameters()
        with torch.no_grad():
            marched = propose(
                batch.origins, batch.directions, stage.space, occupancy, request.proposal, request.jitter, backend
            )
            latent = field_latent(shape, parameters, marched.positions, backend)
            workspace = Workspace(marched.positions.device)
            samples, _ = truncate_into(latent, marched, MIN_TRANSMITTANCE, [], stage.composite, workspace)
        positions = self._positions(samples, batch)
        latent = field_latent(shape, parameters, positions, backend)
        bias = RowBias(ray_bias(shape, parameters, batch.directions, batch.photographs), samples.ray_of)
        raw = field_color(shape, parameters, latent, bias, backend)
        composited = composite(latent, raw, samples, COLORS, stage.composite, backend)
        loss, squared = batch_loss(composited, samples, request, composited.distortion)
        counts = (len(batch.colors), len(marched.distances), len(samples.distances))
        result = counted(float(loss.detach()), float(squared.detach()), *counts)
        if math.isfinite(result.loss) and result.samples > 0:
            loss.backward()
            gradient = field.table.value.grad
            assert gradient is not None
            field.table_gradient.add_(gradient)
            field.table.value.grad = None
        return result

    def _positions(self, samples: RaySamples, batch: RayBatch) -> torch.Tensor:
        """The samples' positions, differentiable to the rays where cameras are refined."""
        if not batch.origins.requires_grad:
            return samples.positions
        rays = samples.ray_of.long()
        return self._stage.space.to_unit(batch.origins[rays] + samples.distances[:, None] * batch.directions[rays])
