# SPDX-License-Identifier: Apache-2.0
"""What a browser's pointer does while a tool is in hand: draw a rectangle or a lasso, or pick points of the surface.

Every browser has its own tool, and one at a time; a tool is put down when its work is done, when another is taken or
with Escape.  viser reports clicks and rectangles of the whole picture.  A freehand lasso is made of drags, which viser
reports of meshes alone: so an unseen triangle that fills the window stands before the camera while the lasso is in
hand.  With Shift held what is drawn is added to the selection, with Alt taken from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.edits.rules import MOST_VERTICES
from recon.viewers.exact import camera_of

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

FloatArray = npt.NDArray[np.float64]
Polygon = tuple[tuple[float, float], ...]
Drawn = Callable[[Any, Camera, Polygon, str | None], None]
"""Called with the browser, its camera, the polygon in pixels and the modifier that was held (None, "shift", "alt")."""

MODIFIERS = (None, "shift", "alt")

LINE_DISTANCE = 0.06
"""How far before the camera a lasso is drawn, browser units; viser's near plane is at 0.01."""

SHEET_DISTANCE = 3.0
"""How far before the camera the unseen sheet stands.  viser draws an arrow along a drag, with a head a fifth of a unit
long; nearer it would fill the window."""

LASSO_STEP_PX = 3.0
LINE_COLOR = (255, 196, 0)
LASSO_NODE = "/tool/lasso"
SHEET_NODE = "/tool/sheet"


class Tool(Protocol):
    """Something that a pointer can do."""

    title: str
    hint: str

    def begin(self, client: Any, put_down: Callable[[], None]) -> None:
        """Starts to listen to a browser; `put_down` is called when the work is done."""

    def moved(self, view: Any) -> None:
        """The browser's camera has moved."""

    def finish(self) -> None:
        """Ends with what there is (Enter)."""

    def end(self) -> None:
        """Stops listening and takes away what was drawn."""


class PointerTools:
    """The tools in the browsers' hands."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._held: dict[int, tuple[Any, Tool, Any]] = {}
        self._watched: set[int] = set()
        viewer.server.on_client_disconnect(self._forget)

    def take(self, client: Any, tool: Tool) -> None:
        """Gives a browser a tool in place of the one that it has."""
        self.put_down(client)
        if client.client_id not in self._watched:
            self._watched.add(client.client_id)
            client.camera.on_update(lambda view: self._moved(client, view))
        tool.begin(client, lambda: self.put_down(client))
        # After the tool, so that the browser is ready once it says what to do.
        notice = client.add_notification(tool.title, tool.hint, with_close_button=False)
        self._held[client.client_id] = (client, tool, notice)

    def put_down(self, client: Any) -> None:
        """Takes a browser's tool away."""
        held = self._held.pop(client.client_id, None)
        if held is not None:
            held[1].end()
            held[2].remove()

    def finish(self, client: Any) -> None:
        """Ends a browser's tool with what there is."""
        held = self._held.get(client.client_id)
        if held is not None:
            held[1].finish()

    def tool_of(self, client: Any) -> Tool | None:
        """Returns the tool that a browser has in hand."""
        held = self._held.get(client.client_id)
        return None if held is None else held[1]

    def _moved(self, client: Any, view: Any) -> None:
        held = self._held.get(client.client_id)
        if held is not None:
            held[1].moved(view)

    def _forget(self, client: Any) -> None:
        self._held.pop(client.client_id, None)
        self._watched.discard(client.client_id)


class RectangleTool:
    """Draws one rectangle."""

    title = "Rectangle"
    hint = "Drag over the picture. Shift adds, Alt takes away, Escape stops."

    def __init__(self, viewer: Viewer, drawn: Drawn) -> None:
        self._viewer, self._drawn = viewer, drawn
        self._client: Any = None
        self._put_down: Callable[[], None] = lambda: None

    def begin(self, client: Any, put_down: Callable[[], None]) -> None:
        """Starts to listen to a browser."""
        self._client, self._put_down = client, put_down
        for modifier in MODIFIERS:
            client.scene.on_rect_select(modifier=modifier)(self._selected)

    def _selected(self, event: Any) -> None:
        camera = camera_of(self._client, self._viewer.stage)
        (x0, y0), (x1, y1) = event.screen_min, event.screen_max
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        self._put_down()
        self._drawn(
            self._client, camera, tuple((x * camera.width, y * camera.height) for x, y in corners), event.modifier
        )

    def moved(self, view: Any) -> None:
        """A rectangle is drawn at one go."""

    def finish(self) -> None:
        """Nothing is pending between rectangles."""

    def end(self) -> None:
        """Stops listening."""
        self._client.scene.remove_rect_select_callback(self._selected)


class LassoTool:
    """Draws one closed line freehand."""

    title = "Lasso"
    hint = "Draw around what is to be selected. Shift adds, Alt takes away, Escape stops."

    def __init__(self, viewer: Viewer, drawn: Drawn) -> None:
        self._viewer, self._drawn = viewer, drawn
        self._client: Any = None
        self._sheet: Any = None
        self._line: Any = None
        self._pixels: list[tuple[float, float]] = []

    def begin(self, client: Any, put_down: Callable[[], None]) -> None:
        """Starts to listen to a browser."""
        self._client = client
        side = 400 * SHEET_DISTANCE
        triangle = np.array([[-3.0, -1.0, 0.0], [3.0, -1.0, 0.0], [0.0, 2.0, 0.0]]) * side
        # Only the edges of a wireframe are drawn, and those of one large triangle are out of sight.
        self._sheet = client.scene.add_mesh_simple(
            SHEET_NODE, triangle.astype(np.float32), np.array([[0, 1, 2]], np.uint32), wireframe=True, opacity=0.0,
            side="double", cast_shadow=False, receive_shadow=False,
        )  # fmt: skip
        self.moved(client.camera)

        # viser runs plain functions on a pool of threads in any order; these must come one after the other.
        async def dragged(event: Any) -> None:
            camera = camera_of(client, self._viewer.stage)
            if event.phase == "start":
                self._pixels = [_pixel(event.start_screen_pos, camera)]
            self._extend(_pixel(event.end_screen_pos, camera))
            if event.phase == "end":
                polygon = tuple(self._pixels)
                self._viewer.server.get_event_loop().run_in_executor(
                    None, self._finished, put_down, camera, polygon, event.modifier
                )
            else:
                self._draw(camera)

        for modifier in MODIFIERS:
            self._sheet.on_drag("left", modifier=modifier)(dragged)

    def finish(self) -> None:
        """A lasso ends with the drag."""

    def end(self) -> None:
        """Stops listening and takes the line away."""
        for node in (self._sheet, self._line):
            if node is not None:
                node.remove()
        self._sheet = self._line = None

    def _finished(self, put_down: Callable[[], None], camera: Camera, polygon: Polygon, modifier: str | None) -> None:
        put_down()
        if len(polygon) >= 3:
            self._drawn(self._client, camera, polygon, modifier)

    def _extend(self, pixel: tuple[float, float]) -> None:
        if math.dist(pixel, self._pixels[-1]) >= LASSO_STEP_PX and len(self._pixels) < MOST_VERTICES:
            self._pixels.append(pixel)

    def moved(self, view: Any) -> None:
        """Keeps the sheet before the camera."""
        sheet = self._sheet
        if sheet is not None:
            sheet.wxyz = view.wxyz
            forward = camera_of(self._client, self._viewer.stage).forward_in_world
            sheet.position = np.asarray(view.position) + SHEET_DISTANCE * forward

    def _draw(self, camera: Camera) -> None:
        pixels = np.array([*self._pixels, self._pixels[0]])
        corners = points_before(camera, pixels, LINE_DISTANCE / self._viewer.stage.scale)
        self._line = draw_line(self._client.scene, LASSO_NODE, corners * self._viewer.stage.scale, LINE_COLOR)


class PointsTool:
    """Picks points of the surface by clicks.

    Attributes:
        points: [3] each, world, in the order of the clicks.
    """

    def __init__(
        self,
        viewer: Viewer,
        title: str,
        count: int | None,
        done: Callable[[Any, list[FloatArray]], None],
        least: int = 0,
    ) -> None:
        """Makes the tool.

        Args:
            viewer: whose surface is picked.
            title: what it is for.
            count: done after so many points; None goes on until Enter.
            done: called with the browser and the points.
            least: fewer are not enough for Enter.
        """
        self._viewer, self.title, self._count, self._done = viewer, title, count, done
        self._least = least if count is None else count
        self.hint = (
            f"Click {count} points on the surface. " if count else "Click the corners on the surface, then Enter. "
        )
        self.hint += "Escape stops."
        self.points: list[FloatArray] = []
        self._client: Any = None
        self._put_down: Callable[[], None] = lambda: None
        self._nodes: list[Any] = []

    def begin(self, client: Any, put_down: Callable[[], None]) -> None:
        """Starts to listen to a browser."""
        self._client, self._put_down = client, put_down

        client.scene.on_click()(self._clicked)

    def _clicked(self, event: Any) -> None:
        view, (x, y) = self._client.camera, event.screen_pos
        self.pick(x * view.image_width, y * view.image_height)

    def pick(self, x_px: float, y_px: float) -> None:
        """Adds the point of the surface under a pixel."""
        on_screen = math.isfinite(x_px) and math.isfinite(y_px)
        point = self._viewer.depth_at(self._client, x_px, y_px) if on_screen else None
        if point is None:
            self._client.add_notification(
                "Nothing there", "No surface lies under that pixel.", auto_close_seconds=3.0, color="yellow"
            )
            return
        self.points.append(point)
        if self._count is not None and len(self.points) >= self._count:
            self.finish()
        else:
            self._draw()

    def moved(self, view: Any) -> None:
        """Points stay where they are on the surface."""

    def finish(self) -> None:
        """Hands over the points."""
        if len(self.points) >= self._least:
            self._put_down()
            self._done(self._client, self.points)
        else:
            self._client.add_notification(
                "More points are needed", f"{self._least} at least.", auto_close_seconds=3.0, color="yellow"
            )

    def end(self) -> None:
        """Stops listening and takes the points away."""
        self._client.scene.remove_click_callback(self._clicked)
        for node in self._nodes:
            node.remove()
        self._nodes = []

    def _draw(self) -> None:
        scene, stage = self._client.scene, self._viewer.stage
        shown = np.array(self.points) * stage.scale
        radius = 0.006 * stage.extent * stage.scale
        index = len(shown) - 1
        self._nodes.append(
            scene.add_icosphere(f"/tool/point{index}", radius, LINE_COLOR, position=shown[-1], cast_shadow=False)
        )
        if index:
            self._nodes.append(
                draw_line(scene, f"/tool/line{index}", shown[-2:], LINE_COLOR),
            )


def draw_line(scene: Any, name: str, corners: FloatArray, color: tuple[int, int, int], thickness: float = 3.0) -> Any:
    """Draws a line through corners [P, 3] in browser units, `thickness` pixels wide; returns its node."""
    segments = np.stack([corners[:-1], corners[1:]], 1).astype(np.float32)
    return scene.add_line_segments(name, segments, color, thickness=thickness, thickness_units="screen")


def points_before(camera: Camera, pixels: FloatArray, depth: float) -> FloatArray:
    """Returns the points [P, 3] of the world that a camera sees at pixels [P, 2], at a depth."""
    return camera.center_in_world + depth * camera.ray_directions_in_cam(pixels) @ camera.cam_from_world[:3, :3]


def _pixel(screen_pos: tuple[float, float], camera: Camera) -> tuple[float, float]:
    x, y = screen_pos
    return float(np.clip(x, 0, 1)) * camera.width, float(np.clip(y, 0, 1)) * camera.height
