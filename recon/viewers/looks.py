# SPDX-License-Identifier: Apache-2.0
"""What an exact picture shows: colour, depth, normals, alpha, ellipsoids, the error against a photograph; and beside or
over it a photograph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera
from recon.film.colormap import colorize
from recon.painting import PaintOptions
from recon.rasterization import SplatRenderer
from recon.render import Renderer, RenderOptions, RenderOutput
from recon.viewers.photos import Photos, Reprojection

Show = Literal["color", "depth", "normal", "alpha", "ellipsoids", "error"]
Compare = Literal["off", "blend", "swipe"]
Picture = npt.NDArray[np.uint8]
FloatImage = npt.NDArray[np.float32]

SHOWS: dict[str, Show] = {
    "Colour": "color",
    "Depth": "depth",
    "Normals": "normal",
    "Alpha": "alpha",
    "Ellipsoids": "ellipsoids",
    "Error against the nearest photo": "error",
}

MOST_ERROR = 0.15
"""The error that has the last colour of the scale."""

ERROR_PX = 960
"""Longest side of a picture of errors: the photograph's colours are looked up pixel by pixel."""

RANGE_CHANGE = 0.25
"""The depth's scale of colours follows the view when its ends are off by more than this."""

BAND_S = 0.08
"""A picture of a renderer that cannot be interrupted is made in bands of about so long."""

_FIRST_BAND_PX = 8192

_ERROR_ANCHORS = np.array(
    [[8, 8, 24], [46, 16, 92], [112, 24, 116], [186, 48, 92], [236, 98, 46], [250, 172, 40], [252, 250, 190]],
    np.float64,
)


@dataclass(frozen=True)
class Look:
    """What one browser wants to see.

    Attributes:
        show: the quantity.
        sigma: size of ellipsoids in standard deviations.
        photo: the photograph that is compared with the picture, by its number in the scene; None for none.
        compare: how: blended over it, or beside it with a line between that can be moved.
        share: how much of the photograph is seen: its opacity, or the line's place from the left; 0..1.
    """

    show: Show = "color"
    sigma: float = 1.0
    photo: int | None = None
    compare: Compare = "off"
    share: float = 0.5

    @property
    def is_plain(self) -> bool:
        """Whether the browser's own splats show about the same."""
        return self.show == "color" and (self.photo is None or self.compare == "off")


@dataclass(frozen=True)
class Legend:
    """What the colours mean: a scale with its ends, as CSS colours, or a note alone."""

    title: str
    colors: tuple[str, ...] = ()
    low: str = ""
    high: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture [H, W, 3], the depth [H, W] of its surface in world units (0 for none), and its legend."""

    picture: Picture
    depth: FloatImage | None
    legend: Legend | None = None
    depth_range: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Studio:
    """What pictures are made of.

    Attributes:
        renderer: what is seen.
        background: colour behind everything, RGB in 0..1.
        photos: the scene's photographs; None without a scene.
        extent: size of what matters, world units.
        opacity: of the whole picture over the background.
        meters_per_unit: None where it is not known.
    """

    renderer: Renderer
    background: tuple[float, float, float]
    photos: Photos | None
    extent: float
    opacity: float = 1.0
    meters_per_unit: float | None = None


def make_picture(
    studio: Studio,
    look: Look,
    camera: Camera,
    depth_range: tuple[float, float] | None,
    cancelled: Callable[[], bool],
    full: bool = True,
) -> Shown | None:
    """Makes the picture of a look; None where it was given up.

    Args:
        studio: what is shown.
        look: how.
        camera: from where, a PINHOLE camera.
        depth_range: the depth's present scale, kept where it still fits.
        cancelled: asked now and then whether nobody wants the picture any more.
        full: whether it may take its time; else the depth is that of centres.
    """
    if look.show == "error":
        camera = camera.fitted(ERROR_PX)
    output = _paint(studio, look, camera, cancelled, full)
    if output is None or cancelled():
        return None
    rgb = output.rgb.clamp(0, 1).cpu().numpy()
    depth = _surface(output)
    legend, kept_range = None, depth_range
    if look.show == "depth":
        kept_range = _range(depth, depth_range)
        rgb, legend = _depth_colors(depth, kept_range, studio)
    elif look.show == "normal" and output.normal is not None:
        alpha = output.alpha[..., None]
        rgb = ((output.normal * 0.5 + 0.5) * alpha).clamp(0, 1).cpu().numpy()
        legend = Legend("Normals", note="red +X · green +Y · blue +Z (up)")
    elif look.show == "alpha":
        rgb = np.repeat(output.alpha.cpu().numpy()[..., None], 3, axis=2)
        legend = Legend("Alpha", ("#000", "#fff"), "clear", "solid")
    elif look.show == "ellipsoids":
        legend = Legend("Ellipsoids", note=f"solid up to {look.sigma:g} σ; faint splats are left out")
    elif look.show == "error" and studio.photos is not None:
        rgb, legend = _error_colors(studio, studio.photos, camera, rgb, output, depth)
    if studio.opacity < 1:
        behind = (1 - studio.opacity) * np.array(studio.background)
        rgb = (studio.opacity * rgb + behind).astype(np.float32)
        depth = np.zeros_like(depth)
    if look.photo is not None and look.compare != "off" and studio.photos is not None:
        laid = studio.photos.laid_over(look.photo, camera, 1e-3 * studio.extent)
        if laid is not None:
            rgb = compared(rgb, laid, look.compare, look.share)
    return Shown((255 * rgb + 0.5).astype(np.uint8), depth, legend, kept_range)


def compared(rgb: FloatImage, photo: Reprojection, how: Compare, share: float) -> FloatImage:
    """Returns a picture [H, W, 3] with a photograph blended over it, or left of a line at `share` of the width."""
    seen = photo.seen[..., None]
    result: FloatImage
    if how == "blend":
        result = np.where(seen, share * photo.colors + (1 - share) * rgb, rgb).astype(np.float32)
        return result
    width = rgb.shape[1]
    line = round(share * width)
    left = np.arange(width)[None, :, None] < line
    result = np.where(seen & left, photo.colors, rgb)
    half = max(1, round(width / 900))
    result[:, max(0, line - half) : line + half] = 1.0
    return result


def error_palette() -> npt.NDArray[np.float32]:
    """Returns [256, 3] colours in 0..1 from dark (no error) over red to pale yellow."""
    knots = np.linspace(0, 1, len(_ERROR_ANCHORS))
    values = np.linspace(0, 1, 256)
    colors = np.stack([np.interp(values, knots, column) for column in _ERROR_ANCHORS.T], 1) / 255
    return colors.astype(np.float32)


def _paint(
    studio: Studio, look: Look, camera: Camera, cancelled: Callable[[], bool], full: bool
) -> RenderOutput | None:
    background = (0.0, 0.0, 0.0) if look.show in ("normal", "alpha") else studio.background
    renderer, is_solid = studio.renderer, look.show == "ellipsoids"
    if isinstance(renderer, SplatRenderer):
        options = PaintOptions(
            background,
            depth=True,
            planar_depth=full and look.show in ("depth", "error"),
            normal=look.show == "normal",
            solid_sigma=look.sigma if is_solid else None,
        )
        return renderer.paint(camera, options, cancelled)
    return render_in_bands(
        renderer, camera, RenderOptions(background, depth=True, normal=look.show == "normal"), cancelled
    )


def render_in_bands(
    renderer: Renderer, camera: Camera, options: RenderOptions, cancelled: Callable[[], bool]
) -> RenderOutput | None:
    """Renders band by band, so that a slow picture can be given up between two of them; None where it was.

    A band is as high as takes about `BAND_S`, which the bands before it tell.
    """
    top, rows = 0, max(1, _FIRST_BAND_PX // camera.width)
    bands: list[RenderOutput] = []
    while top < camera.height:
        if bands and cancelled():
            return None
        rows = min(rows, camera.height - top)
        started = time.perf_counter()
        bands.append(renderer.render(replace(camera, height=rows, cy=camera.cy - top), options))
        top += rows
        rows = max(1, round(rows * min(4.0, BAND_S / max(time.perf_counter() - started, 1e-6))))
    if len(bands) == 1:
        return bands[0]
    parts: dict[str, torch.Tensor | None] = {}
    for spec in fields(RenderOutput):
        found = [getattr(band, spec.name) for band in bands]
        parts[spec.name] = None if found[0] is None else torch.cat(found)
    return RenderOutput(**parts)  # type: ignore[arg-type]


def _surface(output: RenderOutput) -> FloatImage:
    """Returns the depth [H, W] of what is solid, 0 elsewhere."""
    chosen = output.depth if output.depth is not None else output.median_depth
    alpha = output.alpha.cpu().numpy()
    if chosen is None:
        return np.zeros_like(alpha)
    depth: FloatImage = np.where(alpha > 0.5, chosen.float().cpu().numpy(), np.float32(0))
    return depth


def _range(depth: FloatImage, before: tuple[float, float] | None) -> tuple[float, float]:
    """Returns near and far of a view without its outliers; those of the last picture where they still fit."""
    solid = depth[::4, ::4]
    solid = solid[solid > 0]
    if not len(solid):
        return before or (1.0, 2.0)
    near, far = np.percentile(solid, [1, 99]).tolist()
    far = max(far, 1.01 * near)
    if before is not None and all(abs(a / b - 1) < RANGE_CHANGE for a, b in zip((near, far), before)):
        return before
    return near, far


def _depth_colors(depth: FloatImage, ends: tuple[float, float], studio: Studio) -> tuple[FloatImage, Legend]:
    near, far = ends
    solid = depth > 0
    nearness = (1 / np.where(solid, depth, 1.0) - 1 / far) / (1 / near - 1 / far)
    rgb: FloatImage = np.divide(colorize(nearness, solid), 255, dtype=np.float32)
    unit = studio.meters_per_unit
    words = [f"{value * unit:.3g} m" if unit else f"{value:.3g}" for value in ends]
    scale = colorize(np.linspace(1, 0, 12))
    note = "" if unit else "in units of the scene"
    return rgb, Legend("Depth", tuple(css(color) for color in scale), words[0], words[1], note)


def _error_colors(
    studio: Studio,
    photos: Photos,
    camera: Camera,
    rgb: FloatImage,
    output: RenderOutput,
    depth: FloatImage,
) -> tuple[FloatImage, Legend]:
    """Returns the mean absolute difference of the channels to the nearest photograph; grey where it sees nothing."""
    grey = (0.35 * rgb.mean(2, keepdims=True) + np.array([0.05, 0.05, 0.07])).astype(np.float32)
    palette = error_palette()
    colors = tuple(css(color) for color in (255 * palette[::36]).astype(int))
    index = photos.nearest(camera, studio.extent)
    moved = photos.reprojected(index, camera, depth, depth > 0, studio.renderer)
    title = "Error (mean of |R|, |G|, |B|)"
    if moved is None:
        return grey, Legend(title, colors, "0", f"{MOST_ERROR:g}", f"{photos.names[index]} cannot be read")
    difference = moved.colors - rgb
    error = np.abs(difference).mean(2)
    shown = palette[np.minimum(error * (255 / MOST_ERROR), 255).astype(np.uint8)]
    note = f"against {photos.names[index]}, moved here over the rendered surface; grey: it does not see that"
    if moved.seen.any():
        mean_square = float((difference[moved.seen] ** 2).mean())
        note = f"{-10 * np.log10(max(mean_square, 1e-9)):.1f} dB where seen · " + note
    return np.where(moved.seen[..., None], shown, grey), Legend(title, colors, "0", f"{MOST_ERROR:g} and more", note)


def css(color: npt.ArrayLike) -> str:
    """Returns an RGB colour of 0..255 as CSS has it."""
    red, green, blue = (int(part) for part in np.asarray(color))
    return f"#{red:02x}{green:02x}{blue:02x}"
