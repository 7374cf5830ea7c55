# SPDX-License-Identifier: Apache-2.0
"""Volume compositing along rays: colour, opacity, depth and distortion, forward and backward; truncation behind the
surface; accumulation portion by portion.

    optical depth  τ_i = exp(clamp(raw density_i + shift, ±15)) · length_i · length_scale
    transmittance  T_1 = 1,  T_{i+1} = T_i e^{−τ_i}
    weight         w_i = T_i (1 − e^{−τ_i}) = T_i − T_{i+1}
    colour         Σ_i w_i sigmoid(raw colour_i), premultiplied, no background

Source: Max, "Optical models for direct volume rendering", 1995; Mildenhall et al., "NeRF", 2020, eq. 3; the distortion
is that of Barron et al., "Mip-NeRF 360", 2022, eq. 15.

A number that is not one makes its ray's results so, and nobody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recon.kernels.backend import Backend
from recon.kernels.composite.reference import accumulate_reference, composite_reference, truncate_reference
from recon.kernels.composite.types import Composited, CompositeGradients, CompositeOptions, RayState, Saved
from recon.kernels.workspace import Workspace

if TYPE_CHECKING:
    from recon.kernels.ray_march.op import RaySamples

__all__ = [
    "Composited", "CompositeGradients", "CompositeOptions", "RayState", "accumulate_into", "composite",
    "composite_backward_into", "composite_into", "truncate_into",
]  # fmt: skip


def composite(
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    channels: int = 3,
    options: CompositeOptions | None = None,
    backend: Backend = "auto",
) -> Composited:
    """Returns what the rays see, differentiable to both raw arrays.

    Args:
        raw_density: [S, W] float32; column 0 is used.
        raw_color: [S, V] float32; columns 0 .. channels − 1 are used.
        samples: of R rays, one ray after another, near to far.
        channels: D, 1 to V.
        options: None for the defaults.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    return composite_reference(raw_density, raw_color, samples, channels, options or CompositeOptions())


def composite_into(
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    channels: int,
    options: CompositeOptions,
    workspace: Workspace,
    name: str = "composite",
) -> Composited:
    """Returns what `composite` does, in the workspace under names that begin with `name`, without autograd."""
    with torch.no_grad():
        found = composite_reference(raw_density, raw_color, samples, channels, options)
    workspace.__dict__.setdefault("_composite_inputs", {})[name] = (raw_density, raw_color, channels)
    empty = torch.empty(0)
    return Composited(
        found.color, found.alpha, found.depth, found.median_distance, found.distortion, found.weights,
        Saved(empty, empty, empty, empty, raw_color.shape[1]),
    )  # fmt: skip


def composite_backward_into(
    composited: Composited,
    gradients: CompositeGradients,
    samples: RaySamples,
    options: CompositeOptions,
    density_gradient: torch.Tensor,
    workspace: Workspace,
    name: str = "composite",
) -> torch.Tensor:
    """Returns the gradient [S, V] to the raw colours, with zeros in unused columns; in the workspace.

    Args:
        composited: of `composite_into`; what it saved must still stand in its workspace.
        gradients: to what it holds.
        samples, options: as they were given there.
        density_gradient: [S, W]; the gradient to the raw density is added to its column 0.
        workspace, name: hold the result.
    """
    raw_density, raw_color, channels = workspace.__dict__["_composite_inputs"][name]
    density, color = raw_density.detach().requires_grad_(), raw_color.detach().requires_grad_()
    with torch.enable_grad():
        found = composite_reference(density, color, samples, channels, options)
        loss = (found.color * gradients.color).sum() + (found.alpha * gradients.alpha).sum()
        if gradients.depth is not None:
            loss = loss + (found.depth * gradients.depth).sum()
        if gradients.distortion is not None:
            loss = loss + (found.distortion * gradients.distortion).sum()
        by_density, by_color = torch.autograd.grad(loss, (density, color))
    density_gradient[:, 0] += by_density[:, 0]
    return by_color


def truncate_into(
    raw_density: torch.Tensor,
    samples: RaySamples,
    min_transmittance: float,
    arrays: list[torch.Tensor],
    options: CompositeOptions,
    workspace: Workspace,
    transmittance: torch.Tensor | None = None,
    name: str = "truncated",
) -> tuple[RaySamples, list[torch.Tensor]]:
    """Returns the samples that some light reaches, and their rows of other arrays; in the workspace.

    A sample is kept as long as the transmittance in front of it is at least `min_transmittance`.  Where nothing is
    dropped, the very arguments are returned.

    Args:
        raw_density: [S, W] float32; column 0 is used.
        samples: of R rays.
        min_transmittance: 0 to 1.
        arrays: each [S, any] float32.
        options: see there.
        workspace: holds the results under names that begin with `name`.
        transmittance: [R] in front of each ray's first sample; None for 1.
    """
    return truncate_reference(raw_density, samples, min_transmittance, arrays, options, transmittance)


def accumulate_into(
    state: RayState,
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    rays: torch.Tensor,
    options: CompositeOptions,
    workspace: Workspace,
    min_transmittance: float = 1e-3,
) -> torch.Tensor:
    """Adds the next portion of some rays' samples to `state`, in place, and returns which of them go on.

    Args:
        state: of all rays of a picture; each ray continues with the transmittance 1 − alpha.
        raw_density, raw_color: of the portion's samples, [S, W] and [S, V ≥ D].
        samples: the portion, of r rays.
        rays: [r] int32, where these rays stand in `state`, each at most once.
        options: see there.
        workspace: holds the result.
        min_transmittance: a ray with less left is dead; so is one whose march left the space (`samples.ends` infinite).

    Returns:
        [A] int64, ascending: positions in the portion (0 to r − 1) of the rays that are still alive.
    """
    return accumulate_reference(state, raw_density, raw_color, samples, rays, options, min_transmittance)
