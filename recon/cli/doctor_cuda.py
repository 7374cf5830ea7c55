# SPDX-License-Identifier: Apache-2.0
"""What `recon doctor` says of NVIDIA GPUs: what is there, and one line of advice for the usual troubles."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from recon.errors import ReconError

LEAST_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPUs that the kernels are compiled for: Turing, 2018."""


@dataclass(frozen=True)
class CudaFacts:
    """What was found.

    Attributes:
        torch_cuda: the CUDA version that torch was built for; empty for a CPU build.
        gpus: name and compute capability of each GPU that torch sees.
        driver: the newest CUDA version that the driver knows; None where there is no driver.
        nvrtc: the version of NVRTC; None where it is missing.
        nvrtc_trouble: why it is missing.
    """

    torch_cuda: str = ""
    gpus: tuple[tuple[str, tuple[int, int]], ...] = ()
    driver: tuple[int, int] | None = None
    nvrtc: tuple[int, int] | None = None
    nvrtc_trouble: str = ""

    @property
    def has_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU, seen by torch or not."""
        return bool(self.gpus) or self.driver is not None


@dataclass(frozen=True)
class CudaFinding:
    """One line of the report: what it is about, whether all is well, what was found, and what to do if not."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def look() -> CudaFacts:
    """Looks at this machine; nothing is compiled and no GPU memory is taken."""
    torch: Any = import_module("torch")
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpus.append((torch.cuda.get_device_name(index), tuple(torch.cuda.get_device_capability(index))))
    nvrtc, trouble = None, ""
    try:
        from recon.kernels.cuda.compiler import nvrtc_version

        nvrtc = nvrtc_version()
    except ReconError as error:
        trouble = error.found
    return CudaFacts(torch.version.cuda or "", tuple(gpus), _driver_version(), nvrtc, trouble)


def _driver_version() -> tuple[int, int] | None:
    try:
        from cuda.bindings import driver

        status, version = driver.cuDriverGetVersion()
        if int(status) == 0 and version > 0:
            return version // 1000, version % 1000 // 10
    except (ImportError, RuntimeError, OSError):
        pass
    return (0, 0) if shutil.which("nvidia-smi") else None


def findings(facts: CudaFacts) -> list[CudaFinding]:
    """Returns the lines of the report."""
    return [_gpus(facts), _driver(facts), _nvrtc(facts)]


def _gpus(facts: CudaFacts) -> CudaFinding:
    name = "NVIDIA GPU"
    if not facts.has_gpu:
        return CudaFinding(name, True, "none; the CPU kernels are used")
    if not facts.torch_cuda:
        return CudaFinding(
            name, False, "there is a driver, but this torch is a CPU build",
            "install a CUDA build of torch: see the selector at pytorch.org",
        )  # fmt: skip
    if not facts.gpus:
        return CudaFinding(
            name, False, f"torch for CUDA {facts.torch_cuda} sees none",
            "update the NVIDIA driver, or unset CUDA_VISIBLE_DEVICES; `nvidia-smi` must list the GPU",
        )  # fmt: skip
    listed = ", ".join(f"{gpu} ({major}.{minor})" for gpu, (major, minor) in facts.gpus)
    found = f"{listed}; torch for CUDA {facts.torch_cuda}"
    if facts.gpus[0][1] < LEAST_CAPABILITY:
        return CudaFinding(
            name, False, found,
            f"the first is older than compute capability {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}: use --device cpu",
        )  # fmt: skip
    if len(facts.gpus) > 1:
        found += "; the first is used, CUDA_VISIBLE_DEVICES=1 chooses the second"
    return CudaFinding(name, True, found)


def _driver(facts: CudaFacts) -> CudaFinding:
    name = "NVIDIA driver"
    if facts.driver is None:
        return CudaFinding(name, True, "none")
    if facts.driver == (0, 0):
        return CudaFinding(name, True, "there is one; its version is not known without the extra cuda")
    found = f"for CUDA up to {facts.driver[0]}.{facts.driver[1]}"
    if facts.nvrtc is not None and facts.nvrtc[0] > facts.driver[0]:
        return CudaFinding(
            name, False, f"{found}, and NVRTC is of CUDA {facts.nvrtc[0]}",
            "update the driver, or: pip uninstall cuda-bindings nvidia-cuda-nvrtc && pip install 'recon[cuda12]'",
        )  # fmt: skip
    return CudaFinding(name, True, found)


def _nvrtc(facts: CudaFacts) -> CudaFinding:
    name = "CUDA compiler (NVRTC)"
    if facts.nvrtc is None:
        extra = "cuda12" if facts.torch_cuda.startswith("12") else "cuda"
        advice = f"pip install 'recon[{extra}]'  (our kernels on an NVIDIA GPU)"
        return CudaFinding(name, not facts.has_gpu, "not installed", advice)
    return CudaFinding(name, True, f"{facts.nvrtc[0]}.{facts.nvrtc[1]}, compiles on the first use of a GPU")
