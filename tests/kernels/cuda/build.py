# SPDX-License-Identifier: Apache-2.0
"""Builds the CUDA sources as C++ for the emulation in emulation.h: the very same text that NVRTC compiles."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from recon.kernels.cuda.program import Program
from recon.kernels.cuda.sources import PACKAGE, Kernel, included_by, kernels, struct_of

HERE = Path(__file__).resolve().parent
FLAGS = (
    "-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-DRECON_EMULATED",
    "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-psabi", "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
)  # fmt: skip


def compiler() -> str | None:
    """Returns the C++ compiler of this machine."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def build_unit(unit: str, folder: Path) -> Path:
    """Compiles a source into a library of its own below `folder`, unless it is there; returns its path."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in (HERE / "emulation.h", PACKAGE / unit, *(PACKAGE / name for name in included_by(unit))):
        digest.update(path.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{Path(unit).parent.name}-{Path(unit).stem}-{digest.hexdigest()[:16]}.so"
    with (folder / f"{library.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not library.exists():
            _compile(unit, library)
    return library


def _compile(unit: str, library: Path) -> None:
    found = compiler()
    assert found is not None
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [found, *FLAGS, f"-I{HERE}", f"-I{PACKAGE.parent}", "-x", "c++", "-shared", "-o", str(made)]
        done = subprocess.run([*command, str(PACKAGE / unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{unit} does not compile for the emulation:\n{done.stderr}"
        os.replace(made, library)


class EmulatedProgram(Program):
    """Runs kernels on the CPU, on tensors of the CPU; a source is compiled when the first of its kernels is wanted."""

    def __init__(self, folder: Path = PACKAGE.parent / "build" / "cuda-emulation") -> None:
        self._folder = folder
        self.launches: list[str] = []
        self._functions: dict[str, Any] = {}

    def _load(self, unit: str) -> None:
        library = ctypes.CDLL(str(build_unit(unit, self._folder)))
        for kernel in kernels().values():
            if kernel.unit != unit:
                continue
            function = getattr(library, kernel.name)
            function.argtypes = [ctypes.c_int64, ctypes.c_void_p]
            size = getattr(library, f"{kernel.name}_bytes")
            size.restype = ctypes.c_int64
            assert size() == ctypes.sizeof(struct_of(kernel.params)), f"{kernel.params} is laid out otherwise"
            self._functions[kernel.name] = function

    def start(self, kernel: Kernel, blocks: int, params: ctypes.Structure) -> None:
        self.launches.append(kernel.name)
        if kernel.name not in self._functions:
            self._load(kernel.unit)
        outcome = self._functions[kernel.name](blocks, ctypes.addressof(params))
        assert outcome == 0, f"threads of {kernel.name} wait for each other in vain"
