# SPDX-License-Identifier: Apache-2.0
"""Painted surfaces: pieces of triangle mesh that carry their own texture and light map.

A `Patch` is a grid of points, textured like a sheet of paper laid over it.  A `Solid` is any triangle mesh, textured
by a function of space; each triangle owns a small square of texels.  Both know where their light is computed and how
it spreads over their texels, so that the rest of the package treats them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recon.data.materials import Canvas, Painter

FloatArray = npt.NDArray[np.floating]
Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Charted:
    """The mesh of a surface and where its parts lie on the surface's texture and light map.

    Attributes:
        vertices: [V, 3] metres.
        triangles: [T, 3], counter-clockwise seen from the front.
        normals: [T, 3 corners, 3] smooth unit normals.
        texels: [T, 3 corners, 2] x and y on the surface's texture, in texels.
        light: [T, 3 corners, 2] column and row on the light map, in cells.
        light_first, light_columns, light_rows: [T] where the triangle's light map starts and its size.
    """

    vertices: FloatArray
    triangles: npt.NDArray[np.int64]
    normals: FloatArray
    texels: FloatArray
    light: FloatArray
    light_first: npt.NDArray[np.int64]
    light_columns: npt.NDArray[np.int64]
    light_rows: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Painted:
    """A surface's colours, linear: on its texture [h, w, 3] and averaged for each of its L light cells [L, 3]."""

    texture: Picture
    cells: Picture


class Surface(Protocol):
    """What the atlas, the lighting and the photographs need of a surface."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def gloss(self) -> float:
        """Strength of its highlight."""

    @property
    def emission(self) -> float:
        """Radiance of its painted colours, 0 for what does not glow."""

    @property
    def is_object(self) -> bool:
        """Whether it belongs to the object that the capture is about."""

    def chart_shape(self) -> tuple[int, int]:
        """Returns height and width of the texture."""

    def charted(self) -> Charted:
        """Returns the mesh."""

    def light_points(self) -> tuple[FloatArray, FloatArray]:
        """Returns positions and unit normals [L, 3] at which light is computed."""

    def painted(self, rng: np.random.Generator) -> Painted:
        """Paints it."""

    def spread(self, light: Picture) -> Picture:
        """Returns values [L, D] of the light points as a picture [h, w, D]."""


_LEVELS = np.linspace(0, 1, 4096)
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_from_srgb(colors: Picture) -> Picture:
    """Returns linear light for sRGB values in 0..1 (IEC 61966-2-1), to 12 bits."""
    return _LINEAR[(np.clip(colors, 0.0, 1.0) * np.float32(4095) + np.float32(0.5)).astype(np.uint16)]


@dataclass(frozen=True, eq=False)
class Patch:
    """A grid of points [R, C, 3]; rows run down and columns right for somebody who looks at its front.

    Attributes:
        name: for messages.
        grid: the points in metres.
        painter: what it is painted with.
        texel_m, light_m: size of a texel and of a light cell.
        gloss: strength of the highlight, 0 for none.
        emission: radiance of its painted colours; it then gives light and takes none.
        wraps: its left and right edges are one (cylinders).
        is_object: part of the object that the capture is about.
    """

    name: str
    grid: FloatArray
    painter: Painter
    texel_m: float = 0.0033
    light_m: float = 0.035
    gloss: float = 0.0
    emission: float = 0.0
    wraps: bool = False
    is_object: bool = False

    @cached_property
    def size_m(self) -> tuple[float, float]:
        """Returns height and width, measured along the grid's longest lines."""
        down = np.linalg.norm(np.diff(self.grid, axis=0), axis=-1).sum(0).max()
        across = np.linalg.norm(np.diff(self.grid, axis=1), axis=-1).sum(1).max()
        return float(down), float(across)

    def chart_shape(self) -> tuple[int, int]:
        height, width = self.size_m
        return max(4, round(height / self.texel_m)), max(4, round(width / self.texel_m))

    def _light_shape(self) -> tuple[int, int]:
        height, width = self.size_m
        return max(2, round(height / self.light_m)), max(2, round(width / self.light_m))

    def charted(self) -> Charted:
        rows, columns = self.grid.shape[:2]
        i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
        a = (i * columns + j).ravel()
        corner = np.concatenate(
            [np.stack([a, a + columns, a + 1], -1), np.stack([a + 1, a + columns, a + columns + 1], -1)]
        )
        points = self.grid.reshape(-1, 3)
        edges = points[corner[:, 1:]] - points[corner[:, :1]]
        corner = corner[np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) > 1e-12]
        row, column = np.divmod(corner, columns)
        share = np.stack([column / (columns - 1), row / (rows - 1)], -1)
        count = len(corner)
        light_rows, light_columns = self._light_shape()
        return Charted(
            points,
            corner,
            self._grid_normals.reshape(-1, 3)[corner],
            share * self.chart_shape()[::-1],
            share * (light_columns, light_rows),
            np.zeros(count, np.int64),
            np.full(count, light_columns),
            np.full(count, light_rows),
        )

    @cached_property
    def _grid_normals(self) -> FloatArray:
        """Unit normals at the grid's points; at poles, where an edge of the grid is one point, those next to it."""
        grid = self.grid
        down = np.gradient(grid, axis=0)
        if self.wraps and grid.shape[1] > 2:
            right = np.gradient(np.concatenate([grid[:, -2:-1], grid, grid[:, 1:2]], 1), axis=1)[:, 1:-1]
        else:
            right = np.gradient(grid, axis=1)
        normals = np.cross(down, right)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = normals / np.maximum(length, 1e-30)
        for edge, inner in ((0, 1), (-1, -2)):
            flat = length[edge, :, 0] < 1e-12
            normals[edge, flat] = normals[inner, flat]
        return normals

    def light_points(self) -> tuple[FloatArray, FloatArray]:
        rows, columns = self._light_shape()
        positions = _at_cells(self.grid, rows, columns)
        normals = _at_cells(self._grid_normals, rows, columns)
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
        return positions.reshape(-1, 3), normals.reshape(-1, 3)

    def painted(self, rng: np.random.Generator) -> Painted:
        import cv2

        height, width = self.chart_shape()
        texture = linear_from_srgb(self.painter(Canvas(height, width, self.texel_m, rng)))
        rows, columns = self._light_shape()
        cells = cv2.resize(texture, (columns, rows), interpolation=cv2.INTER_AREA)
        return Painted(texture, np.asarray(cells, np.float32).reshape(-1, 3))

    def spread(self, light: Picture) -> Picture:
        import cv2

        rows, columns = self._light_shape()
        height, width = self.chart_shape()
        cells = light.reshape(rows, columns, -1)
        pad = 2 if self.wraps and columns > 4 else 0
        if pad:
            cells = np.concatenate([cells[:, -pad:], cells, cells[:, :pad]], 1)
        # A blur of less than a cell takes the noise of the light samples away.
        smooth = cv2.GaussianBlur(cells, (5, 5), 0.8, borderType=cv2.BORDER_REPLICATE)
        scale = width / columns
        wide = width + round(2 * pad * scale)
        picture = np.asarray(cv2.resize(smooth, (wide, height), interpolation=cv2.INTER_LINEAR), np.float32)
        first = round(pad * scale)
        return picture[:, first : first + width].reshape(height, width, -1)


def _at_cells(grid: FloatArray, rows: int, columns: int) -> FloatArray:
    """Interpolates values on a grid [R, C, D] at the middles of rows × columns cells."""
    y = (np.arange(rows) + 0.5) / rows * (grid.shape[0] - 1)
    x = (np.arange(columns) + 0.5) / columns * (grid.shape[1] - 1)
    i, j = np.minimum(y.astype(int), grid.shape[0] - 2), np.minimum(x.astype(int), grid.shape[1] - 2)
    fy, fx = (y - i)[:, None, None], (x - j)[None, :, None]
    upper = grid[i][:, j] * (1 - fx) + grid[i][:, j + 1] * fx
    lower = grid[i + 1][:, j] * (1 - fx) + grid[i + 1][:, j + 1] * fx
    return upper * (1 - fy) + lower * fy


SpacePainter = Callable[[FloatArray, FloatArray, np.random.Generator], Picture]


@dataclass(frozen=True, eq=False)
class Solid:
    """Any triangle mesh, painted by a function of positions and normals [N, 3] that gives sRGB colours [N, 3].

    Every triangle owns a square of texels; its first corner lies at the square's top left, the second to the right
    and the third below.
    """

    name: str
    vertices: FloatArray
    triangles: npt.NDArray[np.int64]
    normals: FloatArray
    painter: SpacePainter
    steps: int = 3
    blocks_per_row: int = 400
    gloss: float = 0.0
    emission: float = 0.0
    is_object: bool = field(default=True)

    @property
    def _block(self) -> int:
        return self.steps + 1

    def chart_shape(self) -> tuple[int, int]:
        rows = -(-len(self.triangles) // self.blocks_per_row)
        return rows * self._block, self.blocks_per_row * self._block

    def charted(self) -> Charted:
        count = len(self.triangles)
        row, column = np.divmod(np.arange(count), self.blocks_per_row)
        corner = np.stack([column, row], -1)[:, None] * self._block + 0.5
        texels = corner + np.array([[0, 0], [self.steps, 0], [0, self.steps]])
        single = np.ones(count, np.int64)
        return Charted(
            self.vertices,
            self.triangles,
            self.normals[self.triangles],
            texels,
            np.zeros((count, 3, 2)),
            self.triangles[:, 0].copy(),
            single,
            single,
        )

    def light_points(self) -> tuple[FloatArray, FloatArray]:
        return self.vertices, self.normals

    def painted(self, rng: np.random.Generator) -> Painted:
        weights = self._texel_weights()
        where = np.concatenate([self.vertices, self._interpolated(self.vertices, weights).reshape(-1, 3)])
        facing = np.concatenate([self.normals, self._interpolated(self.normals, weights).reshape(-1, 3)])
        facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-12)
        colors = linear_from_srgb(self.painter(where, facing, rng))
        return Painted(self._blocks(colors[len(self.vertices) :]), colors[: len(self.vertices)])

    def spread(self, light: Picture) -> Picture:
        return self._blocks(self._interpolated(light, self._texel_weights()).reshape(-1, light.shape[1]))

    def _texel_weights(self) -> FloatArray:
        """Weights [block², 3] of the corners at each texel of a block; beyond the long edge they extrapolate."""
        row, column = np.meshgrid(np.arange(self._block), np.arange(self._block), indexing="ij")
        u, v = column.ravel() / self.steps, row.ravel() / self.steps
        return np.stack([1 - u - v, u, v], -1)

    def _interpolated(self, values: npt.NDArray, weights: FloatArray) -> npt.NDArray:
        return np.einsum("kc,tcd->tkd", weights.astype(values.dtype), values[self.triangles])

    def _blocks(self, values: Picture) -> Picture:
        """Arranges values [T · block², D] as the texture."""
        block, depth = self._block, values.shape[-1]
        rows = -(-len(self.triangles) // self.blocks_per_row)
        full = np.zeros((rows * self.blocks_per_row, block, block, depth), np.float32)
        full[: len(self.triangles)] = values.reshape(-1, block, block, depth)
        full = full.reshape(rows, self.blocks_per_row, block, block, depth).transpose(0, 2, 1, 3, 4)
        return full.reshape(rows * block, self.blocks_per_row * block, depth)
