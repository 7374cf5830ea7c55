# SPDX-License-Identifier: Apache-2.0
"""Rendering the film to an MP4 beside the run, and handing it to the browser."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.film.library import clean_name
from recon.film.motion import KeyframedFilm
from recon.film.writing import FilmOptions, render_film
from recon.viewers.downloads import send_file
from recon.viewers.jobs import Job

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

CHANNELS = {"Colour": "rgb", "Depth": "depth", "Normals": "normal"}

QUALITIES = {"High": 16, "Good": 20, "Small file": 27}
"""Constant rate factors of H.264."""


class ExportsFolder:
    """Where files go that browsers ask for: `exports/` in the run, else a folder that lives as long as the viewer."""

    def __init__(self, run_path: Path | None) -> None:
        self._run_path = run_path
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the files stay when the viewer is closed."""
        return self._run_path is not None

    def path(self, name: str, suffix: str) -> Path:
        """Returns the place of a file; of the name only what is harmless is taken.

        Raises:
            ReconError: nothing of the name is left.
        """
        if self._run_path is not None:
            return self._run_path / "exports" / (clean_name(name) + suffix)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="recon-exports-")
        return Path(self._temporary.name) / (clean_name(name) + suffix)

    def close(self) -> None:
        """Deletes what is not kept."""
        if self._temporary is not None:
            self._temporary.cleanup()


class JobControls:
    """A bar, a line of text and a button that cancels; for a tab that starts jobs."""

    def __init__(self, gui: Any) -> None:
        self.text = gui.add_markdown("", visible=False)
        self._bar = gui.add_progress_bar(0.0, visible=False)
        self._cancel = gui.add_button("Cancel", icon="x", color="gray", visible=False)
        self._cancel.on_click(lambda event: self._job.cancel() if self._job is not None else None)
        self._job: Job | None = None

    def show(self, job: Job, done: str = "") -> None:
        """Shows how far a job is, or how it ended; `done` is said when it ended well."""
        self._job = job
        running = job.state == "running"
        self._bar.visible = running
        self._bar.animated = job.share is None
        self._bar.value = 100.0 if job.share is None else 100.0 * job.share
        self._cancel.visible = running
        self.text.visible = True
        if running:
            left = f", {_duration(job.left_s)} left" if job.left_s is not None and job.share else ""
            share = f" {100 * job.share:.0f} %" if job.share is not None else ""
            self.text.content = f"{plain(job.stage_name or job.title)}{share}{left}"
        elif job.state == "failed":
            self.text.content = f"**It failed.** {plain(job.problem)}"
        elif job.state == "cancelled":
            self.text.content = "Cancelled. Nothing was written."
        else:
            self.text.content = done


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
        gui = viewer.server.gui
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
        renderer = self._viewer.exact.renderer
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
            megabytes = self.path.stat().st_size / 1e6
            done = f"**{job.result.frames:,} frames** in {_duration(job.result.seconds)}, {megabytes:.1f} MB, {kept}."
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


def plain(text: str) -> str:
    """Returns text so that markdown shows it as it is."""
    return "".join(letter if letter.isalnum() or letter in " .,:;-\n()" else f"\\{letter}" for letter in text[:600])


def _duration(seconds: float) -> str:
    """Returns a duration as people say it."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60} min"
