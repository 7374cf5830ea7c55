# SPDX-License-Identifier: Apache-2.0
"""Render a film (.mp4) or a folder of frames from a trained run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import duration
from recon.progress import Progress


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon render`."""

    run: tyro.conf.Positional[Path]
    """The folder that `recon train` wrote."""
    out: Path
    """A video (.mp4), or a folder for frame_00000.png and so on."""
    path: str = "orbit"
    """The camera's way: orbit, train (along the photographs), or a JSON file with keyframes, such as the viewer's tab
    Film saves as paths/NAME.json in the run."""
    channel: Literal["rgb", "depth", "normal"] = "rgb"
    """What to show."""
    seconds: float | None = None
    """Length of the film; by default what suits the path."""
    fps: float | None = None
    """Frames per second; by default 30, or what the keyframe file says."""
    long_side: int = 1280
    """Longer side of the picture in pixels, where neither --size nor the keyframe file says it."""
    size: str | None = None
    """The picture: 1080p, 720p, 4k, vertical (1080×1920), square (1080×1080) or WIDTHxHEIGHT; by default the shape of
    the photographs, or what the keyframe file says."""
    quality: int = 18
    """Constant rate factor of H.264: 0 is lossless, 51 the worst."""
    edits: bool = True
    """Whether the run's edits apply."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Renders and reports."""
    from recon.cli.edited import load_edited_run
    from recon.film import FilmOptions, PathOptions, load_path, render_film
    from recon.film.paths import resized_path
    from recon.film.saved import picture_size

    size = picture_size(options.size) if options.size is not None else None
    run = load_edited_run(options.run, options.edits, progress)
    cameras = [frame.camera for frame in sorted(run.scene.frames, key=lambda frame: frame.name)]
    path = load_path(options.path, cameras, PathOptions(options.seconds, options.fps, options.long_side))
    if size is not None:
        path = resized_path(path, *size, keep_vertical_fov=options.path.lower().endswith(".json"))
    report = render_film(
        run.renderer, path, options.out, FilmOptions(options.channel, quality=options.quality), progress
    )
    return Outcome(
        report=asdict(report),
        title="Film",
        rows=[
            ("Written", str(report.path)),
            ("Frames", f"{report.frames} at {report.fps:g} per second, {report.width}×{report.height}"),
            ("Time", duration(report.seconds)),
        ],
    )
