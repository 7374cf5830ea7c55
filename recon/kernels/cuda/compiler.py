# SPDX-License-Identifier: Apache-2.0
"""From the CUDA sources in this package to machine code, by NVRTC: no toolkit, no host compiler and no GPU are needed.

The code of each architecture is kept in the user's cache folder, under a name made of all that it depends on.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recon.errors import ReconError
from recon.files import atomic_path
from recon.kernels.cuda.sources import PACKAGE, UNITS, included_by

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities, times ten, that every source compiles for."""

_OPTIONS = (
    "-std=c++17",
    "-default-device",  # the math headers say nothing of where their functions run
    "-fmad=true",
    "-prec-div=false",
    "-prec-sqrt=false",
    "-lineinfo",
)
# NVRTC has no C++ library; this is all that the headers ask of it.
_LIBRARY = {
    "cstdint": """#pragma once
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
typedef unsigned long long uint64_t; typedef unsigned long long uintptr_t;
""",
    "cmath": "#pragma once\nnamespace std { using ::log; using ::sqrt; using ::abs; }\n",
    "cstring": "#pragma once\n",
}
_MAGIC = b"recon cubin 1\n"


def nvrtc() -> Any:
    """Returns the bindings of NVRTC.

    Raises:
        ReconError: the packages of the extra `cuda` are missing or their library cannot be loaded.
    """
    try:
        from cuda.bindings import nvrtc as bindings

        _check(bindings, bindings.nvrtcVersion(), "asking NVRTC for its version")
    except (ImportError, RuntimeError, OSError) as error:
        raise ReconError(
            "loading the compiler of the CUDA kernels (NVRTC)",
            f"it is not there ({str(error).splitlines()[0]})",
            "the packages cuda-bindings and nvidia-cuda-nvrtc",
            "pip install 'recon[cuda]'",
        ) from error
    return bindings


def nvrtc_version() -> tuple[int, int]:
    """Returns major and minor version of NVRTC; raises as `nvrtc`."""
    bindings = nvrtc()
    major, minor = _check(bindings, bindings.nvrtcVersion(), "asking NVRTC for its version")
    return int(major), int(minor)


def compile_unit(unit: str, architecture: int) -> bytes:
    """Returns the cubin of one source, which runs on this architecture and on later ones of the same generation.

    Raises:
        ReconError: no NVRTC, an architecture that it does not know, or (which would be our fault) a compile error.
    """
    bindings = nvrtc()
    doing = f"compiling recon/{unit} for sm_{architecture}"
    names, texts = _headers(unit)
    source = (PACKAGE / unit).read_text()
    program = _check(
        bindings,
        bindings.nvrtcCreateProgram(source.encode(), unit.encode(), len(names), texts, names),
        doing,
    )
    options = [option.encode() for option in (*_OPTIONS, f"-arch=sm_{architecture}")]
    outcome = bindings.nvrtcCompileProgram(program, len(options), options)
    if int(outcome[0]) != 0:
        log = b" " * _check(bindings, bindings.nvrtcGetProgramLogSize(program), doing)
        _check(bindings, bindings.nvrtcGetProgramLog(program, log), doing)
        found = log.decode(errors="replace").strip("\0 \n") or str(outcome[0])
        raise ReconError(
            doing, found[:2000], "a GPU of compute capability 7.5 or later, and sources as they were released"
        )
    cubin = b" " * _check(bindings, bindings.nvrtcGetCUBINSize(program), doing)
    _check(bindings, bindings.nvrtcGetCUBIN(program, cubin), doing)
    bindings.nvrtcDestroyProgram(program)
    return cubin


def cubins(architecture: int, units: Sequence[str] = UNITS) -> dict[str, bytes]:
    """Returns the machine code of these sources for an architecture, from the cache where it is there."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(units, pool.map(lambda unit: cached_cubin(unit, architecture), units)))


def cached_cubin(unit: str, architecture: int) -> bytes:
    """As `compile_unit`, but compiles once only; a cache that cannot be read or written costs time, nothing else."""
    path = (
        cache_folder()
        / f"{Path(unit).parent.name}-{Path(unit).stem}-sm{architecture}-{_fingerprint(unit, architecture)}.cubin"
    )
    found = _read_cache(path)
    if found is not None:
        return found
    cubin = compile_unit(unit, architecture)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(_MAGIC + struct.pack("<Q", len(cubin)) + hashlib.sha256(cubin).digest() + cubin)
    except (OSError, ReconError):
        pass
    return cubin


def cache_folder() -> Path:
    """Returns where machine code is kept: `RECON_CACHE`, or the place that the system has for such things."""
    given = os.environ.get("RECON_CACHE", "")
    if given:
        return Path(given) / "cubins"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "recon" / "cubins"


def _read_cache(path: Path) -> bytes | None:
    """Returns the code in a file; None where there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + 8 + 32
    if len(content) < start or not content.startswith(_MAGIC):
        return None
    (size,) = struct.unpack_from("<Q", content, len(_MAGIC))
    cubin = content[start:]
    if len(cubin) != size or hashlib.sha256(cubin).digest() != content[start - 32 : start]:
        return None
    return cubin


def _fingerprint(unit: str, architecture: int) -> str:
    """A hash of all that the code depends on."""
    digest = hashlib.sha256()
    names, texts = _headers(unit)
    parts = [unit.encode(), (PACKAGE / unit).read_bytes(), *names, *texts]
    parts += [option.encode() for option in _OPTIONS]
    parts += [str(architecture).encode(), str(nvrtc_version()).encode()]
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()[:32]


def _headers(unit: str) -> tuple[list[bytes], list[bytes]]:
    """Returns names and texts of everything that a source includes."""
    named = {f"recon/{name}": (PACKAGE / name).read_text() for name in included_by(unit, PACKAGE)}
    named.update(_LIBRARY)
    return [name.encode() for name in named], [text.encode() for text in named.values()]


def _check(bindings: Any, outcome: Any, doing: str) -> Any:
    """Returns what a call gave besides its status."""
    status, *results = outcome
    if int(status) != 0:
        raise ReconError(doing, f"NVRTC reports {status.name}", "success")
    return results[0] if len(results) == 1 else tuple(results)
