# SPDX-License-Identifier: Apache-2.0
"""Make a synthetic capture (a furnished room, or an object on a table) and run it from photographs to mesh and page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recon.cli.command import CommonOptions, Outcome
from recon.cli.pipeline import PipelineConfig, PipelineReport, run_pipeline
from recon.cli.run import outcome_of
from recon.files import ensure_output_directory
from recon.progress import Progress


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon demo`."""

    out: Path
    """Folder for the photographs, the truth and everything made from them."""
    kind: Literal["room", "object"] = "object"
    """What to capture."""
    views: int = 48
    """Number of photographs."""
    width: int = 640
    """Width of a photograph in pixels; its height is three quarters of that."""
    method: str = "splat"
    """What to train."""
    steps: int | None = None
    """Training steps; by default what `recon train` takes."""
    seed: int = 0
    """Seed of everything random."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Makes the capture where it is not there yet, then runs it."""
    report, truth = run_demo(options, progress)
    outcome = outcome_of(report)
    return replace(
        outcome,
        report={**outcome.report, "truth": truth},
        rows=[("Photographs", str(options.out / "capture" / "photos")), *outcome.rows],
    )


def run_demo(options: Options, progress: Progress) -> tuple[PipelineReport, Path]:
    """Makes the capture and runs the pipeline on it; returns its report and the folder of the exact truth."""
    from recon.data import CaptureConfig, make_capture

    ensure_output_directory(options.out)
    height = options.width * 3 // 4
    config = CaptureConfig(options.views, options.width, height, options.seed, maps=False)
    capture = make_capture(options.kind, options.out / "capture", config, progress)
    pipeline = PipelineConfig(
        method=options.method, steps=options.steps, seed=options.seed, long_side=min(options.width, 640)
    )
    return run_pipeline(capture.photos_dir, options.out, pipeline, progress), capture.root / "truth"
