# SPDX-License-Identifier: Apache-2.0
"""One BLAS thread per Python thread.

Matching runs pairs of photos side by side.  Left alone, numpy's OpenBLAS would start all cores for each of them, and
the threads would spin against each other at twice the cost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np


@cache
def _openblas() -> tuple[ctypes.CDLL, str] | None:
    """Finds numpy's own OpenBLAS and the suffix of its symbols; None with any other BLAS."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")) if folder.is_dir() else ():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                continue
            for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
                if hasattr(library, f"{prefix}openblas_set_num_threads{suffix}"):
                    return library, f"{prefix}openblas_%s_num_threads{suffix}"
    return None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Holds numpy's OpenBLAS to one thread for the block; does nothing with another BLAS."""
    found = _openblas()
    if found is None:
        yield
        return
    library, pattern = found
    before = getattr(library, pattern % "get")()
    getattr(library, pattern % "set")(1)
    try:
        yield
    finally:
        getattr(library, pattern % "set")(before)
