# SPDX-License-Identifier: Apache-2.0
"""From `--device` to a torch device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.errors import ReconError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """Returns the device for "auto", "cpu" or "cuda".

    Raises:
        ReconError: CUDA was asked for and torch sees no NVIDIA GPU.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ReconError(
            "choosing the device",
            "torch sees no NVIDIA GPU",
            "a GPU with its driver, and a torch that was built for CUDA",
            "use --device cpu, or see `recon doctor`",
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
