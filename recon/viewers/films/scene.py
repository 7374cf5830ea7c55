# SPDX-License-Identifier: Apache-2.0
"""The film in the scene: its way as a line, its keyframes as frusta to click, a gizmo on the selected one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.film.motion import KeyframedFilm, Motion

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

CURVE_COLOR = (255, 150, 40)
KEYFRAME_COLOR = (255, 170, 70)
SELECTED_COLOR = (255, 255, 120)

MOST_CURVE_POINTS = 1500
NEAR_SIZES = 3.0
"""Frusta nearer to the eye than so many of their sizes are hidden, for they would fill the window."""


class FilmScene:
    """Draws a film for all browsers."""

    def __init__(
        self,
        viewer: Viewer,
        on_select: Callable[[int], None],
        on_move: Callable[[np.ndarray, np.ndarray], None],
    ) -> None:
        """Begins with nothing.

        Args:
            viewer: where it is drawn.
            on_select: told which frustum was clicked.
            on_move: told the position [3] in the world and the world_from_cam rotation [3, 3] that the gizmo was
                moved to, when it is let go.
        """
        self._server, self.stage = viewer.server, viewer.stage
        self._on_select, self._on_move = on_select, on_move
        self._size = 0.07 * self.stage.extent * self.stage.scale
        self._curve: Any = None
        self._frusta: list[Any] = []
        self._gizmo: Any = None
        self._film = KeyframedFilm(())
        self._selected = 0
        self._visible = self._with_gizmo = False
        self._eye = np.full(3, np.inf)
        self._server.on_client_connect(self._watch)

    def show(self, film: KeyframedFilm, selected: int, visible: bool, with_gizmo: bool) -> None:
        """Draws what has changed."""
        redraw = film != self._film
        self._film, self._selected, self._visible, self._with_gizmo = film, selected, visible, with_gizmo
        with self._server.atomic():
            if redraw:
                self._draw_curve()
                self._draw_frusta()
            if self._curve is not None:
                self._curve.visible = visible
            self._place_gizmo()
            self._hide_near()
        self._server.flush()

    def _draw_curve(self) -> None:
        if self._curve is not None:
            self._curve.remove()
            self._curve = None
        film = self._film
        if len(film.keyframes) < 2:
            return
        count = min(MOST_CURVE_POINTS, max(2, 40 * len(film.keyframes)))
        views = Motion(film).at(film.begin_s + film.duration_s * np.linspace(0, 1 - 1e-9, count))
        points = np.array([view.position for view in views]) * self.stage.scale
        segments = np.stack([points[:-1], points[1:]], axis=1)
        lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
        # A cut is no way, and what stands still has none.
        segments = segments[(lengths > 0) & (lengths < 20 * np.median(lengths) + 1e-9)]
        if len(segments):
            self._curve = self._server.scene.add_line_segments(
                "/film/path", segments.astype(np.float32), CURVE_COLOR, thickness=0.04 * self._size
            )

    def _draw_frusta(self) -> None:
        film = self._film
        while len(self._frusta) > len(film.keyframes):
            self._frusta.pop().remove()
        for index, frame in enumerate(film.keyframes):
            wxyz, position = frame.rotation_wxyz, np.array(frame.position) * self.stage.scale
            fov, aspect = math.radians(frame.fov_deg), film.width / film.height
            if index < len(self._frusta):
                handle = self._frusta[index]
                handle.wxyz, handle.position, handle.fov, handle.aspect = wxyz, position, fov, aspect
            else:
                self._frusta.append(self._add_frustum(index, fov, aspect, wxyz, position))

    def _add_frustum(self, index: int, fov: float, aspect: float, wxyz: Any, position: np.ndarray) -> Any:
        handle = self._server.scene.add_camera_frustum(
            f"/film/keyframes/{index:04d}",
            fov,
            aspect,
            scale=self._size,
            thickness=0.04 * self._size,
            color=KEYFRAME_COLOR,
            wxyz=wxyz,
            position=position,
            cast_shadow=False,
            receive_shadow=False,
        )
        handle.on_click(lambda event: self._on_select(index))
        return handle

    def _place_gizmo(self) -> None:
        wanted = self._visible and self._with_gizmo and self._selected < len(self._film.keyframes)
        if not wanted:
            if self._gizmo is not None:
                self._gizmo.visible = False
            return
        frame = self._film.keyframes[self._selected]
        if self._gizmo is None:
            self._gizmo = self._server.scene.add_transform_controls(
                "/film/gizmo", scale=2.2 * self._size, depth_test=False, line_width=3.0
            )
            self._gizmo.on_update(self._gizmo_moved)
        self._gizmo.visible = True
        self._gizmo.wxyz, self._gizmo.position = frame.rotation_wxyz, np.array(frame.position) * self.stage.scale

    def _gizmo_moved(self, event: Any) -> None:
        if event.phase != "end":
            return
        from scipy.spatial.transform import Rotation

        w, x, y, z = event.target.wxyz
        rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
        self._on_move(np.asarray(event.target.position, dtype=np.float64) / self.stage.scale, rotation)

    def _watch(self, client: Any) -> None:
        @client.camera.on_update
        def _(camera: Any) -> None:
            self._eye = np.array(camera.position)
            self._hide_near()

    def _hide_near(self) -> None:
        for index, (handle, frame) in enumerate(zip(list(self._frusta), self._film.keyframes)):
            far = np.linalg.norm(np.array(frame.position) * self.stage.scale - self._eye) > NEAR_SIZES * self._size
            visible = bool(self._visible and far)
            if handle.visible != visible:
                handle.visible = visible
            color = SELECTED_COLOR if index == self._selected else KEYFRAME_COLOR
            if tuple(handle.color) != color:
                handle.color = color
