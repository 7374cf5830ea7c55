# SPDX-License-Identifier: Apache-2.0
"""The last stage of a training step on the CPU: the projection's backward pass joined to Adam.

What blending left as gradients in the picture becomes gradients of the Gaussians in registers and moves parameters
and moments at once; no gradient of a Gaussian is ever written.  Sources: those of `recon.kernels.projection.op` and
`recon.kernels.adam.op`; stepping the higher harmonics in some steps only is from Taming 3DGS (Mallick et al. 2024).

The functions here are internal: they assert what they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from recon.cameras import Camera
from recon.kernels.native import native
from recon.kernels.projection.op import projection_params
from recon.kernels.projection.types import Projected, ProjectedGradients, ProjectionOptions
from recon.splats import Splats

TRAINED = ("means", "quats", "log_scales", "opacity_logits", "sh")
"""The tensors of `Splats` that training moves."""


class Moment(NamedTuple):
    """Adam's first and second moment of one tensor, each of its shape."""

    first: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Adam's moments of N Gaussians, float32 in the shapes of `Splats`."""

    means: Moment
    quats: Moment
    log_scales: Moment
    opacity_logits: Moment
    sh: Moment

    @staticmethod
    def zeros(splats: Splats) -> Moments:
        """Returns the moments before the first step."""
        pairs = {name: getattr(splats, name).detach() for name in TRAINED}
        return Moments(**{name: Moment(torch.zeros_like(t), torch.zeros_like(t)) for name, t in pairs.items()})


@dataclass(frozen=True)
class UpdateRates:
    """Learning rates and constants of one step.

    Attributes:
        means, quats, log_scales, opacity_logits: learning rates.
        sh_constant: that of the constant spherical harmonic.
        sh_detail: that of the others.  With 0 this step neither reads nor writes their moments and leaves the
            coefficients as they are: two thirds of the memory traffic are theirs.  With both 0 it leaves all colours.
        step: counts from 1.
        beta1, beta2, epsilon: Adam's.
        opacity_penalty: its product with opacity (1 - opacity) is added to the gradient by the logit.
        scale_penalty: its product with the standard deviation is added to the gradient by its logarithm.
        view_gradient: whether colours pull the means through the view directions.  False is an approximation that
            spares reading the coefficients; it counts in steps with `sh_detail` 0 only.
    """

    means: float
    quats: float
    log_scales: float
    opacity_logits: float
    sh_constant: float
    sh_detail: float
    step: int
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-15
    opacity_penalty: float = 0.0
    scale_penalty: float = 0.0
    view_gradient: bool = True


def update_splats(
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
    """Steps the Gaussians that were seen, in place.

    Equals the backward pass of `project`, the penalties' gradients and an `adam_step` for each tensor.  Spherical
    harmonics beyond `options.sh_degree` are left alone, moments included: their moments do not decay, so they start
    from where they stood (from zero, the first time) once the degree is raised.

    Args:
        splats: N Gaussians, float32 contiguous on the CPU; updated.
        moments: updated.
        projected: what `project_into` gave for this very camera and these options.
        seen: [N] uint8 or bool, only set where `projected.visible` is; other Gaussians are left alone.
        gradient: of the loss by `projected`; colours [N, 3].  NaN, and what would overflow, count as zero at the
            parameter that they reach.
        cam_from_world, camera, options: as for `project`.
        rates: see there.
        pose_gradient: whether to return the gradient by `cam_from_world`; it does not depend on the number of threads.

    Returns:
        [4, 4] float32 with a zero last row, or None.
    """
    count, module = len(splats), native()
    projection = projection_params(splats, cam_from_world, camera, options)
    params = module.UpdateParams()
    projection.colors = _pointer(projected.colors, (count, 3))
    widths: dict[str, tuple[int, ...]] = {"means_px": (2,), "conics": (3,), "opacities": (), "colors": (3,)}
    for name, width in widths.items():
        tensor = getattr(gradient, name)
        assert tensor is not None, f"no gradient of {name}"
        setattr(projection, f"grad_{name}", _pointer(tensor, (count, *width)))
    pose = torch.zeros(4, 4, dtype=torch.float64) if pose_gradient else None
    if pose is not None:
        projection.grad_cam_from_world = pose.data_ptr()
    params.projection = projection
    flags = seen.view(torch.uint8) if seen.dtype == torch.bool else seen
    params.seen = _pointer(flags, (count,), torch.uint8)
    _fill(params, splats, moments, rates)
    module.update_splats(params)
    return None if pose is None else pose.to(torch.float32)


def _fill(params: Any, splats: Splats, moments: Moments, rates: UpdateRates) -> None:
    """Sets what is stepped, and by how much."""
    for name in TRAINED:
        value, moment = getattr(splats, name), getattr(moments, name)
        rows = getattr(params, name)
        rows.value = _pointer(value, value.shape)
        rows.first_moment = _pointer(moment.first, value.shape)
        rows.second_moment = _pointer(moment.second, value.shape)
        rows.rate = rates.sh_constant if name == "sh" else getattr(rates, name)
    params.sh_detail_rate, params.view_gradient = rates.sh_detail, int(rates.view_gradient)
    params.beta1, params.beta2, params.epsilon = rates.beta1, rates.beta2, rates.epsilon
    params.bias_correction1 = 1 - rates.beta1**rates.step
    params.bias_correction2 = 1 - rates.beta2**rates.step
    params.opacity_penalty, params.scale_penalty = rates.opacity_penalty, rates.scale_penalty


def _pointer(tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    assert tensor.shape == shape, f"shape {tuple(tensor.shape)}, wanted {shape}"
    assert tensor.dtype == dtype, f"{tensor.dtype}, wanted {dtype}"
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return tensor.data_ptr()
