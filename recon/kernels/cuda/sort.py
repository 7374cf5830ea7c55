# SPDX-License-Identifier: Apache-2.0
"""Queues the radix sort and the sums over blocks; see sort.cu."""

from __future__ import annotations

import torch

from recon.kernels.cuda.program import Program, params_of
from recon.kernels.workspace import Workspace

_TILE = 4096
_DIGITS = 256
_HISTOGRAM_BLOCKS = 1024


def sort_pairs(
    program: Program,
    workspace: Workspace,
    pairs: tuple[torch.Tensor, torch.Tensor],
    count: torch.Tensor,
    passes: int,
    name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorts by the lowest `passes` bytes of the keys, stably, and returns where keys and values stand then.

    Args:
        program: runs the kernels.
        workspace: keeps the scratch memory and maybe the result, under names that begin with `name`.
        pairs: keys and values, [capacity] int32 each (keys count as unsigned); overwritten.
        count: [1] int64 on the device, how many there are; it is not read here.
        passes: 1 to 4.
        name: of the buffers.
    """
    capacity = pairs[0].shape[0]
    if capacity == 0:
        return pairs
    tiles = -(-capacity // _TILE)
    words = 4 * _DIGITS + passes * (tiles * _DIGITS + 1)
    scratch = program.clear(workspace.take(f"{name}.sort", (words,), torch.int32))
    other = tuple(workspace.take(f"{name}.other {what}", (capacity,), torch.int32) for what in ("keys", "values"))
    histograms, status, tickets = scratch[: 4 * _DIGITS], scratch[4 * _DIGITS :], scratch[words - passes :]
    params = params_of("SortParams", keys_in=pairs[0], count=count, histograms=histograms, passes=passes)
    program.launch_blocks("sort_histogram", min(-(-capacity // 1024), _HISTOGRAM_BLOCKS), params)
    here, there = pairs, (other[0], other[1])
    for number in range(passes):
        params = params_of(
            "SortParams",
            keys_in=here[0], values_in=here[1], keys_out=there[0], values_out=there[1], count=count,
            histograms=histograms, status=status[number * tiles * _DIGITS :], ticket=tickets[number:],
            number=number, passes=passes,
        )  # fmt: skip
        program.launch_blocks("sort_pass", tiles, params)
        here, there = there, here
    return here
