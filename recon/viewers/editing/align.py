# SPDX-License-Identifier: Apache-2.0
"""Where the scene is: moves of it or of the selection, the ground plane, the up axis and the metric scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon.edits import Transform
from recon.edits.masks import centers_of
from recon.edits.operations import Target
from recon.edits.scene import UP_AXES, ground_from_cloud, ground_from_points, scale_from_distance, up_from_axis
from recon.errors import ReconError
from recon.viewers.editing.pointer_tools import PointsTool
from recon.viewers.editing.session import EditSession, notify
from recon.viewers.editing.shapes import MoveGizmo, about

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

FloatArray = npt.NDArray[np.float64]

NO_MOVE = (0.0, 0.0, 0.0)


class AlignControls:
    """The folders "Move" and "Ground, up and scale"."""

    def __init__(self, viewer: Viewer, session: EditSession) -> None:
        self._viewer, self._session = viewer, session
        self._gizmo: MoveGizmo | None = None
        self._add_move(viewer.server.gui)
        self._add_align(viewer.server.gui)

    def show_gizmo(self, client: Any) -> None:
        """Shows the handle at the middle of what it moves, or takes it away."""
        if self._gizmo is not None:
            self._gizmo.close()
            self._gizmo = None
            return
        center = self._center(client)
        if center is not None:
            self._gizmo = MoveGizmo(self._viewer, center, lambda: self._dragged(client))

    @property
    def gizmo(self) -> MoveGizmo | None:
        """The handle that stands in the scene."""
        return self._gizmo

    def move(self, client: Any) -> None:
        """Moves by the numbers in the panel, turning and scaling about the middle of what is moved."""
        center = self._center(client)
        if center is not None:
            self._session.attempt(client, lambda: self._session.editor.do(self._typed_move(center)))
            self._shift.value, self._turn.value, self._scale.value = NO_MOVE, NO_MOVE, 1.0

    def _typed_move(self, center: FloatArray) -> Transform:
        """Returns the move that the numbers in the panel say."""
        from scipy.spatial.transform import Rotation

        numbers = np.array([*self._shift.value, *self._turn.value, self._scale.value], np.float64)
        if not np.isfinite(numbers).all():
            raise ReconError("moving", "a number is missing", "finite numbers")
        rotation = (
            Rotation.from_euler("xyz", numbers[3:6], degrees=True).as_matrix() if numbers[3:6].any() else np.eye(3)
        )
        return Transform.of(about(center, float(numbers[6]), rotation, numbers[:3]), target=self.target)

    @property
    def target(self) -> Target:
        """What is moved."""
        return "selection" if self._target.value == "Selected splats" else "scene"

    def ground_from_clicks(self, client: Any) -> None:
        """Has three points of the ground clicked."""

        def done(clicked_by: Any, points: list[FloatArray]) -> None:
            upward = np.asarray(clicked_by.camera.position) / self._viewer.stage.scale - np.mean(points, axis=0)
            self._session.attempt(clicked_by, lambda: self._do(ground_from_points(np.array(points), upward), "ground"))

        self._viewer.pointer.take(client, PointsTool(self._viewer, "Ground plane", 3, done))

    def ground_from_selection(self, client: Any) -> None:
        """Fits the ground to the selected splats."""
        state = self._session.state
        if int(state.selected.sum()) < 3:
            notify(client, "Nothing is selected", "Select splats of the ground first.", "yellow", 4.0)
            return
        points = centers_of(state.base, state.world)[state.selected]
        upward = np.asarray(client.camera.position) / self._viewer.stage.scale - np.median(points, axis=0)
        self._session.attempt(client, lambda: self._do(ground_from_cloud(points, upward), "ground"))

    def set_up_axis(self, client: Any) -> None:
        """Turns the scene so that the chosen axis points up."""
        self._session.attempt(client, lambda: self._do(up_from_axis(self._axis.value.lower()), "up"))

    def scale_from_clicks(self, client: Any) -> None:
        """Has two points clicked whose distance is the one in the panel."""
        meters = float(self._meters.value)

        def done(clicked_by: Any, points: list[FloatArray]) -> None:
            self._session.attempt(
                clicked_by, lambda: self._session.editor.do(scale_from_distance(points[0], points[1], meters))
            )

        tool = PointsTool(self._viewer, f"Two points {meters:g} m apart", 2, done)
        self._viewer.pointer.take(client, tool)

    def _add_move(self, gui: Any) -> None:
        with gui.add_folder("Move, turn, resize", expand_by_default=False):
            self._target = gui.add_dropdown("What", ("Whole scene", "Selected splats"))
            handle = gui.add_button("Show or hide the handle", hint="Drag arrows to move and rings to turn")
            handle.on_click(lambda event: self.show_gizmo(event.client))
            self._shift = gui.add_vector3("Move by", NO_MOVE, step=0.01)
            self._turn = gui.add_vector3("Turn by °", NO_MOVE, step=1.0, hint="About x, then y, then z")
            self._scale = gui.add_number("Resize ×", 1.0, min=0.001, max=1000.0, step=0.01)
            apply = gui.add_button("Apply the numbers")
            apply.on_click(lambda event: self.move(event.client))

    def _add_align(self, gui: Any) -> None:
        with gui.add_folder("Ground, up and scale", expand_by_default=False):
            ground = gui.add_button_group(
                "Ground", ("3 clicks", "Selection"), hint="The plane becomes level and its height zero"
            )
            actions = {"3 clicks": self.ground_from_clicks, "Selection": self.ground_from_selection}
            ground.on_click(lambda event: actions[event.target.value](event.client))
            self._axis = gui.add_dropdown("Up is now", tuple(axis.upper() for axis in UP_AXES), initial_value="+Z")
            turn = gui.add_button("Turn it upright")
            turn.on_click(lambda event: self.set_up_axis(event.client))
            self._meters = gui.add_number("Metres", 1.0, min=0.0001, max=100_000.0, step=0.001)
            scale = gui.add_button("Click 2 points that far apart", hint="After that a unit of the scene is a metre")
            scale.on_click(lambda event: self.scale_from_clicks(event.client))

    def _center(self, client: Any) -> FloatArray | None:
        """Returns the middle of what is moved; None, with a note, where there is nothing."""
        state = self._session.state
        chosen = state.selected if self.target == "selection" else state.seen
        if not chosen.any():
            notify(client, "Nothing to move", "Select splats first.", "yellow", 4.0)
            return None
        if self.target == "scene":
            return np.asarray(self._viewer.stage.focus)
        middle: FloatArray = np.median(centers_of(state.base, state.world)[chosen], axis=0)
        return middle

    def _dragged(self, client: Any) -> None:
        if self._gizmo is None:
            return
        similarity, target = self._gizmo.similarity, self.target
        self._gizmo.close()
        self._gizmo = None
        moved = self._session.attempt(client, lambda: self._session.editor.do(Transform.of(similarity, target=target)))
        if moved:
            # Ready for the next drag, where the last one ended.
            self.show_gizmo(client)

    def _do(self, similarity: Any, purpose: Any) -> None:
        self._session.editor.do(Transform.of(similarity, purpose=purpose))
