# SPDX-License-Identifier: Apache-2.0
"""The page that sums up a run: one HTML file that holds everything it shows and asks nothing of the network.

Its content security policy forbids every load, and lets only the script that stands in it run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.files import write_text
from recon.viewers.summary.parts import Picture, camera_map_svg, curve_svg, escaped, image_tag

if TYPE_CHECKING:
    from recon.splats import Splats


NONE = "'none'"


@dataclass(frozen=True)
class ViewScore:
    """A held-out photograph's scores; None where one was not measured."""

    name: str
    psnr_db: float | None
    ssim: float | None = None
    lpips: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """A photograph and the rendering of the same view."""

    name: str
    photograph: Picture
    rendering: Picture
    note: str = ""


@dataclass(frozen=True, eq=False)
class PagePicture:
    """Any other picture with its caption: a mesh, a depth map, pictures side by side."""

    picture: Picture
    caption: str


@dataclass(frozen=True)
class PageFile:
    """A file of the result: its path as shown, what it is, its size in bytes (None for a folder)."""

    path: str
    description: str
    size_bytes: int | None = None


@dataclass(frozen=True, eq=False)
class SummaryData:
    """What the page shows; every part but the title may be empty.

    Attributes:
        title: the heading.
        subtitle: a line below it (what was reconstructed, when, by which version).
        attention: what the user must look at, one sentence each.
        highlights: the numbers that matter most, as (value, what it is): ("31.2 dB", "held-out PSNR").
        facts: further rows of a table, as (name, value).
        scores: held-out photographs, worst first or in any order.
        comparisons: photographs and renderings, with a slider between them.
        pictures: other pictures.
        mesh_pictures: pictures of the mesh.
        steps, losses: the training curve; None for what is not a number.
        psnr_by_step: held-out PSNR in dB at some steps.
        cameras: names and poses, for the map from above.
        held_out: names among them that were not trained on.
        points, point_colors: sparse points, [N, 3] and [N, 3] uint8.
        splats: for the preview that can be turned with the mouse.
        files: what lies where.
        commands: as (command, what it does).
    """

    title: str
    subtitle: str = ""
    attention: Sequence[str] = ()
    highlights: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    scores: Sequence[ViewScore] = ()
    comparisons: Sequence[Comparison] = ()
    pictures: Sequence[PagePicture] = ()
    mesh_pictures: Sequence[PagePicture] = ()
    steps: Sequence[float] = ()
    losses: Sequence[float | None] = ()
    psnr_by_step: Sequence[tuple[float, float]] = ()
    cameras: Sequence[tuple[str, Camera]] = ()
    held_out: frozenset[str] = frozenset()
    points: npt.NDArray[np.floating] | None = None
    point_colors: npt.NDArray[np.uint8] | None = None
    splats: Splats | None = None
    files: Sequence[PageFile] = ()
    commands: Sequence[tuple[str, str]] = ()


def write_summary_page(path: Path, data: SummaryData) -> None:
    """Writes the page, whole or not at all.

    Pictures that cannot be read are named in their place; everything that is text is shown as text.

    Raises:
        ReconError: the file cannot be written.
    """
    write_text(Path(path), summary_html(data))


def summary_html(data: SummaryData) -> str:
    """Returns the page."""
    preview = _preview(data)
    scripts = [_asset("summary.js")] if data.comparisons else []
    scripts += [_asset("splat_preview.js")] if preview else []
    sections = [
        _head_section(data),
        preview,
        _comparisons(data),
        _pictures("Mesh", data.mesh_pictures),
        _scores(data),
        _training(data),
        _map(data),
        _pictures("More pictures", data.pictures),
        _files(data),
        _commands(data),
    ]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes or NONE}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(data.title)}</title>",
            f"<style>{_asset('summary.css')}</style>",
            "</head>",
            "<body>",
            *(section for section in sections if section),
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def _asset(name: str) -> str:
    return resources.files("recon.viewers.summary").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _head_section(data: SummaryData) -> str:
    parts = [f"<h1>{escaped(data.title)}</h1>"]
    if data.subtitle:
        parts.append(f'<p class="soft">{escaped(data.subtitle)}</p>')
    parts += [f'<p class="warning">{escaped(sentence)}</p>' for sentence in data.attention]
    if data.highlights:
        tiles = "".join(
            f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(name)}</span></div>'
            for value, name in data.highlights
        )
        parts.append(f'<div class="tiles">{tiles}</div>')
    if data.facts:
        rows = "".join(f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in data.facts)
        parts.append(f"<table>{rows}</table>")
    return "\n".join(parts)


def _preview(data: SummaryData) -> str:
    """Returns the preview; splats that are not shown anywhere (none, or all transparent) have none."""
    if data.splats is None or not bool((data.splats.opacities > 0.1).any()):
        return ""
    from recon.viewers.stage import find_stage_of
    from recon.viewers.summary.splats import preview_elements

    cameras = [camera for _, camera in data.cameras]
    stage = find_stage_of(cameras, data.splats.means.detach().cpu().double().numpy())
    return f"<h2>Turn it</h2>\n{preview_elements(data.splats, cameras, stage)}"


def _comparisons(data: SummaryData) -> str:
    if not data.comparisons:
        return ""
    figures = []
    for entry in data.comparisons:
        below = image_tag(entry.photograph, f"photograph {entry.name}")
        above = image_tag(entry.rendering, f"rendering of {entry.name}")
        caption = f"{entry.name} · {entry.note}" if entry.note else entry.name
        figures.append(
            f'<figure><div class="compare">{below}<div class="over">{above}</div><div class="bar"></div>'
            '<span class="left">photograph</span><span class="right">rendering</span></div>'
            f"<figcaption>{escaped(caption)}</figcaption></figure>"
        )
    return (
        "<h2>Photographs that training never saw</h2>\n"
        f'<p class="soft">Move the pointer over a picture.</p>\n<div class="grid">{"".join(figures)}</div>'
    )


def _pictures(title: str, pictures: Sequence[PagePicture]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        f"<figure>{image_tag(entry.picture, entry.caption)}<figcaption>{escaped(entry.caption)}</figcaption></figure>"
        for entry in pictures
    )
    return f'<h2>{escaped(title)}</h2>\n<div class="grid">{figures}</div>'


def _scores(data: SummaryData) -> str:
    if not data.scores:
        return ""

    def number(value: float | None, digits: int) -> str:
        return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"

    has_lpips = any(score.lpips is not None for score in data.scores)
    head = '<th>photograph</th><th class="number">PSNR dB</th><th class="number">SSIM</th>'
    rows = []
    for score in data.scores:
        cells = [number(score.psnr_db, 2), number(score.ssim, 4)] + ([number(score.lpips, 4)] if has_lpips else [])
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{escaped(score.name)}</td>{numbers}</tr>")
    head += '<th class="number">LPIPS</th>' if has_lpips else ""
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    if len(rows) > 12:
        table = f"<details><summary>All {len(rows)} photographs</summary>{table}</details>"
    return f"<h2>Held-out scores</h2>\n{table}"


def _training(data: SummaryData) -> str:
    if not len(data.steps) and not len(data.psnr_by_step):
        return ""
    return f"<h2>Training</h2>\n{curve_svg(data.steps, data.losses, data.psnr_by_step)}"


def _map(data: SummaryData) -> str:
    if not data.cameras:
        return ""
    drawing = camera_map_svg(data.cameras, data.points, data.point_colors, data.held_out)
    note = f"{len(data.cameras)} cameras from above"
    note += "; orange ones were held out." if data.held_out else "."
    return f'<h2>Cameras</h2>\n<p class="soft">{note}</p>\n<div style="max-width:640px">{drawing}</div>'


def _files(data: SummaryData) -> str:
    if not data.files:
        return ""
    rows = "".join(
        f"<tr><td><code>{escaped(entry.path)}</code></td><td>{escaped(entry.description)}</td>"
        f'<td class="number">{_size(entry.size_bytes)}</td></tr>'
        for entry in data.files
    )
    return f"<h2>Files</h2>\n<table>{rows}</table>"


def _commands(data: SummaryData) -> str:
    if not data.commands:
        return ""
    rows = "".join(
        f"<tr><td><code>{escaped(command)}</code></td><td>{escaped(purpose)}</td></tr>"
        for command, purpose in data.commands
    )
    return f"<h2>What to do next</h2>\n<table>{rows}</table>"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" or size >= 100 else f"{size:.1f} {units[0]}"
