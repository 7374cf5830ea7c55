# SPDX-License-Identifier: Apache-2.0
"""The pictures of the capture report: maps, matches matrix, histograms and thumbnails, as inline SVG and PNG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.capture.advice import look_target
from recon.capture.pictures import opened
from recon.errors import ReconError
from recon.scene import Scene

FloatArray = npt.NDArray[np.float64]

MAP_WIDTH, MAP_HEIGHT = 560, 420
MOST_DOTS = 60_000
MATRIX_STOPS = np.array([[247, 247, 245], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]], np.float64)


def map_figure(scene: Scene, side: bool) -> str:
    """Returns a map of cameras and points, from above or from the side, as a figure's inner HTML."""
    horizontal = _main_direction(scene) if side else np.array([1.0, 0.0, 0.0])
    vertical = np.array([0.0, 0.0, 1.0]) if side else np.array([0.0, 1.0, 0.0])
    axes = np.stack([horizontal, vertical])
    centers, points = scene.camera_centers @ axes.T, scene.points.positions @ axes.T
    low, scale = _frame_of(centers, points, look_target(scene) @ axes.T)

    def to_px(places: FloatArray) -> FloatArray:
        pixels = (places - low) * scale
        return np.stack([pixels[..., 0], MAP_HEIGHT - pixels[..., 1]], -1)

    parts = [f'<svg viewBox="0 0 {MAP_WIDTH} {MAP_HEIGHT}" role="img" class="map">']
    if len(points):
        cloud = _cloud_png(to_px(points), scene.points.colors)
        parts.append(f'<image href="{cloud}" width="{MAP_WIDTH}" height="{MAP_HEIGHT}"/>')
    forward = np.array([frame.camera.forward_in_world for frame in scene.frames]) @ axes.T
    length = 0.045 * MAP_WIDTH
    for frame, center, direction in zip(scene.frames, to_px(centers), forward * [1, -1]):
        ahead = center + length * direction
        across = 0.38 * length * np.array([-direction[1], direction[0]])
        if np.linalg.norm(direction) < 0.3:  # Looks along the line of sight of this map.
            across = np.array([0.15 * length, 0.0])
        wedge = [center, ahead + across, ahead - across]
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in wedge)
        parts.append(
            f'<g class="cam"><title>{escape(printable(frame.name))}</title><polygon points="{shape}"/>'
            f'<circle cx="{center[0]:.1f}" cy="{center[1]:.1f}" r="2.4"/></g>'
        )
    parts.append(_scale_bar(scale, scene.world.meters_per_unit))
    return "".join(parts) + "</svg>"


def matrix_figure(matrix: npt.NDArray[np.int64]) -> str:
    """Returns the matrix of matches between photos as an image element; a stronger colour means more."""
    from PIL import Image

    count = len(matrix)
    level = np.log1p(matrix.astype(np.float64))
    level /= max(float(level.max(initial=0.0)), 1e-9)
    position = level * (len(MATRIX_STOPS) - 1)
    below = np.minimum(position.astype(int), len(MATRIX_STOPS) - 2)
    share = (position - below)[..., None]
    colors = (MATRIX_STOPS[below] * (1 - share) + MATRIX_STOPS[below + 1] * share).astype(np.uint8)
    colors[np.arange(count), np.arange(count)] = (224, 222, 216)
    image = Image.fromarray(colors)
    if count > 800:
        image = image.resize((800, 800), Image.Resampling.BOX)
    return (
        f'<img class="matrix" alt="matches between all pairs of {count} photos" src="{data_url(image, "PNG")}" '
        f'title="row and column are photos in order; a stronger colour means more matches">'
    )


def histogram_figure(values: npt.NDArray[np.number], edges: FloatArray, unit: str, whole: bool = False) -> str:
    """Returns a histogram as SVG; what lies beyond the last edge is counted in the last bar."""
    width, height, bottom = 560, 220, 190
    counts = np.histogram(np.clip(values, edges[0], np.nextafter(edges[-1], edges[0])), edges)[0]
    tallest = max(int(counts.max(initial=0)), 1)
    step = (width - 20) / max(len(counts), 1)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" class="hist">']
    for index, count in enumerate(counts):
        x, tall = 10 + index * step, 160 * count / tallest
        first, last = edges[index], edges[index + 1]
        name = f"{first:g}" if whole else f"{first:.2g} to {last:.2g}"
        more = " or more" if index == len(counts) - 1 else ""
        parts.append(
            f'<g class="bar"><title>{name}{more} {escape(unit)}: {int(count):,}</title>'
            f'<rect x="{x + 1:.1f}" y="{bottom - tall:.1f}" width="{max(step - 2, 1):.1f}" height="{tall:.1f}"'
            ' rx="2"/></g>'
        )
    every = max(1, math.ceil(len(counts) / 10)) if whole else max(1, len(counts) // 5)
    for index in range(0, len(counts), every):
        x = 10 + (index + (0.5 if whole else 0.0)) * step
        anchor = "middle" if whole or index else "start"
        name = f"{edges[index]:g}" + ("+" if whole and index == len(counts) - 1 else "")
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{name}</text>')
    parts.append(f'<line x1="10" x2="{width - 10}" y1="{bottom}" y2="{bottom}"/></svg>')
    return "".join(parts)


def thumbnail(path: Path, height: int = 72) -> str:
    """Returns a small JPEG of a photo as a data URL; empty where it cannot be read."""
    from PIL import Image

    try:
        with opened(path) as image:
            image.draft("RGB", (4 * height, 2 * height))
            small = image.convert("RGB")
            width = max(1, min(3 * height, round(height * small.width / max(small.height, 1))))
            return data_url(small.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0), "JPEG")
    except ReconError:
        return ""


def data_url(image: object, kind: str) -> str:
    """Returns a Pillow image as a data URL."""
    buffer = io.BytesIO()
    options = {"quality": 78} if kind == "JPEG" else {"compress_level": 6}
    image.save(buffer, kind, **options)  # type: ignore[attr-defined]
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def printable(text: str) -> str:
    """Returns a file name fit for a page: what cannot be encoded or printed becomes a question mark."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else "?" for letter in clean)


def _main_direction(scene: Scene) -> FloatArray:
    """Returns the horizontal direction in which the cameras spread most, so that the side view shows them apart."""
    offsets = scene.camera_centers[:, :2]
    if len(offsets) < 2:
        return np.array([1.0, 0.0, 0.0])
    offsets = offsets - offsets.mean(0)
    vector = np.linalg.eigh(offsets.T @ offsets)[1][:, -1]
    return np.array([vector[0], vector[1], 0.0]) * (1.0 if vector[0] >= 0 else -1.0)


def _frame_of(centers: FloatArray, points: FloatArray, target: FloatArray) -> tuple[FloatArray, float]:
    """Returns the lower corner and the scale of a map that shows all cameras and the bulk of the points."""
    extent = float(np.linalg.norm(centers - centers.mean(0), axis=1).max(initial=0.0)) if len(centers) else 1.0
    shown = [centers]
    if len(points):
        # Stray points far away would shrink everything else to a dot.
        near = points[np.linalg.norm(points - np.median(points, 0), axis=1) < 4 * extent + 1e-6]
        if len(near):
            shown.append(np.quantile(near, [0.03, 0.97], axis=0))
    if np.linalg.norm(target - centers.mean(0)) < 3 * extent:
        shown.append(target[None])
    everything = np.concatenate(shown)
    low, high = everything.min(0), everything.max(0)
    size = np.maximum(high - low, 1e-6 + 0.02 * (high - low).max())
    scale = float(min((MAP_WIDTH - 70) / size[0], (MAP_HEIGHT - 70) / size[1]))
    return (low + high) / 2 - np.array([MAP_WIDTH, MAP_HEIGHT]) / (2 * scale), scale


def _cloud_png(pixels: FloatArray, colors: npt.NDArray[np.uint8]) -> str:
    """Returns the points as a transparent picture at twice the map's resolution."""
    from PIL import Image

    width, height = 2 * MAP_WIDTH, 2 * MAP_HEIGHT
    every = max(1, len(pixels) // MOST_DOTS)
    place = 2 * np.nan_to_num(pixels[::every], nan=-1.0, posinf=-1.0, neginf=-1.0)
    inside = (place >= 0).all(1) & (place < [width - 3, height - 3]).all(1)
    x, y = place[inside].astype(np.int64).T
    color = colors[::every][inside].astype(np.float64)
    reach = 3 if len(pixels) < 30_000 else 2  # Few points are drawn larger, or they would hardly show.
    flat = np.concatenate([(y + dy) * width + x + dx for dx, dy in np.ndindex(reach, reach)])
    touched, owner, count = np.unique(flat, return_inverse=True, return_counts=True)
    rgba = np.zeros((height * width, 4), np.uint8)
    for channel in range(3):
        total = np.bincount(owner.reshape(-1), np.tile(color[:, channel], reach**2), len(touched))
        rgba[touched, channel] = total / count
    rgba[touched, 3] = 255 * (1 - 0.3**count)
    return data_url(Image.fromarray(rgba.reshape(height, width, 4)), "PNG")


def _scale_bar(scale: float, meters_per_unit: float | None) -> str:
    per_px = (meters_per_unit or 1.0) / scale
    target = 90 * per_px
    step = 10.0 ** math.floor(math.log10(target))
    length = max((m for m in (1, 2, 5) if m * step <= target), default=1) * step
    px = length / per_px
    y = MAP_HEIGHT - 14
    name = f"{length:g} {'m' if meters_per_unit else 'unit' if length == 1 else 'units'}"
    return (
        f'<g class="scale"><line x1="16" x2="{16 + px:.1f}" y1="{y}" y2="{y}"/>'
        f'<text x="16" y="{y - 6}">{name}</text></g>'
    )


def histogram_edges(values: Sequence[float] | npt.NDArray[np.floating], bars: int = 20) -> FloatArray:
    """Returns edges from 0 to a round number above the 98th percentile."""
    top = float(np.quantile(values, 0.98)) if len(values) else 1.0
    top = max(top, 1e-3)
    step = 10.0 ** math.floor(math.log10(top))
    nice = next(m * step for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * step >= top - 1e-12)
    return np.linspace(0, nice, bars + 1)
