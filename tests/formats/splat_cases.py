# SPDX-License-Identifier: Apache-2.0
"""Splats like those of a real scene, small, and how far what came back is from what was written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from recon.splats import Splats


def scene_splats(count: int = 500, degree: int = 3, seed: int = 0, antialiased: bool = False) -> Splats:
    """A cloud with a few far splats, most of them small and opaque."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    means = normal(count, 3)
    means[: count // 20] *= 8
    sh = normal(count, (degree + 1) ** 2, 3) * 0.1
    sh[:, 0] = normal(count, 3) * 0.6
    return Splats(means, normal(count, 4), normal(count, 3) * 0.7 - 4, normal(count) * 2 + 1, sh, None, antialiased)


@dataclass(frozen=True)
class Difference:
    """The largest differences over all splats: positions, rotations in degrees, log scales, opacities in 0..1,
    coefficients of the constant harmonic and of the others."""

    means: float
    degrees: float
    log_scales: float
    opacities: float
    base: float
    rest: float


def difference(found: Splats, expected: Splats, ordered: bool = False) -> Difference:
    """Compares splats; those of a compact format come back in another order, found by the nearest position."""
    assert len(found) == len(expected)
    if not ordered:
        distances = torch.cdist(expected.means.double(), found.means.double())
        found = found.select(distances.argmin(1))
        assert len(distances.argmin(1).unique()) == len(expected)
    cosine = (torch.nn.functional.normalize(found.quats.double()) *
              torch.nn.functional.normalize(expected.quats.double())).sum(1).abs().clamp(max=1)  # fmt: skip

    def most(values: torch.Tensor) -> float:
        return float(values.abs().max()) if values.numel() else 0.0

    return Difference(
        means=most(found.means - expected.means),
        degrees=float(np.degrees(2 * torch.arccos(cosine).max())),
        log_scales=most(found.log_scales - expected.log_scales),
        opacities=most(found.opacities - expected.opacities),
        base=most(found.sh[:, 0] - expected.sh[:, 0]),
        rest=most(found.sh[:, 1:] - expected.sh[:, 1:]) if found.sh.shape == expected.sh.shape else float("inf"),
    )
