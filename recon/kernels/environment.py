# SPDX-License-Identifier: Apache-2.0
"""Settings of the libraries below the kernels, which those read from the environment when they are loaded."""

from __future__ import annotations

import os

TUNING = {
    # Threads that spin for long while they wait triple the time of a step on a busy machine.
    "OMP_WAIT_POLICY": "passive",
    # A sleeping thread takes up to 50 µs to wake, and a step has a dozen parallel loops: spinning for about that long
    # takes an eighth off a step of 8 ms.
    "GOMP_SPINCOUNT": "20000",
    # Large buffers on large pages: a tenth less time for what streams through the parameters of a million Gaussians.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def tune() -> None:
    """Sets what the user has not set; call it before torch or the kernels are imported."""
    for name, value in TUNING.items():
        os.environ.setdefault(name, value)
