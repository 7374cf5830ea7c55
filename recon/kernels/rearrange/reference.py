# SPDX-License-Identifier: Apache-2.0
"""Moving rows in plain torch, by way of a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def move_rows_reference(tensors: Sequence[torch.Tensor], sources: torch.Tensor) -> None:
    """See `recon.kernels.rearrange.op.move_rows`; here the sources may come in any order."""
    for tensor in tensors:
        tensor[: len(sources)] = tensor[sources]
