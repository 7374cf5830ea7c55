# SPDX-License-Identifier: Apache-2.0
"""Pieces of a self-contained HTML page: inline pictures, curves and a map of cameras.  All text is escaped here."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera

Picture = Path | npt.NDArray[np.uint8]
"""A picture in a file, or [H, W, 3] uint8."""


def escaped(text: object) -> str:
    """Returns text that HTML shows as it is, also within attributes."""
    return html.escape(str(text), quote=True)


def image_tag(picture: Picture, alt: str, most_px: int = 960, quality: int = 86) -> str:
    """Returns an <img> that holds its picture, at most `most_px` long; a note where the file cannot be read."""
    from PIL import Image

    try:
        image = Image.open(picture) if isinstance(picture, Path) else Image.fromarray(picture)
        small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return f'<p class="soft">The picture {escaped(alt)} cannot be read.</p>'
    small.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escaped(alt)}" '
        f'width="{small.width}" height="{small.height}" draggable="false">'
    )


def png_data_url(pixels: npt.NDArray[np.uint8]) -> str:
    """Returns pixels [H, W, 3 or 4] as a data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# Curves ---------------------------------------------------------------------------------------------------------


def curve_svg(
    steps: Sequence[float], losses: Sequence[float | None], scores: Sequence[tuple[float, float]], width: int = 1000
) -> str:
    """Returns the training curve: loss (logarithmic, left) and held-out PSNR in dB (right) over the steps.

    Args:
        steps: the steps of the losses.
        losses: one each; None and numbers that are not finite and positive leave a gap.
        scores: pairs of a step and a PSNR.
        width: of the drawing; it shrinks with the page.
    """
    height, left, right, top, bottom = 300, 62, 62, 14, 34
    drawn = [(s, v) for s, v in zip(steps, losses) if v is not None and math.isfinite(v) and v > 0]
    scores = [(s, v) for s, v in scores if math.isfinite(v)]
    if not drawn and not scores:
        return '<p class="soft">No training curve was recorded.</p>'
    last = max([s for s, _ in drawn] + [s for s, _ in scores] + [1.0])

    def x_of(step: float) -> float:
        return left + (width - left - right) * step / last

    parts = [_axis_x(last, x_of, height - bottom, top)]
    if drawn:
        logs = np.log10([v for _, v in drawn])
        low, high = float(logs.min()), float(logs.max())
        pad = max(0.05 * (high - low), 0.02)

        def y_loss(log: float) -> float:
            return top + (height - top - bottom) * (high + pad - log) / (high - low + 2 * pad)

        smooth = _smoothed(logs)
        raw = " ".join(f"{x_of(s):.1f},{y_loss(log):.1f}" for (s, _), log in zip(drawn, logs))
        fine = " ".join(f"{x_of(s):.1f},{y_loss(log):.1f}" for (s, _), log in zip(drawn, smooth))
        parts.append(f'<polyline points="{raw}" fill="none" stroke="var(--accent)" stroke-opacity=".3"/>')
        parts.append(f'<polyline points="{fine}" fill="none" stroke="var(--accent)" stroke-width="2.2"/>')
        for log in np.linspace(low, high, 5):
            parts.append(f'<text x="{left - 8}" y="{y_loss(log) + 4:.1f}" text-anchor="end">{10**log:.3g}</text>')
        parts.append(f'<text x="{left - 8}" y="{height - 8}" text-anchor="end">loss</text>')
    if scores:
        values = [v for _, v in scores]
        low_db, high_db = min(values) - 0.5, max(values) + 0.5

        def y_score(db: float) -> float:
            return top + (height - top - bottom) * (high_db - db) / (high_db - low_db)

        line = " ".join(f"{x_of(s):.1f},{y_score(v):.1f}" for s, v in scores)
        parts.append(f'<polyline points="{line}" fill="none" stroke="var(--warm)" stroke-width="2"/>')
        for step, value in scores:
            parts.append(
                f'<circle cx="{x_of(step):.1f}" cy="{y_score(value):.1f}" r="3.5" fill="var(--warm)">'
                f"<title>step {step:g}: {value:.2f} dB</title></circle>"
            )
        for value in np.linspace(low_db, high_db, 5):
            parts.append(f'<text x="{width - right + 8}" y="{y_score(float(value)) + 4:.1f}">{value:.1f}</text>')
        parts.append(f'<text x="{width - 4}" y="{height - 8}" text-anchor="end">PSNR dB</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="training curve">{"".join(parts)}</svg>'


def _axis_x(last: float, x_of: Callable[[float], float], bottom: float, top: float) -> str:
    spacing = 10 ** math.floor(math.log10(last))
    if last / spacing < 3:
        spacing /= 5
    elif last / spacing < 6:
        spacing /= 2
    marks = np.arange(0, last * 1.0001, spacing)
    return "".join(
        f'<line x1="{x_of(mark):.1f}" x2="{x_of(mark):.1f}" y1="{top}" y2="{bottom}" stroke="var(--line)"/>'
        f'<text x="{x_of(mark):.1f}" y="{bottom + 18}" text-anchor="middle">{mark:g}</text>'
        for mark in marks
    )


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns a running mean over a fortieth of the curve; at the ends over what there is."""
    reach = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    smooth: npt.NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return smooth


# The map --------------------------------------------------------------------------------------------------------


def camera_map_svg(
    cameras: Sequence[tuple[str, Camera]],
    points: npt.NDArray[np.floating] | None = None,
    colors: npt.NDArray[np.uint8] | None = None,
    held_out: frozenset[str] = frozenset(),
    size: int = 720,
) -> str:
    """Returns the cameras and the sparse points from above (x to the right, y upwards), with names on hovering."""
    if not cameras:
        return '<p class="soft">No cameras.</p>'
    centers = np.array([camera.center_in_world[:2] for _, camera in cameras])
    shown = np.zeros((0, 2)) if points is None else np.asarray(points, dtype=np.float64)[:, :2]
    low, high = centers.min(0), centers.max(0)
    if len(shown):
        # A far background may be seen, but not so that the cameras become specks.
        reach = 0.6 * max(float((high - low).max()), 1e-6)
        low = np.minimum(low, np.maximum(np.percentile(shown, 4, axis=0), low - reach))
        high = np.maximum(high, np.minimum(np.percentile(shown, 96, axis=0), high + reach))
    span = 1.12 * max(float((high - low).max()), 1e-6)
    corner = (low + high) / 2 - span / 2

    def to_px(xy: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        share = (xy - corner) / span
        return np.stack([share[..., 0], 1 - share[..., 1]], -1) * size

    parts = []
    if len(shown):
        cells = _point_cells(to_px(shown), colors, size)
        parts.append(f'<image href="{png_data_url(cells)}" width="{size}" height="{size}"/>')
    length = 0.035 * size
    for name, camera in cameras:
        x, y = to_px(camera.center_in_world[:2])
        forward = camera.forward_in_world[:2] * [1, -1]
        # A camera that looks down has a short arrow.
        tip = forward * length
        side = np.array([-tip[1], tip[0]]) * 0.45
        a, b = tip + side, tip - side
        color = "var(--warm)" if name in held_out else "var(--accent)"
        parts.append(
            f'<path d="M{x:.1f} {y:.1f}l{a[0]:.1f} {a[1]:.1f}L{x + b[0]:.1f} {y + b[1]:.1f}z" fill="{color}" '
            f'fill-opacity=".35" stroke="{color}"><title>{escaped(name)}</title></path>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>'
        )
    return f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="cameras from above">{"".join(parts)}</svg>'


def _point_cells(
    pixels: npt.NDArray[np.floating], colors: npt.NDArray[np.uint8] | None, size: int
) -> npt.NDArray[np.uint8]:
    """Returns the points as an RGBA picture at half the map's size: mean colour, denser is more opaque."""
    cells = size // 2
    column, row = np.moveaxis((pixels / 2).astype(int), -1, 0)
    inside = (column >= 0) & (column < cells) & (row >= 0) & (row < cells)
    flat = (row * cells + column)[inside]
    count = np.bincount(flat, minlength=cells * cells)
    rgba = np.zeros((cells * cells, 4))
    for channel in range(3):
        weights = None if colors is None else np.asarray(colors)[inside, channel].astype(float)
        total = 128.0 * count if weights is None else np.bincount(flat, weights, minlength=cells * cells)
        rgba[:, channel] = total / np.maximum(count, 1)
    rgba[:, 3] = 255 * (1 - 0.4 ** np.minimum(count, 8))
    return rgba.round().astype(np.uint8).reshape(cells, cells, 4)
