# SPDX-License-Identifier: Apache-2.0
"""Spherical harmonics: orthonormal, with the known signs, and their rotation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.errors import ReconError
from recon.kernels.projection.spherical_harmonics import evaluate_sh, rotate_sh, sh_basis


def quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and weights that integrate polynomials to degree 11 over the sphere exactly."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    longitudes = np.arange(12) * 2 * np.pi / 12
    z, longitude = np.meshgrid(nodes, longitudes, indexing="ij")
    radius = np.sqrt(1 - z * z)
    directions = np.stack([radius * np.cos(longitude), radius * np.sin(longitude), z], -1).reshape(-1, 3)
    weight = np.repeat(weights, 12) * 2 * np.pi / 12
    return torch.from_numpy(directions), torch.from_numpy(weight)


def random_rotation(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q).sign()


def random_directions(count: int) -> torch.Tensor:
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_basis_is_orthonormal(degree: int) -> None:
    directions, weights = quadrature()
    basis = sh_basis(directions, degree)
    assert basis.shape == (72, (degree + 1) ** 2)
    gram = (basis * weights[:, None]).T @ basis
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_signs_are_those_of_splat_files() -> None:
    """A file written by another program shows the same colours: band 1 is -y, z, -x, and so on."""
    d = torch.tensor([0.48, 0.60, 0.64], dtype=torch.float64)
    x, y, z = d.tolist()
    pi = math.pi
    expected = [
        0.5 * math.sqrt(1 / pi),
        -math.sqrt(3 / (4 * pi)) * y,
        math.sqrt(3 / (4 * pi)) * z,
        -math.sqrt(3 / (4 * pi)) * x,
        0.5 * math.sqrt(15 / pi) * x * y,
        -0.5 * math.sqrt(15 / pi) * y * z,
        0.25 * math.sqrt(5 / pi) * (3 * z * z - 1),
        -0.5 * math.sqrt(15 / pi) * x * z,
        0.25 * math.sqrt(15 / pi) * (x * x - y * y),
        -0.25 * math.sqrt(35 / (2 * pi)) * y * (3 * x * x - y * y),
        0.5 * math.sqrt(105 / pi) * x * y * z,
        -0.25 * math.sqrt(21 / (2 * pi)) * y * (5 * z * z - 1),
        0.25 * math.sqrt(7 / pi) * z * (5 * z * z - 3),
        -0.25 * math.sqrt(21 / (2 * pi)) * x * (5 * z * z - 1),
        0.25 * math.sqrt(105 / pi) * z * (x * x - y * y),
        -0.25 * math.sqrt(35 / (2 * pi)) * x * (x * x - 3 * y * y),
    ]
    torch.testing.assert_close(sh_basis(d, 3), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bases", [1, 4, 9, 16])
def test_rotated_coefficients_say_the_same_of_rotated_directions(bases: int) -> None:
    degree = math.isqrt(bases) - 1
    sh = torch.randn(7, bases, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = random_directions(50)
    for seed in range(5):
        rotation = random_rotation(seed)
        turned = rotate_sh(sh, rotation)
        before = evaluate_sh(sh[:, None], directions, degree)
        after = evaluate_sh(turned[:, None], directions @ rotation.T, degree)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
        torch.testing.assert_close(turned.square().sum(1), sh.square().sum(1), rtol=1e-12, atol=1e-12)


def test_rotations_compose_and_undo() -> None:
    sh = torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first, second = random_rotation(3), random_rotation(4)
    torch.testing.assert_close(rotate_sh(rotate_sh(sh, first), second), rotate_sh(sh, second @ first))
    torch.testing.assert_close(rotate_sh(rotate_sh(sh, first), first.T), sh)
    torch.testing.assert_close(rotate_sh(sh, torch.eye(3)), sh)


def test_rotation_keeps_type_and_accepts_no_splats() -> None:
    sh = torch.randn(3, 9, 3)
    assert rotate_sh(sh, random_rotation(0)).dtype == torch.float32
    assert rotate_sh(sh[:0], random_rotation(0)).shape == (0, 9, 3)


def test_wrong_arguments_are_refused() -> None:
    sh = torch.zeros(2, 16, 3)
    with pytest.raises(ReconError, match="sh has shape"):
        rotate_sh(torch.zeros(2, 5, 3), torch.eye(3))
    with pytest.raises(ReconError, match="rotation has shape"):
        rotate_sh(sh, torch.eye(4))
    for wrong in (
        -torch.eye(3),
        2 * torch.eye(3),
        torch.full((3, 3), float("nan")),
        torch.diag(torch.tensor([1.0, 1, -1])),
    ):
        with pytest.raises(ReconError, match="rotation"):
            rotate_sh(sh, wrong)
    with pytest.raises(ReconError, match="degree"):
        sh_basis(torch.zeros(3), 4)
