# SPDX-License-Identifier: Apache-2.0
"""Builds the CUDA sources as C++ for the emulation in emulation.h: the very same text that NVRTC compiles."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recon.kernels.cuda.program import Program
from recon.kernels.cuda.sources import PACKAGE, UNITS, Kernel, kernels, struct_of

HERE = Path(__file__).resolve().parent
FLAGS = (
    "-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-DRECON_EMULATED",
    "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-psabi", "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
)  # fmt: skip


def compiler() -> str | None:
    """Returns the C++ compiler of this machine."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def build(folder: Path) -> list[Path]:
    """Compiles each source into a library of its own below `folder`, unless it is there; returns their paths."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted([*HERE.glob("*.h"), *PACKAGE.glob("kernels/*/*.h"), *PACKAGE.glob("kernels/*/*.cu*")]):
        digest.update(path.read_bytes())
    folder = folder / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda unit: _build_unit(unit, folder), UNITS))


def _build_unit(unit: str, folder: Path) -> Path:
    library = folder / f"{Path(unit).parent.name}.so"
    if library.exists():
        return library
    found = compiler()
    assert found is not None
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / library.name
        command = [found, *FLAGS, f"-I{HERE}", f"-I{PACKAGE.parent}", "-x", "c++", "-shared", "-o", str(made)]
        done = subprocess.run([*command, str(PACKAGE / unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{unit} does not compile for the emulation:\n{done.stderr}"
        os.replace(made, library)
    return library


class EmulatedProgram(Program):
    """Runs kernels on the CPU, on tensors of the CPU."""

    def __init__(self, libraries: list[Path]) -> None:
        loaded = dict(zip(UNITS, (ctypes.CDLL(str(path)) for path in libraries)))
        self.launches: list[str] = []
        self._functions = {}
        for kernel in kernels().values():
            function = getattr(loaded[kernel.unit], kernel.name)
            function.argtypes = [ctypes.c_int64, ctypes.c_void_p]
            size = getattr(loaded[kernel.unit], f"{kernel.name}_bytes")
            size.restype = ctypes.c_int64
            assert size() == ctypes.sizeof(struct_of(kernel.params)), f"{kernel.params} is laid out otherwise"
            self._functions[kernel.name] = function

    def start(self, kernel: Kernel, blocks: int, params: ctypes.Structure) -> None:
        self.launches.append(kernel.name)
        outcome = self._functions[kernel.name](blocks, ctypes.addressof(params))
        assert outcome == 0, f"threads of {kernel.name} wait for each other in vain"
