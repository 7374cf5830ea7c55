# SPDX-License-Identifier: Apache-2.0
"""Moving rows on CUDA: gathered into other memory, tensor by tensor, and copied back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recon.kernels.cuda.program import params_of, program_for

_WORD = 4


def move_rows_cuda(tensors: Sequence[torch.Tensor], sources: torch.Tensor) -> None:
    """As `recon.kernels.rearrange.op.move_rows`; rows of no multiple of four bytes go through torch."""
    count = len(sources)
    if count == 0:
        return
    row_bytes = [tensor[:1].numel() * tensor.element_size() for tensor in tensors]
    scratch = torch.empty(count * max(row_bytes), dtype=torch.uint8, device=sources.device)
    for tensor, size in zip(tensors, row_bytes):
        if size % _WORD or tensor.data_ptr() % _WORD:
            tensor[:count] = tensor[sources]
            continue
        words = size // _WORD
        params = params_of(
            "GatherLaunch", rows=tensor.data_ptr(), moved=scratch, sources=sources, count=count, words=words
        )
        program_for(sources.device).launch("gather_rows", count * words, params)
        tensor[:count] = scratch[: count * size].view(tensor.dtype).view(tensor[:count].shape)
