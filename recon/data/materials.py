# SPDX-License-Identifier: Apache-2.0
"""Painters of materials: plaster, wallpaper, brick, wood, cloth, rugs, books, pictures and a view through a window.

A painter fills a `Canvas` and returns its colours [H, W, 3] as sRGB values in 0..1.  Every surface brings its own
random generator, so no two surfaces repeat each other, as in a real room, where features must not be confused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.data.noise import Field, octave_noise, smoothstep
from recon.errors import ReconError

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Canvas:
    """What is painted on: its size in texels, the size of a texel in metres, and the surface's own randomness."""

    height: int
    width: int
    texel_m: float
    rng: np.random.Generator

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def noise(self, cell_m: float | tuple[float, float], octaves: int = 4, gain: float = 0.5) -> Field:
        """Returns `octave_noise` with cells given in metres (height and width where they differ)."""
        cells = cell_m if isinstance(cell_m, tuple) else (cell_m, cell_m)
        scaled = (cells[0] / self.texel_m, cells[1] / self.texel_m)
        return octave_noise(self.rng, self.shape, scaled, octaves, gain)

    def fill(self, color: Color) -> npt.NDArray[np.float32]:
        """Returns the whole canvas in one colour."""
        return np.broadcast_to(np.array(color, np.float32), (*self.shape, 3)).copy()

    def metres(self) -> tuple[Field, Field]:
        """Returns the x and y of each texel in metres from the top left corner, as [1, W] and [H, 1]."""
        x = (np.arange(self.width, dtype=np.float32)[None] + 0.5) * np.float32(self.texel_m)
        y = (np.arange(self.height, dtype=np.float32)[:, None] + 0.5) * np.float32(self.texel_m)
        return x, y


def as_color(values: npt.ArrayLike) -> Color:
    """Returns three numbers as a colour, held within 0.02 and 0.98."""
    red, green, blue = (float(value) for value in np.clip(np.asarray(values, float), 0.02, 0.98))
    return red, green, blue


def random_color(rng: np.random.Generator, low: float, high: float) -> Color:
    """Draws a colour with each channel between two values."""
    return as_color(rng.uniform(low, high, 3))


Painter = Callable[[Canvas], npt.NDArray[np.float32]]


def mottled(paint: npt.NDArray[np.float32], field: Field, amount: float) -> npt.NDArray[np.float32]:
    """Returns `paint` made lighter and darker by a field, relative to its own brightness."""
    return paint * (1.0 + amount * np.clip(field, -2.5, 2.5))[..., None]


def blend(under: npt.NDArray, over: npt.NDArray | Color, weight: npt.NDArray) -> npt.NDArray:
    """Returns `over` laid on `under` with a weight [H, W] in 0..1."""
    return under + (np.asarray(over, np.float32) - under) * weight[..., None].astype(np.float32)


def specks(canvas: Canvas, per_m2: float, radius_m: tuple[float, float]) -> Field:
    """Returns a mask in 0..1 of round specks scattered at random."""
    import cv2

    mask = np.zeros(canvas.shape, np.uint8)
    if radius_m[1] < 0.5 * canvas.texel_m:
        # Too small to be told apart.
        return mask.astype(np.float32)
    area = canvas.height * canvas.width * canvas.texel_m**2
    count = int(per_m2 * area)
    xs = canvas.rng.uniform(0, canvas.width, count)
    ys = canvas.rng.uniform(0, canvas.height, count)
    radii = canvas.rng.uniform(*radius_m, count) / canvas.texel_m
    values = canvas.rng.uniform(90, 255, count)
    for x, y, radius, value in zip(xs, ys, radii, values):
        center, size = (int(x * 16), int(y * 16)), max(int(radius * 16), 8)
        cv2.circle(mask, center, size, float(value), -1, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255.0


def plaster(color: Color, contrast: float = 1.0) -> Painter:
    """Painted plaster: clouds, roller marks and small pits."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        base = mottled(canvas.fill(color), canvas.noise(0.8, 4, 0.6), 0.035 * contrast)
        base = mottled(base, canvas.noise((0.10, 0.03), 4, 0.7), 0.03 * contrast)
        base = mottled(base, canvas.noise(0.02, 3, 0.9), 0.035 * contrast)
        base = blend(base, np.array(color) * 0.6, 0.5 * specks(canvas, 260 * contrast, (0.002, 0.006)))
        return blend(base, np.minimum(np.array(color) * 1.15, 0.97), 0.5 * specks(canvas, 200, (0.002, 0.008)))

    return paint


def wallpaper(color: Color, motifs: tuple[Color, ...], per_m2: float = 55.0) -> Painter:
    """Wallpaper with hand-painted twigs, each of its own shape, scattered without a repeat."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        base = plaster(color, 0.8)(canvas)
        picture = np.clip(base * 255, 0, 255).astype(np.uint8)
        area = canvas.height * canvas.width * canvas.texel_m**2
        scale = 1.0 / canvas.texel_m
        for _ in range(int(per_m2 * area)):
            x, y = canvas.rng.uniform(0, canvas.width), canvas.rng.uniform(0, canvas.height)
            _twig(picture, canvas.rng, np.array([x, y]), scale, motifs)
        painted = picture.astype(np.float32) / 255.0
        return mottled(painted, canvas.noise(0.03, 3, 0.8), 0.04)

    return paint


def _twig(
    picture: npt.NDArray, rng: np.random.Generator, foot: npt.NDArray, scale: float, motifs: tuple[Color, ...]
) -> None:
    """Draws a bent stem with leaves on both sides, `scale` pixels to the metre."""
    import cv2

    color = np.array(motifs[rng.integers(len(motifs))]) * rng.uniform(0.85, 1.12)
    shade = tuple(float(c) for c in np.clip(color * 255, 0, 255))
    heading, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
    steps = int(rng.integers(4, 8))
    step = rng.uniform(0.014, 0.024) * scale
    at = foot
    for k in range(steps):
        then = at + step * np.array([np.cos(heading), np.sin(heading)])
        line = [(int(p[0] * 16), int(p[1] * 16)) for p in (at, then)]
        cv2.line(picture, line[0], line[1], shade, max(1, round(0.003 * scale)), cv2.LINE_AA, shift=4)
        for side in (-1, 1):
            if rng.uniform() < 0.15:
                continue
            angle = heading + side * rng.uniform(0.6, 1.1)
            length = rng.uniform(0.012, 0.026) * scale * (1 - 0.08 * k)
            middle = then + length * np.array([np.cos(angle), np.sin(angle)])
            axes = (int(length * 16), int(length * rng.uniform(0.3, 0.45) * 16))
            leaf = tuple(float(c) for c in np.clip(color * rng.uniform(0.85, 1.15) * 255, 0, 255))
            center = (int(middle[0] * 16), int(middle[1] * 16))
            cv2.ellipse(picture, center, axes, np.degrees(angle), 0, 360, leaf, -1, cv2.LINE_AA, shift=4)
        at, heading = then, heading + bend


def brick(color: Color, mortar: Color) -> Painter:
    """A brick wall in running bond; every brick has its own length, tone, stains and chipped edges."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        rng = canvas.rng
        # The wall is warped a little so that joints are not straight.
        x, y = canvas.metres()
        x = x + 0.004 * canvas.noise(0.06, 2)
        y = y + 0.003 * canvas.noise(0.08, 2)
        course = 0.072
        row = np.floor(y / course).astype(np.int32)
        rows = int(np.ceil(canvas.height * canvas.texel_m / course)) + 2
        shift = rng.uniform(-0.02, 0.02, rows) + 0.105 * (np.arange(rows) % 2)
        row = np.clip(row, 0, rows - 1)
        along = x + shift[row].astype(np.float32) + 0.3
        length = 0.21
        column = np.floor(along / length).astype(np.int32)
        columns = int(np.ceil(canvas.width * canvas.texel_m / length)) + 4
        column = np.clip(column, 0, columns - 1)
        tone = rng.normal(0, 1, (rows, columns, 3)).astype(np.float32) * np.array([0.06, 0.035, 0.035], np.float32)
        tone += rng.normal(0, 0.11, (rows, columns, 1)).astype(np.float32)
        bricks = canvas.fill(color) * (1 + tone[row, column])
        bricks = mottled(bricks, canvas.noise(0.05, 5, 0.7), 0.09)
        bricks = blend(bricks, np.array(color) * 0.45, 0.6 * specks(canvas, 900, (0.0015, 0.005)))
        edge_x = np.minimum(along - column * length, (column + 1) * length - along)
        edge_y = np.minimum(y - row * course, (row + 1) * course - y)
        edge = np.minimum(edge_x, edge_y) + 0.0015 * canvas.noise(0.012, 2)
        joint = 1 - smoothstep(0.004, 0.0075, edge)
        filler = mottled(canvas.fill(mortar), canvas.noise(0.01, 3, 0.9), 0.10)
        return blend(bricks, filler, joint)

    return paint


def wood(color: Color, contrast: float = 1.0, across: bool = False) -> Painter:
    """Planed wood with its grain along the width (along the height if `across`)."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        def stretched(long: float, short: float, octaves: int, gain: float = 0.6) -> Field:
            return canvas.noise((long, short) if across else (short, long), octaves, gain)

        warp = stretched(0.6, 0.10, 3)
        x, y = canvas.metres()
        cross = (x if across else y) + 0.018 * warp
        rings = np.sin(2 * np.pi * cross / 0.021 + 2.0 * stretched(0.9, 0.05, 2))
        fibre = stretched(0.10, 0.004, 3, 0.8)
        base = mottled(canvas.fill(color), rings, 0.07 * contrast)
        base = mottled(base, fibre, 0.075 * contrast)
        base = mottled(base, stretched(0.5, 0.12, 3), 0.06 * contrast)
        pores = smoothstep(1.2, 2.0, stretched(0.03, 0.0035, 2, 0.9))
        return blend(base, np.array(color) * 0.45, 0.55 * pores)

    return paint


def planks(color: Color, board_m: float = 0.13) -> Painter:
    """A floor of boards; every board has its own tone and grain."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        rng = canvas.rng
        x, y = canvas.metres()
        rows = int(np.ceil(canvas.height * canvas.texel_m / board_m)) + 1
        row = np.minimum((y / board_m).astype(np.int32), rows - 1)
        length = 1.1
        columns = int(np.ceil(canvas.width * canvas.texel_m / length)) + 3
        shift = rng.uniform(0, length, rows).astype(np.float32)
        along = x + shift[row]
        column = np.clip((along / length).astype(np.int32), 0, columns - 1)
        tone = 1 + rng.normal(0, 0.10, (rows, columns, 1)) + rng.normal(0, 0.02, (rows, columns, 3))
        boards = wood(color, 1.25)(canvas) * np.clip(tone, 0.7, 1.3).astype(np.float32)[row, column]
        boards = blend(boards, np.array(color) * 0.35, 0.8 * specks(canvas, 2.5, (0.006, 0.014)))
        gap = np.minimum(np.minimum(y - row * board_m, (row + 1) * board_m - y), 9.0)
        end = np.minimum(along - column * length, (column + 1) * length - along)
        groove = 1 - smoothstep(0.0006, 0.003, np.minimum(gap, end))
        return blend(boards, np.array(color) * 0.25, 0.85 * groove)

    return paint


def cloth(color: Color, accent: Color | None = None, contrast: float = 1.0) -> Painter:
    """Woven cloth: threads of uneven thickness both ways, wear, and a few flecks of another colour."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        base = mottled(canvas.fill(color), canvas.noise((0.05, 0.004), 2, 0.9), 0.09 * contrast)
        base = mottled(base, canvas.noise((0.004, 0.05), 2, 0.9), 0.09 * contrast)
        base = mottled(base, canvas.noise(0.006, 2, 1.0), 0.07 * contrast)
        base = mottled(base, canvas.noise(0.25, 4, 0.6), 0.07 * contrast)
        flecks = specks(canvas, 1200, (0.0015, 0.004))
        return blend(base, accent or np.minimum(1.0, 1.5 * np.array(color) + 0.05), 0.55 * flecks)

    return paint


def striped_cloth(color: Color, stripes: tuple[Color, ...], across: bool = False) -> Painter:
    """Cloth with stripes of uneven width."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        weave = cloth((0.5, 0.5, 0.5))(canvas) * 2
        x, y = canvas.metres()
        along = (x + 0 * y if across else y + 0 * x) + 0.002 * canvas.noise(0.1, 2)
        base = canvas.fill(color)
        at, end = 0.02, float(along.max())
        while at < end:
            width = canvas.rng.uniform(0.006, 0.03)
            inside = smoothstep(0, 0.002, along - at) * smoothstep(0, 0.002, at + width - along)
            base = blend(base, stripes[canvas.rng.integers(len(stripes))], inside)
            at += width + canvas.rng.uniform(0.01, 0.06)
        return base * weave

    return paint


def rug(colors: tuple[Color, ...]) -> Painter:
    """A kilim: a border, bands, and in each band a row of diamonds or zigzags that differ from one another."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        import cv2

        rng, scale = canvas.rng, 1.0 / canvas.texel_m
        palette = [tuple(float(255 * c) for c in color) for color in colors]
        picture = np.empty((*canvas.shape, 3), np.uint8)
        picture[:] = np.array(palette[0], np.uint8)
        at = 0.0
        while at < canvas.height:
            band = rng.uniform(0.07, 0.16) * scale
            ground, figure, core = rng.permutation(len(palette))[:3]
            picture[int(at) : int(at + band)] = np.array(palette[ground], np.uint8)
            x = rng.uniform(0, 0.05) * scale
            while x < canvas.width:
                half_w, half_h = rng.uniform(0.025, 0.06) * scale, band * rng.uniform(0.28, 0.48)
                middle = (x + half_w, at + band / 2)
                for part, shade in ((1.0, figure), (rng.uniform(0.35, 0.6), core)):
                    diamond = np.array([[-half_w, 0], [0, -half_h], [half_w, 0], [0, half_h]]) * part + middle
                    points = np.round(diamond * 16).astype(np.int32)
                    cv2.fillPoly(picture, [points], palette[shade], cv2.LINE_AA, shift=4)
                x += 2 * half_w + rng.uniform(0.004, 0.03) * scale
            at += band + rng.uniform(0.004, 0.015) * scale
        border = int(0.05 * scale)
        for inset, shade in ((0, 1), (border // 2, 2)):
            corner, far = (inset, inset), (canvas.width - 1 - inset, canvas.height - 1 - inset)
            cv2.rectangle(picture, corner, far, palette[shade], max(2, border // 2))
        wool = cloth((0.5, 0.5, 0.5), (0.7, 0.7, 0.7), 1.4)(canvas) * 2
        return picture.astype(np.float32) / 255.0 * wool

    return paint


def book_spine(color: Color, ink: Color) -> Painter:
    """The back of a book: cloth, bands and rows of marks that look like lettering."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        rng = canvas.rng
        base = mottled(canvas.fill(color), canvas.noise(0.02, 4, 0.8), 0.06)
        ink_mask = np.zeros(canvas.shape, np.float32)
        for at in rng.uniform(0.03, 0.97, 3):
            row = int(at * canvas.height)
            ink_mask[row : row + max(1, int(0.0025 / canvas.texel_m))] = 0.8
        _lettering(canvas, ink_mask, int(rng.uniform(0.12, 0.2) * canvas.height), int(0.75 * canvas.height))
        return blend(base, ink, ink_mask)

    return paint


def _lettering(canvas: Canvas, mask: Field, top: int, bottom: int) -> None:
    """Fills a column of the mask with short strokes in lines, like words read sideways."""
    rng = canvas.rng
    left, right = int(0.25 * canvas.width), max(int(0.75 * canvas.width), int(0.25 * canvas.width) + 2)
    stroke = max(1, round(0.002 / canvas.texel_m))
    y = top
    while y < bottom:
        low, high = np.sort(rng.integers(left, right, 2))
        kind = rng.integers(4)
        if kind == 0:
            mask[y : y + stroke, left:right] = 1
        elif kind == 1:
            mask[y : y + 2 * stroke, low : high + stroke] = 1
        elif kind == 2:
            mask[y : y + 3 * stroke, low : low + stroke] = 1
            mask[y : y + 3 * stroke, high : high + stroke] = 1
        y += stroke * (2 + int(kind)) + (stroke * 5 if rng.uniform() < 0.15 else 0)


def printed_page(color: Color) -> Painter:
    """A sheet with a picture, a heading and lines of unreadable text."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        rng = canvas.rng
        sheet = mottled(canvas.fill(color), canvas.noise(0.01, 3), 0.01)
        line = max(2, round(0.0045 / canvas.texel_m))
        margin = int(0.08 * canvas.width)
        picture_rows = slice(margin, margin + int(0.35 * canvas.height))
        sky = canvas.noise(0.04, 5)[..., None] * np.array([0.15, 0.12, 0.1], np.float32) + rng.uniform(0.2, 0.6, 3)
        sheet[picture_rows, margin:-margin] = np.clip(sky, 0, 1)[picture_rows, margin:-margin]
        for y in range(picture_rows.stop + 2 * line, canvas.height - margin, 2 * line):
            x = margin
            while x < canvas.width - margin:
                word = int(rng.uniform(0.004, 0.014) / canvas.texel_m) + 1
                sheet[y : y + line // 2 + 1, x : min(x + word, canvas.width - margin)] = rng.uniform(0.1, 0.3)
                x += word + max(1, line // 2)
        return sheet

    return paint


def picture(name: str, mat: Color = (0.93, 0.92, 0.88), border: float = 0.08) -> Painter:
    """A photograph from scikit-image's wheel within a mat board.

    Args:
        name: file name among scikit-image's bundled pictures.
        mat: colour of the board.
        border: its width relative to the shorter side.
    """

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        import cv2

        edge = max(1, int(border * min(canvas.shape)))
        inner = (canvas.height - 2 * edge, canvas.width - 2 * edge)
        photo = _bundled_photo(name)
        # The middle of the photograph in the frame's proportions.
        scale = max(inner[0] / photo.shape[0], inner[1] / photo.shape[1])
        rows, columns = min(photo.shape[0], round(inner[0] / scale)), min(photo.shape[1], round(inner[1] / scale))
        y, x = (photo.shape[0] - rows) // 2, (photo.shape[1] - columns) // 2
        cut = photo[y : y + rows, x : x + columns]
        fitted = cv2.resize(cut, inner[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        board = mottled(canvas.fill(mat), canvas.noise(0.01, 2), 0.015)
        board[edge : edge + inner[0], edge : edge + inner[1]] = np.clip(fitted.astype(np.float32) / 255.0, 0, 1)
        return board

    return paint


def _bundled_photo(name: str) -> npt.NDArray[np.uint8]:
    from importlib.util import find_spec

    from PIL import Image

    spec = find_spec("skimage")
    folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin else Path()
    try:
        with Image.open(folder / name) as photo:
            return np.asarray(photo.convert("RGB"))
    except OSError as error:
        raise ReconError(
            "painting the pictures of a synthetic capture",
            f"scikit-image's bundled picture {name} cannot be read ({error})",
            "an installed scikit-image",
            "pip install scikit-image",
        ) from error


def speckled(color: Color, spots: Color, per_m2: float, radius_m: tuple[float, float]) -> Painter:
    """Glazed or fired clay with spots."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        base = mottled(canvas.fill(color), canvas.noise(0.05, 5, 0.7), 0.07)
        base = mottled(base, canvas.noise((0.006, 0.08), 3, 0.7), 0.05)
        return blend(base, spots, 0.8 * specks(canvas, per_m2, radius_m))

    return paint


def leaf(color: Color) -> Painter:
    """A leaf with a midrib along its width and veins."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        x, y = canvas.metres()
        across = np.abs(y / (canvas.height * canvas.texel_m) - 0.5)
        base = mottled(canvas.fill(color), canvas.noise(0.02, 4, 0.7), 0.10)
        veins = np.cos(2 * np.pi * (x - 0.6 * across * 0.1) / 0.017 + canvas.noise(0.05, 2))
        base = mottled(base, veins, 0.07)
        return blend(base, np.array(color) * 1.5, 0.7 * (1 - smoothstep(0.01, 0.05, across)))

    return paint


def outdoors() -> Painter:
    """What is seen through the window: sky, clouds, hills, trees and a meadow."""

    def paint(canvas: Canvas) -> npt.NDArray[np.float32]:
        y = np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None] + np.zeros(canvas.shape, np.float32)
        sky = blend(canvas.fill((0.45, 0.65, 0.90)), (0.86, 0.91, 0.95), smoothstep(0.0, 0.6, y))
        clouds = smoothstep(0.1, 1.4, canvas.noise((0.25, 0.7), 6, 0.6))
        scenery = blend(sky, (0.98, 0.98, 0.97), 0.85 * clouds)
        for level, color in ((0.46, (0.52, 0.62, 0.66)), (0.54, (0.37, 0.50, 0.40)), (0.64, (0.27, 0.41, 0.22))):
            ridge = octave_noise(canvas.rng, (1, canvas.width), (9.0, 0.9 / canvas.texel_m), 6, 0.55)
            rough = 0.012 * canvas.noise(0.05, 4, 0.8)
            below = smoothstep(-0.004, 0.004, y - (level + 0.045 * ridge) + rough)
            leaves = mottled(canvas.fill(color), canvas.noise(0.10, 6, 0.85), 0.22)
            scenery = blend(scenery, leaves, below)
        return scenery

    return paint
