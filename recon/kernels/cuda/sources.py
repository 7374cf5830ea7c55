# SPDX-License-Identifier: Apache-2.0
"""What the CUDA sources declare: their kernels, and the structs that those take.

The structs are read from the headers, so that there is one definition of each: `struct_of("BlendLaunch")` is a
`ctypes.Structure` of the very layout that the compilers give it.  The headers keep to a plain style for that: one field
per declarator, of a number, a pointer or another struct.
"""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2]
"""The folder `recon`."""

UNITS = (
    "kernels/projection/cuda.cu",
    "kernels/binning/cuda.cu",
    "kernels/cuda/sort.cu",
    "kernels/blend/cuda.cu",
    "kernels/ssim/cuda.cu",
    "kernels/update/cuda.cu",
    "kernels/adam/cuda.cu",
    "kernels/rearrange/cuda.cu",
    "kernels/tsdf/cuda.cu",
)
"""The sources, each of which is compiled on its own; relative to the package."""

_HEADERS = (
    "kernels/projection/params.h",
    "kernels/projection/cuda.h",
    "kernels/binning/cuda.h",
    "kernels/cuda/sort.h",
    "kernels/blend/cuda.h",
    "kernels/ssim/params.h",
    "kernels/ssim/cuda.h",
    "kernels/update/params.h",
    "kernels/update/cuda.h",
    "kernels/adam/params.h",
    "kernels/rearrange/cuda.h",
    "kernels/tsdf/params.h",
)
_ALIASES = {"ProjectionParams": "ProjectionParamsOf"}
_TYPES: dict[str, Any] = {
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "bool": ctypes.c_bool,
}


@dataclass(frozen=True)
class Kernel:
    """A kernel: the source that holds it, the struct that it takes and how many threads a block has."""

    name: str
    unit: str
    params: str
    threads: int


@functools.cache
def kernels() -> dict[str, Kernel]:
    """Returns all kernels by name."""
    found = {}
    for unit in UNITS:
        text = (PACKAGE / unit).read_text()
        for name, params, threads in re.findall(r"RECON_KERNEL\((\w+), (\w+), (\d+)\)", text):
            found[name] = Kernel(name, unit, params, int(threads))
    return found


@functools.cache
def struct_of(name: str) -> type[ctypes.Structure]:
    """Returns the type of a struct; its fields start as zero, whatever the header says."""
    return _structs()[_ALIASES.get(name, name)]


@functools.cache
def _structs() -> dict[str, type[ctypes.Structure]]:
    found: dict[str, type[ctypes.Structure]] = {}
    for header in _HEADERS:
        text = re.sub(r"//[^\n]*", "", (PACKAGE / header).read_text())
        for name, body in re.findall(r"struct (\w+) \{(.*?)\n\};", text, re.DOTALL):
            found[name] = type(name, (ctypes.Structure,), {"_fields_": _fields(body, found)})
    return found


def _fields(body: str, known: dict[str, type[ctypes.Structure]]) -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    for statement in re.sub(r"=\s*(\{[^}]*\}|[^,;]*)", "", body).split(";"):
        words = statement.replace("const ", "").split(None, 1)
        if len(words) < 2:
            continue
        kind, declarators = words
        for declarator in declarators.split(","):
            match = re.fullmatch(r"(\*?)\s*(\w+)(?:\[(\d+)\])?", declarator.strip())
            assert match is not None, f"cannot read the declaration {statement.strip()!r}"
            if kind.endswith("*") or match[1]:
                field: Any = ctypes.c_void_p
            else:
                field = _TYPES.get(kind) or known[_ALIASES.get(kind, kind)]
            fields.append((match[2], field * int(match[3]) if match[3] else field))
    return fields
