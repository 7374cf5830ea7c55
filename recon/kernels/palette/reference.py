# SPDX-License-Identifier: Apache-2.0
"""k-means within groups in plain torch, obvious rather than fast."""

from __future__ import annotations

import torch


def cluster_groups_reference(
    rows: torch.Tensor,
    weights: torch.Tensor,
    row_offsets: torch.Tensor,
    code_offsets: torch.Tensor,
    codebook: torch.Tensor,
    iterations: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `recon.kernels.palette.op.cluster_groups`; changes `codebook` in place."""
    labels = torch.zeros(len(rows), dtype=torch.int32)
    distances = torch.zeros(len(rows), dtype=rows.dtype)
    for group in range(len(row_offsets) - 1):
        begin, end = int(row_offsets[group]), int(row_offsets[group + 1])
        first, last = int(code_offsets[group]), int(code_offsets[group + 1])
        if begin == end:
            continue
        members, shares = rows[begin:end], weights[begin:end]
        codes = codebook[first:last]
        for iteration in range(iterations + 1):
            squares = (members[:, None] - codes[None]).square().sum(-1)
            nearest = squares.min(1)
            if iteration < iterations:
                _take_means(members, shares, nearest.indices, nearest.values, codes)
        labels[begin:end] = (nearest.indices + first).to(torch.int32)
        distances[begin:end] = nearest.values
    return labels, distances


def _take_means(
    rows: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor, squares: torch.Tensor, codes: torch.Tensor
) -> None:
    """Moves each code to the mean of its rows, and codes without rows to the rows that are worst off."""
    worst = iter(torch.argsort(weights * squares, descending=True, stable=True).tolist())
    for code in range(len(codes)):
        mine = chosen == code
        weight = weights[mine].double()
        if weight.sum() > 0:
            codes[code] = ((rows[mine].double() * weight[:, None]).sum(0) / weight.sum()).to(codes.dtype)
            continue
        row = next(worst, None)
        if row is not None and weights[row] * squares[row] > 0:
            codes[code] = rows[row]
