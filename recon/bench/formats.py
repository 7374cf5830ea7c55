# SPDX-License-Identifier: Apache-2.0
"""What each splat format costs: size, the picture that comes back, and how fast it is written and read.

A run is rendered from every sixth of its photographs' cameras before and after; the other cameras are what the writer
of a SOG may know, as in `recon export RUN`.  A splat file is looked at from all sides, and no camera is known.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recon.bench.results import Entry, Samples
from recon.errors import ReconError
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.splats import Splats

NAMES = (".ply", ".compressed.ply", ".spz", ".sog", ".splat", ".glb")
BEST_PSNR = 150.0
"""Stands for pictures without any difference."""

EVERY = 6


@dataclass(frozen=True)
class FormatSettings:
    """What to measure.

    Attributes:
        source: a run or a splat file.
        long_side: of the pictures, pixels.
        repeats: how often each file is written and read.
        copies: the splats are repeated so many times, moved a little, to measure speed at size.
    """

    source: Path
    long_side: int = 480
    repeats: int = 3
    copies: int = 1


@dataclass(frozen=True, eq=False)
class _Scene:
    name: str
    splats: Splats
    measured: list[Camera]
    known: list[Camera]


def measure_formats(settings: FormatSettings, progress: Progress = SILENT) -> list[Entry]:
    """Writes the splats in every format, reads them back and renders them.

    The samples of an entry are the PSNR of each picture in dB, against pictures of the splats themselves, or of those
    without view-dependent colour for a format that has none.  Facts: `bytes`, `ratio` to the PLY, `splats`,
    `write_s`, `read_s` (medians, wall), `cameras` that the writer knew.

    Raises:
        ReconError: the source is neither a run nor a splat file.
    """
    scene = _open(settings)
    splats = _copies(scene.splats, settings.copies)
    pictures = _render(splats, scene.measured)
    flat = replace(splats, sh=splats.sh[:, :1].contiguous())
    flat_pictures = _render(flat, scene.measured) if splats.sh_degree else pictures
    tasks: list[tuple[str, Sequence[Camera]]] = [(name, ()) for name in NAMES]
    if scene.known and splats.sh_degree:
        tasks.insert(NAMES.index(".sog") + 1, (".sog", scene.known))
    entries: list[Entry] = []
    with progress.stage("measuring formats", len(tasks), "formats") as stage:
        for name, cameras in tasks:
            against = flat_pictures if name == ".splat" else pictures
            plain = next((entry.facts["bytes"] for entry in entries), None)
            entries.append(_measure(scene, splats, name, cameras, against, plain, settings.repeats))
            stage.advance(note=name)
    return entries


def _measure(
    scene: _Scene,
    splats: Splats,
    name: str,
    cameras: Sequence[Camera],
    against: list[torch.Tensor],
    plain: int | None,
    repeats: int,
) -> Entry:
    from recon.formats.splat_files import read_splats, write_splats

    written, read = Samples(), Samples()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"splats{name}"
        for _ in range(repeats):
            written.time(lambda: write_splats(splats, path, cameras=cameras))
            found = read.time(lambda: read_splats(path))
        size = path.stat().st_size
    scores = [_psnr(a, b) for a, b in zip(_render(found, scene.measured), against)]
    facts: dict[str, Any] = {
        "format": name,
        "cameras": len(cameras),
        "splats": len(splats),
        "sh_degree": splats.sh_degree,
        "bytes": size,
        "ratio": (plain or size) / size,
        "write_s": statistics.median(written.wall),
        "read_s": statistics.median(read.wall),
    }
    label = f"formats · {scene.name} · {name}{' with cameras' if cameras else ''}"
    return Entry.of(label, scores, unit="dB", how="PSNR", better="higher", facts=facts)


def _open(settings: FormatSettings) -> _Scene:
    from recon.formats.splat_files import is_splat_file, read_splats

    path = settings.source
    name = path.resolve().name if path.resolve().name != "run" else path.resolve().parent.name
    if path.is_file() or is_splat_file(path):
        splats = read_splats(path)
        return _Scene(path.stem, splats, _around(splats, settings.long_side), [])
    from recon.methods import load_run
    from recon.views import undistorted_camera

    run = load_run(path / "run" if (path / "run" / "config.json").is_file() else path)
    if run.splats is None:
        raise ReconError(
            f"measuring {path}",
            f"the method {run.method.name} makes no splats",
            "a run of splats, or a splat file",
            "recon bench render measures any run",
        )
    frames = sorted(run.scene.frames, key=lambda frame: frame.name)
    cameras = [undistorted_camera(frame.camera).fitted(settings.long_side) for frame in frames]
    known = [camera for index, camera in enumerate(cameras) if index % EVERY]
    return _Scene(name, run.splats.detach().to("cpu"), cameras[::EVERY], known)


def _around(splats: Splats, long_side: int, count: int = 6) -> list[Camera]:
    """Returns cameras in a circle about the splats, a little above them."""
    from recon.cameras import Camera, look_at

    low, high = np.percentile(splats.means.double().numpy(), [5, 95], axis=0)
    middle, extent = (low + high) / 2, max(float(np.linalg.norm(high - low)), 1e-6)
    cameras = []
    for angle in 2 * np.pi * np.arange(count) / count:
        eye = middle + extent * 1.2 * np.array([np.cos(angle), np.sin(angle), 0.35])
        camera = Camera(long_side, long_side, 1.1 * long_side, 1.1 * long_side, long_side / 2, long_side / 2)
        cameras.append(camera.with_pose(look_at(eye, middle, np.array([0.0, 0.0, 1.0]))))
    return cameras


def _copies(splats: Splats, copies: int) -> Splats:
    """Returns the splats several times, each copy with other small changes, so that no two numbers are alike."""
    if copies <= 1:
        return splats
    generator = torch.Generator().manual_seed(0)
    splats = splats.select(torch.arange(len(splats)).repeat(copies))

    def moved(values: torch.Tensor, amount: float) -> torch.Tensor:
        return values + amount * torch.randn(values.shape, generator=generator)

    return replace(
        splats,
        means=moved(splats.means, 0.05),
        quats=moved(splats.quats, 0.1),
        log_scales=moved(splats.log_scales, 0.2),
        opacity_logits=moved(splats.opacity_logits, 0.2),
        sh=moved(splats.sh, 0.02),
    )


def _render(splats: Splats, cameras: Sequence[Camera]) -> list[torch.Tensor]:
    from recon.rasterization import SplatRenderer
    from recon.render import RenderOptions

    renderer = SplatRenderer(splats)
    return [renderer.render(camera, RenderOptions()).rgb.clamp(0, 1) for camera in cameras]


def _psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    error = float((found - expected).square().mean())
    return min(BEST_PSNR, -10 * float(np.log10(max(error, 1e-30))))


def table_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table for people."""
    header = ["format", "bytes", "of the PLY", "B/splat", "PSNR dB", "least", "written/s", "read/s"]
    rows = []
    for entry in entries:
        facts = entry.facts
        rows.append(
            [
                str(facts["format"]) + (f", {facts['cameras']} cameras known" if facts["cameras"] else ""),
                f"{facts['bytes']:,}",
                f"1/{facts['ratio']:.1f}",
                f"{facts['bytes'] / facts['splats']:.1f}",
                "exact" if entry.low >= BEST_PSNR else f"{entry.median:.1f}",
                "exact" if entry.low >= BEST_PSNR else f"{entry.low:.1f}",
                f"{facts['splats'] / facts['write_s']:,.0f}",
                f"{facts['splats'] / facts['read_s']:,.0f}",
            ]
        )
    return header, rows
