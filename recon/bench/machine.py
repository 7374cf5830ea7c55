# SPDX-License-Identifier: Apache-2.0
"""What a measurement was made on, without anything that names the machine or a folder on it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """The machine and the program of a measurement.

    Attributes:
        cpu: the processor's model, as it calls itself.
        cores: cores that this process may use.
        memory_gb: memory in 10⁹ bytes.
        isa: the instruction set of the kernels in use.
        threads: threads that they use unless told otherwise.
        system: operating system and architecture.
        gpu: the GPU that torch sees; empty for none.
        versions: of recon, Python, torch and numpy.
        commit: of recon's repository, with "+" where the folder differs from it; empty for an installed package.
        date: of the measurement, UTC, YYYY-MM-DD.
    """

    cpu: str
    cores: int
    memory_gb: float
    isa: str
    threads: int
    system: str
    gpu: str
    versions: dict[str, str]
    commit: str
    date: str

    @property
    def slug(self) -> str:
        """A folder name for the machine's kind: processor, cores, instruction set."""
        words = re.sub(r"\((r|tm)\)|@.*|cpu|processor", " ", self.cpu.lower())
        return "-".join([*re.findall(r"[a-z0-9.]+", words), f"{self.cores}-cores", self.isa])

    def differences(self, other: Machine) -> list[str]:
        """Returns what keeps measurements on both from being compared, in words; versions and dates may differ."""
        names = ("cpu", "cores", "isa", "system", "gpu")
        return [
            f"{name}: {getattr(self, name) or 'none'} there, {getattr(other, name) or 'none'} here"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]


def this_machine() -> Machine:
    """Returns the machine at hand."""
    import torch

    from recon.kernels.native import active_isa, native

    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(_memory_bytes() / 1e9, 1),
        isa=active_isa(),
        threads=int(native().max_threads()),
        system=f"{platform.system()} {platform.machine()}",
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        versions={"recon": _recon_version(), "python": platform.python_version(), **packages},
        commit=_commit(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 0.0


def _recon_version() -> str:
    from recon import __version__

    return __version__


def _commit() -> str:
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no") if commit else ""
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")
