# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the hash encoding and of its table's optimiser, emulated, against plain torch."""

from __future__ import annotations

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.hash_encoding.encoding_cases import HOSTILE, Case, assert_equal, make_case

from recon.kernels.adam.op import AdamHyper
from recon.kernels.hash_encoding.op import HashGrid, hash_encode
from recon.kernels.table_adam.op import table_adam_step


@pytest.mark.parametrize(
    "grid",
    [
        HashGrid(4, 4, 9, 3, 40),
        HashGrid(3, 2, 8, 4, 64),
        HashGrid(2, 1, 10, 5, 9),
        HashGrid(2, 8, 6, 2, 200),
        HashGrid(1, 4, 4, 1, 1),
    ],
)
def test_values_and_gradients_equal_the_reference(emulated: EmulatedProgram, grid: HashGrid) -> None:
    for samples in (0, 1, 150):
        case = make_case(grid, samples, seed=samples)
        assert_equal(case.run("cuda"), case.exact())
    assert set(emulated.launches) == {"hash_encode", "hash_encode_by_table", "hash_encode_by_positions"}


def test_hostile_positions(emulated: EmulatedProgram) -> None:
    """The memory around the table is NaN, and guarded against writing."""
    grid, count = HashGrid(3, 4, 6, 2, 65536), len(HOSTILE)
    positions = torch.tensor(HOSTILE).repeat(3, 1)
    positions = torch.stack([positions[axis].roll(axis * 7) for axis in range(3)], 1).contiguous()
    table = torch.empty((grid.rows, grid.features)).copy_(torch.rand((grid.rows, grid.features)))
    case = Case(grid, positions, table, torch.ones((count, grid.width)))
    found, expected = case.run("cuda"), case.exact()
    assert bool(found.encoded.isfinite().all())
    inside = (positions >= 0) & (positions <= 1)
    assert not bool(found.by_positions[~inside].any())
    assert bool(found.by_positions.isfinite().all())
    torch.testing.assert_close(found.encoded.double(), expected.encoded, rtol=0, atol=0.02)
    assert float(found.by_table.sum()) == pytest.approx(count * grid.width, rel=1e-4)


def test_one_gradient_alone(emulated: EmulatedProgram) -> None:
    case = make_case(HashGrid(2, 4, 8, 3, 20), 20)
    table = case.table.clone().requires_grad_()
    hash_encode(case.positions, table, case.grid, "cuda").backward(case.gradient)
    assert "hash_encode_by_positions" not in emulated.launches


@pytest.mark.parametrize("width", [1, 2, 4, 8, 5])
def test_the_optimiser_equals_the_reference(emulated: EmulatedProgram, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    given = [torch.randn((300, width), generator=generator) for _ in range(3)]
    given.append(torch.rand((300, width), generator=generator))
    given[1] *= torch.rand((300, 1), generator=generator) < 0.3
    given[1][3], given[1][4, 0], given[1][5, width - 1] = float("nan"), 1e30, -0.0
    results = []
    for backend in ("cuda", "reference"):
        tensors = [tensor.clone() for tensor in given]
        table_adam_step(*tensors, AdamHyper(0.01, 3), backend)
        results.append(tensors)
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)
    assert not bool(results[0][1].any())
