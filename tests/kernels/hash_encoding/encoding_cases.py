# SPDX-License-Identifier: Apache-2.0
"""Positions, tables and gradients for the tests of the hash encoding, and what the reference makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.kernels.backend import Backend
from recon.kernels.hash_encoding.op import HashGrid, hash_encode

TOLERANCE = 5e-5
"""Of the largest number: a position has 24 bits, of which the cell's number takes up to 9 where nothing is fused."""

HOSTILE = (
    float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3.4e38, -1.0, -1e-7, -1e-45, -0.0, 0.0, 1e-45, 1e-38,
    0.5, 1 - 2**-24, 1.0, 1 + 2**-23, 1.5, 2.0, 2.147e9, 4.3e9, 1e19,
)  # fmt: skip
"""Coordinates that no camera should give."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What was encoded and its gradients."""

    encoded: torch.Tensor
    by_positions: torch.Tensor
    by_table: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.encoded, self.by_positions, self.by_table


@dataclass(frozen=True, eq=False)
class Case:
    """A grid with its table, positions, and the gradient by what they are encoded as."""

    grid: HashGrid
    positions: torch.Tensor
    table: torch.Tensor
    gradient: torch.Tensor

    def run(self, backend: Backend = "cpu", dtype: torch.dtype = torch.float32) -> Encoded:
        positions = self.positions.detach().to(dtype, copy=True).requires_grad_()
        table = self.table.detach().to(dtype, copy=True).requires_grad_()
        encoded = hash_encode(positions, table, self.grid, backend)
        by_positions, by_table = torch.autograd.grad(encoded, (positions, table), self.gradient.to(dtype))
        return Encoded(encoded.detach(), by_positions, by_table)

    def exact(self) -> Encoded:
        return self.run("reference", torch.float64)


def make_case(grid: HashGrid, samples: int, seed: int = 0) -> Case:
    """Returns random positions, none of them near a face of a cell, where the gradient by it jumps."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand((2 * samples + 64, 3), generator=generator)
    away = torch.ones(len(positions), dtype=torch.bool)
    for resolution in grid.resolutions:
        fractions = (positions.double() * resolution + 0.5).frac()
        away &= ((fractions > 1e-3) & (fractions < 1 - 1e-3)).all(1)
    positions = positions[away][:samples].contiguous()
    assert len(positions) == samples
    table = torch.randn((grid.rows, grid.features), generator=generator)
    return Case(grid, positions, table, torch.randn((samples, grid.width), generator=generator))


def assert_equal(found: Encoded, expected: Encoded, tolerance: float = TOLERANCE) -> None:
    for name, mine, theirs in zip(("encoded", "by positions", "by table"), found.tensors(), expected.tensors()):
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        error = float((mine.double() - theirs).abs().max()) if theirs.numel() else 0.0
        assert error <= tolerance * scale, f"{name}: {error:.2e} of {scale:.2e}"
