# SPDX-License-Identifier: Apache-2.0
"""What `tests/gpu/run.sh` runs; see there.

Each part stands alone: one that fails is reported and the others go on.  The exit code is 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Report:
    """What came out: one line for each check, and numbers for the table."""

    device: torch.device
    emulated: bool
    small: bool
    begun: float = field(default_factory=time.perf_counter)
    lines: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, ok: bool, found: str) -> None:
        """Notes a check and prints it."""
        self.lines.append({"name": name, "ok": ok, "found": found})
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {found}")

    def relative(self, name: str, found: torch.Tensor, expected: torch.Tensor, most: float = 1e-3) -> None:
        """Checks ‖found − expected‖ / ‖expected‖; NaN does not pass."""
        exact = expected.detach().double().cpu()
        error = float((found.detach().double().cpu() - exact).norm() / exact.norm().clamp_min(1e-30))
        self.check(name, error <= most, f"relative error {error:.2e} (at most {most:.0e})")

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.begun

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def environment(report: Report) -> None:
    """Versions, and how long the first and the second start of each method's kernels take."""
    import tempfile

    from recon.kernels.cuda import compiler
    from recon.kernels.cuda.sources import UNITS, units_with

    numbers = report.numbers
    numbers["torch"], numbers["nvrtc"] = torch.__version__, ".".join(map(str, compiler.nvrtc_version()))
    architecture = 90
    if not report.emulated:
        properties = torch.cuda.get_device_properties(report.device)
        architecture = 10 * properties.major + properties.minor
        numbers["gpu"], numbers["multiprocessors"] = properties.name, properties.multi_processor_count
        numbers["driver"] = _driver_version()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RECON_CACHE"] = folder
        for units in dict.fromkeys(units_with(unit) for unit in UNITS):
            seconds = []
            for _ in range(2):
                begun = time.perf_counter()
                compiler.cubins(architecture, units)
                seconds.append(round(time.perf_counter() - begun, 3))
            what = ", ".join(Path(unit).parent.name for unit in units)
            report.check(
                f"compiling {what}", report.emulated or seconds[0] <= 10, f"{seconds[0]} s, then {seconds[1]} s"
            )
        del os.environ["RECON_CACHE"]
    print({name: value for name, value in numbers.items() if not name.endswith(" s")})


def _driver_version() -> str:
    import subprocess

    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


PARTS: dict[str, Callable[[Report], None]] = {"environment": environment}


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks and measures the CUDA kernels.")
    parser.add_argument("--emulate", action="store_true", help="on a CPU, on tiny scenes")
    parser.add_argument("--small", action="store_true", help="small scenes, as the sanitizer needs them")
    parser.add_argument("--only", default="", help="parts to run, separated by commas: " + ", ".join(_parts()))
    parser.add_argument("--seconds", type=float, default=450, help="no part starts after this")
    arguments = parser.parse_args()
    if not arguments.emulate and not torch.cuda.is_available():
        print("torch sees no NVIDIA GPU; --emulate goes through everything on a CPU")
        return 1
    device = torch.device("cpu" if arguments.emulate else "cuda:0")
    report = Report(device, arguments.emulate, arguments.small or arguments.emulate)
    if arguments.emulate:
        _install_emulation()
    wanted = [name for name in arguments.only.split(",") if name] or list(_parts())
    for name in wanted:
        if report.seconds() > arguments.seconds:
            report.check(name, False, "left out: there was no time")
            continue
        print(f"---- {name} ({report.seconds():.0f} s)")
        try:
            _parts()[name](report)
            report.synchronize()
        except Exception as error:
            traceback.print_exc()
            report.check(name, False, f"stopped by {type(error).__name__}: {str(error)[:300]}")
    return _finish(report)


def _parts() -> dict[str, Callable[[Report], None]]:
    from gpu.agreement import numbers
    from gpu.speed import bandwidth, speed
    from gpu.training import training

    return {**PARTS, "numbers": numbers, "bandwidth": bandwidth, "speed": speed, "training": training}


def _install_emulation() -> None:
    from kernels.cuda.build import EmulatedProgram

    from recon.kernels.cuda.program import install_program

    install_program(torch.device("cpu"), EmulatedProgram())


def _finish(report: Report) -> int:
    from gpu.speed import table

    wrong = [line for line in report.lines if not line["ok"]]
    print("\n" + table(report.numbers))
    print(f"\n{len(report.lines)} checks, {len(wrong)} failed, {report.seconds():.0f} s")
    for line in wrong:
        print(f"FAIL {line['name']}: {line['found']}")
    if os.environ.get("OUT"):
        document = {"numbers": report.numbers, "checks": report.lines, "seconds": report.seconds()}
        (Path(os.environ["OUT"]) / "gpu.json").write_text(json.dumps(document, indent=1, default=str))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
