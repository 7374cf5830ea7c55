# SPDX-License-Identifier: Apache-2.0
"""The options of Gaussian splatting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from recon.methods.config import Checked, PhotoConfig, ranged

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "draft": {"steps": 600, "max_gaussians": 50_000},
    "normal": {},
    # A long run learns its photographs by heart unless its Gaussians stay faint and small and its harmonics slow.
    "best": {
        "steps": 6000,
        "max_gaussians": 150_000,
        "rates.color_detail_ratio": 0.05,
        "density.opacity_penalty": 0.01,
        "density.scale_penalty": 0.01,
    },
}
"""What `--preset` chooses: the options that differ from the defaults below; those of groups as "density.every"."""


@dataclass(frozen=True)
class RateConfig(Checked):
    """Adam's learning rates at the start of the run.

    The defaults suit runs of some hundred to some thousand steps, on which they were chosen with synthetic scenes:
    everything learns several times as fast as in 3DGS, which trains for 30,000.
    """

    position: float = ranged(1.2e-3, 0.0, 1.0, live="value")
    """Of the positions, in scene extents per step; 0 to 1."""
    position_end_ratio: float = ranged(0.01, 1e-6, 1.0)
    """Their rate, and that of poses and exposures, at the last step over that at the first; above 0 to 1."""
    end_ratio: float = ranged(0.25, 1e-4, 1.0)
    """The rate of scales, rotations, opacities and colours at the last step over that at the first; up to 1."""
    scale: float = ranged(0.04, 0.0, 1.0, live="value")
    """Of the log scales, per step; 0 to 1."""
    rotation: float = ranged(6e-3, 0.0, 1.0, live="value")
    """Of the quaternions, per step; 0 to 1."""
    opacity: float = ranged(0.1, 0.0, 1.0, live="value")
    """Of the opacity logits, per step; 0 to 1."""
    color: float = ranged(0.01, 0.0, 1.0, live="value")
    """Of the constant spherical harmonic, per step; 0 to 1."""
    color_detail_ratio: float = ranged(0.15, 0.0, 1.0)
    """Rate of the higher harmonics over that of the constant one; 0 to 1."""
    pose: float = ranged(1e-4, 0.0, 1.0, live="value")
    """Of camera poses when they are refined: radians, and scene extents, per step; 0 to 1."""
    exposure: float = ranged(1e-3, 0.0, 1.0, live="value")
    """Of the colour corrections when exposure is compensated, per step; 0 to 1."""


@dataclass(frozen=True)
class DensityConfig(Checked):
    """How Gaussians are added, moved and removed."""

    strategy: Literal["classic", "mcmc", "none"] = "classic"
    """classic: split by screen-space gradient under the budget; mcmc: relocation and noise; none: fixed."""
    start: float = ranged(0.05, 0.0, 1.0)
    """When it begins, as a fraction of all steps; 0 to 1."""
    stop: float = ranged(0.8, 0.0, 1.0, live="fraction")
    """When it ends, as a fraction of all steps; 0 to 1."""
    every: int = ranged(100, 1)
    """Steps between two rounds; at least 1."""
    prune_opacity: float = ranged(0.005, 0.0, 1.0)
    """Gaussians of less opacity are removed (classic) or moved to others (mcmc); 0 to 1."""
    prune_weight: float = ranged(0.02, 0.0, 1.0)
    """classic: Gaussians that made up less than this share of every pixel since the last round are removed; 0 to 1."""
    prune_extent: float = ranged(0.5, 0.0)
    """classic: Gaussians with a standard deviation above so many scene extents are removed; above 0."""
    opacity_penalty: float = ranged(0.0, 0.0)
    """Weight of the mean opacity in the loss, which lets useless Gaussians fade; at least 0 (mcmc: 0.01)."""
    scale_penalty: float = ranged(0.0, 0.0)
    """Weight of the mean standard deviation, in scene extents, in the loss; at least 0 (mcmc: 0.01)."""
    noise: float = ranged(5e5, 0.0)
    """mcmc: strength of the position noise, relative to the position's rate; at least 0."""


@dataclass(frozen=True)
class SplatConfig(PhotoConfig):
    """3D Gaussian splatting."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    """The table above."""

    max_gaussians: int = ranged(120_000, 1, live="value")
    """The most Gaussians that density control may make; at least 1."""
    sh_degree: int = ranged(3, 0, 3)
    """Degree of the spherical harmonics that give view-dependent colour; 0 (none) to 3."""
    sh_every: float = ranged(0.05, 0.0, 1.0)
    """Fraction of all steps after which one more degree is switched on; 0 (all from the start) to 1."""
    sh_detail_every: int = ranged(1, 1)
    """Steps between two updates of the higher harmonics, which are most of what an update moves; at least 1."""
    coarse: float = ranged(0.2, 0.0, 1.0)
    """Fraction of all steps, from the start, that are made at half the resolution, at a quarter of the cost; 0 to 1."""
    ssim_weight: float = ranged(0.2, 0.0, 1.0)
    """λ in the loss (1 - λ) L1 + λ (1 - SSIM); 0 to 1."""
    antialiased: bool = False
    """Mip-Splatting's screen filter: keeps opacity right when seen from farther or at another resolution."""
    random_points: int = ranged(10_000, 1)
    """Gaussians placed at random where the scene has fewer than 100 sparse points; at least 1."""
    rates: RateConfig = field(default_factory=RateConfig)
    """Learning rates."""
    density: DensityConfig = field(default_factory=DensityConfig)
    """Density control."""
