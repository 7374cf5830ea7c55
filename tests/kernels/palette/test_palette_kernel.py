# SPDX-License-Identifier: Apache-2.0
"""k-means within groups: against plain torch, and what must hold whatever the numbers."""

from __future__ import annotations

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.palette.op import Clusters, cluster_groups


def random_case(seed: int, dims: int = 45) -> dict[str, torch.Tensor]:
    """Groups of 0 to 90 rows with 1 to 70 codes; some rows count nothing."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 90, (7,), generator=generator)
    codes = torch.randint(1, 70, (7,), generator=generator)
    rows = torch.randn(int(counts.sum()), dims, generator=generator)
    weights = torch.rand(len(rows), generator=generator) * (torch.rand(len(rows), generator=generator) > 0.1)
    zero = torch.zeros(1, dtype=torch.int64)
    return {
        "rows": rows,
        "weights": weights,
        "row_offsets": torch.cat([zero, counts.cumsum(0)]),
        "code_offsets": torch.cat([zero, codes.cumsum(0)]),
        "codebook": torch.randn(int(codes.sum()), dims, generator=generator),
    }


# In one dimension codes crowd, and which of two the rounding prefers decides where means go.
@pytest.mark.parametrize(("dims", "iterations"), [(1, 0), (1, 1), (3, 0), (3, 3), (9, 2), (24, 3), (45, 0), (45, 3)])
def test_the_kernel_agrees_with_the_reference(isa: str, dims: int, iterations: int) -> None:
    case = random_case(dims + iterations, dims)
    found = cluster_groups(**case, iterations=iterations)
    expected = cluster_groups(**case, iterations=iterations, backend="reference")
    torch.testing.assert_close(found.codebook, expected.codebook, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.distances, expected.distances, rtol=1e-4, atol=1e-5)
    # A tie that rounding breaks otherwise is the only way to another code.
    other = found.labels != expected.labels
    assert other.float().mean() < 0.01


def test_codes_without_rows_move_to_the_worst_off(isa: str) -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0], [0.0, 90.0]])
    start = torch.tensor([[0.4, 0.0], [500.0, 500.0], [600.0, 600.0]])
    offsets = torch.tensor([0, 4]), torch.tensor([0, 3])
    found = cluster_groups(rows, torch.ones(4), *offsets, start, iterations=3)
    assert found.distances.max() < 0.3
    # Rows that count nothing draw no code.
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    found = cluster_groups(rows, weights, *offsets, start, iterations=4)
    assert found.distances[:3].max() < 1e-6
    assert found.distances[3] > 8000


def test_distances_are_those_to_the_code_of_the_label(isa: str) -> None:
    case = random_case(5)
    found = cluster_groups(**case, iterations=2)
    exact = (case["rows"] - found.codebook[found.labels.long()]).square().sum(1)
    torch.testing.assert_close(found.distances, exact, rtol=1e-5, atol=1e-6)
    group = torch.repeat_interleave(torch.arange(7), case["row_offsets"].diff())
    assert (found.labels >= case["code_offsets"][group]).all()
    assert (found.labels < case["code_offsets"][group + 1]).all()


def test_threads_do_not_change_a_bit(isa: str) -> None:
    module = native()
    case, threads = random_case(9), module.max_threads()
    results: list[Clusters] = []
    try:
        for count in (1, 2, 3):
            module.set_threads(count)
            results.append(cluster_groups(**case, iterations=4))
    finally:
        module.set_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


def test_nothing_and_one(isa: str) -> None:
    none = torch.tensor([0, 0])
    found = cluster_groups(torch.zeros(0, 4), torch.zeros(0), none, none, torch.zeros(0, 4), 3)
    assert len(found.labels) == 0
    one = torch.tensor([0, 1])
    found = cluster_groups(torch.full((1, 4), 7.0), torch.ones(1), one, one, torch.zeros(1, 4), 1)
    assert found.labels.tolist() == [0]
    assert torch.equal(found.codebook, torch.full((1, 4), 7.0))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", torch.full((3, 2), float("nan")), "finite"),
        ("weights", torch.tensor([1.0, -1.0, 1.0]), "negative"),
        ("row_offsets", torch.tensor([0, 2, 1, 3]), "row_offsets"),
        ("row_offsets", torch.tensor([0, 1, 2, 2]), "row_offsets"),
        ("code_offsets", torch.tensor([0, 0, 3, 3]), "no codes"),
        ("codebook", torch.zeros(3, 5), "shape"),
        ("rows", torch.zeros(3, 2, dtype=torch.float64), "float64"),
    ],
)
def test_what_cannot_be_is_refused(key: str, value: torch.Tensor, message: str) -> None:
    offsets = torch.tensor([0, 1, 2, 3])
    case = {"rows": torch.zeros(3, 2), "weights": torch.ones(3), "row_offsets": offsets, "code_offsets": offsets}
    case["codebook"] = torch.zeros(3, 2)
    case[key] = value
    with pytest.raises(ReconError, match=message):
        cluster_groups(**case, iterations=1)
