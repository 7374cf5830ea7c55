# SPDX-License-Identifier: Apache-2.0
"""The capture report: one HTML page without any outside resource that says what was posed, how well, and what to redo.

File names come from strangers' disks, so everything that is not written here is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recon.capture.advice import advice, share_in_words
from recon.capture.report_figures import (
    histogram_edges,
    histogram_figure,
    map_figure,
    matrix_figure,
    printable,
    thumbnail,
)
from recon.capture.report_style import STYLE
from recon.files import write_text
from recon.sfm.contracts import PhotoReport, SfmResult

if TYPE_CHECKING:
    from recon.process import Outcome, ProcessReport

MOST_THUMBNAILS = 600
DASH = "–"


def write_report(report: ProcessReport, outcome: Outcome, folder: Path) -> None:
    """Writes `folder`/index.html.

    Raises:
        ReconError: the folder cannot be written.
    """
    write_text(folder / "index.html", page(report, outcome))


def page(report: ProcessReport, outcome: Outcome) -> str:
    """Returns the page."""
    name = text(report.scene.resolve().name)
    sentences = advice(outcome.scene, outcome.sfm)
    body = [
        _header(report, name),
        _attention(report),
        _advice(sentences, report),
        _maps(outcome),
        _figures(outcome),
        _photos(report, outcome),
        _skipped(report),
        _course(report, outcome.sfm),
    ]
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>Capture report: {name}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def text(value: object) -> str:
    """Returns any value as escaped text."""
    return escape(printable(str(value)))


def _number(value: float | None, digits: int = 2, unit: str = "") -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{digits}f}{unit}"


def _header(report: ProcessReport, name: str) -> str:
    share = report.posed / max(report.photos, 1)
    state = "warn" if report.attention else "good"
    around = 2 * math.pi * 42
    ring = (
        f'<svg class="ring {state}" viewBox="0 0 100 100" role="img" aria-label="{share_in_words(share)} posed">'
        '<circle cx="50" cy="50" r="42" class="rail"/>'
        f'<circle cx="50" cy="50" r="42" class="arc" stroke-dasharray="{share * around:.1f} {around:.1f}"/>'
        f'<text x="50" y="49">{report.posed}</text><text x="50" y="66" class="small">of {report.photos}</text></svg>'
    )
    tiles = [
        ("Photos posed", f"{report.posed} of {report.photos}", share_in_words(share)),
        ("Sparse points", f"{report.points:,}", f"{report.points / max(report.posed, 1):,.0f} for each photo"),
        ("Reprojection error", _number(report.mean_error_px, 2, " px"), "mean; below 1 px is good"),
        ("Track length", _number(report.mean_track_length, 1), "photos that see a point, on average"),
    ]
    cards = "".join(
        f'<div class="tile"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="hint">{hint}</div></div>'
        for label, value, hint in tiles
    )
    verdict = "Needs a look" if report.attention else "Ready to train"
    source = {"photos": "photos", "video": "a video", "scene": "a scene", "colmap": "a COLMAP model"}
    return (
        f'<header>{ring}<div><p class="kicker">Capture report</p><h1>{name}</h1>'
        f'<p><span class="badge {state}">{verdict}</span> made of {source.get(report.source, text(report.source))}'
        f" in {_duration(report.seconds)}</p></div></header>"
        f'<section class="tiles">{cards}</section>'
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _attention(report: ProcessReport) -> str:
    if not report.attention:
        return ""
    return f'<section class="callout"><h2>Have a look at this</h2>{_list(report.attention)}</section>'


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"


def _advice(sentences: Sequence[str], report: ProcessReport) -> str:
    if sentences:
        content = _list(sentences)
    elif report.posed == report.photos:
        content = '<p class="fine">Nothing. Every photo found its place and the photos hold together well.</p>'
    else:
        content = '<p class="fine">Nothing in particular.</p>'
    return f"<section><h2>What to photograph again</h2>{content}</section>"


def _maps(outcome: Outcome) -> str:
    if not outcome.scene.frames:
        return ""
    up = "" if outcome.scene.world.up_is_known else " Up was judged from how the camera was held."
    return (
        "<section><h2>Where the photos were taken</h2>"
        f'<div class="pair"><figure>{map_figure(outcome.scene, side=False)}<figcaption>From above</figcaption></figure>'
        f"<figure>{map_figure(outcome.scene, side=True)}<figcaption>From the side</figcaption></figure></div>"
        f'<p class="note">Each wedge is a photo and opens to where it looks; the dots are the points that were'
        f" recovered, in their own colours.{up}</p></section>"
    )


def _figures(outcome: Outcome) -> str:
    figures = []
    points = outcome.scene.points
    if len(points) and (points.track_lengths > 0).any():
        edges = histogram_edges(points.errors_px)
        figures.append(
            f"<figure>{histogram_figure(points.errors_px, edges, 'px')}<figcaption>Reprojection error of the points, px"
            "</figcaption></figure>"
        )
        longest = int(np.clip(np.quantile(points.track_lengths, 0.98), 6, 24))
        edges = np.arange(2, longest + 2, dtype=np.float64)
        figures.append(
            f"<figure>{histogram_figure(points.track_lengths, edges, 'photos', whole=True)}"
            "<figcaption>Track length: how many photos see a point</figcaption></figure>"
        )
    if outcome.sfm is not None and len(outcome.sfm.photos):
        figures.append(
            f'<figure class="square">{matrix_figure(outcome.sfm.matches_matrix())}'
            "<figcaption>Matches between photos, in order: the stronger the colour, the more. A band along the diagonal"
            " is a walk, a square is a place seen by many photos, an empty row is a photo on its own."
            "</figcaption></figure>"
        )
        figures.append(
            f'<figure class="square">{_coverage_figure(outcome.sfm.photos)}<figcaption>How much of each photo is'
            " covered by points, in order. Low bars are photos whose pose leans on a corner of the picture."
            "</figcaption></figure>"
        )
    return (
        f'<section><h2>How well it holds together</h2><div class="pair">{"".join(figures)}</div></section>'
        if figures
        else ""
    )


def _coverage_figure(photos: Sequence[PhotoReport]) -> str:
    width, height = 560, 220
    step = width / max(len(photos), 1)
    bars = []
    for index, photo in enumerate(photos):
        tall = max(180 * photo.coverage, 2)
        kind = "bar" if photo.verdict.value == "posed" else "bar off"
        bars.append(
            f'<g class="{kind}"><title>{text(photo.name)}: {share_in_words(photo.coverage)}</title>'
            f'<rect x="{index * step:.2f}" y="{210 - tall:.1f}" width="{max(step - 1, 0.6):.2f}"'
            f' height="{tall:.1f}"/></g>'
        )
    grid = "".join(
        f'<line x1="0" x2="{width}" y1="{210 - 180 * share}" y2="{210 - 180 * share}" class="grid"/>'
        f'<text x="{width}" y="{206 - 180 * share}" text-anchor="end">{share:.0%}</text>'
        for share in (0.5, 1.0)
    )
    return f'<svg viewBox="0 0 {width} {height}" role="img" class="hist">{grid}{"".join(bars)}</svg>'


def _photos(report: ProcessReport, outcome: Outcome) -> str:
    if outcome.sfm is None:
        rows = [_imported_row(outcome, index) for index in range(len(outcome.scene.frames))]
        head = "<th></th><th>Photo</th><th>Pose</th><th>Size</th>"
    else:
        posed = set(outcome.sfm.names)
        # What failed comes first, because that is what people look for.
        order = sorted(range(len(outcome.sfm.photos)), key=lambda i: outcome.sfm.photos[i].name in posed)  # type: ignore[union-attr]
        rows = [_row(outcome, outcome.sfm.photos[index], index) for index in order]
        head = (
            "<th></th><th>Photo</th><th>Pose</th><th class=num>Features</th><th class=num>Matched photos</th>"
            "<th class=num>Points</th><th class=num>Error</th><th>Coverage</th>"
        )
    return (
        f"<section><h2>Every photo</h2><div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _picture(path: Path, index: int) -> str:
    source = thumbnail(path) if index < MOST_THUMBNAILS else ""
    return f'<img class="thumb" alt="" src="{source}">' if source else ""


def _row(outcome: Outcome, photo: PhotoReport, index: int) -> str:
    good = photo.verdict.value == "posed"
    pose = (
        '<span class="badge good">posed</span>'
        if good
        else f'<span class="badge bad">{text(photo.verdict.value)}</span><div class="why">{text(photo.detail)}</div>'
    )
    bar = f'<div class="meter"><i style="width:{100 * min(max(photo.coverage, 0), 1):.0f}%"></i></div>'
    return (
        f"<tr><td>{_picture(outcome.photo_dir / 'images' / photo.name, index)}</td>"
        f"<td class=name>{text(photo.name)}</td><td>{pose}</td><td class=num>{photo.features:,}</td>"
        f"<td class=num>{photo.verified_pairs}</td><td class=num>{photo.points:,}</td>"
        f"<td class=num>{_number(photo.mean_error_px, 2)}</td><td>{bar}</td></tr>"
    )


def _imported_row(outcome: Outcome, index: int) -> str:
    frame = outcome.scene.frames[index]
    return (
        f"<tr><td>{_picture(frame.image_path, index)}</td><td class=name>{text(frame.name)}</td>"
        f'<td><span class="badge good">imported</span></td><td>{frame.camera.width} × {frame.camera.height}</td></tr>'
    )


def _skipped(report: ProcessReport) -> str:
    if not report.skipped:
        return ""
    rows = "".join(f"<tr><td class=name>{text(f.name)}</td><td>{text(f.reason)}</td></tr>" for f in report.skipped)
    return (
        f"<section><h2>Files left out</h2><div class=scroll><table><thead><tr><th>File</th><th>Why</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _course(report: ProcessReport, result: SfmResult | None) -> str:
    parts = []
    if result is not None and result.rungs:
        rows = "".join(
            f"<tr{' class=chosen' if rung.chosen else ''}><td>{text(rung.name)}{' ✓' if rung.chosen else ''}</td>"
            f"<td class=num>{rung.posed}</td><td class=num>{rung.points:,}</td>"
            f"<td class=num>{_number(rung.mean_error_px)}</td><td class=num>{_duration(rung.seconds)}</td></tr>"
            for rung in result.rungs
        )
        parts.append(
            "<table><thead><tr><th>Attempt</th><th class=num>Posed</th><th class=num>Points</th>"
            f"<th class=num>Error, px</th><th class=num>Time</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    if result is not None and result.stages:
        stages = (f"{text(s.name)} {'found done' if s.reused else _duration(s.seconds)}" for s in result.stages)
        parts.append(f'<p class="note">{" · ".join(stages)}</p>')
    if report.notes:
        parts.append(_list(report.notes))
    return f"<section><h2>How it went</h2>{''.join(parts)}</section>" if parts else ""
