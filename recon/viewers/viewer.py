# SPDX-License-Identifier: Apache-2.0
"""The viewer of `recon view`: a run, a scene, splats or a mesh in the browser, in layers.

with open_viewer(load_content(path)) as viewer:
    print(viewer.url)
    viewer.wait()
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recon.progress import SILENT, Progress
from recon.viewers.content import Content, load_content
from recon.viewers.exact import ExactPictures, Mode
from recon.viewers.layers import CameraLayer, SplatLayer, add_mesh, add_points
from recon.viewers.server import close_server, open_server, url_of
from recon.viewers.stage import Stage, find_stage

if TYPE_CHECKING:
    from recon.render import Renderer

Picture = Literal["both", "exact", "splats", "nothing"]

PICTURES: dict[str, Picture] = {
    "Splats, exact when resting": "both",
    "Exact always": "exact",
    "Splats of the browser": "splats",
    "Nothing": "nothing",
}

CANVAS_COLOR = (20 / 255, 20 / 255, 20 / 255)
"""The browser's own background, so that the exact picture and the browser's splats differ in nothing else."""


class Viewer:
    """An open viewer.  Its switches may be set from Python as well as in the browser."""

    def __init__(
        self,
        content: Content,
        host: str = "127.0.0.1",
        port: int = 8080,
        progress: Progress = SILENT,
        picture: Picture | None = None,
    ) -> None:
        """Opens the viewer.

        Args:
            content: what is shown.
            host: a name of loopback.
            port: the port, or the first one tried; 0 takes any.
            progress: hears what was left out, and another port than the wanted one.
            picture: what is seen at first; None takes the best there is.

        Raises:
            ReconError: the host is not loopback, or no port is free.
        """
        self.content = content
        self.stage: Stage = find_stage(content)
        self.server = open_server(host, port, "recon", progress)
        self.layers: dict[str, Any] = {}
        self._closed = threading.Event()
        try:
            self._set_first_view()
            renderer = content.renderer or _splat_renderer(content)
            self.exact = ExactPictures(self.server, self.stage, renderer, CANVAS_COLOR)
            self._add_layers(progress)
            self._add_panel(renderer is not None)
        except BaseException:
            close_server(self.server)
            raise
        available = list(self._choices(renderer is not None).values())
        self.set_picture(picture if picture is not None and picture in available else available[0])

    @property
    def url(self) -> str:
        """The address to open."""
        return url_of(self.server)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait(self) -> None:
        """Blocks until `close` is called or Ctrl-C, which it passes on."""
        while not self._closed.wait(0.5):
            pass

    def close(self) -> None:
        """Closes the viewer and frees its port."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.exact.close()
        cameras = self.layers.get("cameras")
        if cameras is not None:
            cameras.close()
        close_server(self.server)

    def set_layer(self, name: str, visible: bool) -> None:
        """Shows or hides the layer "points", "cameras" or "mesh"."""
        layer = self.layers[name]
        if isinstance(layer, CameraLayer):
            layer.set_visible(visible)
        else:
            layer.visible = visible
        self._checkboxes[name].value = visible

    def set_picture(self, picture: Picture) -> None:
        """Chooses between the exact picture, the browser's splats, both by turns and neither."""
        modes: dict[Picture, Mode] = {"both": "resting", "exact": "always", "splats": "off", "nothing": "off"}
        if "splats" in self.layers:
            self.layers["splats"].visible = picture in ("both", "splats")
        self.exact.switch(modes[picture])
        label = next(label for label, value in PICTURES.items() if value == picture)
        if self._dropdown is not None and self._dropdown.value != label:
            self._dropdown.value = label

    def _choices(self, has_renderer: bool) -> dict[str, Picture]:
        """Returns what there is to choose from, by label."""
        has_splats = "splats" in self.layers
        available = {"both": has_renderer and has_splats, "exact": has_renderer, "splats": has_splats, "nothing": True}
        return {label: value for label, value in PICTURES.items() if available[value]}

    def _set_first_view(self) -> None:
        first, stage = self.server.initial_camera, self.stage
        first.position = stage.eye * stage.scale
        first.look_at = stage.focus * stage.scale
        first.up = np.array([0.0, 0.0, 1.0])
        first.fov = stage.fov_rad

    def _add_layers(self, progress: Progress) -> None:
        content, server, stage = self.content, self.server, self.stage
        scene = content.scene
        if content.splats is not None and len(content.splats):
            cameras = [frame.camera for frame in scene.frames] if scene else []
            self.layers["splats"] = SplatLayer(server, stage, content.splats, cameras, progress)
            self.exact.on_cover = self.layers["splats"].cover
        if content.mesh is not None and len(content.mesh.faces):
            self.layers["mesh"] = add_mesh(server, stage, content.mesh, progress)
            # Over splats the mesh would hide them; alone it is what was asked for.
            self.layers["mesh"].visible = "splats" not in self.layers and content.renderer is None
        if scene is not None and len(scene.points):
            self.layers["points"] = add_points(server, stage, scene.points, progress)
            self.layers["points"].visible = not self.layers.keys() & {"splats", "mesh"} and content.renderer is None
        if scene is not None and scene.frames:
            self.layers["cameras"] = CameraLayer(server, stage, scene, progress)

    def _layer_switched(self, name: str) -> Callable[[Any], None]:
        return lambda event: self.set_layer(name, event.target.value)

    def _add_panel(self, has_renderer: bool) -> None:
        gui = self.server.gui
        self._checkboxes: dict[str, Any] = {}
        self._dropdown: Any = None
        gui.add_markdown(_summary(self.content))
        choices = self._choices(has_renderer)
        with gui.add_folder("Layers"):
            if len(choices) > 1:
                self._dropdown = gui.add_dropdown(
                    "Picture",
                    tuple(choices),
                    hint="The browser draws splats fast but without view-dependent colour; the exact picture, "
                    "rendered by recon, shows what was trained.",
                )
                self._dropdown.on_update(lambda event: self.set_picture(choices[event.target.value]))
            for name in ("cameras", "points", "mesh"):
                if name in self.layers:
                    visible = True if name == "cameras" else bool(self.layers[name].visible)
                    box = gui.add_checkbox(name.capitalize(), visible)
                    self._checkboxes[name] = box
                    box.on_update(self._layer_switched(name))
            if "points" in self.layers:
                size = gui.add_slider("Point size", 0.2, 5.0, 0.1, 1.0)
                base = self.layers["points"].point_size
                size.on_update(lambda event: setattr(self.layers["points"], "point_size", base * event.target.value))
        with gui.add_folder("View"):
            gui.add_button("Level the horizon").on_click(lambda event: level(event.client))


def level(client: Any) -> None:
    """Turns a browser's camera upright without moving it."""
    forward = np.asarray(client.camera.look_at) - np.asarray(client.camera.position)
    if math.hypot(forward[0], forward[1]) > 1e-6 * abs(forward[2]):
        client.camera.up_direction = (0.0, 0.0, 1.0)


def _splat_renderer(content: Content) -> Renderer | None:
    """Returns a renderer of the content's splats."""
    if content.splats is None or not len(content.splats):
        return None
    from recon.rasterization import SplatRenderer

    return SplatRenderer(content.splats)


def _summary(content: Content) -> str:
    """Returns what is shown in a few words."""
    parts = []
    if content.splats is not None:
        parts.append(f"{len(content.splats):,} splats")
    if content.scene is not None:
        parts.append(f"{len(content.scene.frames):,} cameras")
        if len(content.scene.points):
            parts.append(f"{len(content.scene.points):,} points")
    if content.mesh is not None:
        parts.append(f"{len(content.mesh.faces):,} triangles")
    # The title is a file's name, and markdown has its own ideas about what brackets and stars mean.
    title = "".join(letter if letter.isalnum() or letter in " .-" else f"\\{letter}" for letter in content.title[:80])
    return f"**{title}**\n\n{' · '.join(parts)}\n\nClick a camera to stand where its photograph was taken."


def open_viewer(
    content: Content | Path | str, host: str = "127.0.0.1", port: int = 8080, progress: Progress = SILENT
) -> Viewer:
    """Opens the viewer of a path or of loaded content and returns at once.

    Raises:
        ReconError: there is nothing to see, the host is not loopback, or no port is free.
    """
    if not isinstance(content, Content):
        content = load_content(Path(content), progress)
    return Viewer(content, host, port, progress)


def view(content: Content | Path | str, host: str = "127.0.0.1", port: int = 8080, progress: Progress = SILENT) -> None:
    """Opens the viewer, tells `progress` its address, and blocks until Ctrl-C.

    Raises:
        ReconError: as `open_viewer`.
    """
    with open_viewer(content, host, port, progress) as viewer:
        progress.log(f"Open {viewer.url} in a browser; Ctrl-C ends.")
        try:
            viewer.wait()
        except KeyboardInterrupt:
            progress.log("The viewer is closed.")
