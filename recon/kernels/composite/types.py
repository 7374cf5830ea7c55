# SPDX-License-Identifier: Apache-2.0
"""What volume compositing takes and gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from recon.errors import ReconError

MOST_EXPONENT = 15.0
"""Raw densities, shifted, are clamped to ± this before the exponential: densities of 3e-7 to 3.3e6."""


@dataclass(frozen=True)
class CompositeOptions:
    """How raw outputs of a field become densities, and which gradients are damped.

    Attributes:
        density_shift: added to the raw density before the exponential.
        length_scale: what lengths and distances in world units are multiplied by to become optical (1 / half_size of
            the space): densities are per that unit, and distortion measures distances in it; positive.
        near_scale: world units; gradients of samples nearer than it are multiplied by (distance / near_scale)², which
            keeps floaters from growing in front of cameras (Philip and Deschaintre, "Floaters No More", 2023); 0
            switches it off.
    """

    density_shift: float = 0.0
    length_scale: float = 1.0
    near_scale: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.density_shift, self.length_scale, self.near_scale)
        if not all(map(math.isfinite, numbers)) or self.length_scale <= 0 or self.near_scale < 0:
            raise ReconError(
                "setting up compositing",
                f"density_shift {self.density_shift:g}, length_scale {self.length_scale:g}, near_scale "
                f"{self.near_scale:g}",
                "finite numbers, a positive length_scale and a near_scale of at least 0",
            )


@dataclass(frozen=True, eq=False)
class Saved:
    """What the backward pass needs of each sample, in the workspace.

    Attributes:
        behind: [S] transmittance behind the sample.
        opacity: [S] what the sample takes of the light that reaches it, 1 − exp(−optical depth).
        slope: [S] derivative of its optical depth to its raw density.
        values: [S, D + 1] its colour after the sigmoid, and its distance.
        crowding: [S] Σ over earlier samples j of w_j (s − s_j), with s as for the distortion.
        color_width: V, the columns of the raw colours.
    """

    behind: torch.Tensor
    opacity: torch.Tensor
    slope: torch.Tensor
    values: torch.Tensor
    crowding: torch.Tensor
    color_width: int


@dataclass(frozen=True, eq=False)
class Composited:
    """What rays see; rays without samples have zeros.

    Attributes:
        color: [R, D], premultiplied by alpha, without any background.
        alpha: [R].
        depth: [R] Σ w t, expected distance along the ray in world units times alpha.
        median_distance: [R] the distance at which transmittance falls to one half, within the sample by its own
            exponential; 0 where it never does.  Not differentiable.
        distortion: [R] Σ_ij w_i w_j |s_i − s_j| + ⅓ Σ_i w_i² (width of sample i in s)
            (Barron et al., "Mip-NeRF 360", 2022, eq. 15) on s = x / (1 + x) in 0..1, x = distance · length_scale; no
            sample begins before the camera.
        weights: [S] w.  Not differentiable.
        saved: for `composite_backward_into`; None from `composite`.
    """

    color: torch.Tensor
    alpha: torch.Tensor
    depth: torch.Tensor
    median_distance: torch.Tensor
    distortion: torch.Tensor
    weights: torch.Tensor
    saved: Saved | None = None


@dataclass(frozen=True, eq=False)
class CompositeGradients:
    """Derivatives of the loss to fields of `Composited`; None is zero."""

    color: torch.Tensor
    alpha: torch.Tensor
    depth: torch.Tensor | None = None
    distortion: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class RayState:
    """Pictures that grow portion by portion: fields as of `Composited`, of all rays of a picture."""

    color: torch.Tensor
    alpha: torch.Tensor
    depth: torch.Tensor
    median_distance: torch.Tensor

    @staticmethod
    def start(rays: int, channels: int, device: torch.device | str = "cpu") -> RayState:
        """Returns the state of rays that have met nothing yet."""
        zeros = [torch.zeros(rays, device=device) for _ in range(3)]
        return RayState(torch.zeros((rays, channels), device=device), *zeros)
