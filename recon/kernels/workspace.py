# SPDX-License-Identifier: Apache-2.0
"""Memory that lives from step to step, so that a training in its stride allocates nothing.

A fresh buffer of a few megabytes costs more than it looks: the system hands its pages out one by one, each cleared when
it is first touched, in every step anew.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

_GROWTH = 1.25


class Workspace:
    """Named buffers that only grow.  What is taken under a name overwrites what was taken under it before."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._buffers: dict[str, torch.Tensor] = {}
        self._taken: dict[str, torch.Tensor] = {}
        self.generation = 0
        """How often memory was got; an address that was taken before it last changed may be no one's now."""

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Returns an uninitialised tensor [*shape]; contiguous, and the same memory as long as it fits.

        Each name keeps to one dtype.
        """
        taken = self._taken.get(name)
        if taken is not None and taken.shape == shape and taken.dtype == dtype:
            return taken
        count = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < count:
            # The first time exactly; a buffer that grows once will grow again.
            room = count if buffer is None else max(count, int(buffer.numel() * _GROWTH))
            self._buffers.pop(name, None)
            self._taken.pop(name, None)
            self.generation += 1
            buffer = self._buffers[name] = torch.empty(max(room, 1), dtype=dtype, device=self._device)
        assert buffer.dtype == dtype, f"workspace buffer {name} is {buffer.dtype}, not {dtype}"
        taken = self._taken[name] = buffer[:count].view(shape)
        return taken

    def bytes(self) -> int:
        """Returns the memory that is held."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())


class Overlaid(Workspace):
    """A workspace that gives a caller's tensors under some names; all else is the other workspace's."""

    def __init__(self, below: Workspace, given: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._below, self._given = below, given

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        given = self._given.get(name)
        if given is None:
            return self._below.take(name, shape, dtype)
        assert given.shape == shape, f"{name} is given as {tuple(given.shape)} and wanted as {shape}"
        assert given.dtype == dtype
        return given

    def bytes(self) -> int:
        return self._below.bytes()


class Loans:
    """Memory of pictures that are given away; it is lent again once nobody holds the tensor or a view of it.

    A picture of two megapixels has 33 MB, whose pages would otherwise be cleared anew for each: a tenth of the time
    that rendering a million Gaussians takes, and far more where the system finds no large pages.
    """

    def __init__(self, most: int = 4) -> None:
        """`most`: how many pieces of memory are remembered; those beyond are plainly given away."""
        self._most = most
        self._memories: list[Any] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Returns an uninitialised float32 CPU tensor [*shape], contiguous, that nobody else holds."""
        import numpy as np

        free = _holders([np.empty(1)])[0]
        lent = [count > free for count in _holders(self._memories)]
        self._memories = [memory for memory, is_lent in zip(self._memories, lent) if is_lent or memory.shape == shape]
        for memory, count in zip(self._memories, _holders(self._memories)):
            if memory.shape == shape and count == free:
                return torch.from_numpy(memory)
        fresh = np.empty(shape, dtype=np.float32)
        if len(self._memories) < self._most:
            self._memories.append(fresh)
        return torch.from_numpy(fresh)


def _holders(memories: list[Any]) -> list[int]:
    """Returns how many references there are to each; a tensor of it, or what a tensor became, holds one."""
    return [sys.getrefcount(memory) for memory in memories]
