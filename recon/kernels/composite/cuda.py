# SPDX-License-Identifier: Apache-2.0
"""Truncation on CUDA; compositing itself needs nothing but its kernels."""

from __future__ import annotations

import math
from typing import Any

import torch

from recon.kernels.cuda.program import params_of, program_for

RAY_THREADS = 32
"""A warp owns a ray."""


def truncate_rays_cuda(params: Any, kept_offsets: torch.Tensor) -> int:
    """Fills `kept_offsets` [R + 1], which `params` points to, and returns the last; waits for the GPU."""
    kept_offsets[0] = 0
    rays = len(kept_offsets) - 1
    program_for(kept_offsets.device).launch("truncate_rays", RAY_THREADS * rays, params)
    kept_offsets[1:] = kept_offsets[1:].cumsum(0, dtype=torch.int32)
    return int(kept_offsets[-1])


def compact_rows_cuda(
    arrays: list[torch.Tensor], moved: list[torch.Tensor], offsets: torch.Tensor, kept_offsets: torch.Tensor
) -> None:
    """Moves the kept rows of each array to their new places."""
    rays = len(offsets) - 1
    params = params_of("CompactParams", offsets=offsets, kept_offsets=kept_offsets, rays=rays, arrays=len(arrays))
    for index, (array, to) in enumerate(zip(arrays, moved)):
        getattr(params, "from")[index], params.to[index] = array.data_ptr(), to.data_ptr()
        params.words[index] = math.prod(array.shape[1:])
    program_for(offsets.device).launch("compact_rows", RAY_THREADS * rays, params)
