# SPDX-License-Identifier: Apache-2.0
"""Furniture, each piece around its own origin on the floor, with its front towards -y."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recon.data import materials as m
from recon.data.shapes import bent, box, cushion, disc, lathe, moved, quad, smooth_profile, tube
from recon.data.surfaces import Patch

OAK = (0.66, 0.49, 0.32)
WALNUT = (0.42, 0.28, 0.19)
TEAL = (0.20, 0.36, 0.37)
MUSTARD = (0.78, 0.58, 0.20)
TERRACOTTA = (0.72, 0.38, 0.26)
CREAM = (0.87, 0.82, 0.72)
SAGE = (0.52, 0.60, 0.48)
BRICK_RED = (0.58, 0.35, 0.28)
NAVY = (0.17, 0.22, 0.36)
ROSE = (0.74, 0.46, 0.43)


def table(length: float, width: float, height: float, color: m.Color = WALNUT) -> list[Patch]:
    """A four-legged table."""
    x, y, leg = length / 2, width / 2, 0.03
    parts = box("table top", (-x, -y, height - 0.035), (x, y, height), m.wood(color), True, texel_m=0.002, gloss=0.25)
    for sx in (-1, 1):
        for sy in (-1, 1):
            cx, cy = sx * (x - 0.07), sy * (y - 0.07)
            low, high = (cx - leg, cy - leg, 0.0), (cx + leg, cy + leg, height - 0.035)
            parts += box("table leg", low, high, m.wood(color, across=True))
    low, high = (-x + 0.1, -y + 0.08, height - 0.10), (x - 0.1, y - 0.08, height - 0.035)
    return parts + box("table frame", low, high, m.wood(color))


def chair(color: m.Color = OAK, seat: m.Color = TERRACOTTA) -> list[Patch]:
    """A chair with an upholstered seat and a slatted back; one sits facing -y."""
    parts = [Patch("chair seat", cushion((0, 0, 0.455), (0.21, 0.20, 0.03), 0.3), m.cloth(seat), 0.0025, wraps=True)]
    parts += box("chair frame", (-0.2, -0.19, 0.38), (0.2, 0.19, 0.43), m.wood(color), True)
    for sx in (-1, 1):
        for sy, top in ((-1, 0.38), (1, 0.92)):
            cx, cy = sx * 0.185, sy * 0.175
            parts += box(
                "chair leg", (cx - 0.018, cy - 0.018, 0), (cx + 0.018, cy + 0.018, top), m.wood(color, 1, True)
            )
    for z in (0.56, 0.68, 0.80):
        parts += box("chair slat", (-0.17, 0.165, z), (0.17, 0.185, z + 0.07), m.wood(color), True)
    return parts


def sofa(width: float = 1.9, color: m.Color = TEAL) -> list[Patch]:
    """A sofa with seat cushions, back cushions and two scattered pillows."""
    half = width / 2
    cover = m.cloth(color)
    parts = box("sofa base", (-half, -0.38, 0.08), (half, 0.42, 0.28), cover, texel_m=0.003)
    for side in (-1, 1):
        arm = cushion((side * (half - 0.08), 0.0, 0.36), (0.10, 0.41, 0.26), 0.35)
        parts.append(Patch("sofa arm", arm, cover, wraps=True))
        for x in (side * (half - 0.1),):
            for y in (-0.33, 0.37):
                parts += box("sofa foot", (x - 0.025, y - 0.025, 0), (x + 0.025, y + 0.025, 0.08), m.wood(WALNUT))
    seats = 3
    span = (width - 0.34) / seats
    for k in range(seats):
        x = -half + 0.17 + span * (k + 0.5)
        parts.append(
            Patch("sofa seat", cushion((x, -0.06, 0.36), (span / 2, 0.34, 0.095), 0.35), cover, 0.0025, wraps=True)
        )
        back = cushion((x, 0.27, 0.62), (span / 2, 0.13, 0.24), 0.45)
        parts.append(Patch("sofa back", back, cover, 0.0025, wraps=True))
    pillow = cushion((0, 0, 0), (0.21, 0.075, 0.21), 0.75)
    tilt = bent(pillow, lambda g: np.stack([0 * g[..., 0], 0.35 * g[..., 2], 0 * g[..., 0]], -1))
    striped = m.striped_cloth(MUSTARD, (CREAM, BRICK_RED, NAVY))
    parts += moved([Patch("pillow", tilt, striped, 0.002, wraps=True)], (-half + 0.42, 0.06, 0.64), 0.25)
    plain = m.cloth(ROSE, CREAM)
    parts += moved([Patch("pillow", tilt, plain, 0.002, wraps=True)], (half - 0.45, 0.07, 0.63), -0.3)
    return parts


def bookshelf(rng: np.random.Generator, width: float = 1.2, height: float = 1.9) -> list[Patch]:
    """An open shelf against a wall, filled with books and a few pots."""
    half, depth, side = width / 2, 0.28, 0.025
    board = m.wood(OAK)
    parts = box("shelf side", (-half, -depth, 0), (-half + side, 0, height), m.wood(OAK, across=True))
    parts += box("shelf side", (half - side, -depth, 0), (half, 0, height), m.wood(OAK, across=True))
    back = quad((-half + side, -0.01, height), (width - 2 * side, 0, 0), (0, 0, -height))
    parts.append(Patch("shelf back", back, m.wood((0.50, 0.37, 0.25))))
    levels = 5
    for k in range(levels + 1):
        z = 0.06 + k * (height - 0.085) / levels
        parts += box("shelf board", (-half + side, -depth, z), (half - side, -0.01, z + 0.02), board, True)
        if k < levels:
            parts += _row_of_books(rng, -half + side + 0.01, half - side - 0.01, z + 0.02)
    return parts


def _row_of_books(rng: np.random.Generator, start: float, stop: float, floor: float) -> list[Patch]:
    parts: list[Patch] = []
    x = start
    palette = (TEAL, MUSTARD, BRICK_RED, CREAM, NAVY, SAGE, ROSE, (0.25, 0.25, 0.24), (0.55, 0.20, 0.22))
    while x < stop - 0.03:
        if rng.uniform() < 0.05 and x < stop - 0.16:
            parts += moved(pot(0.055, 0.13, m.random_color(rng, 0.35, 0.8)), (x + 0.075, -0.15, floor))
            x += 0.155
            continue
        thick = rng.uniform(0.018, 0.048)
        tall, deep = rng.uniform(0.19, 0.29), rng.uniform(0.15, 0.21)
        color = palette[rng.integers(len(palette))]
        bright = sum(color) > 1.4
        ink = (0.16, 0.13, 0.12) if bright else (0.90, 0.82, 0.60)
        front = -0.235 + rng.uniform(0, 0.03)
        low, high = (x, front, floor), (min(x + thick, stop), front + deep, floor + tall)
        book = box("book", low, high, m.book_spine(color, ink), texel_m=0.0018)
        # Nobody sees the back of a book that stands in a shelf; its top shows the pages.
        parts += [p for p in book if p.name.endswith("front")]
        cover = m.cloth(color)
        parts += [
            replace(p, painter=cover, texel_m=0.004, light_m=0.05) for p in book if p.name.endswith(("left", "right"))
        ]
        pages = m.striped_cloth((0.88, 0.84, 0.74), ((0.80, 0.75, 0.63), (0.92, 0.89, 0.80)), True)
        top = next(p for p in book if p.name.endswith("top"))
        parts.append(Patch("book top", top.grid, pages, 0.002))
        x += thick + (rng.uniform(0.02, 0.08) if rng.uniform() < 0.08 else 0.0015)
    return parts


def pot(radius: float, height: float, color: m.Color) -> list[Patch]:
    """A small glazed vase."""
    outline = [(0.55, 1.0), (0.50, 0.93), (0.62, 0.8), (1.0, 0.5), (0.9, 0.2), (0.55, 0.0)]
    profile = smooth_profile([(r * radius, z * height) for r, z in outline], 14)
    glaze = m.speckled(color, (0.2, 0.16, 0.14), 2500, (0.001, 0.003))
    return [Patch("vase", lathe((0, 0, 0), profile, 24), glaze, 0.0018, 0.02, gloss=0.5, wraps=True)]


def sideboard(width: float = 1.3, color: m.Color = WALNUT) -> list[Patch]:
    """A low cabinet with three doors."""
    half, height, depth = width / 2, 0.78, 0.40
    parts = box("sideboard", (-half, -depth, 0.10), (half, 0, height), m.wood(color), gloss=0.15)
    doors = 3
    for k in range(doors):
        x0 = -half + 0.02 + k * (width - 0.04) / doors
        x1 = x0 + (width - 0.04) / doors - 0.012
        parts += box("door", (x0, -depth - 0.015, 0.13), (x1, -depth, height - 0.03), m.wood(color, 1.3, k % 2 == 1))
        knob = cushion(((x0 + x1) / 2, -depth - 0.03, 0.55), (0.016, 0.016, 0.016), 1.0, 8, 12)
        parts.append(Patch("knob", knob, m.speckled(MUSTARD, CREAM, 500, (0.001, 0.002)), 0.002, gloss=0.6))
    for x in (-half + 0.05, half - 0.05):
        for y in (-depth + 0.05, -0.05):
            parts += box("foot", (x - 0.02, y - 0.02, 0), (x + 0.02, y + 0.02, 0.10), m.wood(color))
    return parts


def floor_lamp() -> list[Patch]:
    """A standing lamp with a cloth shade."""
    foot = smooth_profile([(0.0, 0.035), (0.06, 0.033), (0.15, 0.02), (0.155, 0.0)], 8)
    metal = m.speckled((0.24, 0.22, 0.20), (0.5, 0.45, 0.35), 900, (0.001, 0.003))
    pole = lathe((0, 0, 0), [(0.012, 1.45), (0.012, 0.03)], 10)
    shade = lathe((0, 0, 0), [(0.14, 1.62), (0.17, 1.5), (0.20, 1.36)], 32)
    stripes = m.striped_cloth((0.93, 0.84, 0.64), ((0.87, 0.70, 0.45), (0.97, 0.92, 0.80)))
    return [
        Patch("lamp foot", lathe((0, 0, 0), foot, 28), metal, 0.002, gloss=0.4, wraps=True),
        Patch("lamp pole", pole, metal, 0.003, 0.05, gloss=0.4, wraps=True),
        Patch("lamp shade", shade, stripes, 0.002, emission=1.15, wraps=True),
    ]


def plant(rng: np.random.Generator, leaves: int = 22, height: float = 1.0) -> list[Patch]:
    """A broad-leaved plant in a terracotta pot."""
    outline = [(0.165, 0.30), (0.165, 0.27), (0.145, 0.265), (0.105, 0.0)]
    clay = m.speckled(TERRACOTTA, (0.88, 0.62, 0.48), 1500, (0.001, 0.004))
    earth = m.speckled((0.23, 0.17, 0.13), (0.42, 0.34, 0.26), 6000, (0.002, 0.005))
    parts = [
        Patch("plant pot", lathe((0, 0, 0), outline, 32), clay, 0.002, wraps=True),
        Patch("earth", disc((0, 0, 0.27), 0.15, 24), earth, 0.0025),
    ]
    for k in range(leaves):
        angle = 2.399963 * k + rng.uniform(-0.3, 0.3)
        lift = rng.uniform(0.35, 1.0)
        parts += moved(_leaf_on_stem(rng, lift * height, 0.16 + 0.30 * (1.1 - lift)), (0, 0, 0.27), angle)
    return parts


def _leaf_on_stem(rng: np.random.Generator, rise: float, reach: float) -> list[Patch]:
    t = np.linspace(0, 1, 8)
    stem = np.stack([reach * t**1.6, 0.02 * np.sin(3 * t), rise * (1 - (1 - t) ** 1.4)], -1)
    length, width = rng.uniform(0.20, 0.32), rng.uniform(0.075, 0.12)
    green = np.array((0.22, 0.40, 0.19)) * rng.uniform(0.75, 1.3) + rng.uniform(-0.03, 0.05, 3)
    v, u = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0, 1, 9), indexing="ij")
    outline = width / 2 * np.sin(np.pi * np.clip(u, 0.02, 1) ** 0.75) ** 0.8
    droop = rng.uniform(0.2, 0.75)
    x = stem[-1, 0] + length * u * np.cos(droop * u)
    z = stem[-1, 2] + length * (0.35 * u - droop * u**2) + 0.25 * np.abs(v) * outline
    blade = np.stack([x, stem[-1, 1] - v * outline, z], -1)
    return [
        Patch("stem", tube(stem, 0.006, 6), m.cloth((0.30, 0.40, 0.20)), 0.004, 0.08, wraps=True),
        Patch("leaf", blade, m.leaf(m.as_color(green)), 0.002, 0.03, gloss=0.12),
    ]


def framed_picture(name: str, width: float, height: float, frame: m.Color = WALNUT) -> list[Patch]:
    """A framed photograph that hangs on a wall whose inside faces -y; its centre is the origin."""
    x, z, bar = width / 2, height / 2, 0.022
    parts = [
        Patch("picture", quad((-x, -0.008, z), (width, 0, 0), (0, 0, -height)), m.picture(name), 0.0018),
    ]
    bars = (((-x - bar, z), (x + bar, z + bar)), ((-x - bar, -z - bar), (x + bar, -z)))
    uprights = (((-x - bar, -z), (-x, z)), ((x, -z), (x + bar, z)))
    for number, ((x0, z0), (x1, z1)) in enumerate(bars + uprights):
        painter = m.wood(frame, 1.0, number >= 2)
        parts += box("picture frame", (x0, -0.022, z0), (x1, 0, z1), painter, True, texel_m=0.002)
    return parts


def curtain(width: float, height: float, color: m.Color = CREAM) -> list[Patch]:
    """A hanging curtain with folds, facing -y; its origin is the middle of its upper edge."""
    flat = quad((-width / 2, 0, 0), (width, 0, 0), (0, 0, -height), 6, 64)
    folds = bent(
        flat,
        lambda g: np.stack(
            [0 * g[..., 0], 0.035 * np.sin(2 * np.pi * g[..., 0] / 0.115 + 0.6 * g[..., 2]), 0 * g[..., 0]], -1
        ),
    )
    return [Patch("curtain", folds, m.striped_cloth(color, (SAGE, (0.80, 0.72, 0.58), ROSE), True), 0.0025, 0.02)]
