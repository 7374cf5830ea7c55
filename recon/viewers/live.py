# SPDX-License-Identifier: Apache-2.0
"""Training, live in the browser: the picture as it gets better, the loss, and buttons that pause and stop.

Training must not wait for anybody who looks at it.  The hook that the training loop calls after each step looks at the
clock and at a few flags; now and then, and only while a browser is connected, it takes a snapshot (a copy of the
parameters) and hands it to the viewer's own thread, which renders and sends it.  That thread may use a limited share of
its time, so the cores stay with training; a browser that reads slowly makes only its own queue longer, and a picture
that has not been sent yet is replaced by the next.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recon.progress import SILENT, Progress
from recon.render import Renderer
from recon.scene import Scene
from recon.viewers.content import Content
from recon.viewers.viewer import Viewer

SNAPSHOT_EVERY_S = 2.0
SNAPSHOT_SHARE = 0.03
"""Snapshots may take this share of the training time: slow ones are taken less often."""

RENDER_SHARE = 0.2
"""Rendering may take this share of one thread's time while training runs; all of it while it is paused."""

STATUS_EVERY_S = 0.5
MOST_CURVE_POINTS = 500

Snapshot = Callable[[], Renderer]
Answer = str | None


class LiveViewer:
    """The viewer of a training.  Close it, or let the program end.

    `LiveViewer.for_scene(scene).hook(steps, run_folder)` is what a training loop takes as a hook.
    """

    def __init__(
        self, scene: Scene, title: str, host: str = "127.0.0.1", port: int = 8080, progress: Progress = SILENT
    ) -> None:
        """Opens the viewer; it shows the cameras until the first snapshot.

        Raises:
            ReconError: the host is no address of this machine, or no port is free.
        """
        self._waiting = _Waiting()
        content = Content(title, scene=scene, renderer=self._waiting)
        self.paused = False
        self.stopped = False
        self._panel: _TrainingPanel

        def make_panel(viewer: Viewer) -> _TrainingPanel:
            self._panel = _TrainingPanel(viewer, self)
            return self._panel

        self._viewer = Viewer(content, host, port, progress, "exact", [make_panel])
        self._viewer.exact.share_of_time = RENDER_SHARE

    @staticmethod
    def for_scene(
        scene: Scene | Path | str, host: str = "127.0.0.1", port: int = 8080, progress: Progress = SILENT
    ) -> LiveViewer:
        """Opens the viewer of the training of a scene or of the scene folder at a path."""
        if isinstance(scene, Scene):
            return LiveViewer(scene, "Training", host, port, progress)
        from recon.scene_io import load_scene

        return LiveViewer(load_scene(Path(scene)), f"Training on {Path(scene).name}", host, port, progress)

    @property
    def url(self) -> str:
        """The address to open."""
        return self._viewer.url

    @property
    def viewer(self) -> Viewer:
        """The viewer underneath."""
        return self._viewer

    def pause(self, paused: bool = True) -> None:
        """Pauses training before its next step, or lets it go on."""
        self.paused = paused
        self._viewer.exact.share_of_time = 1.0 if paused else RENDER_SHARE

    def stop(self) -> None:
        """Ends training after the present step; the loop writes its checkpoint."""
        self.stopped = True

    def hook(self, steps: int, run: Path | None = None) -> Callable[[int, Snapshot], Answer]:
        """Returns the hook for a training of so many steps; `run` is the folder whose metrics.jsonl is plotted."""
        watch = _Watch(steps, Metrics(Path(run) / "metrics.jsonl") if run is not None else None)

        def after_step(step: int, snapshot: Snapshot) -> Answer:
            now = time.monotonic()
            if now >= watch.status_due_s:
                watch.status_due_s = now + STATUS_EVERY_S
                self._panel.tell(step, watch)
            fresh = step != watch.snapshot_step
            if fresh and (now >= watch.snapshot_due_s or self.paused or step >= steps) and self._is_watched():
                watch.snapshot_step = step
                self._viewer.exact.show(snapshot())
                taken_s = time.monotonic() - now
                watch.snapshot_due_s = now + max(SNAPSHOT_EVERY_S, taken_s / SNAPSHOT_SHARE)
            if self.stopped:
                return "stop"
            return "pause" if self.paused else None

        return after_step

    def close(self) -> None:
        """Closes the viewer."""
        self._viewer.close()

    def __enter__(self) -> LiveViewer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _is_watched(self) -> bool:
        return bool(self._viewer.server.get_clients())


class _Watch:
    """What the hook remembers between steps."""

    def __init__(self, steps: int, metrics: Metrics | None) -> None:
        self.steps = steps
        self.metrics = metrics
        self.status_due_s = 0.0
        self.snapshot_due_s = 0.0
        self.snapshot_step = -1
        self.first: tuple[float, int] | None = None


class _Waiting:
    """A renderer of nothing, until there is something."""

    def render(self, camera: Any, options: Any) -> Any:
        import torch

        from recon.render import RenderOutput

        rgb = torch.tensor(options.background, dtype=torch.float32).expand(camera.height, camera.width, 3)
        return RenderOutput(rgb=rgb, alpha=torch.zeros(camera.height, camera.width))


class Metrics:
    """Follows a metrics.jsonl that grows: reads only what is new, and a line once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.steps: list[float] = []
        self.losses: list[float] = []
        self.scores: list[tuple[float, float]] = []

    def update(self) -> bool:
        """Reads what has been added; returns whether there was anything."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    # A run that was begun anew has a new file.
                    self.__init__(self._path)  # type: ignore[misc]
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)
        return bool(whole)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            step = float(entry["step"])
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(entry.get("loss"), (int, float)):
            self.steps.append(step)
            self.losses.append(float(entry["loss"]))
        if isinstance(entry.get("held_out_psnr_db"), (int, float)):
            self.scores.append((step, float(entry["held_out_psnr_db"])))

    def curve(self, most: int = MOST_CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
        """Returns steps and losses, thinned to at most `most` points."""
        chosen = np.unique(np.linspace(0, len(self.steps) - 1, min(most, len(self.steps))).astype(int))
        return np.array(self.steps)[chosen], np.array(self.losses)[chosen]


class _TrainingPanel:
    """The buttons, the numbers and the curve.  A thread of its own writes them: the training's only leaves notes."""

    def __init__(self, viewer: Viewer, live: LiveViewer) -> None:
        self._live = live
        self._note: tuple[int, _Watch] | None = None
        self._changed = threading.Event()
        self._closing = False
        gui: Any = viewer.server.gui
        with viewer.tabs["Training"]:
            self._text = gui.add_markdown("Waiting for the first step.")
            self._bar = gui.add_progress_bar(0.0)
            empty = np.zeros(1)
            self._plot = gui.add_uplot(
                (empty, empty),
                ({"label": "step"}, {"label": "loss", "stroke": "#6ea3ff", "width": 1.5}),
                scales={"x": {"time": False}, "y": {"distr": 3}},
                title="loss",
                aspect=1.6,
                visible=False,
            )
            self._pause = gui.add_button("Pause")
            self._stop = gui.add_button("Stop and keep", hint="Ends training; the checkpoint can be resumed.")

        @self._pause.on_click
        def _(_event: Any) -> None:
            live.pause(not live.paused)
            self._changed.set()

        @self._stop.on_click
        def _(_event: Any) -> None:
            live.stop()
            self._changed.set()

        self._thread = threading.Thread(target=self._write, name="training panel", daemon=True)
        self._thread.start()

    def tell(self, step: int, watch: _Watch) -> None:
        """Leaves a note of the present step; called by the training's thread."""
        self._note = (step, watch)
        self._changed.set()

    def close(self) -> None:
        self._closing = True
        self._changed.set()
        self._thread.join(timeout=5)

    def _write(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._closing:
                return
            if self._note is not None:
                self._show(*self._note)
            # A browser shows no more than this, whatever the speed of the training.
            time.sleep(0.2)

    def _show(self, step: int, watch: _Watch) -> None:
        now = time.monotonic()
        if watch.first is None or self._live.paused:
            watch.first = (now, step)
        since_s, since_step = watch.first
        parts = [f"Step **{step:,}** of {watch.steps:,}"]
        if step > since_step:
            pace_s = (now - since_s) / (step - since_step)
            parts.append(f"{pace_s * 1000:.0f} ms a step, {_duration((watch.steps - step) * pace_s)} left")
        if watch.metrics is not None:
            if watch.metrics.update() and len(watch.metrics.steps) > 1:
                self._plot.data = watch.metrics.curve()
                self._plot.visible = True
            if watch.metrics.losses:
                parts.append(f"loss {watch.metrics.losses[-1]:.4f}")
            if watch.metrics.scores:
                parts.append(f"held out {watch.metrics.scores[-1][1]:.2f} dB")
        if self._live.stopped:
            parts.append("**stopped**")
        elif self._live.paused:
            parts.append("**paused**")
        self._text.content = "  \n".join(parts)
        self._bar.value = 100.0 * step / max(watch.steps, 1)
        self._pause.label = "Resume" if self._live.paused else "Pause"
        self._stop.disabled = self._live.stopped


def _duration(seconds: float) -> str:
    """Returns a duration as people say it."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
