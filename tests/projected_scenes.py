# SPDX-License-Identifier: Apache-2.0
"""Random Gaussians in a picture, for the tests of binning and blending."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from recon.kernels.projection.op import Projected


def make_projected(
    count: int,
    width: int,
    height: int,
    seed: int = 0,
    sigma_px: tuple[float, float] = (0.55, 8.0),
    opacity: tuple[float, float] = (0.02, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Projected:
    """Returns Gaussians spread over and around a picture, with log-uniform standard deviations along both axes."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    margin = 6.0
    means = torch.stack([uniform(-margin, width + margin, count), uniform(-margin, height + margin, count)], -1)
    sigma = torch.exp(uniform(math.log(sigma_px[0]), math.log(sigma_px[1]), count, 2))
    angle = uniform(0, math.pi, count)
    return from_axes(means, sigma, angle, uniform(*opacity, count), uniform(0.5, 10, count), seed, dtype)


def from_axes(
    means: torch.Tensor,
    sigma: torch.Tensor,
    angle: torch.Tensor,
    opacities: torch.Tensor,
    depths: torch.Tensor,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Projected:
    """Returns Gaussians with standard deviations `sigma` [N, 2] along axes turned by `angle` [N]; random colours."""
    cos, sin = angle.double().cos(), angle.double().sin()
    p, q = (1 / sigma.double() ** 2).unbind(-1)
    conics = torch.stack([p * cos**2 + q * sin**2, (p - q) * cos * sin, p * sin**2 + q * cos**2], -1)
    colors = torch.rand(len(means), 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return Projected(
        means_px=means.to(dtype),
        conics=conics.to(dtype),
        opacities=opacities.to(dtype),
        colors=colors.to(dtype),
        depths=depths.to(dtype),
        visible=torch.ones(len(means), dtype=torch.uint8),
    )


def as_double(projected: Projected) -> Projected:
    """Returns the very same numbers in double precision."""
    floats = ("means_px", "conics", "opacities", "colors", "depths")
    return replace(projected, **{name: getattr(projected, name).double() for name in floats})


def with_gradients(projected: Projected) -> Projected:
    """Returns copies that are leaves of the graph."""
    floats = ("means_px", "conics", "opacities", "colors")
    return replace(projected, **{name: getattr(projected, name).clone().requires_grad_() for name in floats})
