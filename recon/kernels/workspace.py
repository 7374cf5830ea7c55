# SPDX-License-Identifier: Apache-2.0
"""Memory that lives from step to step, so that a training in its stride allocates nothing.

A fresh buffer of a few megabytes costs more than it looks: the system hands its pages out one by one, each cleared when
it is first touched, in every step anew.
"""

from __future__ import annotations

import math

import torch

_GROWTH = 1.25


class Workspace:
    """Named buffers that only grow.  What is taken under a name overwrites what was taken under it before."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._buffers: dict[str, torch.Tensor] = {}
        self._taken: dict[str, torch.Tensor] = {}

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
            buffer = self._buffers[name] = torch.empty(max(room, 1), dtype=dtype, device=self._device)
        assert buffer.dtype == dtype, f"workspace buffer {name} is {buffer.dtype}, not {dtype}"
        taken = self._taken[name] = buffer[:count].view(shape)
        return taken

    def bytes(self) -> int:
        """Returns the memory that is held."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())
