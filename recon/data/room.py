# SPDX-License-Identifier: Apache-2.0
"""The furnished room: 4.6 m × 3.8 m × 2.6 m, a window to the east, and somebody's things."""

from __future__ import annotations

import numpy as np

from recon.data import furniture as f
from recon.data import materials as m
from recon.data.lighting import RectangleLight, SphereLight, Sun
from recon.data.shapes import bent, box, disc, lathe, moved, quad, smooth_profile, tube
from recon.data.stage import Set
from recon.data.surfaces import Patch, Surface

HALF_X, HALF_Y, HEIGHT = 2.3, 1.9, 2.6
WINDOW_Y, WINDOW_LOW, WINDOW_HIGH = 0.78, 0.88, 2.16


def build_room(rng: np.random.Generator) -> Set:
    """Returns the room's surfaces and lights; `rng` decides what varies (books, leaves)."""
    parts: list[Patch] = []
    parts += _shell()
    parts += _window()
    parts += _living_corner(rng)
    parts += _south_wall(rng)
    parts += _work_corner()
    surfaces: list[Surface] = list(parts)
    lights = (
        RectangleLight(
            (HALF_X + 0.17, WINDOW_Y, WINDOW_LOW),
            (0, -2 * WINDOW_Y, 0),
            (0, 0, WINDOW_HIGH - WINDOW_LOW),
            (5.2, 5.7, 6.4),
        ),
        Sun((-0.78, 0.20, -0.60), 0.025, (6.5, 5.7, 4.5)),
        SphereLight((1.45, 1.42, 1.49), 0.13, (9.0, 6.6, 4.1)),
        SphereLight((-0.35, 0.25, 2.02), 0.13, (13.0, 10.4, 7.4)),
    )
    return Set("room", surfaces, lights, ambient=(0.10, 0.10, 0.105), key=0.11)


def _wall(name: str, start: tuple[float, float], stop: tuple[float, float], painter: m.Painter) -> Patch:
    """A whole wall whose front is on the left of somebody who walks from `stop` to `start`."""
    right = (stop[0] - start[0], stop[1] - start[1], 0)
    return Patch(name, quad((*start, HEIGHT), right, (0, 0, -HEIGHT)), painter, light_m=0.035)


def _shell() -> list[Patch]:
    x, y = HALF_X, HALF_Y
    floor = quad((-x, y, 0), (2 * x, 0, 0), (0, -2 * y, 0))
    ceiling = quad((-x, -y, HEIGHT), (2 * x, 0, 0), (0, 2 * y, 0))
    parts = [
        Patch("floor", floor, m.planks((0.58, 0.44, 0.31)), 0.003, 0.03, gloss=0.22),
        Patch("ceiling", ceiling, m.plaster((0.88, 0.85, 0.79), 1.3), 0.004, 0.05),
        _wall("north wall", (-x, y), (x, y), m.brick(f.BRICK_RED, (0.74, 0.69, 0.62))),
        _wall("south wall", (x, -y), (-x, -y), m.wallpaper(f.SAGE, ((0.36, 0.46, 0.36), f.CREAM, (0.70, 0.52, 0.40)))),
        _wall("west wall", (-x, -y), (-x, y), m.wallpaper(f.CREAM, ((0.72, 0.66, 0.52), (0.78, 0.62, 0.48)), 22)),
    ]
    for beam in (-1.5, -0.1, 1.3):
        low, high = (beam - 0.07, -y, HEIGHT - 0.14), (beam + 0.07, y, HEIGHT)
        beams = box("beam", low, high, m.wood((0.45, 0.31, 0.21), 1.4), True, texel_m=0.003)
        parts += [
            Patch(p.name, p.grid, m.wood((0.45, 0.31, 0.21), 1.4, p.name.endswith("bottom")), 0.003, 0.05)
            for p in beams
            if not p.name.endswith(("top", "front", "back"))
        ]
    skirting = m.wood((0.80, 0.76, 0.68), 0.7)
    for start, right in (((-x, y - 0.014), (2 * x, 0)), ((x, -y + 0.014), (-2 * x, 0)), ((-x + 0.014, -y), (0, 2 * y))):
        front = quad((*start, 0.09), (*right, 0), (0, 0, -0.09))
        parts.append(Patch("skirting", front, skirting, 0.003, 0.04))
    return parts


def _window() -> list[Patch]:
    """The east wall around its window, the reveal, the bars, the curtains, and the world outside."""
    x, y, w, low, high = HALF_X, HALF_Y, WINDOW_Y, WINDOW_LOW, WINDOW_HIGH
    paper = m.wallpaper(f.CREAM, ((0.72, 0.66, 0.52), (0.78, 0.62, 0.48)), 22)
    wall = {
        "above": quad((x, y, HEIGHT), (0, -2 * y, 0), (0, 0, high - HEIGHT)),
        "below": quad((x, y, low), (0, -2 * y, 0), (0, 0, -low)),
        "left": quad((x, y, high), (0, w - y, 0), (0, 0, low - high)),
        "right": quad((x, -w, high), (0, w - y, 0), (0, 0, low - high)),
    }
    parts = [Patch(f"east wall {name}", grid, paper, light_m=0.03) for name, grid in wall.items()]
    deep, white = 0.16, m.wood((0.86, 0.84, 0.79), 0.5)
    reveal = (
        quad((x, w, low), (deep, 0, 0), (0, 0, high - low)),
        quad((x, -w, high), (deep, 0, 0), (0, 0, low - high)),
        quad((x, w, high), (deep, 0, 0), (0, -2 * w, 0)),
    )
    parts += [Patch("window reveal", grid, m.plaster((0.90, 0.88, 0.83)), 0.003, 0.03) for grid in reveal]
    parts += box("sill", (x - 0.12, -w - 0.06, low - 0.03), (x + deep, w + 0.06, low + 0.002), white, True)
    at, bar = x + 0.10, 0.028
    uprights = (-w + bar, -0.26, 0.26, w - bar)
    for cy in uprights:
        parts += box("window bar", (at, cy - bar, low), (at + 0.04, cy + bar, high), white, True)
    for cz in (low + bar, 1.72, high - bar):
        parts += box("window bar", (at, -w, cz - bar), (at + 0.04, w, cz + bar), white, True)
    far = x + 1.6
    view = quad((far, 4.2, 3.9), (0, -8.4, 0), (0, 0, -4.7))
    parts.append(Patch("view outside", view, m.outdoors(), 0.008, 0.2, emission=2.3))
    for cy in (w + 0.17, -w - 0.17):
        parts += moved(f.curtain(0.46, 2.1), (x - 0.09, cy, 2.34), -np.pi / 2)
    rod = np.stack([np.full(8, x - 0.09), np.linspace(-1.3, 1.3, 8), np.full(8, 2.36)], -1)
    parts.append(Patch("curtain rod", tube(rod, 0.014, 10), m.wood(f.WALNUT, across=True), 0.003, 0.06, wraps=True))
    bench = box("bench", (x - 0.42, -1.0, 0.0), (x - 0.02, 0.62, 0.40), m.wood(f.OAK, 1.2), texel_m=0.0025, gloss=0.1)
    parts += bench
    parts += moved(f.pot(0.09, 0.24, (0.30, 0.42, 0.48)), (x - 0.2, -0.78, 0.40))
    parts += moved(f.pot(0.07, 0.15, (0.75, 0.66, 0.50)), (x - 0.22, -0.55, 0.40))
    return parts


def _living_corner(rng: np.random.Generator) -> list[Patch]:
    """Sofa, rug, coffee table, lamp, plant, and pictures on the bricks."""
    parts = moved(f.sofa(), (-0.75, 1.42, 0))
    rug = bent(
        quad((-1.75, 1.0, 0.012), (2.3, 0, 0), (0, -1.45, 0), 9, 13),
        lambda g: np.stack([0 * g[..., 0], 0 * g[..., 0], 0.003 * np.sin(5 * g[..., 0]) * np.sin(7 * g[..., 1])], -1),
    )
    colors = (f.BRICK_RED, f.CREAM, f.NAVY, f.MUSTARD, f.TEAL)
    parts.append(Patch("rug", rug, m.rug(colors), 0.0025, 0.025))
    parts += moved(f.table(1.0, 0.55, 0.42, f.OAK), (-0.65, 0.42, 0), 0.06)
    for number, (dx, dy, turn) in enumerate(((-0.28, 0.05, 0.3), (-0.24, 0.02, -0.15))):
        z = 0.425 + 0.012 * number
        page = m.printed_page((0.90, 0.88, 0.83)) if number else m.picture("coffee.png", f.TEAL)
        magazine = box("magazine", (-0.11, -0.15, 0), (0.11, 0.15, 0.01), page, texel_m=0.0015, light_m=0.02)
        parts += moved(magazine, (-0.65 + dx, 0.42 + dy, z), turn)
    parts += moved(f.pot(0.085, 0.20, (0.80, 0.76, 0.68)), (-0.50, 0.50, 0.42))
    bowl = smooth_profile([(0.11, 0.07), (0.09, 0.02), (0.04, 0.006), (0.0, 0.006)], 10)
    glaze = m.speckled(f.TEAL, f.CREAM, 2500, (0.001, 0.003))
    parts.append(Patch("bowl", lathe((-0.32, 0.33, 0.42), bowl, 28), glaze, 0.002, 0.02, gloss=0.5, wraps=True))
    parts += moved(f.floor_lamp(), (1.45, 1.42, 0))
    parts += moved(f.plant(rng), (1.92, 1.50, 0))
    parts += moved(f.framed_picture("astronaut.png", 0.56, 0.70), (-1.35, HALF_Y, 1.55))
    parts += moved(f.framed_picture("rocket.jpg", 0.72, 0.50, f.OAK), (-0.45, HALF_Y, 1.62))
    parts += moved(f.framed_picture("retina.jpg", 0.40, 0.40), (0.40, HALF_Y, 1.50))
    globe = lathe((-0.35, 0.25, 2.02), [(0.13 * np.sin(t), 0.13 * np.cos(t)) for t in np.linspace(0, np.pi, 15)], 28)
    paper = m.striped_cloth((0.96, 0.90, 0.78), ((0.88, 0.78, 0.60), (0.99, 0.96, 0.88)))
    parts.append(Patch("paper lamp", globe, paper, 0.002, emission=1.25, wraps=True))
    cord = np.array([[-0.35, 0.25, z] for z in np.linspace(2.14, HEIGHT, 4)])
    parts.append(Patch("cord", tube(cord, 0.004, 6), m.cloth((0.2, 0.18, 0.17)), 0.004, 0.1, wraps=True))
    return parts


def _south_wall(rng: np.random.Generator) -> list[Patch]:
    """Shelf, sideboard, and the pictures between them; the furniture's front looks north."""
    parts = moved(f.bookshelf(rng), (-1.45, -HALF_Y, 0), np.pi)
    parts += moved(f.sideboard(), (0.45, -HALF_Y, 0), np.pi)
    top = 0.78
    parts += moved(f.pot(0.10, 0.28, f.TERRACOTTA), (0.92, -1.68, top))
    parts += moved(f.pot(0.065, 0.16, f.NAVY), (0.72, -1.66, top))
    for k, (color, ink) in enumerate(((f.MUSTARD, f.NAVY), (f.TEAL, f.CREAM), (f.ROSE, f.NAVY))):
        low, high = (-0.15, -0.10, 0), (0.13 - 0.02 * k, 0.10, 0.035)
        book = box("lying book", low, high, m.book_spine(color, ink), texel_m=0.0018, light_m=0.02)
        parts += moved(book, (0.12 + 0.01 * k, -1.66, top + 0.035 * k), 0.2 * k - 0.1)
    parts += moved(f.framed_picture("chelsea.png", 0.66, 0.46, f.OAK), (0.15, -HALF_Y, 1.55), np.pi)
    parts += moved(f.framed_picture("hubble_deep_field.jpg", 0.50, 0.42), (0.92, -HALF_Y, 1.58), np.pi)
    parts += moved(f.plant(rng, 16, 0.75), (1.75, -1.45, 0))
    return parts


def _work_corner() -> list[Patch]:
    """A table with two chairs along the west wall, papers on it, and pictures above."""
    turn = np.pi / 2
    parts = moved(f.table(1.35, 0.68, 0.74), (-1.90, 0.05, 0), turn)
    parts += moved(f.chair(), (-1.42, 0.36, 0), -turn - 0.25)
    parts += moved(f.chair(f.OAK, f.NAVY), (-1.40, -0.36, 0), -turn + 0.3)
    sheets = (("coffee.png", -1.88, 0.36, 0.4), ("", -1.80, 0.08, -0.2), ("", -1.95, -0.08, 0.7))
    for number, (name, x, y, angle) in enumerate(sheets):
        page = m.picture(name) if name else m.printed_page((0.92, 0.90, 0.85))
        flat = quad((-0.105, 0.148, 0.001), (0.21, 0, 0), (0, -0.297, 0))
        parts += moved([Patch("sheet", flat, page, 0.0015, 0.02)], (x, y, 0.742 + 0.001 * number), angle)
    parts += moved(f.pot(0.05, 0.11, f.BRICK_RED), (-2.08, 0.22, 0.74))
    tray = lathe((-1.85, -0.40, 0.74), [(0.15, 0.02), (0.14, 0.004), (0.0, 0.004)], 32)
    parts.append(Patch("tray", tray, m.speckled(f.MUSTARD, f.CREAM, 2500, (0.001, 0.003)), 0.002, 0.02, gloss=0.3))
    parts += moved(f.pot(0.04, 0.10, f.CREAM), (-1.88, -0.43, 0.745))
    parts += moved(f.framed_picture("coffee.png", 0.60, 0.42), (-HALF_X, 0.42, 1.52), turn)
    parts += moved(f.framed_picture("motorcycle_left.png", 0.62, 0.44, f.OAK), (-HALF_X, -0.42, 1.50), turn)
    shelf = box("wall shelf", (-HALF_X, 1.0, 1.45), (-HALF_X + 0.20, 1.75, 1.475), m.wood(f.WALNUT, 1, True), True)
    parts += shelf
    parts += moved(f.pot(0.06, 0.17, f.SAGE), (-HALF_X + 0.1, 1.60, 1.475))
    parts += moved(f.pot(0.05, 0.12, f.ROSE), (-HALF_X + 0.1, 1.44, 1.475))
    for k in range(6):
        color = (f.NAVY, f.MUSTARD, f.TEAL, f.BRICK_RED, f.CREAM, f.SAGE)[k]
        y = 1.05 + 0.045 * k
        low, high = (-HALF_X + 0.01, y, 1.475), (-HALF_X + 0.16, y + 0.042, 1.475 + 0.19 + 0.012 * (k % 3))
        parts += box("book", low, high, m.book_spine(color, f.CREAM if k % 2 == 0 else f.NAVY), texel_m=0.0018)
    cup = disc((-2.08, 0.22, 0.845), 0.02, 12)
    parts.append(Patch("cup inside", cup, m.cloth((0.2, 0.12, 0.08)), 0.002, 0.02))
    return parts
