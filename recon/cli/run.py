# SPDX-License-Identifier: Apache-2.0
"""Photographs or a video in; camera poses, splats, held-out scores, a mesh and a page out.

Run again, it continues where it stopped and redoes only what a changed option affects.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import duration
from recon.cli.mesh import mesh_rows
from recon.cli.pipeline import PipelineConfig, PipelineReport, run_pipeline
from recon.progress import Progress


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon run`."""

    input: tyro.conf.Positional[Path]
    """A folder of photographs, a video, a COLMAP project, or a folder with transforms.json."""
    out: Path
    """Output folder: scene/, run/, mesh, splats.ply and index.html."""
    config: tyro.conf.OmitArgPrefixes[PipelineConfig] = field(default_factory=PipelineConfig)
    """Options of the stages."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Runs every stage that is not done yet and sums up."""
    return outcome_of(run_pipeline(options.input, options.out, options.config, progress))


def outcome_of(report: PipelineReport) -> Outcome:
    """Returns the summary table of a pipeline."""
    scores, out = report.eval, report.out
    rows = [
        ("Photographs posed", f"{report.process['posed']} of {report.process['photos']}"),
        ("Training", f"{report.train['step']:,} steps in {duration(report.train['seconds'])}"),
        ("Gaussians", f"{report.export['splats']:,}"),
        ("Held-out scores", f"PSNR {scores['psnr_db']:.2f} dB   SSIM {scores['ssim']:.4f}"),
    ]
    if report.mesh is not None:
        rows += mesh_rows(report.mesh)
    rows += [
        ("Splats", str(out / "splats.ply")),
        ("Scene and its report", f"{out / 'scene'}   {out / 'scene' / 'report' / 'index.html'}"),
        ("Run", str(out / "run")),
        ("Page", str(report.page)),
        ("Time of this call", duration(report.seconds["total"])),
    ]
    return Outcome(
        report=asdict(report),
        title="Done",
        rows=rows,
        attention=report.attention,
        lines=["", f"Look at it:  recon view {out}"],
    )
