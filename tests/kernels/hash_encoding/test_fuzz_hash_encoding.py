# SPDX-License-Identifier: Apache-2.0
"""Random grids with hostile positions: nothing is read or written outside the table, and the reference agrees.

`RECON_FUZZ=1000 pytest --timeout=3000 tests/kernels/hash_encoding` tries more.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from kernels.hash_encoding.encoding_cases import HOSTILE, Case

from recon.kernels.hash_encoding.op import HashGrid, hash_encode_backward_into, hash_encode_into
from recon.kernels.workspace import Workspace

CASES = int(os.environ.get("RECON_FUZZ", "12"))
GUARD_ROWS = 4096


def random_grid(source: random.Random) -> HashGrid:
    coarsest = source.choice([1, 2, 7, 16, 100])
    finest = max(coarsest, source.choice([1, 9, 64, 1000, 65536]))
    return HashGrid(source.randint(1, 9), source.choice([1, 2, 4, 8]), source.randint(4, 13), coarsest, finest)


def hostile_positions(count: int, source: random.Random) -> torch.Tensor:
    """Returns positions of which some coordinates are hostile and some lie on faces of cells."""
    rows = []
    for _ in range(count):
        kind = source.random()
        row = [source.random() for _ in range(3)]
        if kind < 0.5:
            row[source.randrange(3)] = source.choice(HOSTILE)
        elif kind < 0.7:
            row = [source.choice(HOSTILE) for _ in range(3)]
        elif kind < 0.85:
            row = [source.randrange(65) / 64 for _ in range(3)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32).reshape(count, 3)


def guarded(inside: torch.Tensor, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a copy that lies between two guards, and the whole."""
    whole = torch.full((len(inside) + 2 * GUARD_ROWS, inside.shape[1]), fill)
    part = whole[GUARD_ROWS : GUARD_ROWS + len(inside)]
    part.copy_(inside)
    return part, whole


@pytest.mark.parametrize("seed", range(CASES))
def test_hostile_positions(isa: str, seed: int) -> None:
    source = random.Random(seed)
    grid, count = random_grid(source), source.choice([1, 5, 16, 33, 200])
    generator = torch.Generator().manual_seed(seed)
    positions = hostile_positions(count, source)
    table, _ = guarded(torch.rand((grid.rows, grid.features), generator=generator), float("nan"))
    gradient = torch.rand((count, grid.width), generator=generator)
    case = Case(grid, positions, table, gradient)
    encoded = hash_encode_into(positions, table, grid, Workspace())
    assert bool(encoded.isfinite().all())
    assert float(encoded.min()) >= -0.02  # of positions on a face, whose cell rounding decides
    assert float(encoded.max()) <= 1.02
    by_table, whole = guarded(torch.zeros_like(table), 0.0)
    by_positions, around = guarded(torch.full((count, 3), 5.0), 5.0)
    hash_encode_backward_into(positions, table, grid, gradient, by_table, by_positions)
    assert float(whole[:GUARD_ROWS].abs().max()) == float(whole[-GUARD_ROWS:].abs().max()) == 0
    assert bool((around[:GUARD_ROWS] == 5).all())
    assert bool((around[-GUARD_ROWS:] == 5).all())
    inside = (positions >= 0) & (positions <= 1)
    assert bool(by_positions.isfinite().all())
    assert not bool(by_positions[~inside].any())
    expected = case.exact()
    # A coordinate's last bit is 1/250 of a cell at the finest resolution there is.
    tolerance = 2e-7 * grid.finest + 1e-5
    assert float((encoded - expected.encoded).abs().max()) <= tolerance
    total = float(gradient.double().sum())
    assert float(by_table.double().sum()) == pytest.approx(total, rel=1e-4)
    error = (by_table - expected.by_table).abs().max()
    assert float(error) <= tolerance * max(1.0, float(expected.by_table.abs().max()))
