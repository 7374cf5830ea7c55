# SPDX-License-Identifier: Apache-2.0
"""How a mesh is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from recon.errors import ReconError

Box = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class MeshConfig:
    """How depth renderings become a mesh.

    Attributes:
        method: "tsdf" fuses depth maps; "poisson" then closes the surface by Poisson reconstruction, which needs
            `pip install recon[mesh]`; "density" takes the surface from the density of a method that has one, and
            depth maps only to choose the level, to leave out what no view sees, and for colours.
        depth: which depth of a semi-transparent scene counts as its surface: "surface", where the method itself says
            (splats: where a ray meets the splat that stops it; others: the median), "median", where half of the
            light is stopped, or "expected", the mean.
        voxel_size: edge of a voxel in world units; None takes one and a half pixels on the surface.
        truncation_voxels: how far a depth map has influence on both sides of its surface, in voxels; at least 2.  None
            takes what the disagreement of the views asks for, 4 to 12.
        region: what of the world is meshed when `bounds` is not given: "focus" what the cameras surround or look at
            together, "all" everything seen but outliers; "auto" takes "focus" where the cameras have one.
        bounds: the box to mesh, (x low, y low, z low, x high, y high, z high) in the world; None finds one.
        long_side: longer side of the rendered depth maps in pixels; None takes the cameras' own.
        extra_views: cameras to add between each camera and its neighbour; they see no new surface, but they average
            the renderer's noise.
        density_level: "density": where the surface is, in 1 / world unit; None takes the density where rays lose half
            of their light.
        min_alpha: pixels that are less opaque (0..1) show no surface.
        confirmations: a pixel counts when at least this many other views see a surface at its place; fewer are asked
            for where fewer look there.  0 accepts every pixel.
        tolerance: how far, relative to the depth, two views' surfaces may be apart and still confirm each other.
        min_component: pieces with less than this share (0..1) of the largest piece's area are dropped.
        smoothing: rounds of smoothing that take noise out without shrinking the surface; 0 for none.
        max_faces: the mesh is simplified to at most this many triangles; 0 keeps all.
        max_memory_gib: bound of the memory for depth maps and voxels.
        poisson_depth: depth of Poisson's octree, 6 to 12.
    """

    method: Literal["tsdf", "poisson", "density"] = "tsdf"
    depth: Literal["surface", "median", "expected"] = "surface"
    voxel_size: float | None = None
    truncation_voxels: float | None = None
    region: Literal["auto", "focus", "all"] = "auto"
    bounds: Box | None = None
    long_side: int | None = None
    extra_views: int = 0
    density_level: float | None = None
    min_alpha: float = 0.5
    confirmations: int = 2
    tolerance: float = 0.01
    min_component: float = 0.02
    smoothing: int = 3
    max_faces: int = 300_000
    max_memory_gib: float = 2.0
    poisson_depth: int = 9

    def __post_init__(self) -> None:
        doing = "reading the mesh options"
        limits: tuple[tuple[str, float, float], ...] = (
            ("extra_views", 0, 16),
            ("min_alpha", 0, 1),
            ("confirmations", 0, 64),
            ("tolerance", 1e-6, 1),
            ("min_component", 0, 1),
            ("smoothing", 0, 100),
            ("max_faces", 0, 2**31 - 1),
            ("max_memory_gib", 0.01, 1e6),
            ("poisson_depth", 6, 12),
        )
        for name, low, high in limits:
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ReconError(doing, f"{name} is {value}", f"{low:g} to {high:g}")
        truncation = self.truncation_voxels
        if truncation is not None and not (math.isfinite(truncation) and 2 <= truncation <= 64):
            raise ReconError(doing, f"truncation_voxels is {truncation}", "2 to 64")
        if self.voxel_size is not None and not (math.isfinite(self.voxel_size) and self.voxel_size > 0):
            raise ReconError(doing, f"voxel_size is {self.voxel_size}", "a positive length in world units")
        level = self.density_level
        if level is not None and not (math.isfinite(level) and level > 0):
            raise ReconError(doing, f"density_level is {level}", "a positive density in 1 / world unit")
        if self.long_side is not None and self.long_side < 16:
            raise ReconError(doing, f"long_side is {self.long_side}", "at least 16 pixels")
        if self.bounds is not None:
            box = self.bounds
            if len(box) != 6 or not all(map(math.isfinite, box)) or any(box[k] >= box[k + 3] for k in range(3)):
                raise ReconError(doing, f"bounds is {box}", "x y z of the low corner, then of the high corner")
