# SPDX-License-Identifier: Apache-2.0
"""The hash encoding against its reference, and what must hold of it whatever the reference says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.hash_encoding.encoding_cases import Case, assert_equal, make_case

from recon.errors import ReconError
from recon.kernels.hash_encoding.op import HashGrid, hash_encode, hash_encode_backward_into, hash_encode_into
from recon.kernels.native import native
from recon.kernels.workspace import Workspace

SMALL = HashGrid(levels=4, features=4, log2_entries=10, coarsest=3, finest=40)
GRIDS = [
    SMALL,
    HashGrid(levels=5, features=2, log2_entries=9, coarsest=4, finest=64),
    HashGrid(levels=3, features=1, log2_entries=12, coarsest=5, finest=90),
    HashGrid(levels=2, features=8, log2_entries=8, coarsest=2, finest=200),
    HashGrid(levels=1, features=4, log2_entries=4, coarsest=1, finest=1),
    HashGrid(levels=1, features=2, log2_entries=16, coarsest=30, finest=30),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("samples", [1, 3, 16, 17, 1030])
def test_values_and_gradients_equal_the_reference(isa: str, grid: HashGrid, samples: int) -> None:
    case = make_case(grid, samples, seed=samples)
    assert_equal(case.run(), case.exact())


def test_the_usual_grid_equals_the_reference(isa: str) -> None:
    """With a resolution of powers of two nothing is lost even where multiplication and addition are not fused."""
    case = make_case(HashGrid(), 300)
    assert_equal(case.run(), case.exact(), 1e-6)


@pytest.mark.parametrize("grid", [HashGrid(3, 1, 4, 1, 4), HashGrid(2, 2, 6, 2, 3)])
def test_the_gradients_of_the_reference(grid: HashGrid) -> None:
    case = make_case(grid, 6)
    positions, table = (tensor.double().requires_grad_() for tensor in (case.positions, case.table))
    torch.autograd.gradcheck(lambda a, b: hash_encode(a, b, grid, "reference"), (positions, table))


def test_differences_along_an_axis_are_the_gradient(isa: str) -> None:
    """Along an axis the interpolation is a straight line as long as the cell is not left."""
    case = make_case(HashGrid(2, 4, 12, 4, 8), 200)
    found = case.run()
    step = 1e-4  # of a cell at most 8e-4, and positions stay 1e-3 away from faces
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = step
        ends = [hash_encode(case.positions + sign * shift, case.table, case.grid) for sign in (1, -1)]
        slope = ((ends[0] - ends[1]).double() * case.gradient).sum(1) / (2 * step)
        scale = float(slope.abs().max())
        torch.testing.assert_close(found.by_positions[:, axis].double(), slope, rtol=0, atol=5e-3 * scale)


def test_a_vertex_has_its_row_by_the_formula(isa: str) -> None:
    grid = HashGrid(levels=3, features=2, log2_entries=9, coarsest=4, finest=64)
    assert grid.resolutions == (4, 16, 64)
    assert grid.dense == (True, False, False)
    table = torch.arange(2.0 * grid.rows).reshape(grid.rows, 2)
    for level, resolution in enumerate(grid.resolutions):
        side = resolution + 2
        for x, y, z in [(1, 1, 1), (2, 3, 1), (4, 1, 3), (3, 4, 4)]:
            position = (torch.tensor([[x, y, z]]) - 0.5) / resolution
            if level == 0:
                row = x + side * (y + side * z)
            else:
                row = (x ^ (y * 2654435761) ^ (z * 805459861)) % 512
            encoded = hash_encode(position, table, grid)[0, 2 * level : 2 * level + 2]
            assert torch.equal(encoded, table[grid.offsets[level] + row])


def test_straight_functions_come_back(isa: str) -> None:
    """Of a dense level whose vertices hold a + b · x the interpolation is that everywhere."""
    grid = HashGrid(1, 4, 15, 20, 20)
    numbers = torch.arange(22**3)
    vertices = torch.stack([numbers % 22, numbers // 22 % 22, numbers // 22**2], 1)
    factors = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, -1], [0, 0, 1, 0.5]])
    table = torch.zeros(grid.rows, 4)
    table[: 22**3] = (vertices - 0.5) / 20 @ factors + 3
    positions = torch.rand((333, 3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hash_encode(positions, table, grid), positions @ factors + 3, rtol=1e-5, atol=1e-5)


def test_the_position_of_all_weight_is_one(isa: str) -> None:
    case = make_case(SMALL, 500)
    ones = replace(case, table=torch.ones_like(case.table), gradient=torch.ones_like(case.gradient))
    found = ones.run()
    torch.testing.assert_close(found.encoded, torch.ones_like(found.encoded), rtol=1e-6, atol=0)
    assert float(found.by_positions.abs().max()) == 0
    total = 500.0 * SMALL.width
    assert float(found.by_table.double().sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS[:4])
def test_threads_change_no_bit(isa: str, grid: HashGrid) -> None:
    """More threads than levels share a level's rows."""
    case, module = make_case(grid, 2100), native()
    before, results = module.max_threads(), []
    try:
        for threads in (1, 2, 3, 7, 17):
            module.set_threads(threads)
            results.append(case.run())
    finally:
        module.set_threads(before)
    for result in results[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(result.tensors(), results[0].tensors()))


def test_samples_stand_alone(isa: str) -> None:
    case = make_case(SMALL, 75)
    whole = case.run()
    order = torch.randperm(75, generator=torch.Generator().manual_seed(1))
    moved = replace(case, positions=case.positions[order], gradient=case.gradient[order]).run()
    assert torch.equal(moved.encoded, whole.encoded[order])
    assert torch.equal(moved.by_positions, whole.by_positions[order])
    torch.testing.assert_close(moved.by_table, whole.by_table, rtol=1e-5, atol=1e-5)
    for first, last in [(0, 1), (5, 30), (60, 75)]:
        part = replace(case, positions=case.positions[first:last], gradient=case.gradient[first:last]).run()
        assert torch.equal(part.encoded, whole.encoded[first:last])
        assert torch.equal(part.by_positions, whole.by_positions[first:last])


def test_no_samples(isa: str) -> None:
    case = make_case(SMALL, 0)
    found = case.run()
    assert found.encoded.shape == (0, SMALL.width)
    assert found.by_positions.shape == (0, 3)
    assert not bool(found.by_table.any())


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_gradient_alone(isa: str, wanted: tuple[bool, bool]) -> None:
    case = make_case(SMALL, 40)
    both = case.run()
    given = [case.positions.clone().requires_grad_(wanted[0]), case.table.clone().requires_grad_(wanted[1])]
    hash_encode(given[0], given[1], SMALL).backward(case.gradient)
    for tensor, want, expected in zip(given, wanted, (both.by_positions, both.by_table)):
        assert (tensor.grad is not None) == want
        assert tensor.grad is None or torch.equal(tensor.grad, expected)


def test_the_step_without_autograd_gives_the_same(isa: str) -> None:
    workspace, case = Workspace(), make_case(SMALL, 333)
    expected = case.run()
    encoded = hash_encode_into(case.positions, case.table, SMALL, workspace, "mine")
    assert torch.equal(encoded, expected.encoded)
    held = workspace.bytes()
    again = hash_encode_into(case.positions[:100], case.table, SMALL, workspace, "mine")
    assert (again.data_ptr(), workspace.bytes()) == (encoded.data_ptr(), held)
    by_table, by_positions = torch.ones_like(case.table), torch.full_like(case.positions, 7.0)
    hash_encode_backward_into(case.positions, case.table, SMALL, case.gradient, by_table, by_positions)
    assert torch.equal(by_positions, expected.by_positions)
    torch.testing.assert_close(by_table, expected.by_table + 1, rtol=1e-5, atol=1e-5)
    kept = by_table.clone()
    hash_encode_backward_into(case.positions, case.table, SMALL, case.gradient, None, by_positions)
    assert torch.equal(by_table, kept)


def test_broken_numbers_stay_by_themselves(isa: str) -> None:
    case = make_case(SMALL, 64)
    clean = case.run()
    rows = make_hit_rows(case, 5)
    table = case.table.clone()
    table[rows] = float("nan")
    gradient = case.gradient.clone()
    gradient[9] = float("inf")
    found = replace(case, table=table, gradient=gradient).run()
    assert bool(found.encoded[5].isnan().all())
    free = found.encoded.isfinite()
    assert torch.equal(found.encoded[free], clean.encoded[free])
    assert float(free.float().mean()) > 0.5
    untouched = found.by_table.isfinite()
    torch.testing.assert_close(found.by_table[untouched], clean.by_table[untouched], rtol=0, atol=0)


def make_hit_rows(case: Case, sample: int) -> torch.Tensor:
    """Returns the rows that a sample reads."""
    from recon.kernels.hash_encoding.reference import level_rows

    position = case.positions[sample : sample + 1]
    return torch.cat([level_rows(position, case.grid, level)[0] for level in range(case.grid.levels)])


def test_wrong_arguments_are_refused() -> None:
    case = make_case(SMALL, 4)
    for positions, table, message in [
        (case.positions[:, :2], case.table, "positions has shape 4×2"),
        (case.positions, case.table[1:], "table has shape"),
        (case.positions, case.table.double(), "table is torch.float64"),
        (case.positions.double(), case.table.double(), "positions is torch.float64"),
    ]:
        with pytest.raises(ReconError, match=message):
            hash_encode(positions, table, SMALL, "cpu")
    with pytest.raises(ReconError, match="needs an NVIDIA GPU"):
        hash_encode(case.positions, case.table, SMALL, "cuda")
    for field, value in [
        ("levels", 0), ("levels", 33), ("features", 3), ("log2_entries", 3), ("log2_entries", 25), ("coarsest", 0),
        ("coarsest", 41), ("finest", 65537),
    ]:  # fmt: skip
        with pytest.raises(ReconError, match=f"{field} = {value}"):
            replace(SMALL, **{field: value})


def test_levels_lie_one_after_another() -> None:
    grid = HashGrid()
    assert grid.resolutions == (16, 32, 64, 128, 256, 512, 1024, 2048)
    assert grid.dense == (True, True) + (False,) * 6
    assert grid.width == 32
    counts = [last - first for first, last in zip(grid.offsets, grid.offsets[1:])]
    assert counts == [18**3 + 8, 34**3 + 8] + [1 << 17] * 6
    assert grid.rows == sum(counts)
    assert all(offset % 16 == 0 for offset in grid.offsets)
    assert HashGrid(levels=1).resolutions == (16,)
