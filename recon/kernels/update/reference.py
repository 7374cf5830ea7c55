# SPDX-License-Identifier: Apache-2.0
"""The update in plain torch, from the references of the projection and of Adam: what the fused kernel must equal."""

from __future__ import annotations

from dataclasses import replace

import torch

from recon.cameras import Camera
from recon.kernels.adam.op import AdamHyper
from recon.kernels.adam.reference import adam_step_reference
from recon.kernels.projection.reference import project_reference
from recon.kernels.projection.types import Projected, ProjectedGradients, ProjectionOptions
from recon.kernels.update.op import TRAINED, Moments, UpdateRates
from recon.splats import Splats


def update_splats_reference(
    splats: Splats,
    moments: Moments,
    projected: Projected,
    seen: torch.Tensor,
    gradient: ProjectedGradients,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    rates: UpdateRates,
    pose_gradient: bool = False,
) -> torch.Tensor | None:
    """See `recon.kernels.update.op.update_splats`; float32 or float64, all of one type."""
    leaves = {name: getattr(splats, name).detach().clone().requires_grad_() for name in TRAINED}
    pose = cam_from_world.detach().clone().requires_grad_()
    again = project_reference(replace(splats, **leaves), pose, camera, options)
    outputs = ("means_px", "conics", "opacities", "colors")
    # An output that depends on nothing, as when all are culled, has no graph.
    connected = [name for name in outputs if getattr(again, name).requires_grad]
    torch.autograd.backward([getattr(again, name) for name in connected], [getattr(gradient, n) for n in connected])
    gradients = {n: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for n, leaf in leaves.items()}
    with torch.no_grad():
        opacities = leaves["opacity_logits"].sigmoid()
        gradients["opacity_logits"] += rates.opacity_penalty * opacities * (1 - opacities)
        gradients["log_scales"] += rates.scale_penalty * leaves["log_scales"].exp()
        for name in ("means", "quats", "log_scales", "opacity_logits"):
            everything = slice(None)
            _step(splats, moments, gradients, name, getattr(rates, name), everything, seen, rates)
        if rates.sh_constant != 0 or rates.sh_detail != 0:
            _step(splats, moments, gradients, "sh", rates.sh_constant, slice(0, 1), seen, rates)
        if rates.sh_detail != 0:
            used = slice(1, (options.sh_degree + 1) ** 2)
            _step(splats, moments, gradients, "sh", rates.sh_detail, used, seen, rates)
    if not pose_gradient:
        return None
    return torch.zeros_like(pose) if pose.grad is None else pose.grad


def _step(
    splats: Splats,
    moments: Moments,
    gradients: dict[str, torch.Tensor],
    name: str,
    rate: float,
    columns: slice,
    seen: torch.Tensor,
    rates: UpdateRates,
) -> None:
    """Steps some columns of one tensor."""
    hyper = AdamHyper(rate, rates.step, rates.beta1, rates.beta2, rates.epsilon)
    tensors = [getattr(splats, name).detach(), gradients[name], *getattr(moments, name)]
    if name == "sh":
        tensors = [tensor[:, columns] for tensor in tensors]
    adam_step_reference(tensors[0], tensors[1], tensors[2], tensors[3], hyper, seen)
