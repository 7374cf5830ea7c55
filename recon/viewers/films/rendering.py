# SPDX-License-Identifier: Apache-2.0
"""Rendering the film to an MP4 beside the run, and handing it to the browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.film.motion import KeyframedFilm
from recon.film.writing import FilmOptions, render_film
from recon.viewers.downloads import send_file
from recon.viewers.editing.edited import edited_renderer
from recon.viewers.job_controls import JobControls, duration, file_size
from recon.viewers.jobs import Job

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

CHANNELS = {"Colour": "rgb", "Depth": "depth", "Normals": "normal"}

QUALITIES = {"High": 16, "Good": 20, "Small file": 27}
"""Constant rate factors of H.264."""


class FilmRenderFolder:
    """The folder "Render"."""

    def __init__(self, viewer: Viewer, film: Callable[[], tuple[str, KeyframedFilm]]) -> None:
        """Adds the folder to the present tab.

        Args:
            viewer: whose renderer is filmed.
            film: asked for the film's name and the film when it is to be rendered.
        """
        self._viewer, self._film = viewer, film
        self.path: Path | None = None
        gui: Any = viewer.server.gui
        with gui.add_folder("Render"):
            self._channel = gui.add_dropdown("Show", tuple(CHANNELS))
            self._quality = gui.add_dropdown("Quality", tuple(QUALITIES), initial_value="Good")
            self._background = gui.add_rgb("Background", (0, 0, 0))
            self._button = gui.add_button("Render MP4", icon="movie")
            self._button.on_click(self._start)
            self._controls = JobControls(gui)
            self._download = gui.add_button("Download", icon="download", visible=False)
            self._download.on_click(self._send)

    def _start(self, event: Any) -> None:
        try:
            self.start()
        except ReconError as error:
            event.client.add_notification("The film was not started", str(error), color="red")

    def start(self) -> Job:
        """Starts rendering.

        Raises:
            ReconError: there is nothing to film, or something else is under way.
        """
        name, film = self._film()
        renderer = edited_renderer(self._viewer)
        doing = "rendering the film"
        if renderer is None:
            raise ReconError(doing, "there is nothing that our renderer can show", "splats or a run")
        if len(film.keyframes) < 2:
            raise ReconError(doing, f"it has {len(film.keyframes)} keyframes", "two or more")
        path = film.path()
        channel = CHANNELS.get(str(self._channel.value), "rgb")
        out = self._viewer.exports.path(name if channel == "rgb" else f"{name}-{channel}", ".mp4")
        red, green, blue = (min(max(int(value), 0), 255) / 255 for value in self._background.value)
        options = FilmOptions(
            channel,  # type: ignore[arg-type]
            background=(red, green, blue),
            quality=QUALITIES.get(str(self._quality.value), 20),
        )
        return self._viewer.jobs.start(
            f"Rendering {out.name}", lambda job: render_film(renderer, path, out, options, job), self._changed
        )

    def _changed(self, job: Job) -> None:
        done = ""
        if job.state == "done":
            self.path = job.result.path
            kept = f"`exports/{self.path.name}`" if self._viewer.exports.is_kept else "kept until the viewer is closed"
            size = file_size(self.path.stat().st_size)
            done = f"**{job.result.frames:,} frames** in {duration(job.result.seconds)}, {size}, {kept}."
            self._download.label = f"Download {self.path.name}"
        self._button.disabled = job.state == "running"
        self._download.visible = job.state != "running" and self.path is not None and self.path.is_file()
        self._controls.show(job, done)

    def _send(self, event: Any) -> None:
        if self.path is None or event.client is None:
            return
        try:
            send_file(event.client, self.path)
        except ReconError as error:
            event.client.add_notification("The film was not sent", str(error), color="red")
