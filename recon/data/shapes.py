# SPDX-License-Identifier: Apache-2.0
"""Grids of points for the surfaces of things, in metres; each [R, C, 3], rows down and columns right from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.data.materials import Painter
from recon.data.surfaces import Patch

FloatArray = npt.NDArray[np.float64]
Vector = Sequence[float] | FloatArray


def quad(top_left: Vector, right: Vector, down: Vector, rows: int = 2, columns: int = 2) -> FloatArray:
    """A flat rectangle or parallelogram."""
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return (
        np.asarray(top_left, float) + u[..., None] * np.asarray(right, float) + v[..., None] * np.asarray(down, float)
    )


def box(name: str, low: Vector, high: Vector, painter: Painter, bottom: bool = False, **options: Any) -> list[Patch]:
    """The sides of a box along the axes between two corners; its bottom only on request."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    w, d, h = x1 - x0, y1 - y0, z1 - z0
    faces = {
        "front": quad((x0, y0, z1), (w, 0, 0), (0, 0, -h)),
        "back": quad((x1, y1, z1), (-w, 0, 0), (0, 0, -h)),
        "left": quad((x0, y1, z1), (0, -d, 0), (0, 0, -h)),
        "right": quad((x1, y0, z1), (0, d, 0), (0, 0, -h)),
        "top": quad((x0, y1, z1), (w, 0, 0), (0, -d, 0)),
    }
    if bottom:
        faces["bottom"] = quad((x0, y0, z0), (w, 0, 0), (0, d, 0))
    return [Patch(f"{name} {face}", grid, painter, **options) for face, grid in faces.items()]


def lathe(center: Vector, profile: Sequence[tuple[float, float]], segments: int = 40) -> FloatArray:
    """A body of revolution about the vertical through `center`, from its (radius, height) outline, top first."""
    outline = np.asarray(profile, float)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    x = outline[:, :1] * np.cos(angle)
    y = outline[:, :1] * np.sin(angle)
    z = np.broadcast_to(outline[:, 1:], x.shape)
    return np.stack([x, y, z], -1) + np.asarray(center, float)


def smooth_profile(profile: Sequence[tuple[float, float]], points: int) -> list[tuple[float, float]]:
    """Rounds an outline by a Catmull-Rom curve through its points."""
    p = np.asarray(profile, float)
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, len(p) - 1, points)
    i = np.minimum(t.astype(int), len(p) - 2)
    f = (t - i)[:, None]
    a, b, c, d = (padded[i + k] for k in range(4))
    curve = 0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3)
    curve[:, 0] = np.maximum(curve[:, 0], 0.0)
    return [(float(r), float(z)) for r, z in curve]


def cushion(center: Vector, half: Vector, roundness: float = 0.45, rows: int = 20, columns: int = 40) -> FloatArray:
    """A superellipsoid: a box with rounded edges, an ellipsoid for roundness 1."""
    v, u = np.meshgrid(np.linspace(np.pi / 2, -np.pi / 2, rows), np.linspace(0, 2 * np.pi, columns), indexing="ij")

    def power(value: FloatArray) -> FloatArray:
        return np.sign(value) * np.abs(value) ** roundness

    cos = power(np.cos(v).round(12))
    unit = np.stack([cos * power(np.cos(u).round(12)), cos * power(np.sin(u).round(12)), power(np.sin(v))], -1)
    return unit * np.asarray(half, float) + np.asarray(center, float)


def tube(path: npt.ArrayLike, radius: float | FloatArray, segments: int = 12) -> FloatArray:
    """A tube around a line of points [P, 3]; `radius` may change along it."""
    line = np.asarray(path, float)
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    helper = np.where(np.abs(along[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    side = np.cross(helper, along)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(along, side)
    angle = np.linspace(0, 2 * np.pi, segments + 1)[None, :, None]
    radii = np.broadcast_to(np.asarray(radius, float).reshape(-1, 1, 1), (len(line), 1, 1))
    # Rows run along the path; turning against the angle puts the front outside.
    return line[:, None] + radii * (np.cos(angle) * side[:, None] - np.sin(angle) * other[:, None])


def disc(center: Vector, radius: float, segments: int = 40) -> FloatArray:
    """A flat disc that faces up."""
    return lathe(center, [(0.0, 0.0), (radius / 2, 0.0), (radius, 0.0)], segments)


def moved(patches: Sequence[Patch], position: Vector, turn_rad: float = 0.0) -> list[Patch]:
    """Returns things turned about the vertical and then moved."""
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    return [replace(p, grid=p.grid @ rotation.T + np.asarray(position, float)) for p in patches]


def bent(grid: FloatArray, displacement: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Returns a grid whose points are moved by a function of themselves."""
    return grid + displacement(grid)
