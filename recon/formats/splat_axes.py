# SPDX-License-Identifier: Apache-2.0
"""Turning splats by quarter turns about the x axis, which is how files with another up axis are met.

One quarter turn maps (x, y, z) to (x, -z, y), so +Z up becomes -Y up.  Everything but the higher harmonics is turned
without any rounding:

- positions are permuted and negated;
- a Gaussian's rotation matrix becomes P R, where P is the turn.  P R Qᵀ with the axes of the Gaussian turned too
  (its second and third scales change places) is the same ellipsoid, and with p = q = (1 + i)/√2 the quaternion
  p r q of r = (w, x, y, z) is (-x, w, y, z): a permutation again.

Spherical harmonics of degree 2 and 3 mix with irrational weights, so these are rounded to float32.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from recon.kernels.projection.spherical_harmonics import sh_basis
from recon.splats import Splats

UpAxis = Literal["world", "+z", "-y", "-z", "+y"]
"""Which axis of a file points up; "world" is the world of recon, +z."""

UP_AXES: tuple[str, ...] = get_args(UpAxis)

_TURNS = {"world": 0, "+z": 0, "-y": 1, "-z": 2, "+y": 3}


def splats_from_world(splats: Splats, up: UpAxis) -> Splats:
    """Returns splats of our world (+Z up) in a frame whose `up` axis points up."""
    return _turn(splats, _TURNS[up])


def world_from_splats(splats: Splats, up: UpAxis) -> Splats:
    """Returns splats of a frame whose `up` axis points up in our world (+Z up)."""
    return _turn(splats, -_TURNS[up] % 4)


def _turn(splats: Splats, turns: int) -> Splats:
    """Returns the splats turned by `turns` quarter turns about x."""
    if turns == 0:
        return splats
    means, quats, log_scales = splats.means, splats.quats, splats.log_scales
    for _ in range(turns):
        means = torch.stack([means[:, 0], -means[:, 2], means[:, 1]], 1)
        quats = torch.stack([-quats[:, 1], quats[:, 0], quats[:, 2], quats[:, 3]], 1)
        log_scales = log_scales[:, [0, 2, 1]]
    sh = splats.sh
    if splats.sh_degree > 0:
        # One product of matrices for all splats, each channel by itself.
        matrix = torch.from_numpy(np.kron(_sh_turn(splats.sh_degree, turns), np.eye(3))).to(sh.device, sh.dtype)
        sh = (sh.flatten(1) @ matrix.T).reshape(sh.shape)
    return replace(splats, means=means, quats=quats, log_scales=log_scales, sh=sh)


@cache
def _sh_turn(degree: int, turns: int) -> npt.NDArray[np.float64]:
    """Returns the [K, K] matrix that turns coefficients: Σ (M sh)_k Y_k(P d) = Σ sh_k Y_k(d) for every direction d."""
    directions = torch.nn.functional.normalize(
        torch.randn(256, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    turned = directions
    for _ in range(turns):
        turned = torch.stack([turned[:, 0], -turned[:, 2], turned[:, 1]], 1)
    matrix = torch.linalg.lstsq(sh_basis(turned, degree), sh_basis(directions, degree)).solution.numpy()
    # The true entries are 0, ±1/4, ±1/2, ±1 and square roots between; what is off by rounding alone is set right, so
    # that degree 1, a signed permutation, is turned exactly.
    nearest = np.round(matrix * 4) / 4
    return np.where(np.abs(matrix - nearest) < 1e-9, nearest, matrix)
