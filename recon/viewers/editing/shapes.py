# SPDX-License-Identifier: Apache-2.0
"""Gizmos of the editor: a box or a sphere that selects, and the handle that moves the scene or the selection.

They stand in the shared scene, since the edits are shared too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from recon.edits import Box, Sphere
from recon.edits.checks import Vector3
from recon.scene import Similarity
from recon.splat_transform import rotation_of

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

FloatArray = npt.NDArray[np.float64]
Shape = Literal["box", "sphere"]

SHAPE_COLOR = (255, 196, 0)
SHAPE_NODE = "/edit/shape"
MOVE_NODE = "/edit/move"


class ShapeGizmo:
    """A box or a sphere that can be moved, and a box turned, by handles.

    Attributes:
        kind: which of them.
        size: the box's edges, or the sphere's radius three times, world units.
    """

    def __init__(self, viewer: Viewer, kind: Shape, center: FloatArray, size: FloatArray, changed: Callable[[], None]):
        """Shows the shape.

        Args:
            viewer: where.
            kind: box or sphere.
            center: its middle, world.
            size: see there.
            changed: called while it is dragged.
        """
        self._viewer, self.kind = viewer, kind
        self._scale = viewer.stage.scale
        self.size = np.asarray(size, np.float64)
        scene = viewer.server.scene
        self._handle = scene.add_transform_controls(
            SHAPE_NODE,
            scale=0.5 * viewer.stage.extent * self._scale,
            position=center * self._scale,
            disable_rotations=kind == "sphere",
            depth_test=False,
            line_width=3.0,
        )
        self._handle.on_update(lambda event: changed())
        self._lines: Any = None
        self.resize(self.size)

    def resize(self, size: FloatArray) -> None:
        """Gives it another size and draws it."""
        self.size = np.asarray(size, np.float64)
        lines = _box_lines(self.size) if self.kind == "box" else _sphere_lines(float(self.size[0]))
        # A child of the handle goes where the handle is dragged without a way to the server and back.
        self._lines = self._viewer.server.scene.add_line_segments(
            f"{SHAPE_NODE}/lines",
            (lines * self._scale).astype(np.float32),
            SHAPE_COLOR,
            thickness=2.5,
            thickness_units="screen",
        )

    @property
    def rule(self) -> Box | Sphere:
        """The splats inside."""
        center = _vector(np.asarray(self._handle.position, np.float64) / self._scale)
        if self.kind == "sphere":
            return Sphere(center, float(self.size[0]))
        w, x, y, z = (float(part) for part in self._handle.wxyz)
        return Box(center, _vector(self.size), (w, x, y, z))

    def close(self) -> None:
        """Takes it away."""
        self._handle.remove()


class MoveGizmo:
    """A handle that moves and turns, with what it has been dragged by since it was shown."""

    def __init__(self, viewer: Viewer, center: FloatArray, dragged: Callable[[], None]) -> None:
        """Shows the handle at a point of the world; `dragged` is called when it is let go."""
        self._center = np.asarray(center, np.float64)
        self._scale = viewer.stage.scale
        self._handle = viewer.server.scene.add_transform_controls(
            MOVE_NODE,
            scale=0.6 * viewer.stage.extent * self._scale,
            position=self._center * self._scale,
            depth_test=False,
            line_width=3.5,
        )

        @self._handle.on_update
        def _(event: Any) -> None:
            if event.phase == "end":
                dragged()

    @property
    def center(self) -> FloatArray:
        """Where the handle was shown, [3] world: what is turned and scaled about."""
        return self._center

    @property
    def similarity(self) -> Similarity:
        """What the handle was dragged by."""
        rotation = rotation_of(np.asarray(self._handle.wxyz, np.float64))
        if np.abs(rotation - np.eye(3)).max() < 1e-9:
            rotation = np.eye(3)
        moved = np.asarray(self._handle.position, np.float64) / self._scale
        return Similarity(1.0, rotation, moved - rotation @ self._center)

    def close(self) -> None:
        """Takes it away."""
        self._handle.remove()


def about(center: FloatArray, scale: float, rotation: FloatArray, shift: FloatArray) -> Similarity:
    """Returns the similarity that scales and turns about a point and then shifts."""
    return Similarity(scale, rotation, center + shift - scale * rotation @ center)


def _box_lines(size: FloatArray) -> FloatArray:
    """Returns the 12 edges of a box about the origin, [12, 2, 3]."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    edges = [(i, j) for i in range(8) for j in range(i + 1, 8) if np.abs(corners[i] - corners[j]).sum() == 1]
    return np.array([[corners[i], corners[j]] for i, j in edges]) * size


def _sphere_lines(radius: float, steps: int = 64) -> FloatArray:
    """Returns three great circles and four more of longitude, [segments, 2, 3]."""
    angle = np.linspace(0, 2 * np.pi, steps + 1)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    circles = [circle]
    for turn in np.linspace(0, np.pi, 4, endpoint=False):
        across = np.array([np.cos(turn), np.sin(turn), 0.0])
        circles.append(circle[:, :1] * across + circle[:, 1:2] * np.array([0.0, 0, 1]))
    return radius * np.concatenate([np.stack([ring[:-1], ring[1:]], 1) for ring in circles])


def _vector(values: FloatArray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return x, y, z
