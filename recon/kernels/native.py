# SPDX-License-Identifier: Apache-2.0
"""Finds the CPU kernel module that fits this processor.

The same sources are compiled once per instruction set (baseline, AVX2 with FMA, AVX-512); the best that the
processor offers is loaded once.  `RECON_ISA=baseline|avx2|avx512` forces one.
"""

from __future__ import annotations

import functools
import os
from importlib import import_module
from types import ModuleType

from recon.errors import ReconError

ISAS = ("baseline", "avx2", "avx512")


@functools.cache
def supported_isas() -> tuple[str, ...]:
    """Returns the instruction sets that this processor runs, worst first."""
    best = _load("baseline").detect_isa()
    return ISAS[: ISAS.index(best) + 1]


@functools.cache
def native(isa: str | None = None) -> ModuleType:
    """Returns the kernel module for `isa`, by default `RECON_ISA` or the best one.

    Raises:
        ReconError: the extension is not built, or the processor lacks the instruction set that was asked for.
    """
    supported = supported_isas()
    chosen = isa or os.environ.get("RECON_ISA", "") or supported[-1]
    if chosen not in supported:
        raise ReconError(
            "choosing the instruction set of the CPU kernels",
            f"{chosen!r} was asked for (RECON_ISA)",
            f"one of {', '.join(supported)}",
            "unset RECON_ISA to take the best",
        )
    return _load(chosen)


def active_isa() -> str:
    """Returns the name of the instruction set in use."""
    return native().__name__.rsplit("_", 1)[-1]


def _load(isa: str) -> ModuleType:
    try:
        return import_module(f"recon.kernels._cpu_{isa}")
    except ImportError as error:
        raise ReconError(
            "loading the CPU kernels",
            f"the module _cpu_{isa} is missing or broken ({error})",
            "the compiled extension",
            "install recon with `pip install .` (it needs a C++ compiler)",
        ) from error
