# SPDX-License-Identifier: Apache-2.0
"""The tab "Export": splats, mesh, points, cameras, pictures and the shareable page, as files and as downloads.

Files go into `exports/` of the run under cleaned names, whole or not at all; without a run they live as long as the
viewer.  What a browser sends chooses among what is offered here and never names a place.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.viewers.downloads import send_file
from recon.viewers.editing.edited import edited_splats
from recon.viewers.exact import camera_of
from recon.viewers.exports import work as makes
from recon.viewers.job_controls import JobControls, file_size, plain
from recon.viewers.jobs import Job

if TYPE_CHECKING:
    from recon.viewers.films.panel import FilmPanel
    from recon.viewers.viewer import Viewer

SPLATS, MESH, POINTS, CAMERAS, PICTURE, PAGE = "Splats", "Mesh", "Points", "Cameras", "Picture", "Page to share"


class ExportPanel:
    """The tab; it is there when there is anything to export."""

    def __init__(self, viewer: Viewer, film: FilmPanel | None = None) -> None:
        self._viewer, self._film = viewer, film
        self._finished: Path | None = None
        self.kinds = self._available()
        if not self.kinds:
            return
        gui: Any = viewer.server.gui
        with viewer.tabs["Export"]:
            self._what = gui.add_dropdown("What", self.kinds)
            self._what.on_update(lambda event: self._show())
            self._add_options(gui)
            self._note = gui.add_markdown("")
            self._name = gui.add_text("Name", plain_name(viewer.content.title))
            self._at_once = gui.add_checkbox("Download", True, hint="As soon as it is made")
            self._button = gui.add_button("Export", icon="file-export")
            self._button.on_click(self._start)
            self._controls = JobControls(gui)
            self._download = gui.add_button("Download again", icon="download", visible=False)
            self._download.on_click(lambda event: self._send(event.client))
        self._show()

    def close(self) -> None:
        """The viewer's jobs end by themselves."""

    def _available(self) -> tuple[str, ...]:
        content, viewer = self._viewer.content, self._viewer
        has_scene = content.scene is not None and bool(content.scene.frames)
        has_splats = content.splats is not None and bool(len(content.splats))
        renders = viewer.exact.renderer is not None
        offered = {
            SPLATS: has_splats or content.awaits_splats,
            MESH: content.mesh is not None or (renders and has_scene),
            PICTURE: renders,
            PAGE: has_splats and makes.has_pages(),
            POINTS: content.scene is not None and bool(len(content.scene.points)),
            CAMERAS: has_scene,
        }
        return tuple(kind for kind, available in offered.items() if available)

    def _add_options(self, gui: Any) -> None:
        content = self._viewer.content
        self._splat_format = gui.add_dropdown("Format", tuple(makes.SPLAT_FORMATS))
        self._splat_format.on_update(lambda event: self._show())
        self._mesh_format = gui.add_dropdown("Format", tuple(makes.MESH_FORMATS))
        self._mesh_anew = gui.add_checkbox("Make it anew", content.mesh is None, hint="From what is shown, as edited")
        self._mesh_anew.on_update(lambda event: self._show())
        self._mesh_detail = gui.add_dropdown("Detail", tuple(makes.MESH_DETAILS), initial_value="Normal")
        self._camera_format = gui.add_dropdown("Format", tuple(makes.CAMERA_FORMATS))
        self._width = gui.add_dropdown("Size", tuple(makes.PICTURE_WIDTHS), hint="At most 8192 pixels")
        self._shows = gui.add_dropdown("Show", tuple(makes.PICTURE_SHOWS))
        self._transparent = gui.add_checkbox("Transparent", False, hint="No background: PNG with alpha")
        self._title = gui.add_text("Title", content.title[:80])
        self._credits = gui.add_text("Credits", "")
        self._options: dict[str, tuple[Any, ...]] = {
            SPLATS: (self._splat_format,),
            MESH: (self._mesh_format, self._mesh_anew, self._mesh_detail),
            CAMERAS: (self._camera_format,),
            PICTURE: (self._width, self._shows, self._transparent),
            PAGE: (self._title, self._credits),
        }

    def _show(self) -> None:
        """Shows the options of what is chosen, and what will come of them."""
        chosen = str(self._what.value)
        for kind, controls in self._options.items():
            for control in controls:
                control.visible = kind == chosen
        self._mesh_anew.disabled = self._viewer.content.mesh is None
        self._mesh_detail.visible = chosen == MESH and bool(self._mesh_anew.value)
        self._note.content = plain(self._noted(chosen))

    def _noted(self, chosen: str) -> str:
        if chosen == SPLATS:
            try:
                return makes.splat_note(edited_splats(self._viewer), self._suffix(SPLATS))
            except ReconError as error:
                return str(error)
        if chosen == MESH:
            return makes.mesh_note(self._viewer, bool(self._mesh_anew.value))
        return {
            PICTURE: "What this browser shows, rendered by recon at any size.",
            PAGE: "One HTML file for everybody: it opens without server or network, and plays the film made here.",
            POINTS: "The sparse points with their colours, +Z up.",
            CAMERAS: "Where the photographs were taken, and their lenses.",
        }.get(chosen, "")

    def _suffix(self, kind: str) -> str:
        """Returns the suffix of the file that is chosen."""
        if kind == SPLATS:
            return makes.SPLAT_FORMATS.get(str(self._splat_format.value), ".ply")
        if kind == MESH:
            return makes.MESH_FORMATS.get(str(self._mesh_format.value), ".glb")
        if kind == CAMERAS:
            return makes.CAMERA_FORMATS.get(str(self._camera_format.value), ".json")
        return {PICTURE: ".png", PAGE: ".html"}.get(kind, ".ply")

    def _work(self, kind: str, client: Any) -> makes.Work:
        """Returns the work that makes what is chosen."""
        viewer, suffix = self._viewer, self._suffix(kind)
        if kind == SPLATS:
            return makes.splat_work(viewer, suffix)
        if kind == MESH:
            return makes.mesh_work(viewer, str(self._mesh_detail.value), bool(self._mesh_anew.value))
        if kind == PICTURE:
            options = makes.PictureOptions(
                str(self._width.value), str(self._shows.value), bool(self._transparent.value)
            )
            return makes.picture_work(viewer, camera_of(client, viewer.stage), options)
        if kind == PAGE:
            film = self._film.editor.film if self._film is not None else None
            return makes.page_work(viewer, str(self._title.value)[:200], str(self._credits.value)[:2000], film)
        return makes.point_work(viewer) if kind == POINTS else makes.camera_work(viewer, suffix)

    def _start(self, event: Any) -> None:
        if event.client is None:
            return
        try:
            self.start(event.client)
        except ReconError as error:
            event.client.add_notification("The export was not started", str(error), color="red")

    def start(self, client: Any) -> Job:
        """Starts making what is chosen; a browser gets it when it is done.

        Raises:
            ReconError: something else is under way, or the name is impossible.
        """
        kind = str(self._what.value)
        if kind not in self.kinds:
            raise ReconError("exporting", f"{kind[:40]!r} is not offered", ", ".join(self.kinds))
        # Points and mesh of one name must not take each other's place.
        suffix = {POINTS: "-points.ply", CAMERAS: f"-cameras{self._suffix(CAMERAS)}"}.get(kind, self._suffix(kind))
        if kind == MESH and suffix == ".ply":
            suffix = "-mesh.ply"
        out = self._viewer.exports.path(str(self._name.value), suffix)
        work = self._work(kind, client)
        wanted_by = client if self._at_once.value else None
        job = self._viewer.jobs.start(
            f"Exporting {out.name}", lambda job: (work(job, out), out, wanted_by), self._changed
        )
        # What was edited meanwhile has changed what there is to say.
        self._show()
        return job

    def _changed(self, job: Job) -> None:
        done = ""
        if job.state == "done":
            what, self._finished, client = job.result
            assert self._finished is not None
            size = file_size(self._finished.stat().st_size)
            kept = f"`exports/{self._finished.name}`" if self._viewer.exports.is_kept else "until the viewer is closed"
            done = f"**{plain(what)}**, {size}, {kept}."
            if client is not None:
                threading.Thread(target=self._send, args=(client,), name="download", daemon=True).start()
        self._button.disabled = job.state == "running"
        self._download.visible = job.state != "running" and self._finished is not None
        self._controls.show(job, done)

    def _send(self, client: Any) -> None:
        if client is None or self._finished is None:
            return
        try:
            send_file(client, self._finished)
        except ReconError as error:
            client.add_notification("The file was not sent", str(error), color="red")


def plain_name(title: str) -> str:
    """Returns a name for files of something with a title."""
    from recon.film.saved import clean_name

    try:
        return clean_name(Path(title).stem)
    except ReconError:
        return "scene"
