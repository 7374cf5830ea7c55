# SPDX-License-Identifier: Apache-2.0
"""Palettes: a few thousand vectors that stand for a million, with a number for each row (vector quantisation).

Two levels of k-means.  First the rows are split into groups around the means of a sample; then each group gets its
share of the palette and is clustered by itself, so a row meets a few hundred codes instead of tens of thousands.
The share follows what distortion theory says of quantisers in d effective dimensions: the error of a group of n rows
with variance v and k codes is about n v k^(-2/d), and the sum is least for k in proportion to (n v)^(d / (d + 2))
(Zador 1982; Gersho and Gray, Vector Quantization and Signal Compression, chapter 5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from recon.errors import ReconError
from recon.kernels.palette.op import cluster_groups

SAMPLE_PER_GROUP = 128
"""Rows that the means of a group are first sought among."""

EFFECTIVE_DIMENSIONS = 10
"""Harmonics of real scenes fill about this many of their 45 dimensions."""

MOST_CODES_PER_GROUP = 1024
"""Keeps a group that holds most of all rows from being clustered at full cost."""


class Palette(NamedTuple):
    """A codebook [size, D] float32 and the row of it that stands for each input row, [N] int32."""

    codebook: torch.Tensor
    labels: torch.Tensor


def build_palette(
    rows: torch.Tensor | npt.NDArray[np.float32],
    size: int,
    seed: int = 0,
    weights: torch.Tensor | npt.NDArray[np.float32] | None = None,
    iterations: int = 8,
) -> Palette:
    """Finds `size` vectors so that the nearest one to each row is close in the mean of squares.

    Args:
        rows: [N, D] float32.
        size: how many vectors the codebook has; with more than N the rest is zero.
        seed: of the sample of rows at which the search starts; the same seed gives the same palette.
        weights: [N], at least 0, how much the error of a row counts; None for all alike.
        iterations: of k-means within the groups.

    Returns:
        The codebook and the labels.

    Raises:
        ReconError: size below 1, other shapes, or numbers that are not finite.
    """
    rows = torch.as_tensor(rows).float().contiguous()
    if rows.ndim != 2 or size < 1:
        raise ReconError("building a palette", f"rows of shape {tuple(rows.shape)}, size {size}", "[N, D], at least 1")
    shares = torch.ones(len(rows)) if weights is None else torch.as_tensor(weights).float().contiguous()
    if len(rows) <= size:
        codebook = torch.zeros(size, rows.shape[1])
        codebook[: len(rows)] = rows
        return Palette(codebook, torch.arange(len(rows), dtype=torch.int32))
    generator = np.random.default_rng(seed)
    groups = max(1, min(256, round(size**0.5), size // 8))
    group_of = _split(rows, shares, groups, generator)
    counts = torch.bincount(group_of, minlength=groups)
    order = torch.argsort(group_of, stable=True)
    grouped, grouped_shares = rows[order], shares[order]
    row_offsets = _offsets(counts)
    codes = _share_out(grouped, grouped_shares, row_offsets, size)
    start = grouped[_spread(row_offsets, codes, generator)]
    found = cluster_groups(grouped, grouped_shares, row_offsets, _offsets(codes), start, iterations)
    labels = torch.empty(len(rows), dtype=torch.int32)
    labels[order] = found.labels
    codebook = torch.zeros(size, rows.shape[1])
    codebook[: len(found.codebook)] = found.codebook
    return Palette(codebook, labels)


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _split(rows: torch.Tensor, weights: torch.Tensor, groups: int, generator: np.random.Generator) -> torch.Tensor:
    """Returns the group of each row, [N] int64: the nearest of `groups` means of a sample."""
    if groups == 1:
        return torch.zeros(len(rows), dtype=torch.int64)
    picked = generator.choice(len(rows), min(len(rows), groups * SAMPLE_PER_GROUP), replace=False)
    sample = torch.from_numpy(np.sort(picked))
    chosen = torch.from_numpy(generator.choice(len(sample), groups, replace=False))
    # A row without weight may not pull a mean, but all rows of a sample without weight must not stop the search.
    shares = weights[sample] + 1e-12
    whole = torch.tensor([0, groups])
    near = cluster_groups(
        rows[sample], shares, torch.tensor([0, len(sample)]), whole, rows[sample][chosen], iterations=6
    )
    return cluster_groups(rows, weights, torch.tensor([0, len(rows)]), whole, near.codebook, 0).labels.long()


def _share_out(rows: torch.Tensor, weights: torch.Tensor, row_offsets: torch.Tensor, size: int) -> torch.Tensor:
    """Returns how many codes each group gets, [G] int64: at least one and at most as many as it has rows."""
    counts = row_offsets.diff()
    group_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    weight = torch.zeros(len(counts)).index_add_(0, group_of, weights)
    sums = torch.zeros(len(counts), rows.shape[1]).index_add_(0, group_of, rows * weights[:, None])
    squares = torch.zeros(len(counts)).index_add_(0, group_of, rows.square().sum(1) * weights)
    scatter = (squares - sums.square().sum(1) / weight.clamp(min=1e-30)).clamp(min=0)
    wish = (scatter.double() + 1e-30) ** (EFFECTIVE_DIMENSIONS / (EFFECTIVE_DIMENSIONS + 2))
    most = counts.clamp(max=max(MOST_CODES_PER_GROUP, 4 * size // len(counts))).double()
    least = (counts > 0).long()
    # What a full group cannot take goes to the others.
    low, high = 0.0, 2.0 * size / float(wish.min())
    for _ in range(100):
        middle = (low + high) / 2
        total = int(torch.maximum(torch.minimum(wish * middle, most).long(), least).sum())
        low, high = (middle, high) if total <= size else (low, middle)
    return torch.maximum(torch.minimum(wish * low, most).long(), least)


def _spread(row_offsets: torch.Tensor, codes: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Returns rows at which each group's codes start, [sum of codes]: different ones, at random, group by group."""
    starts = [
        int(begin) + np.sort(generator.choice(int(count), int(code), replace=False))
        for begin, count, code in zip(row_offsets, row_offsets.diff(), codes)
        if code
    ]
    return torch.from_numpy(np.concatenate(starts))
