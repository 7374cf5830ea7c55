# SPDX-License-Identifier: Apache-2.0
"""Shape, type and layout checks shared by the operations; a kernel is called with what these let through."""

from __future__ import annotations

import torch

from recon.errors import ReconError


def check_tensor(
    operation: str,
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int | None, ...],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Returns `tensor` made contiguous, or refuses it.

    Args:
        operation, name: what to call them in the message.
        tensor: the argument.
        shape: what each axis must be; None accepts any length.
        dtype: what the elements must be.

    Raises:
        ReconError: another shape or type.
    """
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(want is not None and want != have for want, have in zip(shape, found)):
        wanted = "×".join("any" if want is None else str(want) for want in shape)
        raise ReconError(f"calling {operation}", f"{name} has shape {'×'.join(map(str, found)) or '()'}", wanted)
    if tensor.dtype != dtype:
        raise ReconError(f"calling {operation}", f"{name} is {tensor.dtype}", f"{dtype}")
    return tensor if tensor.is_contiguous() else tensor.contiguous()
