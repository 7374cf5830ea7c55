# SPDX-License-Identifier: Apache-2.0
"""The stage: all surfaces of a set in one mesh with one lit texture, ready to be photographed.

Lighting does not depend on the viewer (but for the highlights), so it is computed once and multiplied into the
texture; a photograph then costs one ray and one look-up per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.data.surfaces import Charted, Painted, Picture, Surface
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    from recon.data.lighting import Light
    from recon.kernels.raycast.op import TriangleBvh

FloatArray = npt.NDArray[np.floating]
ATLAS_WIDTH = 4096


@dataclass(frozen=True, eq=False)
class Set:
    """What is built before it is lit: surfaces and lights.

    Attributes:
        kind: "room" or "object".
        surfaces: everything that can be seen.
        lights: what shines on it.
        ambient: radiance from where no surface is, RGB.
        key: linear brightness that the median of the lit surfaces gets in a photograph.
    """

    kind: str
    surfaces: Sequence[Surface]
    lights: Sequence[Light]
    ambient: tuple[float, float, float]
    key: float


@dataclass(frozen=True, eq=False)
class Stage:
    """A lit set.

    Attributes:
        bvh: the whole mesh for ray casting, float32.
        vertices, triangles: the same mesh, float64 and int64.
        is_object: [T] bool, whether a triangle belongs to the object.
        texels: [T, 3, 2] float32, where each corner lies in the atlas, in texels.
        normals: [T, 3, 3] float32, smooth unit normals at the corners.
        atlas: [H, W, 4] float32: linear colour as photographed, and the strength of the highlight.
        highlight_from: [K, 3] positions of the lights that make highlights.
    """

    bvh: TriangleBvh
    vertices: FloatArray
    triangles: npt.NDArray[np.int64]
    is_object: npt.NDArray[np.bool_]
    texels: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    atlas: npt.NDArray[np.float32]
    highlight_from: FloatArray


@dataclass(frozen=True, eq=False)
class _Joined:
    """The meshes of all surfaces in one; `light` and its companions as in `Charted`, `glows` where light comes from."""

    vertices: FloatArray
    triangles: npt.NDArray[np.int64]
    parts: Charted
    is_object: npt.NDArray[np.bool_]
    glows: npt.NDArray[np.bool_]


def light_stage(scene: Set, seed: int, samples: int = 48, progress: Progress = SILENT) -> Stage:
    """Paints and lights a set.

    Args:
        scene: what to light.
        seed: of all textures and light samples.
        samples: directions in which each light cell looks for light from other surfaces.
        progress: told about painting and lighting.
    """
    from recon.data.lighting import irradiance

    seeds = np.random.SeedSequence(seed).spawn(len(scene.surfaces) + 1)
    painted = _paint(scene.surfaces, seeds, progress)
    places, height = _pack([surface.chart_shape() for surface in scene.surfaces], ATLAS_WIDTH)
    joined = _join(scene.surfaces, places, [len(paint.cells) for paint in painted])
    light = irradiance(scene, joined, painted, np.random.default_rng(seeds[-1]), samples, progress)
    atlas = np.zeros((height, ATLAS_WIDTH, 4), np.float32)
    _lay_out(atlas, places, scene, painted, light)
    seen_from = [position for source in scene.lights if (position := source.seen_from()) is not None]
    return _finished(joined, atlas, np.array(seen_from).reshape(-1, 3))


def unlit_stage(surfaces: Sequence[Surface], rng: np.random.Generator) -> Stage:
    """Returns surfaces as a stage under an even light from above; for things that are there for one photograph."""
    shapes = [surface.chart_shape() for surface in surfaces]
    width = max([shape[1] + 2 for shape in shapes] + [512])
    places, height = _pack(shapes, width)
    atlas = np.zeros((height, width, 4), np.float32)
    for surface, place in zip(surfaces, places):
        _, normals = surface.light_points()
        shade = (0.33 + 0.17 * normals[:, 2:]).astype(np.float32)
        _insert(atlas, place, surface.painted(rng).texture * surface.spread(shade))
    return _finished(_join(surfaces, places, [0] * len(surfaces)), atlas, np.zeros((0, 3)))


def _paint(surfaces: Sequence[Surface], seeds: Sequence[np.random.SeedSequence], progress: Progress) -> list[Painted]:
    """Paints every surface with its own randomness, two at a time, so that the order does not matter."""
    from concurrent.futures import ThreadPoolExecutor

    def paint(surface: Surface, own: np.random.SeedSequence) -> Painted:
        result = surface.painted(np.random.default_rng(own))
        stage.advance()
        return result

    with progress.stage("painting the set", len(surfaces), "surfaces") as stage, ThreadPoolExecutor(2) as pool:
        return list(pool.map(paint, surfaces, seeds))


def _finished(joined: _Joined, atlas: npt.NDArray[np.float32], highlight_from: FloatArray) -> Stage:
    import torch

    from recon.kernels.raycast.op import build_bvh

    vertices = torch.from_numpy(joined.vertices.astype(np.float32))
    triangles = torch.from_numpy(joined.triangles.astype(np.int32))
    return Stage(
        build_bvh(vertices, triangles),
        joined.vertices,
        joined.triangles,
        joined.is_object,
        joined.parts.texels.astype(np.float32),
        joined.parts.normals.astype(np.float32),
        atlas,
        highlight_from,
    )


def _pack(shapes: Sequence[tuple[int, int]], atlas_width: int) -> tuple[list[tuple[int, int]], int]:
    """Places charts on shelves, tallest first, with a texel of margin all round; returns top-left corners, height."""
    order = sorted(range(len(shapes)), key=lambda i: (-shapes[i][0], -shapes[i][1], i))
    places = [(0, 0)] * len(shapes)
    x = y = shelf = 0
    for i in order:
        height, width = shapes[i][0] + 2, shapes[i][1] + 2
        assert width <= atlas_width, "a chart is wider than the atlas"
        if x + width > atlas_width:
            x, y, shelf = 0, y + shelf, 0
        places[i] = (y + 1, x + 1)
        x, shelf = x + width, max(shelf, height)
    return places, y + shelf


def _join(surfaces: Sequence[Surface], places: Sequence[tuple[int, int]], cells: Sequence[int]) -> _Joined:
    parts = [surface.charted() for surface in surfaces]
    counts = [len(part.triangles) for part in parts]
    first_vertex = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    first_light = np.cumsum([0] + list(cells[:-1]))
    charted = Charted(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + first for part, first in zip(parts, first_vertex)]),
        np.concatenate([part.normals for part in parts]),
        np.concatenate([part.texels + (x, y) for part, (y, x) in zip(parts, places)]),
        np.concatenate([part.light for part in parts]),
        np.concatenate([part.light_first + first for part, first in zip(parts, first_light)]),
        np.concatenate([part.light_columns for part in parts]),
        np.concatenate([part.light_rows for part in parts]),
    )
    return _Joined(
        charted.vertices,
        charted.triangles,
        charted,
        np.repeat([surface.is_object for surface in surfaces], counts),
        np.repeat([surface.emission > 0 for surface in surfaces], counts),
    )


def _lay_out(
    atlas: npt.NDArray[np.float32],
    places: Sequence[tuple[int, int]],
    scene: Set,
    painted: Sequence[Painted],
    light: npt.NDArray[np.float32],
) -> None:
    """Fills the atlas with light times colour at the brightness of photographs, and with the strength of highlights."""
    from concurrent.futures import ThreadPoolExecutor

    first = np.cumsum([0] + [len(paint.cells) for paint in painted])
    cells = [light[start:stop] for start, stop in pairwise(first)]
    levels = [
        (here * paint.cells).mean(1)
        for surface, paint, here in zip(scene.surfaces, painted, cells)
        if not surface.emission
    ]
    gain = scene.key / float(np.median(np.concatenate(levels)))

    def fill(surface: Surface, paint: Painted, here: npt.NDArray[np.float32], place: tuple[int, int]) -> None:
        if surface.emission > 0:
            # Emission is given as it should look in the photograph, so the exposure leaves it alone.
            _insert(atlas, place, paint.texture * np.float32(surface.emission))
            return
        shine = surface.gloss * here.mean(1, keepdims=True)
        spread = surface.spread(np.concatenate([here, shine], 1).astype(np.float32) * np.float32(gain))
        spread[..., :3] *= paint.texture
        _insert(atlas, place, spread)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, scene.surfaces, painted, cells, places))


def _insert(atlas: npt.NDArray[np.float32], place: tuple[int, int], picture: Picture) -> None:
    """Copies a picture [h, w, 3 or 4] to its place, with its edges repeated once all round."""
    (y, x), (rows, columns, depth) = place, picture.shape
    chart = atlas[y - 1 : y + rows + 1, x - 1 : x + columns + 1, :depth]
    chart[1:-1, 1:-1] = picture
    chart[0, 1:-1], chart[-1, 1:-1] = picture[0], picture[-1]
    chart[:, 0], chart[:, -1] = chart[:, 1], chart[:, -2]
