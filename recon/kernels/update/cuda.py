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
    pose_gradient: bool = False,
) -> torch.Tensor | None:
    """Queues the step of the Gaussians that were seen, in place; as `recon.kernels.update.op.update_splats`.

    Args:
        splats, moments, cam_from_world, camera, options, rates, pose_gradient: as there, on one GPU.
        projected: colours are read.
        seen: [N] uint8.
        screen_moments: [N, 12], what the backward pass of blending left.
        skip: [1] int64; where it is not 0 nothing is updated, and the pose's gradient is 0.
        accumulators: density statistics to add to.

    Returns:
        [4, 4] float32 with a zero last row, or None.
    """
    params, count = params_of("UpdateLaunch"), len(splats)
    inner = params.update
    fill_projection(inner.projection, splats, cam_from_world, camera, options)
    assign(inner.projection, colors=projected.colors)
    _fill(inner, splats, moments, rates)
    assign(inner, seen=seen)
    assign(params, moments=screen_moments, skip=skip)
    if accumulators is not None:
        assign(
            params, gradient_sum=accumulators.gradient_sum, seen_count=accumulators.seen,
            most_weight=accumulators.most_weight,
        )  # fmt: skip
    pose = partial = None
    if pose_gradient:
        pose, partial = start_pose(params, inner.projection, count, splats.device)
    degree = options.sh_degree if rates.sh_detail != 0 or rates.view_gradient else 0
    program_for(splats.device).launch(f"update_{degree}", count, params)
    if pose is None:
        return None
    gradient = finish_pose(params, pose)
    del partial
    return gradient


def _fill(params: Any, splats: Splats, moments: Moments, rates: UpdateRates) -> None:
    for name in TRAINED:
        moment = getattr(moments, name)
        rate = rates.sh_constant if name == "sh" else getattr(rates, name)
        value = getattr(splats, name).detach()
        assign(getattr(params, name), value=value, first_moment=moment.first, second_moment=moment.second, rate=rate)
    assign(
        params, sh_detail_rate=rates.sh_detail, view_gradient=int(rates.view_gradient), beta1=rates.beta1,
        beta2=rates.beta2, epsilon=rates.epsilon, bias_correction1=1 - rates.beta1**rates.step,
        bias_correction2=1 - rates.beta2**rates.step, opacity_penalty=rates.opacity_penalty,
        scale_penalty=rates.scale_penalty,
    )  # fmt: skip
