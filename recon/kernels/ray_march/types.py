# SPDX-License-Identifier: Apache-2.0
"""The space that a field fills, how rays are sampled in it, and the samples.

Notation: x is a point of the world, y = (x - center) / half_size, m = max |y_i|, and u the same point in the unit cube
in which fields and occupancy grids live:

- bounded: u = (y + 1) / 2; nothing is outside;
- contracted: c = y where m <= 1, else (2 - 1/m) y / m, and u = (c + 2) / 4.  All of space is inside, half of each side
  for the region m <= 1.  Source: Barron et al., "Mip-NeRF 360", CVPR 2022, equation 10, with the maximum norm, so that
  the contracted space fills a cube.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from recon.errors import ReconError

MOST_DISTANT = 1e9
"""Rays that begin further than this many half sizes from the centre get no samples."""


@dataclass(frozen=True)
class Space:
    """Which part of the world the unit cube is.

    Attributes:
        center: of the region, in world units.
        half_size: half the side of the region in world units; of the uncontracted part where there is another.
        contracted: whether everything beyond the region is in the cube, too, the nearer the larger.
    """

    center: tuple[float, float, float]
    half_size: float
    contracted: bool

    def __post_init__(self) -> None:
        numbers = (*self.center, self.half_size)
        if not all(map(math.isfinite, numbers)) or not self.half_size > 0:
            raise ReconError("making a space", f"center and half size are {numbers}", "numbers, and a positive size")

    def to_unit(self, points: torch.Tensor) -> torch.Tensor:
        """Returns points [..., 3] of the world in the unit cube; differentiable."""
        y = (points - points.new_tensor(self.center)) / self.half_size
        if not self.contracted:
            return (y + 1) / 2
        m = y.abs().amax(-1, keepdim=True).clamp_min(1)
        return ((2 - 1 / m) / m * y + 2) / 4

    def from_unit(self, points: torch.Tensor) -> torch.Tensor:
        """Returns points [..., 3] of the unit cube in the world; the contracted cube's faces are at infinity."""
        center = points.new_tensor(self.center)
        if not self.contracted:
            return (2 * points - 1) * self.half_size + center
        c = 4 * points - 2
        m = c.abs().amax(-1, keepdim=True)
        outside = m.clamp_min(1)
        return c / (outside * (2 - outside)) * self.half_size + center


@dataclass(frozen=True)
class MarchOptions:
    """How rays are sampled.

    Attributes:
        step: spacing of the samples where m <= 1, in half sizes of the space; beyond it grows with m², so that it stays
            even along the direction away from the centre of the contracted space.
        near, far: samples lie between these distances along the ray, in world units; far may be infinite.
        max_samples: the most that a ray gets at once.
        max_total: the most that all rays get at once.  Rays are served in their order; one that would go beyond gets
            none, nor do those after it.
    """

    step: float
    near: float = 0.0
    far: float = math.inf
    max_samples: int = 1024
    max_total: int = 1 << 22

    def __post_init__(self) -> None:
        doing = "choosing how rays are sampled"
        if not (math.isfinite(self.step) and 1e-5 <= self.step <= 1):
            raise ReconError(doing, f"the step is {self.step}", "1e-5 to 1 half sizes of the space")
        if not (math.isfinite(self.near) and 0 <= self.near < self.far):
            raise ReconError(doing, f"near is {self.near} and far {self.far}", "0 <= near < far")
        if not (1 <= self.max_samples <= self.max_total <= 1 << 30):
            raise ReconError(
                doing, f"at most {self.max_samples} samples a ray and {self.max_total} in all", "1 to 2^30, in order"
            )


@dataclass(frozen=True, eq=False)
class RaySamples:
    """The samples of R rays, one ray after another, nearest first.

    Attributes:
        positions: [S, 3] float32 in the unit cube.
        distances: [S] float32, along the ray's unit direction to the middle of the sample's interval, in world units.
        lengths: [S] float32, of the interval, in world units: step · half_size · max(1, m)² at its middle.
        offsets: [R + 1] int32; ray r has the samples offsets[r] to offsets[r + 1] - 1.
        ray_of: [S] int32.
        ends: [R] float32: where marching stopped, at which it may be started again; infinite when nothing is left.
        served: how many rays, from the first, there was room for (`MarchOptions.max_total`); None: for all.  The ends
            of the others are where they would have begun.
    """

    positions: torch.Tensor
    distances: torch.Tensor
    lengths: torch.Tensor
    offsets: torch.Tensor
    ray_of: torch.Tensor
    ends: torch.Tensor
    served: int | None = None
