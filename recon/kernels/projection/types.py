# SPDX-License-Identifier: Apache-2.0
"""What goes into a projection and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.errors import ReconError


@dataclass(frozen=True)
class ProjectionOptions:
    """How Gaussians are projected.

    Attributes:
        near, far: Gaussians whose depth is outside of this open range are culled, world units.
        blur_px2: added to both variances in the picture, pixels².
        antialiased: scale opacities by sqrt(det Σ / det(Σ + blur)), as Mip-Splatting does.
        sh_degree: degree of the spherical harmonics in use; at most what the splats store.
        alpha_cutoff: Gaussians count as touching a pixel where their alpha exceeds this; blending uses 1/255.
    """

    near: float = 0.01
    far: float = 1e10
    blur_px2: float = 0.3
    antialiased: bool = False
    sh_degree: int = 3
    alpha_cutoff: float = 1.0 / 255.0

    def __post_init__(self) -> None:
        doing = "making projection options"
        if not 0.0 <= self.near < self.far:
            raise ReconError(doing, f"near is {self.near} and far {self.far}", "0 <= near < far")
        if not 0.0 <= self.blur_px2 < float("inf"):
            raise ReconError(doing, f"blur_px2 is {self.blur_px2}", "a finite number from 0")
        if self.sh_degree not in (0, 1, 2, 3):
            raise ReconError(doing, f"sh_degree is {self.sh_degree}", "0, 1, 2 or 3")
        if not 0.0 < self.alpha_cutoff < 1.0:
            raise ReconError(doing, f"alpha_cutoff is {self.alpha_cutoff}", "a number between 0 and 1")


@dataclass(frozen=True, eq=False)
class Projected:
    """N Gaussians in one picture; rows of culled ones are zero.

    Attributes:
        means_px: [N, 2] centres in pixels.
        conics: [N, 3] entries (a, b, c) of the inverse covariance; alpha falls as exp(-(a dx² + 2 b dx dy + c dy²)/2).
        opacities: [N] in 0..1, with the antialiasing factor.
        colors: [N, 3], at least 0.
        depths: [N] z in the camera's frame.
        visible: [N] uint8, 1 where the Gaussian may touch a pixel.
    """

    means_px: torch.Tensor
    conics: torch.Tensor
    opacities: torch.Tensor
    colors: torch.Tensor
    depths: torch.Tensor
    visible: torch.Tensor


@dataclass(frozen=True, eq=False)
class ProjectedGradients:
    """Gradients of a loss by the fields of `Projected`, in their shapes (colours may be any channels that were blended
    in their place, [N, D]); None counts as zero."""

    means_px: torch.Tensor | None = None
    conics: torch.Tensor | None = None
    opacities: torch.Tensor | None = None
    colors: torch.Tensor | None = None
    depths: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class SplatGradients:
    """Gradients of a loss by the fields of `Splats`, in their shapes, and by `cam_from_world` [4, 4].

    None where nobody asked.  The last row of the pose's gradient is zero.
    """

    means: torch.Tensor | None = None
    quats: torch.Tensor | None = None
    log_scales: torch.Tensor | None = None
    opacity_logits: torch.Tensor | None = None
    sh: torch.Tensor | None = None
    cam_from_world: torch.Tensor | None = None
