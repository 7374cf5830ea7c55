# SPDX-License-Identifier: Apache-2.0
"""Moving rows in place: against a copy, for every way in which rows can move."""

from __future__ import annotations

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.rearrange.op import move_rows


def make_tensors(rows: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [(rows, 3), (rows,), (rows, 16, 3), (rows, 4)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [*tensors, torch.randint(0, 255, (rows,), generator=generator).to(torch.uint8)]


def moved(rows: int, sources: torch.Tensor, backend: str = "cpu") -> list[torch.Tensor]:
    tensors = make_tensors(rows)
    move_rows(tensors, sources, backend)  # type: ignore[arg-type]
    return tensors


def random_sources(rows: int, used: int, seed: int) -> torch.Tensor:
    """Each of the first `used` rows none, once or several times, with long stretches of either."""
    generator = torch.Generator().manual_seed(seed)
    mood = torch.randint(0, 5, (used // 7 + 1,), generator=generator).repeat_interleave(7)[:used]
    copies = torch.randint(0, 4, (used,), generator=generator)
    copies = torch.where(mood == 0, 0, torch.where(mood == 1, 1, torch.where(mood == 2, 2, copies)))
    return torch.repeat_interleave(torch.arange(used), copies)[:rows]


@pytest.mark.parametrize("seed", range(30))
def test_rows_move_as_by_a_copy(isa: str, seed: int) -> None:
    rows = 40 + 37 * seed
    sources = random_sources(rows, rows - 13 * (seed % 3), seed)
    for found, expected in zip(moved(rows, sources), moved(rows, sources, "reference")):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "sources",
    [
        [],
        [0],
        [9],
        [0, 0, 0],
        [9, 9, 9],
        list(range(10)),
        list(range(1, 10)),
        [0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
        [5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
        [2, 3, 4, 4, 4, 4, 4, 5, 8, 9],
        [1, 1, 1, 3, 4, 7, 8, 8, 8, 8],
    ],
)
def test_the_corner_cases_move_as_by_a_copy(isa: str, sources: list[int]) -> None:
    index = torch.tensor(sources, dtype=torch.int64)
    for found, expected in zip(moved(10, index), moved(10, index, "reference")):
        assert torch.equal(found, expected)


def test_rows_beyond_the_last_are_left_alone(isa: str) -> None:
    before, after = make_tensors(100), moved(100, torch.arange(0, 60, 2))
    for old, new in zip(before, after):
        assert torch.equal(old[30:], new[30:])
        assert torch.equal(old[0:60:2], new[:30])


def test_the_number_of_threads_changes_nothing(isa: str) -> None:
    module = native()
    threads = module.max_threads()
    sources = random_sources(5000, 4000, 1)
    try:
        results = []
        for count in (1, 2, 7):
            module.set_threads(count)
            results.append(moved(5000, sources))
    finally:
        module.set_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_no_tensors_are_no_work() -> None:
    move_rows([], torch.arange(3))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (torch.tensor([0, 2, 1]), "descend"),
        (torch.tensor([-1, 2]), "sources reach from -1 to 2"),
        (torch.tensor([0, 10]), "sources reach from 0 to 10"),
        (torch.zeros(11, dtype=torch.int64), "sources has 11 entries"),
        (torch.zeros(3), "sources is torch.float32"),
        (torch.zeros(3, 1, dtype=torch.int64), "sources has shape 3×1"),
    ],
)
def test_wrong_sources_are_refused(sources: torch.Tensor, message: str) -> None:
    with pytest.raises(ReconError, match=message):
        moved(10, sources)
