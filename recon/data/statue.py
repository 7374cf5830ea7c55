# SPDX-License-Identifier: Apache-2.0
"""The object: a ceramic elephant with a saddle cloth, on a round table in a small studio.

Its shape is a signed distance function, parts joined by a smooth minimum (Quilez, "smooth minimum", 2013), and
meshed by marching cubes, so it is one closed surface.  The parts give it concavities (between the legs, under the
trunk and the handle of its tail) and thin pieces (ears, trunk, tail).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recon.data import furniture as f
from recon.data import materials as m
from recon.data.lighting import RectangleLight, SphereLight
from recon.data.noise import smoothstep, space_noise
from recon.data.shapes import box, lathe, moved, quad
from recon.data.stage import Set
from recon.data.surfaces import Patch, Solid, Surface

FloatArray = npt.NDArray[np.floating]
TABLE_TOP_Z = 0.75
# The lowest points of the plinth then stand on the runner.
LIFT_M = 0.0085
LOW, HIGH = np.array([-0.185, -0.135, -0.004]), np.array([0.205, 0.135, 0.325])
SADDLE = np.array([-0.02, 0.0, 0.185])


def _smooth_min(a: FloatArray, b: FloatArray, k: float) -> FloatArray:
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - h * h * k * 0.25


def _ellipsoid(p: FloatArray, center: tuple[float, float, float], radii: tuple[float, float, float]) -> FloatArray:
    q = (p - np.asarray(center, p.dtype)) / np.asarray(radii, p.dtype)
    length = np.linalg.norm(q, axis=-1)
    gradient = np.linalg.norm(q / np.asarray(radii, p.dtype), axis=-1)
    return length * (length - 1) / np.maximum(gradient, 1e-6)


def _capsule(p: FloatArray, a: tuple, b: tuple, radius_a: float, radius_b: float) -> FloatArray:
    start, along = np.asarray(a, p.dtype), np.asarray(b, p.dtype) - np.asarray(a, p.dtype)
    t = np.clip((p - start) @ along / (along @ along), 0, 1)
    return np.linalg.norm(p - start - t[..., None] * along, axis=-1) - (radius_a + (radius_b - radius_a) * t)


def _rounded_box(p: FloatArray, center: tuple, half: tuple, radius: float) -> FloatArray:
    q = np.abs(p - np.asarray(center, p.dtype)) - (np.asarray(half, p.dtype) - radius)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0) - radius


def _tail_ring(p: FloatArray) -> FloatArray:
    """Half a torus standing upright behind the body."""
    q = p - np.array([-0.128, 0.0, 0.165], p.dtype)
    ring = np.hypot(q[..., 0], q[..., 2]) - 0.038
    return np.hypot(ring, q[..., 1]) - 0.0095


def _ear(p: FloatArray, side: int) -> FloatArray:
    """A thin dished disc, turned outwards."""
    q = p - np.array([0.075, side * 0.082, 0.222], p.dtype)
    cos, sin = np.cos(side * 0.5), np.sin(side * 0.5)
    turned = np.stack([cos * q[..., 0] + sin * q[..., 1], -sin * q[..., 0] + cos * q[..., 1], q[..., 2]], -1)
    dish = turned[..., 1] - side * 1.8 * (turned[..., 0] ** 2 + turned[..., 2] ** 2)
    radius = np.hypot(turned[..., 0], turned[..., 2] * 0.86) - 0.052
    outside = np.hypot(np.maximum(radius, 0), np.maximum(np.abs(dish) - 0.0045, 0))
    return outside + np.minimum(np.maximum(radius, np.abs(dish) - 0.0045), 0) - 0.0025


TRUNK = (
    ((0.130, 0.0, 0.205), 0.034), ((0.160, 0.0, 0.165), 0.026), ((0.170, 0.0, 0.125), 0.021),
    ((0.182, 0.0, 0.095), 0.018), ((0.193, 0.0, 0.110), 0.015),
)  # fmt: skip


def statue_distance(points: FloatArray) -> FloatArray:
    """Returns about the signed distance of points [..., 3] (the statue stands at the origin) in metres."""
    mirrored = points * np.array([1, -1, 1], points.dtype)
    body = _ellipsoid(points, (-0.02, 0, 0.155), (0.115, 0.078, 0.078))
    body = _smooth_min(body, _ellipsoid(points, (0.100, 0, 0.225), (0.058, 0.056, 0.062)), 0.035)
    for x, y in ((-0.085, 0.042), (0.050, 0.042)):
        for p in (points, mirrored):
            body = _smooth_min(body, _capsule(p, (x, y, 0.11), (x, y * 1.1, 0.035), 0.031, 0.027), 0.03)
            body = _smooth_min(body, _ellipsoid(p, (x + 0.004, y * 1.1, 0.030), (0.034, 0.032, 0.022)), 0.012)
    for (a, radius_a), (b, radius_b) in pairwise(TRUNK):
        body = _smooth_min(body, _capsule(points, a, b, radius_a, radius_b), 0.012)
    for side in (-1, 1):
        body = _smooth_min(body, _ear(points, side), 0.012)
        tusk = _capsule(points, (0.135, side * 0.030, 0.195), (0.172, side * 0.040, 0.185), 0.009, 0.004)
        body = _smooth_min(body, tusk, 0.006)
    body = _smooth_min(body, _tail_ring(points), 0.015)
    body = _smooth_min(body, _rounded_box(points, (-0.02, 0, 0.248), (0.042, 0.034, 0.022), 0.006), 0.008)
    pineapple = points - np.array([-0.02, 0, 0.287], points.dtype)
    bumps = 0.0028 * np.sin(260 * pineapple[..., 2]) * np.sin(9 * np.arctan2(pineapple[..., 1], pineapple[..., 0]))
    body = _smooth_min(body, np.linalg.norm(pineapple, axis=-1) - 0.027 - bumps, 0.008)
    plinth = _rounded_box(points, (0.005, 0, 0.008), (0.135, 0.088, 0.014), 0.006)
    return _smooth_min(body, plinth, 0.006)


def statue_mesh(voxel_m: float) -> tuple[FloatArray, npt.NDArray[np.int64], FloatArray]:
    """Returns vertices, triangles (counter-clockwise from outside) and outward unit normals of the statue."""
    from skimage.measure import marching_cubes

    counts = np.ceil((HIGH - LOW) / voxel_m).astype(int) + 3
    axes = [(LOW[a] - voxel_m + voxel_m * np.arange(counts[a])).astype(np.float32) for a in range(3)]
    volume = _sampled_distance(axes, voxel_m)
    vertices, triangles, _, _ = marching_cubes(volume, 0.0, spacing=(voxel_m,) * 3, gradient_direction="descent")
    vertices = _projected(vertices.astype(np.float64) + np.array([axis[0] for axis in axes], np.float64))
    return vertices, triangles.astype(np.int64), _gradient(vertices)


def _sampled_distance(axes: list[npt.NDArray[np.float32]], voxel_m: float) -> npt.NDArray[np.float32]:
    """Returns the distance on a grid, exact near the surface and from a grid four times coarser elsewhere."""
    coarse = [axis[::4] for axis in axes]
    rough = statue_distance(np.stack(np.meshgrid(*coarse, indexing="ij"), -1))
    volume = rough.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: len(axes[0]), : len(axes[1]), : len(axes[2])]
    volume = np.ascontiguousarray(volume, np.float32)
    near = np.argwhere(np.abs(volume) < 9 * voxel_m)
    points = np.stack([axis[index] for axis, index in zip(axes, near.T)], -1)
    volume[tuple(near.T)] = statue_distance(points)
    # A surface through a grid point would give triangles without area there.
    return np.where(np.abs(volume) < 2e-5, np.copysign(np.float32(2e-5), volume), volume)


def _gradient(points: FloatArray) -> FloatArray:
    step = 2e-4
    gradient = np.stack(
        [statue_distance(points + step * unit) - statue_distance(points - step * unit) for unit in np.eye(3)], -1
    )
    return gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-12)


def _projected(vertices: FloatArray) -> FloatArray:
    """Moves vertices onto the surface, by no more than a step that keeps the triangles in order."""
    distance = np.clip(statue_distance(vertices), -5e-4, 5e-4)
    return vertices - distance[:, None] * _gradient(vertices)


def _paint_statue(points: FloatArray, normals: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Crackled glaze, a striped saddle cloth, a wooden box, a gilded fruit and a stone plinth."""
    local = (points - np.array([0, 0, TABLE_TOP_Z + LIFT_M])).astype(np.float32)
    color = _glaze(local, rng)
    x, y, z = local.T
    parts = (
        (_saddle_cloth, smoothstep(0.0, 0.002, 0.052 - np.abs(x + 0.02)) * smoothstep(0.130, 0.132, z) * (z < 0.28)),
        (_chest, smoothstep(0.2275, 0.2285, z) * smoothstep(0.0, 0.004, 0.047 - np.abs(x + 0.02))),
        (_fruit, smoothstep(0.268, 0.2695, z) * smoothstep(0.0, 0.004, 0.036 - np.hypot(x + 0.02, y))),
        (_marble, smoothstep(0.0215, 0.0225, 0.0445 - z)),
    )
    for painter, weight in parts:
        here = np.flatnonzero(weight > 0)
        if len(here):
            color[here] = m.blend(color[here], painter(local[here], rng), weight[here])
    eye = np.linalg.norm(local * np.array((1, 0, 1), np.float32) - np.array((0.145, 0, 0.245), np.float32), axis=1)
    color = m.blend(color, (0.92, 0.90, 0.84), 1 - smoothstep(0.0075, 0.0085, eye))
    color = m.blend(color, (0.08, 0.07, 0.08), 1 - smoothstep(0.0045, 0.0055, eye))
    return np.clip(color, 0.01, 0.98).astype(np.float32)


def _toned(color: m.Color, field: npt.NDArray) -> npt.NDArray[np.float32]:
    return (np.array(color) * (1 + np.clip(field, -0.3, 0.3))[:, None]).astype(np.float32)


def _glaze(p: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    broad, fine = space_noise(rng, p, 0.06, 4), space_noise(rng, p, 0.005, 2)
    color = _toned((0.50, 0.62, 0.68), 0.10 * broad + 0.05 * fine)
    crackle = np.abs(space_noise(rng, p, 0.013, 2))
    color = m.blend(color, (0.26, 0.34, 0.42), 0.75 * (1 - smoothstep(0.02, 0.11, crackle)))
    color = m.blend(color, (0.86, 0.83, 0.74), 0.8 * smoothstep(1.25, 1.6, space_noise(rng, p, 0.018, 1)))
    return m.blend(color, 0.45 * color, 0.8 * smoothstep(1.5, 1.9, space_noise(rng, p, 0.0045, 1)))


def _saddle_cloth(p: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    x, _, z = p.T
    broad, thread = space_noise(rng, p, 0.04, 2), 0.06 * space_noise(rng, p, 0.003, 2)
    palette = np.array([(0.66, 0.20, 0.17), (0.85, 0.63, 0.22), (0.16, 0.24, 0.42), (0.86, 0.80, 0.68)])
    stripe = np.floor((z + 0.004 * np.sin(90 * x)) / 0.0115).astype(int) % 4
    woven = palette[stripe] * (1 + thread + 0.06 * np.clip(broad, -2, 2))[:, None]
    zigzag = smoothstep(0.0, 0.1, np.sin(2 * np.pi * x / 0.0173 + 2.2 * np.sin(z * 400) + broad) - 0.72)
    woven = m.blend(woven, (0.95, 0.90, 0.78), 0.7 * zigzag)
    return m.blend(woven, _toned((0.86, 0.65, 0.25), thread), smoothstep(0.0455, 0.046, np.abs(x + 0.02)))


def _chest(p: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    grain = np.sin(2 * np.pi * (p[:, 2] + 0.3 * p[:, 1] + 0.004 * space_noise(rng, p, 0.05, 2)) / 0.004)
    return _toned((0.45, 0.28, 0.17), 0.10 * grain + 0.06 * space_noise(rng, p, 0.003, 2))


def _fruit(p: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return _toned((0.86, 0.62, 0.20), 0.12 * space_noise(rng, p, 0.004, 2))


def _marble(p: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    broad = space_noise(rng, p, 0.05, 2)[:, None]
    veins = np.abs(space_noise(rng, p + 0.01 * broad, 0.05, 4))
    stone = _toned((0.52, 0.47, 0.42), 0.08 * space_noise(rng, p, 0.005, 2))
    return m.blend(stone, (0.84, 0.80, 0.73), 1 - smoothstep(0.03, 0.22, veins))


def build_statue_set(rng: np.random.Generator, voxel_m: float = 0.0031) -> Set:
    """Returns the statue on its table in a studio; `rng` decides what varies."""
    vertices, triangles, normals = statue_mesh(voxel_m)
    lifted = vertices + np.array([0, 0, TABLE_TOP_Z + LIFT_M])
    surfaces: list[Surface] = [Solid("statue", lifted, triangles, normals, _paint_statue, gloss=0.5)]
    surfaces += _table()
    surfaces += _studio(rng)
    lights = (
        RectangleLight((-1.2, -0.6, 2.75), (0, 1.6, 0), (1.6, 0, 0), (7.5, 7.2, 6.6), samples=24),
        RectangleLight((2.35, 1.0, 1.0), (0, -2.0, 0), (0, 0, 1.2), (4.0, 4.6, 5.6), samples=16),
        SphereLight((-1.6, -1.2, 1.9), 0.12, (26.0, 17.0, 9.5), samples=12),
    )
    return Set("object", surfaces, lights, ambient=(0.15, 0.15, 0.15), key=0.17)


def _table() -> list[Patch]:
    rim = lathe((0, 0, 0), [(0.46, TABLE_TOP_Z), (0.46, TABLE_TOP_Z - 0.035)], 56)
    leg = lathe((0, 0, 0), [(0.05, TABLE_TOP_Z - 0.03), (0.04, 0.4), (0.10, 0.05), (0.28, 0.0)], 32)
    runner = quad((-0.165, 0.40, TABLE_TOP_Z + 0.0025), (0.33, 0, 0), (0, -0.80, 0))
    turned = moved(
        [Patch("runner", runner, m.rug((f.CREAM, f.TEAL, f.BRICK_RED, f.MUSTARD)), 0.0012, 0.012)], (0, 0, 0), 1.1
    )
    return [
        Patch("table top", _round_sheet((0, 0, TABLE_TOP_Z), 0.46), m.wood(f.OAK, 0.75), 0.0012, 0.014, gloss=0.2),
        Patch("table rim", rim, m.wood(f.OAK), 0.002, 0.03, wraps=True),
        Patch("table leg", leg, m.wood(f.WALNUT, 1, True), 0.003, 0.05, wraps=True),
        *turned,
    ]


def _round_sheet(center: tuple[float, float, float], radius: float, count: int = 33) -> FloatArray:
    """A disc as a square grid pressed into a circle, so that wood grain runs straight over it."""
    v, u = np.meshgrid(np.linspace(1, -1, count), np.linspace(-1, 1, count), indexing="ij")
    # Fong 2015, "Analytical methods for squaring the disc": elliptical grid mapping.
    x, y = u * np.sqrt(1 - v * v / 2), v * np.sqrt(1 - u * u / 2)
    return np.stack([radius * x, radius * y, 0 * x], -1) + np.asarray(center)


def _studio(rng: np.random.Generator) -> list[Patch]:
    """A room around the table, so that the background has something to recognise in every direction."""
    x, y, h = 2.4, 2.4, 2.8
    walls = (
        ("north", (-x, y), (x, y), m.plaster((0.42, 0.50, 0.50), 1.8)),
        ("east", (x, y), (x, -y), m.wallpaper((0.80, 0.74, 0.64), ((0.62, 0.48, 0.36), (0.55, 0.58, 0.48)), 40)),
        ("south", (x, -y), (-x, -y), m.brick((0.70, 0.60, 0.52), (0.80, 0.76, 0.70))),
        ("west", (-x, -y), (-x, y), m.wood((0.55, 0.42, 0.31), 1.4, True)),
    )
    parts = [
        Patch("floor", quad((-x, y, 0), (2 * x, 0, 0), (0, -2 * y, 0)), m.planks((0.50, 0.38, 0.28)), 0.0035, 0.05),
        Patch("ceiling", quad((-x, -y, h), (2 * x, 0, 0), (0, 2 * y, 0)), m.plaster((0.85, 0.83, 0.78)), 0.006, 0.08),
    ]
    for name, (x0, y0), (x1, y1), painter in walls:
        sheet = quad((x0, y0, h), (x1 - x0, y1 - y0, 0), (0, 0, -h))
        parts.append(Patch(f"{name} wall", sheet, painter, 0.005, 0.06))
    parts += moved(f.framed_picture("coffee.png", 1.0, 0.7), (-0.9, y, 1.5))
    parts += moved(f.framed_picture("rocket.jpg", 0.9, 0.7, f.OAK), (0.7, y, 1.45))
    parts += moved(f.framed_picture("astronaut.png", 0.8, 0.9), (-x, 0.6, 1.5), np.pi / 2)
    parts += moved(f.framed_picture("chelsea.png", 1.0, 0.7), (0.2, -y, 1.5), np.pi)
    parts += moved(f.framed_picture("hubble_deep_field.jpg", 0.9, 0.8), (x, 0.8, 1.5), -np.pi / 2)
    parts += moved(f.sideboard(1.6), (-0.4, y, 0))
    parts += moved(f.plant(rng, 14), (1.9, 1.9, 0))
    parts += moved(f.plant(rng, 12, 0.8), (-1.95, -1.9, 0))
    carpet = quad((-1.3, 1.3, 0.01), (2.6, 0, 0), (0, -2.6, 0))
    parts.append(Patch("carpet", carpet, m.rug((f.NAVY, f.CREAM, f.BRICK_RED, f.SAGE, f.MUSTARD)), 0.0035, 0.04))
    parts += box("crate", (1.7, -1.9, 0), (2.3, -1.3, 0.5), m.wood(f.OAK, 1.3), texel_m=0.004)
    parts += moved(f.chair(), (-1.75, 0.2, 0), -np.pi / 2 - 0.3)
    return parts
