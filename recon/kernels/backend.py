# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an operation runs: chosen once, on the tensors' device, and never silently another.

`cpu` is our SIMD extension, `cuda` our CUDA kernels, `reference` plain torch on any device, `gsplat` the gsplat library
on CUDA.
"""

from __future__ import annotations

from typing import Literal

import torch

from recon.errors import ReconError
from recon.kernels.cuda.program import has_program

Backend = Literal["auto", "cpu", "cuda", "gsplat", "reference"]


def resolve_backend(backend: Backend, device: torch.device, available: tuple[str, ...]) -> str:
    """Returns the backend that runs an operation on `device`.

    Args:
        backend: what the caller asked for; "auto" takes the best for the device.
        device: where the tensors are.
        available: the backends that the operation implements.

    Raises:
        ReconError: the backend does not exist for the operation or cannot run on the device.
    """
    if backend == "auto":
        best = ("cpu",) if device.type == "cpu" else ("cuda", "gsplat") if device.type == "cuda" else ()
        return next((name for name in best if name in available), "reference")
    doing = f"choosing the backend {backend!r} for tensors on {device}"
    if backend not in available:
        raise ReconError(doing, "this operation does not have it", f"one of {', '.join(available)}")
    if backend == "cpu" and device.type != "cpu":
        raise ReconError(doing, "it runs on the CPU only", "tensors on the CPU", "use --device cpu")
    if backend in ("gsplat", "cuda") and device.type != "cuda" and not (backend == "cuda" and has_program(device)):
        raise ReconError(doing, "it needs an NVIDIA GPU", "tensors on a CUDA device", "use --backend auto")
    return backend
