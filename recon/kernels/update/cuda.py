# SPDX-License-Identifier: Apache-2.0
"""The projection's backward pass joined to Adam, on CUDA."""

from __future__ import annotations

from typing import Any

import torch

from recon.cameras import Camera
from recon.kernels.blend.op import DensityAccumulators
from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.projection.cuda import fill_projection, finish_pose, start_pose
from recon.kernels.projection.types import Projected, ProjectionOptions
from recon.kernels.update.op import TRAINED, Moments, UpdateRates
from recon.kernels.workspace import Workspace
from recon.splats import Splats


def update_splats_cuda(
    splats: Splats,
    moments: Moments,
    projected: Projected,
    seen: torch.Tensor,
    screen_moments: torch.Tensor,
    skip: torch.Tensor,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    rates: UpdateRates,
    accumulators: DensityAccumulators | None = None,
    pose_gradient: Workspace | None = None,
) -> torch.Tensor | None:
    """Queues the step of the Gaussians that were seen, in place; as `recon.kernels.update.op.update_splats`.

    Args:
        splats, moments, cam_from_world, camera, options, rates: as there, on one GPU.
        projected: colours are read.
        seen: [N] uint8.
        screen_moments: [N, 12], what the backward pass of blending left.
        skip: [1] int64; where it is not 0 nothing is updated, and the pose's gradient is 0.
        accumulators: density statistics to add to.
        pose_gradient: keeps the pose's gradient; None where that is not wanted.

    Returns:
        [4, 4] float64 of `pose_gradient` with a zero last row, or None.
    """
    params, count = params_of("UpdateLaunch"), len(splats)
    inner = params.update
    fill_projection(inner.projection, splats, cam_from_world, camera, options)
    assign(inner.projection, colors=projected.colors)
    fill_rows(inner, splats, moments)
    fill_rates(inner, rates)
    assign(inner, seen=seen)
    assign(params, moments=screen_moments, skip=skip)
    fill_accumulators(params, accumulators)
    pose = None
    if pose_gradient is not None:
        pose = start_pose(params, inner.projection, count, pose_gradient)
    program_for(splats.device).launch(f"update_{used_degree(options, rates)}", count, params)
    return None if pose is None else finish_pose(params, pose)


def used_degree(options: ProjectionOptions, rates: UpdateRates) -> int:
    """Returns the degree of the harmonics that a step reads or changes."""
    return options.sh_degree if rates.sh_detail != 0 or rates.view_gradient else 0


def fill_rows(params: Any, splats: Splats, moments: Moments) -> None:
    """Sets the trained tensors of an `UpdateParams`."""
    for name in TRAINED:
        moment, value = getattr(moments, name), getattr(splats, name).detach()
        assign(getattr(params, name), value=value, first_moment=moment.first, second_moment=moment.second)


def fill_rates(params: Any, rates: UpdateRates) -> None:
    """Sets the numbers of the optimiser in an `UpdateParams`."""
    for name in TRAINED:
        getattr(params, name).rate = rates.sh_constant if name == "sh" else getattr(rates, name)
    assign(
        params, sh_detail_rate=rates.sh_detail, view_gradient=int(rates.view_gradient), beta1=rates.beta1,
        beta2=rates.beta2, epsilon=rates.epsilon, bias_correction1=1 - rates.beta1**rates.step,
        bias_correction2=1 - rates.beta2**rates.step, opacity_penalty=rates.opacity_penalty,
        scale_penalty=rates.scale_penalty,
    )  # fmt: skip


def fill_accumulators(params: Any, accumulators: DensityAccumulators | None) -> None:
    """Sets where an `UpdateLaunch` adds density statistics; nowhere without any."""
    a = accumulators
    sums = (None, None, None) if a is None else (a.gradient_sum, a.seen, a.most_weight)
    assign(params, gradient_sum=sums[0], seen_count=sums[1], most_weight=sums[2])
