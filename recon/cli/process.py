# SPDX-License-Identifier: Apache-2.0
"""Find the cameras of a folder of photographs or of a video.

Writes a scene folder that COLMAP tools open too, with a report that says why a photograph was not posed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import duration
from recon.process import ProcessConfig, ProcessReport, process
from recon.progress import Progress


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon process`."""

    input: tyro.conf.Positional[Path]
    """A folder of photographs, a video, a COLMAP project, or a folder with transforms.json."""
    out: Path
    """The scene folder to write."""
    config: tyro.conf.OmitArgPrefixes[ProcessConfig] = field(default_factory=ProcessConfig)
    """How the cameras are found."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Processes and reports."""
    report = process(options.input, options.out, options.config, progress)
    return Outcome(
        report=report.to_json(),
        title="Scene",
        rows=process_rows(report),
        attention=report.attention,
        lines=["", f"Train it:   recon train {options.out} --out RUN", f"View it:    recon view {options.out}"],
    )


def process_rows(report: ProcessReport) -> list[tuple[str, str]]:
    """Returns what a person wants to know of a scene."""
    rows = [("Scene", str(report.scene)), ("Photographs posed", f"{report.posed} of {report.photos}")]
    if report.skipped:
        rows.append(("Files skipped", ", ".join(skipped.name for skipped in report.skipped[:5])))
    rows += [(f"  {photo.name}", photo.detail or photo.reason) for photo in report.unposed[:10]]
    rows.append(("Points", f"{report.points:,}"))
    if report.mean_error_px is not None:
        rows.append(("Reprojection error", f"{report.mean_error_px:.2f} px"))
    rows += [("Report", str(report.html)), ("Time", duration(report.seconds))]
    return rows
