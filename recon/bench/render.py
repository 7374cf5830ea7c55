# SPDX-License-Identifier: Apache-2.0
"""Pictures a second of rendering alone, as the viewer and `recon render` do it: no training state, no gradients."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.bench.results import Entry, Samples, parse_counts, short_count
from recon.errors import ReconError
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    from recon.bench.scenes import BenchScene
    from recon.cameras import Camera
    from recon.render import Renderer

_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class RenderSource:
    """What is rendered: a renderer of any method and the cameras; `gaussians` is None where it has none."""

    name: str
    renderer: Renderer
    cameras: Sequence[Camera]
    gaussians: int | None = None

    @staticmethod
    def of_splats(scene: BenchScene, cameras: Sequence[Camera] = ()) -> RenderSource:
        """Returns the splats of a scene, seen from its own camera where there are no others."""
        from recon.rasterization import SplatRenderer

        return RenderSource(scene.name, SplatRenderer(scene.splats), cameras or [scene.camera], len(scene.splats))


@dataclass(frozen=True)
class RenderSettings:
    """What to render.

    Attributes:
        source: the path of a run, of a splat file, or a number of random Gaussians ("1m").
        size: of the picture.
        threads: numbers of threads, measured alternately.
        views: cameras of a run that are rendered in turn, spread over the photographs.
        repeats: pictures of each view and number of threads.
    """

    source: str
    size: tuple[int, int]
    threads: tuple[int, ...] = (1, 2)
    views: int = 8
    repeats: int = _ROUNDS


def measure_rendering(settings: RenderSettings, progress: Progress = SILENT) -> list[Entry]:
    """Renders; returns pictures a second for each number of threads.

    The median is over all pictures.  Facts: `threads`, `gaussians` (None where there are none), `pixels`, `views`,
    `cpu_s` for each picture, `slowest_view_s` the median time of the slowest view.

    Raises:
        ReconError: the source cannot be opened.
    """
    from recon.bench import stages
    from recon.render import RenderOptions

    source, options = open_source(settings), RenderOptions()
    cameras = source.cameras
    samples = {threads: [Samples() for _ in cameras] for threads in settings.threads}
    with progress.stage("rendering", settings.repeats * len(settings.threads), "rounds") as bar:

        def once(threads: int, keep: bool) -> None:
            for view, camera in enumerate(cameras):
                kept = samples[threads][view] if keep else Samples()
                kept.time(lambda: source.renderer.render(camera, options))  # noqa: B023
            bar.advance(keep)

        stages.alternate(settings.threads, settings.repeats, once)
    where = f"{source.name} · {settings.size[0]}×{settings.size[1]}"
    return [_entry(where, source, threads, views) for threads, views in samples.items()]


def _entry(where: str, source: RenderSource, threads: int, views: Sequence[Samples]) -> Entry:
    facts: dict[str, Any] = {
        "threads": threads,
        "gaussians": source.gaussians,
        "pixels": source.cameras[0].width * source.cameras[0].height,
        "views": len(source.cameras),
        "cpu_s": statistics.median(seconds for view in views for seconds in view.cpu),
        "slowest_view_s": max(statistics.median(view.wall) for view in views),
    }
    rates = [1 / seconds for view in views for seconds in view.wall]
    name = f"render · {where} · {threads} threads"
    return Entry.of(name, rates, unit="pictures/s", better="higher", facts=facts)


def open_source(settings: RenderSettings) -> RenderSource:
    """Returns what to render.

    Raises:
        ReconError: neither a run, nor a splat file, nor a number.
    """
    from recon.bench.scenes import random_scene, scene_of_ply

    path = Path(settings.source)
    if path.is_dir():
        return _source_of_run(path, settings)
    if path.is_file():
        return RenderSource.of_splats(scene_of_ply(path, settings.size))
    try:
        count = parse_counts(settings.source, "reading what to render")[0]
    except ReconError as error:
        raise ReconError(
            f"measuring {settings.source}",
            "there is no such file or folder",
            "a run, a splat PLY, or a number of random Gaussians such as 1m",
        ) from error
    return RenderSource.of_splats(random_scene(count, settings.size))


def _source_of_run(path: Path, settings: RenderSettings) -> RenderSource:
    """Returns a run of any method, seen from cameras spread over its photographs."""
    from recon.bench.scenes import fitted_camera, scene_of_run
    from recon.methods import load_run
    from recon.views import undistorted_camera

    run = load_run(path / "run" if (path / "run" / "config.json").is_file() else path)
    frames = sorted(run.scene.frames, key=lambda frame: frame.name)
    chosen = frames[:: max(1, len(frames) // max(settings.views, 1))][: max(settings.views, 1)]
    cameras = [fitted_camera(undistorted_camera(frame.camera), settings.size) for frame in chosen]
    if run.splats is not None:
        return RenderSource.of_splats(scene_of_run(path, settings.size), cameras)
    name = path.resolve().name if path.resolve().name != "run" else path.resolve().parent.name
    return RenderSource(name, run.renderer, cameras)


def table_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table for people."""
    header = ["threads", "Gaussians", "views", "pictures/s", "least", "most", "ms", "CPU ms", "slowest view ms"]
    rows = [
        [
            str(entry.facts["threads"]),
            "" if entry.facts["gaussians"] is None else short_count(entry.facts["gaussians"]),
            str(entry.facts["views"]),
            f"{entry.median:.2f}",
            f"{entry.low:.2f}",
            f"{entry.high:.2f}",
            f"{1e3 / entry.median:.1f}",
            f"{1e3 * entry.facts['cpu_s']:.1f}",
            f"{1e3 * entry.facts['slowest_view_s']:.1f}",
        ]
        for entry in entries
    ]
    return header, rows
