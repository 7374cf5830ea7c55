# SPDX-License-Identifier: Apache-2.0
"""Tells what is installed, which devices and instruction sets there are, and the command that mends what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata

from recon.cli.command import CommonOptions, Outcome
from recon.cli.doctor_cuda import findings, look
from recon.errors import ReconError
from recon.progress import Progress

REQUIRED = (
    "torch",
    "pycolmap",
    "viser",
    "tyro",
    "trimesh",
    "numpy",
    "scipy",
    "pillow",
    "opencv-python-headless",
    "av",
    "rich",
    "safetensors",
    "jaxtyping",
    "fast-simplification",
    "scikit-image",
)
OPTIONAL = {
    "gsplat": ("gsplat", "another rasterizer for NVIDIA GPUs"),
    "open3d": ("mesh", "Poisson surfaces"),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon doctor`."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `fix` is the command that mends it, `required` says whether recon needs it."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    required: bool = True


def execute(options: Options, progress: Progress) -> Outcome:
    """Looks at everything and reports; exit code 3 when something that recon needs is missing."""
    checks = examine()
    broken = [check for check in checks if check.required and not check.ok]
    rows = [(("✓ " if c.ok else "✗ " if c.required else "– ") + c.name, c.found) for c in checks]
    advice = [f"{check.name}: {check.fix}" for check in checks if not check.ok and check.fix]
    return Outcome(
        report={"checks": [asdict(check) for check in checks], "healthy": not broken},
        title="recon doctor",
        rows=rows,
        attention=[f"{check.name} is missing or broken: {check.fix or check.found}" for check in broken],
        lines=(["", "What else could be installed:", *advice] if advice else ["", "Everything is in place."]),
    )


def examine() -> list[Check]:
    """Returns all checks, in the order in which a person would read them."""
    checks = [_python(), *_machine(), _kernels()]
    checks += [_package(name) for name in REQUIRED]
    checks += _cuda()
    checks += [_package(name, extra, purpose) for name, (extra, purpose) in OPTIONAL.items()]
    checks += [_browser(), _lpips()]
    return checks


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, platform.python_version(), "" if ok else "install Python 3.11 or newer")


def _machine() -> list[Check]:
    free = shutil.disk_usage(os.getcwd()).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_bytes()
    return [
        Check("Machine", True, f"{platform.machine()}, {cores} cores, {memory / 1e9:.1f} GB of memory"),
        Check("Free disk here", free > 2e9, f"{free / 1e9:.1f} GB", "free at least 2 GB", required=False),
    ]


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 0.0


def _kernels() -> Check:
    try:
        from recon.kernels.native import active_isa, native, supported_isas

        found = f"{active_isa()} in use of {', '.join(supported_isas())}; {native().max_threads()} threads"
        return Check("CPU kernels", True, found)
    except ReconError as error:
        return Check("CPU kernels", False, error.found, error.fix)


def _package(name: str, extra: str = "", purpose: str = "") -> Check:
    required = not extra
    fix = "pip install --upgrade recon" if required else f'pip install "recon[{extra}]"  ({purpose})'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, False, "not installed", fix, required)
    if name == "pycolmap" and tuple(int(part) for part in version.split(".")[:2]) < (4, 1):
        return Check(name, False, f"{version}: matches 4 to 6 times slower", 'pip install "pycolmap>=4.1.1"', required)
    return Check(name, True, version, required=required)


def _cuda() -> list[Check]:
    return [Check(f.name, f.ok, f.found, f.advice, required=False) for f in findings(look())]


def _browser() -> Check:
    names = ("chromium", "chromium-browser", "google-chrome", "firefox", "xdg-open", "open")
    found = next((name for name in names if shutil.which(name)), "")
    return Check("Web browser", bool(found), found or "none found; open the printed address elsewhere", required=False)


def _lpips() -> Check:
    path = os.environ.get("RECON_LPIPS_WEIGHTS", "")
    if path and os.path.isfile(path):
        return Check("LPIPS weights", True, path, required=False)
    found = "not at hand; `recon eval` leaves LPIPS out and says how to get them"
    return Check("LPIPS weights", True, found, required=False)
