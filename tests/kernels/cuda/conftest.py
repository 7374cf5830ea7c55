# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels, on memory that shows what was not written and what was written beyond its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels.cuda.build import EmulatedProgram, compiler

from recon.kernels.cuda.program import install_program

_GUARD = 256
_POISON = 0xFF  # all bits set: NaN as a float, -1 as an integer


@pytest.fixture(scope="session")
def emulation() -> EmulatedProgram:
    """The kernels, compiled for the CPU as they are wanted."""
    if compiler() is None:
        pytest.skip("there is no C++ compiler to build the emulation of the CUDA kernels")
    return EmulatedProgram()


@pytest.fixture
def emulated(emulation: EmulatedProgram, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedProgram]:
    """Lets the backend "cuda" take tensors on the CPU."""
    guarded = GuardedMemory()
    guarded.install(monkeypatch)
    install_program(torch.device("cpu"), emulation)
    emulation.launches.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors of these sizes are slower on two
    yield emulation
    torch.set_num_threads(threads)
    install_program(torch.device("cpu"), None)
    guarded.check()


class GuardedMemory:
    """What torch allocates: poisoned, and with guards before and behind."""

    def __init__(self) -> None:
        self._blocks: list[tuple[torch.Tensor, int]] = []
        self._empty = torch.empty

    def empty(self, *shape: Any, **options: Any) -> torch.Tensor:
        """As `torch.empty`."""
        dtype = options.get("dtype") or torch.get_default_dtype()
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if len(sizes) and any(not isinstance(size, int) for size in sizes):
            return self._empty(*shape, **options)
        count = math.prod(sizes) * self._empty((), dtype=dtype).element_size()
        block = self._empty(count + 2 * _GUARD, dtype=torch.uint8).fill_(_POISON)
        self._blocks.append((block, count))
        return block[_GUARD : _GUARD + count].view(dtype).view(sizes)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def new_empty(tensor: torch.Tensor, shape: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
            return self.empty(shape, dtype=dtype or tensor.dtype)

        def empty_like(tensor: torch.Tensor, **_: Any) -> torch.Tensor:
            return self.empty(tuple(tensor.shape), dtype=tensor.dtype)

        def zeros_like(tensor: torch.Tensor, **_: Any) -> torch.Tensor:
            return self.empty(tuple(tensor.shape), dtype=tensor.dtype).zero_()

        monkeypatch.setattr(torch, "empty", self.empty)
        monkeypatch.setattr(torch, "empty_like", empty_like)
        monkeypatch.setattr(torch, "zeros_like", zeros_like)
        monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)

    def check(self) -> None:
        """Fails where a guard was written to."""
        for block, count in self._blocks:
            assert bool((block[:_GUARD] == _POISON).all()), f"something wrote before a buffer of {count} bytes"
            assert bool((block[_GUARD + count :] == _POISON).all()), f"something wrote behind a buffer of {count} bytes"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of machine code."""
    monkeypatch.setenv("RECON_CACHE", str(tmp_path))
    return tmp_path / "cubins"
