# SPDX-License-Identifier: Apache-2.0
"""Gaussian splats as a structure of arrays.

Stored values are the ones that are optimised: log scales, opacity logits, unnormalised quaternions and spherical
harmonics.  Their activations (exp, sigmoid, normalisation) are applied in one place, `recon.kernels.projection`, and
the properties here serve readers that need the activated values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from recon.errors import ReconError

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 √π)."""


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians in the world.

    Attributes:
        means: [N, 3] centres.
        quats: [N, 4] rotations wxyz, not necessarily of unit length.
        log_scales: [N, 3] natural logarithms of the standard deviations along the rotated axes, in world units.
        opacity_logits: [N].
        sh: [N, K, 3] colour coefficients, K = (degree + 1)²; colour = max(0, 0.5 + Σ_k sh_k Y_k(direction)).
        features: [N, D] further channels to blend; None for none.
        antialiased: True when trained with the Mip-Splatting screen filter (opacity compensation): a renderer must
            use the same mode to show what was trained.
    """

    means: torch.Tensor
    quats: torch.Tensor
    log_scales: torch.Tensor
    opacity_logits: torch.Tensor
    sh: torch.Tensor
    features: torch.Tensor | None = None
    antialiased: bool = False

    def __post_init__(self) -> None:
        count = self.means.shape[0] if self.means.ndim else -1
        expected = {
            "means": (count, 3),
            "quats": (count, 4),
            "log_scales": (count, 3),
            "opacity_logits": (count,),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ReconError("making splats", f"{name} has shape {found}", f"{shape}")
        sh_shape = tuple(self.sh.shape)
        if len(sh_shape) != 3 or sh_shape[0] != count or sh_shape[1] not in (1, 4, 9, 16) or sh_shape[2] != 3:
            raise ReconError("making splats", f"sh has shape {sh_shape}", f"({count}, 1|4|9|16, 3)")
        if self.features is not None and (self.features.ndim != 2 or self.features.shape[0] != count):
            raise ReconError("making splats", f"features has shape {tuple(self.features.shape)}", f"({count}, D)")

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return {1: 0, 4: 1, 9: 2, 16: 3}[int(self.sh.shape[1])]

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def opacities(self) -> torch.Tensor:
        """[N], in 0..1."""
        return torch.sigmoid(self.opacity_logits)

    @property
    def scales(self) -> torch.Tensor:
        """[N, 3] standard deviations in world units."""
        return torch.exp(self.log_scales)

    @property
    def base_colors(self) -> torch.Tensor:
        """[N, 3] colour of the constant harmonic alone, clamped to 0..1."""
        return (0.5 + SH_C0 * self.sh[:, 0]).clamp(0, 1)

    def select(self, index: torch.Tensor) -> Splats:
        """Returns the splats at `index` ([M] integers or an [N] mask)."""
        return replace(
            self,
            means=self.means[index],
            quats=self.quats[index],
            log_scales=self.log_scales[index],
            opacity_logits=self.opacity_logits[index],
            sh=self.sh[index],
            features=None if self.features is None else self.features[index],
        )

    def detach(self) -> Splats:
        """Returns the same values without gradients."""
        return replace(
            self,
            means=self.means.detach(),
            quats=self.quats.detach(),
            log_scales=self.log_scales.detach(),
            opacity_logits=self.opacity_logits.detach(),
            sh=self.sh.detach(),
            features=None if self.features is None else self.features.detach(),
        )

    def contiguous(self) -> Splats:
        """Returns the same values, each tensor in one piece of memory."""
        return replace(
            self,
            means=self.means.contiguous(),
            quats=self.quats.contiguous(),
            log_scales=self.log_scales.contiguous(),
            opacity_logits=self.opacity_logits.contiguous(),
            sh=self.sh.contiguous(),
            features=None if self.features is None else self.features.contiguous(),
        )

    def to(self, device: torch.device | str) -> Splats:
        """Returns the splats on another device."""
        return replace(
            self,
            means=self.means.to(device),
            quats=self.quats.to(device),
            log_scales=self.log_scales.to(device),
            opacity_logits=self.opacity_logits.to(device),
            sh=self.sh.to(device),
            features=None if self.features is None else self.features.to(device),
        )
