# SPDX-License-Identifier: Apache-2.0
"""Launches that are written down once and replayed, with other parameters, as often as needed.

Building the parameters of some twenty kernels takes Python longer than a GPU takes for a step on a small scene.  So the
code that queues a step runs once under `recorded`, which notes its launches and starts none of them; whoever recorded
them changes a few fields and replays the rest as it is.  On a GPU a replay is one call of the driver (`graph.py`).

A sequence holds addresses.  It is as good as the memory that they name: see `Workspace.generation`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recon.kernels.cuda.program import Program, set_recorder
from recon.kernels.cuda.sources import Kernel


@dataclass(eq=False)
class Launch:
    """A kernel over so many blocks, with parameters of its own that may be changed between replays."""

    kernel: Kernel
    blocks: int
    params: Any


class Sequence:
    """Launches in order."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.prepared: Any = None
        """What a program made of the sequence, to replay it faster."""

    def of(self, *names: str) -> list[Launch]:
        """Returns the launches of these kernels."""
        return [launch for launch in self.launches if launch.kernel.name in names]


class _Recorder(Program):
    """Notes launches instead of starting them."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    def start(self, kernel: Kernel, blocks: int, params: ctypes.Structure) -> None:
        self._sequence.launches.append(Launch(kernel, blocks, type(params).from_buffer_copy(params)))


@contextlib.contextmanager
def recorded() -> Iterator[Sequence]:
    """Lets this thread's launches, on whatever device, be noted and not started; what they read is not there then."""
    sequence = Sequence()
    before = set_recorder(_Recorder(sequence))
    try:
        yield sequence
    finally:
        set_recorder(before)
