# SPDX-License-Identifier: Apache-2.0
"""Real spherical harmonics to degree 3 in plain torch, with the signs of 3D Gaussian splatting.

Basis functions are ordered by band l and within it by m = -l .. l; K = (degree + 1)².  They are polynomials of a unit
direction (x, y, z).  Source: Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", 2023, whose
odd m carry the sign (-1)^m.
"""

from __future__ import annotations

import math

import torch

from recon.errors import ReconError

MAX_DEGREE = 3


def sh_basis(directions: torch.Tensor, degree: int) -> torch.Tensor:
    """Returns the basis functions [..., K] at unit directions [..., 3].

    Raises:
        ReconError: the degree is not 0 to 3.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ReconError("evaluating spherical harmonics", f"the degree is {degree}", "0 to 3")
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        c1 = 0.4886025119029199
        basis += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = 1.0925484305920792
        basis += [
            c2 * x * y,
            -c2 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -c2 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, -1)


def evaluate_sh(sh: torch.Tensor, directions: torch.Tensor, degree: int) -> torch.Tensor:
    """Returns Σ_k sh_k Y_k, [..., C], for coefficients [..., K, C] (those beyond `degree` are ignored)."""
    basis = sh_basis(directions, degree)
    return (basis.unsqueeze(-1) * sh[..., : basis.shape[-1], :]).sum(-2)


def rotate_sh(sh: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Returns the coefficients of the colours after everything is turned by `rotation`.

    What the result says of direction `rotation @ d` is what `sh` says of `d`.  Bands do not mix, so each band's matrix
    follows from its basis functions at a few fixed directions, before and after the turn, by least squares in float64.

    Args:
        sh: [N, K, 3] with K = 1, 4, 9 or 16.
        rotation: [3, 3], a proper rotation.

    Raises:
        ReconError: another shape, or no rotation.
    """
    doing = "rotating spherical harmonics"
    bases = {1: 0, 4: 1, 9: 2, 16: 3}
    if sh.ndim != 3 or sh.shape[1] not in bases:
        raise ReconError(doing, f"sh has shape {tuple(sh.shape)}", "(N, 1|4|9|16, 3)")
    if tuple(rotation.shape) != (3, 3):
        raise ReconError(doing, f"rotation has shape {tuple(rotation.shape)}", "(3, 3)")
    turn = rotation.detach().to("cpu", torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    if not bool((turn @ turn.T - identity).abs().max() < 1e-4) or torch.linalg.det(turn) < 0:
        raise ReconError(doing, f"the matrix is {turn.tolist()}", "a rotation (orthonormal, no mirror)")
    degree = bases[sh.shape[1]]
    directions = _spread_directions(64)
    before, after = sh_basis(directions, degree), sh_basis(directions @ turn.T, degree)
    matrix = torch.zeros(sh.shape[1], sh.shape[1], dtype=torch.float64)
    for band in range(degree + 1):
        part = slice(band * band, (band + 1) * (band + 1))
        matrix[part, part] = torch.linalg.lstsq(after[:, part], before[:, part]).solution
    return torch.einsum("jk,nkc->njc", matrix.to(sh.device, sh.dtype), sh)


def _spread_directions(count: int) -> torch.Tensor:
    """Unit vectors [count, 3] spread evenly over the sphere along a golden spiral, float64."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / count
    longitude = index * math.pi * (3 - math.sqrt(5))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * longitude.cos(), radius * longitude.sin(), z], -1)
