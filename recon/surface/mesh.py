# SPDX-License-Identifier: Apache-2.0
"""A triangle mesh and what can be said about one without any other module."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in the world (right-handed, +Z up).

    Attributes:
        vertices: [V, 3] float64.
        faces: [F, 3] int32, counter-clockwise as seen from outside.
        colors: [V, 3] uint8 sRGB as in the photographs; None for none.
        normals: [V, 3] float32 unit vectors, outwards; None for none.
    """

    vertices: FloatArray
    faces: npt.NDArray[np.int32]
    colors: npt.NDArray[np.uint8] | None = None
    normals: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        doing = "making a mesh"
        for name, dtype, optional in (
            ("vertices", np.float64, False),
            ("faces", np.int32, False),
            ("colors", np.uint8, True),
            ("normals", np.float32, True),
        ):
            value = getattr(self, name)
            if value is None and optional:
                continue
            array = np.asarray(value)
            if array.ndim != 2 or array.shape[1] != 3 or array.dtype != dtype:
                raise ReconError(doing, f"{name} is {array.dtype} of shape {array.shape}", f"{dtype.__name__} [any, 3]")
            if name in ("colors", "normals") and len(array) != len(self.vertices):
                raise ReconError(
                    doing, f"there are {len(array)} {name}", f"one for each of {len(self.vertices)} vertices"
                )
        if not np.isfinite(self.vertices).all():
            raise ReconError(doing, "vertices hold NaN or infinity", "finite positions")
        if len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < len(self.vertices):
            raise ReconError(
                doing,
                f"faces name vertices {self.faces.min()} to {self.faces.max()}",
                f"0 to {len(self.vertices) - 1}",
            )

    @staticmethod
    def empty() -> Mesh:
        """Returns a mesh of nothing."""
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))

    @property
    def triangles(self) -> FloatArray:
        """[F, 3, 3] corner positions."""
        return self.vertices[self.faces]

    @property
    def face_crosses(self) -> FloatArray:
        """[F, 3] outward normals as long as twice the faces' areas."""
        a, b, c = np.moveaxis(self.triangles, 1, 0)
        return np.cross(b - a, c - a)

    @property
    def face_areas(self) -> FloatArray:
        """[F] areas."""
        return np.linalg.norm(self.face_crosses, axis=1) / 2

    @property
    def diagonal(self) -> float:
        """Length of the bounding box's diagonal; 0 without vertices."""
        return float(np.linalg.norm(np.ptp(self.vertices, axis=0))) if len(self.vertices) else 0.0

    def vertex_normals(self) -> npt.NDArray[np.float32]:
        """Returns `normals`, or the faces' normals averaged by area where the mesh has none; [V, 3]."""
        if self.normals is not None:
            return self.normals
        sums = np.zeros_like(self.vertices)
        crosses = self.face_crosses
        for corner in range(3):
            for axis in range(3):
                column = self.faces[:, corner]
                sums[:, axis] += np.bincount(column, weights=crosses[:, axis], minlength=len(sums))
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        return (sums / np.where(length > 0, length, 1)).astype(np.float32)

    def keep_faces(self, keep: npt.NDArray[np.bool_]) -> Mesh:
        """Returns the mesh of the faces that a mask [F] names, without the vertices that no face uses."""
        faces = self.faces[keep]
        used = np.zeros(len(self.vertices), bool)
        used[faces] = True
        renumbered = (np.cumsum(used) - 1).astype(np.int32)
        return replace(
            self,
            vertices=self.vertices[used],
            faces=renumbered[faces],
            colors=None if self.colors is None else self.colors[used],
            normals=None if self.normals is None else self.normals[used],
        )
