# SPDX-License-Identifier: Apache-2.0
"""Keys, standard views, the help that lists them, and the switch between dark and light.

viser's browser side brings the mouse, touch and flying keys; what it lacks is added by commands with hotkeys, which the
browser also lists in its command palette (Ctrl+K).  Keys do nothing while a person types into a field.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.cameras import Camera, look_at
from recon.viewers.editing.panel import shortcut_rows
from recon.viewers.exact import camera_of
from recon.viewers.layers import fly_to
from recon.viewers.server import BACKGROUNDS, set_theme
from recon.viewers.viewer import level

if TYPE_CHECKING:
    from recon.viewers.films.panel import FilmPanel
    from recon.viewers.viewer import Viewer

VIEWS: dict[str, tuple[float, float, float]] = {
    "Front": (0.0, -1.0, 0.0),
    "Right": (1.0, 0.0, 0.0),
    "Back": (0.0, 1.0, 0.0),
    "Left": (-1.0, 0.0, 0.0),
    # Not quite from above, where heading has no meaning and orbiting would jump.
    "Top": (0.0, -0.02, 1.0),
}
"""From which side one looks at the focus, in the +Z up world."""

MOUSE = (
    ("Left drag · one finger", "turn around the point looked at"),
    ("Right drag · two fingers", "move sideways (two fingers zoom as well)"),
    ("Wheel · pinch", "come nearer, go away"),
    ("W A S D", "fly ahead, left, back, right"),
    ("Q E", "fly down, up"),
    ("Arrow keys", "turn"),
    ("Alt + click", "look at that point, and turn around it from now on"),
    ("Click on a camera", "fly to where its photograph was taken"),
)

FLIGHT_S = 0.4


@dataclass(frozen=True)
class Shortcut:
    """A key, what it does for people to read, and what it does to the browser where it was pressed."""

    key: str
    label: str
    act: Callable[[Any], None]


class HelpPanel:
    """The row above the tabs, the views in the tab "View", and the keys."""

    def __init__(self, viewer: Viewer, film: FilmPanel | None = None) -> None:
        self._viewer = viewer
        self.is_dark = True
        self._open: dict[int, Any] = {}
        self._focus_next: set[int] = set()
        self._radius: float | None = None
        self._radius_of: Any = None
        self._lock = threading.Lock()
        server: Any = viewer.server
        gui = server.gui
        self._row = gui.add_button_group("Viewer", ("Help", "Home", "Light"), order=viewer.tabs.order - 0.5)
        self._row.on_click(self._pressed)
        with viewer.tabs["View"], gui.add_folder("Look from", order=40, expand_by_default=False):
            views = gui.add_button_group("Side", tuple(VIEWS))
            views.on_click(lambda event: self.look_from(event.client, event.target.value))
            more = gui.add_button_group("More", ("Opposite", "Click to focus"), hint="Then click on something")
            more.on_click(self._more)
        self.shortcuts = self._shortcuts(film)
        for shortcut in self.shortcuts:
            command = gui.add_command(shortcut.label, hotkey=shortcut.key)
            command.on_trigger(self._triggered(shortcut.act))
        server.scene.on_click(modifier="alt")(self._focus_clicked)
        server.on_client_disconnect(self._left)

    def close(self) -> None:
        """Nothing runs in the background."""

    def _shortcuts(self, film: FilmPanel | None) -> list[Shortcut]:
        found = [
            Shortcut("H", "Help", self.toggle_help),
            Shortcut("F", "Home: see everything", self.go_home),
            Shortcut("1", "Look from the front", lambda client: self.look_from(client, "Front")),
            Shortcut("3", "Look from the right", lambda client: self.look_from(client, "Right")),
            Shortcut("7", "Look from above", lambda client: self.look_from(client, "Top")),
            Shortcut("9", "Look from the opposite side", self.look_from_opposite),
            Shortcut("L", "Level the horizon", level),
            Shortcut("T", "Dark or light", lambda client: self.set_dark(not self.is_dark)),
        ]
        if "cameras" in self._viewer.layers:
            found.append(Shortcut("C", "Show or hide the cameras", self._toggle_cameras))
        if len(self._viewer.pictures()) > 2:
            found.append(Shortcut("X", "Next renderer: exact, fast", self._next_picture))
        if film is not None:
            found.append(Shortcut("K", "Film: add a keyframe", film.add_keyframe))
            found.append(Shortcut("P", "Film: play or stop", film.toggle))
        return found

    def _triggered(self, act: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(event: Any) -> None:
            if event.client is not None:
                act(event.client)

        return run

    def _pressed(self, event: Any) -> None:
        if event.client is None:
            return
        if event.target.value == "Help":
            self.toggle_help(event.client)
        elif event.target.value == "Home":
            self.go_home(event.client)
        else:
            self.set_dark(not self.is_dark)

    def _more(self, event: Any) -> None:
        if event.client is None:
            return
        if event.target.value == "Opposite":
            self.look_from_opposite(event.client)
        else:
            self.focus_at_next_click(event.client)

    # Help -----------------------------------------------------------------------------------------------------

    def toggle_help(self, client: Any) -> None:
        """Opens the help in a browser, or closes it."""
        with self._lock:
            modal = self._open.pop(client.client_id, None)
            if modal is not None:
                modal.close()
                return
            modal = client.gui.add_modal("Mouse, keys and touch")
            self._open[client.client_id] = modal
            with modal:
                client.gui.add_markdown(self.help_text())
                client.gui.add_button("Close (H)").on_click(lambda event: self.toggle_help(client))

    def help_text(self) -> str:
        """Returns the help as markdown."""
        views = [shortcut for shortcut in self.shortcuts if shortcut.key.isdigit()]
        sides = ", ".join(shortcut.label.removeprefix("Look from ") for shortcut in views)
        others = [(shortcut.key, shortcut.label) for shortcut in self.shortcuts if not shortcut.key.isdigit()]
        rows = [*MOUSE, (" ".join(shortcut.key for shortcut in views), f"look from {sides}"), *others]
        if "Edit" in self._viewer.tabs:
            rows += shortcut_rows()
        table = "\n".join(f"| **{key}** | {what[:1].lower() + what[1:]} |" for key, what in rows)
        return f"| | |\n| --- | --- |\n{table}\n| **Ctrl + K** | find any of these by name |\n"

    def _left(self, client: Any) -> None:
        self._open.pop(client.client_id, None)
        self._focus_next.discard(client.client_id)

    # Views ----------------------------------------------------------------------------------------------------

    def go_home(self, client: Any) -> None:
        """Flies a browser to the first view."""
        stage = self._viewer.stage
        self._fly(client, stage.eye, stage.focus, stage.fov_rad)

    def look_from(self, client: Any, side: str) -> None:
        """Flies a browser to one side of the focus, from where the scene fills the window."""
        direction = VIEWS.get(side)
        if direction is None:
            return
        unit = np.array(direction) / np.linalg.norm(direction)
        half = 0.5 * min(client.camera.fov, 2 * math.atan(math.tan(client.camera.fov / 2) * client.camera.aspect))
        distance = self._scene_radius() / math.sin(max(half, 0.1))
        focus = self._viewer.stage.focus
        self._fly(client, focus + distance * unit, focus, client.camera.fov)

    def look_from_opposite(self, client: Any) -> None:
        """Flies a browser to the other side of the point that it looks at."""
        scale = self._viewer.stage.scale
        target = np.asarray(client.camera.look_at) / scale
        offset = np.asarray(client.camera.position) / scale - target
        self._fly(client, target + offset * np.array([-1.0, -1.0, 1.0]), target, client.camera.fov)

    def focus_at_next_click(self, client: Any) -> None:
        """Has the next click in a browser choose the point to look at and to turn around."""
        if client.client_id in self._focus_next:
            return
        self._focus_next.add(client.client_id)

        def once(event: Any) -> None:
            client.scene.remove_click_callback(once)
            self._focus_next.discard(client.client_id)
            self._focus_clicked(event)

        client.scene.on_click()(once)

    def _focus_clicked(self, event: Any) -> None:
        client = event.client
        x, y = (float(np.clip(value, 0, 1)) for value in event.screen_pos)
        camera = client.camera
        point = self._viewer.depth_at(client, x * camera.image_width, y * camera.image_height)
        if point is not None:
            self._fly(client, np.asarray(camera.position) / self._viewer.stage.scale, point, camera.fov)

    def _fly(self, client: Any, eye: np.ndarray, target: np.ndarray, fov_rad: float) -> None:
        """Flies a browser so that it looks from `eye` at `target`, which it turns around afterwards."""
        stage = self._viewer.stage
        if np.linalg.norm(target - eye) < 1e-9 * stage.extent:
            return
        window = camera_of(client, stage)
        focal = 0.5 * window.height / math.tan(fov_rad / 2)
        pose = look_at(eye, target, np.array([0.0, 0.0, 1.0]))
        size = (window.width, window.height)
        camera = Camera(*size, focal, focal, size[0] / 2, size[1] / 2, cam_from_world=pose)
        fly_to(client, stage, camera, FLIGHT_S)
        client.camera.up_direction = (0.0, 0.0, 1.0)
        client.camera.look_at = target * stage.scale
        client.flush()

    def _scene_radius(self) -> float:
        """Returns the radius about the focus of what there is to see, in world units."""
        if self._radius is None or self._radius_of is not self._viewer.stage:
            self._radius_of = self._viewer.stage
            stage, splats = self._viewer.stage, self._viewer.splats
            self._radius = stage.extent
            if splats is not None and len(splats):
                distances = np.linalg.norm(splats.means.detach().cpu().numpy() - stage.focus, axis=1)
                # What lies far beyond the cameras is background.
                near = distances[distances < 1.5 * stage.extent]
                self._radius = float(np.percentile(near, 80)) if len(near) else stage.extent
        return self._radius

    # Switches -------------------------------------------------------------------------------------------------

    def set_dark(self, dark: bool) -> None:
        """Makes all browsers dark or light; the exact picture's background goes along."""
        self.is_dark = dark
        set_theme(self._viewer.server, dark)
        self._viewer.exact.background = BACKGROUNDS[dark]
        self._row.options = ("Help", "Home", "Light" if dark else "Dark")

    def _toggle_cameras(self, _client: Any) -> None:
        self._viewer.set_layer("cameras", not self._viewer.layers["cameras"].visible)

    def _next_picture(self, _client: Any) -> None:
        kinds = [kind for kind in self._viewer.pictures().values() if kind != "nothing"]
        present = kinds.index(self._viewer.picture) if self._viewer.picture in kinds else -1
        self._viewer.set_picture(kinds[(present + 1) % len(kinds)])
