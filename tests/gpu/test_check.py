# SPDX-License-Identifier: Apache-2.0
"""What run.sh does on a GPU, in emulation and on tiny scenes, so that it does not fail there for silly reasons."""

from __future__ import annotations

import torch
from gpu.agreement import numbers
from gpu.check import Report
from gpu.speed import bandwidth, speed, table
from kernels.cuda.build import EmulatedProgram
from kernels.cuda.conftest import emulated, emulation  # noqa: F401, fixtures


def test_the_checks_pass_in_emulation(emulated: EmulatedProgram) -> None:  # noqa: F811
    report = Report(torch.device("cpu"), emulated=True, small=True)
    for part in (numbers, bandwidth, speed):
        part(report)
    assert len(report.lines) > 30
    assert not [line for line in report.lines if not line["ok"]]
    assert "ours" in table(report.numbers)


def test_nan_does_not_pass() -> None:
    report = Report(torch.device("cpu"), emulated=True, small=True)
    report.relative("broken", torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0]))
    report.relative("off", torch.tensor([1.01, 2.0]), torch.tensor([1.0, 2.0]))
    assert [line["ok"] for line in report.lines] == [False, False]
