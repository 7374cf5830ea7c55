# SPDX-License-Identifier: Apache-2.0
"""Photographs or a video in; camera poses, splats, held-out scores, a mesh and a page out.

Run again, it continues where it stopped and redoes only what a changed option affects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from recon.cli.command import CommonOptions, Outcome, given_option
from recon.cli.console import duration
from recon.cli.mesh import mesh_rows
from recon.cli.pipeline import PipelineConfig, PipelineReport, run_pipeline
from recon.cli.train import method_numbers
from recon.methods import get_method
from recon.progress import Progress, label_of, shown_number


@dataclass(frozen=True)
class RunOptions(CommonOptions):
    """Options of `recon run` that do not depend on the method."""

    input: tyro.conf.Positional[Path]
    """A folder of photographs, a video, a COLMAP project, or a folder with transforms.json."""
    out: Path
    """Output folder: scene/, run/, the mesh, splats.ply where the method makes splats, and index.html."""
    config: tyro.conf.OmitArgPrefixes[PipelineConfig] = field(default_factory=PipelineConfig)
    """Options of the stages."""


def options_type(words: Sequence[str]) -> type:
    """Returns the options with those of the method that the words name, as --train.OPTION."""
    config_type: Any = get_method(given_option(words, "--method") or "splat").config_type
    defaults = config_type.preset(given_option(words, "--preset") or "normal")
    return make_dataclass(
        "Options",
        [
            ("preset", Annotated[str, tyro.conf.arg(help=config_type.presets_help())], field(default="normal")),
            ("train", config_type, field(default=defaults)),
        ],
        bases=(RunOptions,),
        frozen=True,
        kw_only=True,
    )


def execute(options: Any, progress: Progress) -> Outcome:
    """Runs every stage that is not done yet and sums up."""
    config = replace(options.config, preset=options.preset, train=options.train)
    return outcome_of(run_pipeline(options.input, options.out, config, progress))


def outcome_of(report: PipelineReport) -> Outcome:
    """Returns the summary table of a pipeline."""
    scores, out = report.eval, report.out
    rows = [
        ("Photographs posed", f"{report.process['posed']} of {report.process['photos']}"),
        ("Training", f"{report.train['step']:,} steps in {duration(report.train['seconds'])}"),
        *[(label_of(name), shown_number(n)) for name, n in method_numbers(report.train["numbers"]).items()],
        ("Held-out scores", f"PSNR {scores['psnr_db']:.2f} dB   SSIM {scores['ssim']:.4f}"),
    ]
    if report.mesh is not None:
        rows += mesh_rows(report.mesh)
    if report.export is not None:
        rows.append(("Splats", f"{out / 'splats.ply'} ({report.export['splats']:,})"))
    rows += [
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
