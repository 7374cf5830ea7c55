# SPDX-License-Identifier: Apache-2.0
"""Score a trained run on the photographs that it never saw (every 8th by name).

What was trained is scored: edits of the run (recon edit, recon view) do not apply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.methods import evaluate
from recon.progress import Progress

if TYPE_CHECKING:
    from recon.methods import EvalReport


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon eval`."""

    run: tyro.conf.Positional[Path]
    """The folder that `recon train` wrote."""
    worst: int = 4
    """How many of the worst photographs to write as pictures side by side."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Scores and reports, one row per photograph."""
    report = evaluate(options.run, progress, options.worst)
    rows = [(image.name, _scores(image.psnr_db, image.ssim, image.lpips)) for image in report.images]
    return Outcome(
        report=asdict(report),
        title="Held-out photographs",
        rows=[*rows, ("mean", _scores(report.psnr_db, report.ssim, report.lpips))],
        lines=["", f"Protocol: {report.protocol}", *report.notes, f"Worst views: {report.path.parent / 'eval'}"],
    )


def score_rows(report: EvalReport) -> list[tuple[str, str]]:
    """Returns the mean scores as rows of a summary."""
    return [("Held-out scores", _scores(report.psnr_db, report.ssim, report.lpips) + f"   {len(report.images)} photos")]


def _scores(psnr_db: float, ssim: float, lpips: float | None) -> str:
    text = f"PSNR {psnr_db:6.2f} dB   SSIM {ssim:.4f}"
    return text if lpips is None else f"{text}   LPIPS {lpips:.4f}"
