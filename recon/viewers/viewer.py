# SPDX-License-Identifier: Apache-2.0
"""The viewer of `recon view`: a run, a scene, splats or a mesh in the browser, in layers.

with open_viewer(load_content(path)) as viewer:
    print(viewer.url)
    viewer.wait()
"""

from __future__ import annotations

import atexit
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from recon.progress import SILENT, Progress
from recon.rasterization import SplatRenderer
from recon.scene import Scene, Similarity
from recon.viewers.content import Content, load_content
from recon.viewers.downloads import ExportsFolder
from recon.viewers.editing.pointer_tools import PointerTools
from recon.viewers.exact import ExactPictures, Mode, camera_of
from recon.viewers.jobs import Jobs
from recon.viewers.layers import CameraLayer, PointLayer, SplatLayer, fly_to, moved_scene
from recon.viewers.mesh_layer import MeshLayer
from recon.viewers.photos import Photos
from recon.viewers.picking import surface_at
from recon.viewers.server import close_server, open_server, url_of
from recon.viewers.stage import Stage, find_stage

if TYPE_CHECKING:
    from recon.render import Renderer
    from recon.splats import Splats

FloatArray = npt.NDArray[np.float64]

Picture = Literal["both", "exact", "splats", "nothing"]

PICTURES: dict[str, Picture] = {
    "Splats, exact when resting": "both",
    "Exact always": "exact",
    "Splats of the browser": "splats",
    "Nothing": "nothing",
}

CANVAS_COLOR = (20 / 255, 20 / 255, 20 / 255)
"""The browser's own background, so that the exact picture and the browser's splats differ in nothing else."""


class Panel(Protocol):
    """A part of the viewer's panel: made with the viewer, it fills the tab that it is of."""

    def close(self) -> None:
        """Ends what it does in the background."""


def make_panels(viewer: Viewer) -> list[Panel]:
    """Makes the panels in the order of their tabs; one that has nothing to offer asks for no tab."""
    from recon.viewers.editing.measure_panel import MeasurePanel
    from recon.viewers.editing.panel import EditPanel
    from recon.viewers.exports.panel import ExportPanel
    from recon.viewers.films.panel import FilmPanel
    from recon.viewers.help import HelpPanel
    from recon.viewers.view_panel import ViewPanel

    film: FilmPanel
    return [
        ViewPanel(viewer),
        EditPanel(viewer),
        MeasurePanel(viewer),
        film := FilmPanel(viewer),
        ExportPanel(viewer, film),
        HelpPanel(viewer, film),
    ]


class Tabs:
    """The tabs beside the picture, by name ("View", "Edit", ...); one is there from the first time it is asked for."""

    def __init__(self, gui: Any) -> None:
        self._group = gui.add_tab_group()
        self._tabs: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._tabs:
            self._tabs[name] = self._group.add_tab(name)
        return self._tabs[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tabs

    @property
    def order(self) -> float:
        """Where they stand in the panel; what has a smaller order stands above them."""
        return float(self._group.order)


class Viewer:
    """An open viewer.  Its switches may be set from Python as well as in the browser.

    Attributes:
        content: what was opened, which never changes.
        stage: the browser's units.
        server: viser's server.
        tabs: where panels put their controls.
        layers: "splats", "mesh", "points" and "cameras", as far as there are any.
        exact: our own pictures.
        photos: the scene's photographs; None without a scene.
        pointer: what a browser's pointer does, where it does not move the camera.
        picture: which rendering is seen.
        jobs: long work that browsers ask for, one piece at a time.
        exports: where the files of such work go.
        meters_per_unit: the metric scale of the world that is shown; None where it is unknown.
    """

    def __init__(
        self,
        content: Content,
        host: str = "127.0.0.1",
        port: int = 8080,
        progress: Progress = SILENT,
        picture: Picture | None = None,
        first_panels: Sequence[Callable[[Viewer], Panel]] = (),
    ) -> None:
        """Opens the viewer.

        Args:
            content: what is shown.
            host: a name of loopback; any other address of this machine demands a token, which `url` carries.
            port: the port, or the first one tried; 0 takes any.
            progress: hears what was left out, and another port than the wanted one.
            picture: what is seen at first; None takes the best there is.
            first_panels: makers of panels that stand before the usual ones.

        Raises:
            ReconError: the host is no address of this machine, or no port is free.
        """
        self.content = content
        self.stage: Stage = find_stage(content)
        self._first_stage = self.stage
        self.server = open_server(host, port, "recon", progress)
        self.layers: dict[str, Any] = {}
        self.picture: Picture = "nothing"
        self._splats = content.splats
        self._world = Similarity()
        self.meters_per_unit = None if content.scene is None else content.scene.world.meters_per_unit
        self._panels: list[Panel] = []
        self._flights: dict[int, int] = {}
        self._listeners: list[Callable[[], None]] = []
        self._world_listeners: list[Callable[[Similarity], None]] = []
        self._closed = threading.Event()
        self.exports = ExportsFolder(content.run_path)
        self.jobs = Jobs(lambda: self.exact.share_of_time)
        try:
            self._set_first_view()
            self.server.on_client_disconnect(self._disconnected)
            renderer = content.renderer or _splat_renderer(content.splats)
            scene = content.scene
            self.photos = Photos(scene) if scene is not None and scene.frames else None
            meters = scene.world.meters_per_unit if scene is not None else None
            self.exact = ExactPictures(self.server, self.stage, renderer, CANVAS_COLOR, self.photos, meters)
            self._add_layers(progress)
            available = list(self.pictures().values())
            self.set_picture(picture if picture is not None and picture in available else available[0])
            self.server.gui.add_markdown(_summary(self.content))
            self.tabs = Tabs(self.server.gui)
            self.pointer = PointerTools(self)
            self._panels += [make(self) for make in first_panels]
            self._panels += make_panels(self)
        except BaseException:
            self.close()
            raise
        # A program that ends with its viewer open must not end in the middle of a kernel.
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """The address to open."""
        return url_of(self.server)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels that are made already."""
        return tuple(self._panels)

    @property
    def run_path(self) -> Path | None:
        """The training run that is shown; None for files and scenes alone."""
        return self.content.run_path

    @property
    def splats(self) -> Splats | None:
        """The splats as they are shown now."""
        return self._splats

    @property
    def world(self) -> Similarity:
        """Where the scene was moved to from where it was opened."""
        return self._world

    @property
    def scene(self) -> Scene | None:
        """The scene in the world that is shown now."""
        return None if self.content.scene is None else moved_scene(self.content.scene, self._world)

    def set_splats(self, splats: Splats) -> None:
        """Replaces the splats in both renderings, in every browser."""
        self._splats = splats
        self.exact.show(SplatRenderer(splats))
        if "splats" in self.layers:
            self.layers["splats"].replace(splats)

    def set_world(self, new_from_opened: Similarity, zoom: float = 1.0, meters_per_unit: float | None = None) -> None:
        """Moves cameras, points and mesh from where they were opened; splats are given by `set_splats`.

        Args:
            new_from_opened: where the scene is now.
            zoom: browser units per world unit, relative to what it was when opened; 1 / s after the unit was made
                smaller by s leaves everything as large in the window as it was.
            meters_per_unit: the metric scale of the world now; None where it is unknown.
        """
        moved, self._world = new_from_opened.compose(self._world.inverse()), new_from_opened
        self.meters_per_unit = meters_per_unit
        self.stage = self._first_stage.moved(new_from_opened, zoom)
        self.exact.stage, self.exact.meters_per_unit = self.stage, meters_per_unit
        # These keep their own stage: for them the zoom is a part of the move.
        shown = Similarity(
            new_from_opened.scale * zoom, new_from_opened.rotation, np.asarray(new_from_opened.translation) * zoom
        )
        for name in ("points", "mesh", "cameras"):
            if name in self.layers:
                self.layers[name].set_world(shown)
        if "splats" in self.layers:
            cameras = [] if self.scene is None else [frame.camera for frame in self.scene.frames]
            self.layers["splats"].set_stage(self.stage, cameras)
        if self.photos is not None:
            self.photos.set_world(new_from_opened)
            self.exact.redraw()
        for listener in self._world_listeners:
            listener(moved)

    def enter_photo(self, client: Any, index: int) -> None:
        """Flies a browser to where photograph `index` was taken; an earlier flight of it ends."""
        flight = self._flights[client.client_id] = self._flights.get(client.client_id, 0) + 1
        self.exact.set_look(client.client_id, photo=index)
        self._tell()

        def goes_on() -> bool:
            return self._flights.get(client.client_id) == flight and not self._closed.is_set()

        assert self.photos is not None
        fly_to(client, self.stage, self.photos.cameras[index], goes_on=goes_on)

    def depth_at(self, client: Any, x_px: float, y_px: float) -> FloatArray | None:
        """Returns the point of the surface under a pixel of a browser's window, [3] in the world; None for nothing.

        Args:
            client: the browser.
            x_px, y_px: from the window's top left corner, in the pixels of `client.camera.image_width`.
        """
        renderer = self.exact.renderer
        if renderer is None:
            return None
        return surface_at(renderer, camera_of(client, self.stage), x_px, y_px)

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
        atexit.unregister(self.close)
        self.jobs.close()
        for panel in self._panels:
            panel.close()
        self.exports.close()
        if hasattr(self, "exact"):
            self.exact.close()
        for layer in self.layers.values():
            layer.close()
        close_server(self.server)

    def on_switch(self, listener: Callable[[], None]) -> None:
        """Has a panel told when a layer, the picture or a browser's photograph was switched, by whomever."""
        self._listeners.append(listener)

    def on_world(self, listener: Callable[[Similarity], None]) -> None:
        """Has a panel told by what the world was moved."""
        self._world_listeners.append(listener)

    def set_layer(self, name: str, visible: bool) -> None:
        """Shows or hides the layer "points", "cameras" or "mesh"."""
        self.layers[name].visible = visible
        self._tell()

    def set_opacity(self, name: str, opacity: float) -> None:
        """Fades a layer, 0..1; the exact picture goes with the splats."""
        self.layers[name].opacity = opacity
        if name == "splats":
            self.exact.opacity = opacity
        self._tell()

    def set_picture(self, picture: Picture) -> None:
        """Chooses between the exact picture, the browser's splats, both by turns and neither."""
        modes: dict[Picture, Mode] = {"both": "resting", "exact": "always", "splats": "off", "nothing": "off"}
        self.picture = picture
        if "splats" in self.layers:
            self.layers["splats"].visible = picture in ("both", "splats")
        self.exact.switch(modes[picture], looks=picture != "nothing")
        self._tell()

    def pictures(self) -> dict[str, Picture]:
        """Returns what there is to choose from, by label."""
        has_splats, has_renderer = "splats" in self.layers, self.exact.renderer is not None
        available = {"both": has_renderer and has_splats, "exact": has_renderer, "splats": has_splats, "nothing": True}
        return {label: value for label, value in PICTURES.items() if available[value]}

    def _disconnected(self, client: Any) -> None:
        self._flights.pop(client.client_id, None)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

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
            self.layers["mesh"] = MeshLayer(server, stage, content.mesh, progress)
            # Over splats the mesh would hide them; alone it is what was asked for.
            self.layers["mesh"].visible = "splats" not in self.layers and content.renderer is None
        if scene is not None and len(scene.points):
            self.layers["points"] = PointLayer(server, stage, scene.points, progress)
            self.layers["points"].visible = not self.layers.keys() & {"splats", "mesh"} and content.renderer is None
        if scene is not None and scene.frames:
            self.layers["cameras"] = CameraLayer(server, stage, scene, progress)
            self.layers["cameras"].on_click = self.enter_photo


def level(client: Any) -> None:
    """Turns a browser's camera upright without moving it."""
    forward = np.asarray(client.camera.look_at) - np.asarray(client.camera.position)
    if math.hypot(forward[0], forward[1]) > 1e-6 * abs(forward[2]):
        client.camera.up_direction = (0.0, 0.0, 1.0)


def _splat_renderer(splats: Splats | None) -> Renderer | None:
    """Returns a renderer of splats where there are any."""
    return None if splats is None or not len(splats) else SplatRenderer(splats)


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
    return f"**{title}**\n\n{' · '.join(parts)}"


def open_viewer(
    content: Content | Path | str, host: str = "127.0.0.1", port: int = 8080, progress: Progress = SILENT
) -> Viewer:
    """Opens the viewer of a path or of loaded content and returns at once.

    Raises:
        ReconError: there is nothing to see, the host is no address of this machine, or no port is free.
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
