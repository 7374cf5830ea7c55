# SPDX-License-Identifier: Apache-2.0
"""What the CUDA sources declare: their kernels, and the structs that those take.

Every `recon/kernels/<op>/*.cu` is a source of its own, and the `params.h` and `cuda.h` there may declare structs;
nothing has to be listed here.  The structs are read from the headers, so that there is one definition of each:
`struct_of("BlendLaunch")` is a `ctypes.Structure` of the very layout that the compilers give it.  The headers of those
that a kernel takes keep to a plain style for that: one field per declarator, of a number, a pointer or another struct.
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

UNITS = tuple(sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("kernels/*/*.cu")))
"""The sources, each of which is compiled on its own; relative to the package."""

_TOGETHER = (
    ("projection", "binning", "blend", "ssim", "update", "density"),
    ("hash_encoding", "table_adam", "mlp", "ray_march", "ray_proposal", "occupancy", "composite"),
    ("tsdf", "raycast", "marching_cubes"),
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


def units_with(unit: str) -> tuple[str, ...]:
    """Returns the sources that are wanted as soon as this one is, itself among them: those of the same method, so that
    the first picture of splats compiles all that it needs at once and nothing else."""
    folder = Path(unit).parent.name
    together = next((names for names in _TOGETHER if folder in names), (folder,))
    return tuple(other for other in UNITS if other == unit or Path(other).parent.name in together)


def included_by(unit: str, package: Path = PACKAGE) -> tuple[str, ...]:
    """Returns the headers of ours that a source includes, however deep, relative to the package and in order."""
    found: set[str] = set()
    waiting = [unit]
    while waiting:
        for name in re.findall(r'^#include "recon/([^"]+)"', (package / waiting.pop()).read_text(), re.MULTILINE):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return tuple(sorted(found))


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
            assert name not in found, f"two kernels are called {name}"
            found[name] = Kernel(name, unit, params, int(threads))
    return found


def struct_of(name: str) -> type[ctypes.Structure]:
    """Returns the type of a struct; its fields start as zero, whatever the header says."""
    return _struct(_ALIASES.get(name, name))


@functools.cache
def _struct(name: str) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": _fields(_bodies()[name])})


@functools.cache
def _bodies() -> dict[str, str]:
    """What stands between the braces of each struct."""
    found: dict[str, str] = {}
    for header in sorted([*PACKAGE.glob("kernels/*/params.h"), *PACKAGE.glob("kernels/*/*.h")]):
        if header.name != "params.h" and not header.with_suffix(".cu").exists():
            continue
        text = re.sub(r"//[^\n]*", "", header.read_text())
        for name, body in re.findall(r"struct (\w+) \{(.*?)\n\};", text, re.DOTALL):
            assert found.get(name, body) == body, f"two structs are called {name}"
            found[name] = body
    return found


def _fields(body: str) -> list[tuple[str, Any]]:
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
                field = _TYPES.get(kind) or struct_of(kind)
            fields.append((match[2], field * int(match[3]) if match[3] else field))
    return fields
