# SPDX-License-Identifier: Apache-2.0
"""Palettes: near plain k-means in quality, the same for the same seed, sound where rows are few or alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.errors import ReconError
from recon.formats.palette import Palette, build_palette
from recon.kernels.palette.op import cluster_groups


def scene_rows(count: int, dims: int = 24, seed: int = 0) -> torch.Tensor:
    """Rows of few effective dimensions and very unequal size, as harmonics are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, dims, generator=generator)
    size = torch.exp(torch.randn(count, 1, generator=generator))
    return (torch.randn(count, 6, generator=generator) * size) @ mixing


def error_of(rows: torch.Tensor, palette: Palette) -> float:
    return float((rows - palette.codebook[palette.labels.long()]).square().mean())


def test_two_levels_are_nearly_as_good_as_one() -> None:
    rows = scene_rows(6000)
    two = error_of(rows, build_palette(rows, 512))
    start = rows[torch.from_numpy(np.random.default_rng(0).choice(6000, 512, replace=False))]
    offsets = torch.tensor([0, 6000]), torch.tensor([0, 512])
    plain = cluster_groups(rows, torch.ones(6000), *offsets, start, iterations=14)
    # Sharing codes out by scatter beats the random start of plain k-means as often as not.
    assert two < 1.1 * float(plain.distances.mean()) / rows.shape[1]


def test_the_same_seed_gives_the_same_palette() -> None:
    rows = scene_rows(3000)
    first, again, other = build_palette(rows, 200), build_palette(rows.numpy(), 200), build_palette(rows, 200, seed=1)
    assert torch.equal(first.codebook, again.codebook)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.codebook, other.codebook)


def test_weight_draws_codes() -> None:
    rows = scene_rows(4000)
    weights = torch.ones(4000)
    weights[:500] = 100.0
    plain, drawn = build_palette(rows, 128), build_palette(rows, 128, weights=weights)
    first = lambda palette: error_of(rows[:500], Palette(palette.codebook, palette.labels[:500]))  # noqa: E731
    assert first(drawn) < 0.8 * first(plain)


def test_few_rows_come_back_exactly() -> None:
    rows = scene_rows(5)
    palette = build_palette(rows, 64)
    assert palette.codebook.shape == (64, 24)
    assert torch.equal(palette.codebook[palette.labels.long()], rows)


@pytest.mark.parametrize("distinct", [1, 3])
def test_rows_that_are_alike(distinct: int) -> None:
    rows = scene_rows(distinct).repeat(500, 1)
    palette = build_palette(rows, 256)
    assert palette.codebook.isfinite().all()
    assert error_of(rows, palette) < 1e-10


def test_rows_of_nothing_and_of_everything() -> None:
    rows = scene_rows(2000)
    rows[:1500] = 0
    rows[-1] = 1e6
    palette = build_palette(rows, 64)
    assert palette.codebook.isfinite().all()
    assert (palette.codebook[palette.labels[:1500].long()]).abs().max() < 0.2


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ReconError):
        build_palette(scene_rows(10), 0)
    with pytest.raises(ReconError, match="finite"):
        build_palette(torch.full((10, 3), float("nan")), 2)
