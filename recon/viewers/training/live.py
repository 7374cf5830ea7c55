# SPDX-License-Identifier: Apache-2.0
"""Training, live in the browser: the picture as it gets better, the loss, and buttons that pause and stop.

Training must not wait for anybody who looks at it.  The hook that the training loop calls after each step looks at the
clock and at a few flags; now and then, and only while a browser is connected, it takes a snapshot (a copy of the
parameters) and hands it to the viewer's own thread, which renders and sends it.  That thread may use a limited share of
its time, so the cores stay with training; a browser that reads slowly makes only its own queue longer, and a picture
that has not been sent yet is replaced by the next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recon.progress import SILENT, Progress
from recon.render import Renderer
from recon.scene import Scene
from recon.viewers.content import Content
from recon.viewers.training.metrics import Metrics
from recon.viewers.training.panel import Adjustable, TrainingPanel, Watch
from recon.viewers.viewer import Viewer

SNAPSHOT_EVERY_S = 2.0
SNAPSHOT_SHARE = 0.03
"""Snapshots may take this share of the training time: slow ones are taken less often."""

RENDER_SHARE = 0.08
"""Rendering may take this share of the time while training runs, on all cores; all of it while it is paused."""

STATUS_EVERY_S = 0.5

Snapshot = Callable[[], Renderer]
Answer = str | Mapping[str, Any] | None


class LiveViewer:
    """The viewer of a training.  Close it, or let the program end.

    `LiveViewer.for_scene(scene).hook(steps, run_folder)` is what a training loop takes as a hook.
    """

    def __init__(
        self,
        scene: Scene,
        title: str,
        host: str = "127.0.0.1",
        port: int = 8080,
        progress: Progress = SILENT,
        run: Path | None = None,
        makes_splats: bool = True,
    ) -> None:
        """Opens the viewer; it shows the cameras until the first snapshot.

        Camera paths, films and exports go into the folder `run`; without one they live as long as the viewer.
        `makes_splats` says whether there will be splats to export.

        Raises:
            ReconError: the host is no address of this machine, or no port is free.
        """
        self._waiting = _Waiting()
        content = Content(title, scene=scene, renderer=self._waiting, run_path=run, awaits_splats=makes_splats)
        self.paused = False
        self.stopped = False
        self._asked: deque[Answer] = deque()
        self._panel: TrainingPanel

        def make_panel(viewer: Viewer) -> TrainingPanel:
            self._panel = TrainingPanel(viewer, self)
            return self._panel

        self._viewer = Viewer(content, host, port, progress, "exact", [make_panel])
        self._viewer.exact.share_of_time = RENDER_SHARE

    @staticmethod
    def for_scene(
        scene: Scene | Path | str,
        host: str = "127.0.0.1",
        port: int = 8080,
        progress: Progress = SILENT,
        run: Path | None = None,
        makes_splats: bool = True,
    ) -> LiveViewer:
        """Opens the viewer of the training of a scene or of the scene folder at a path."""
        title = "Training"
        if not isinstance(scene, Scene):
            from recon.scene_io import load_scene

            title, scene = f"Training on {Path(scene).name}", load_scene(Path(scene))
        return LiveViewer(scene, title, host, port, progress, run, makes_splats)

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

    def save(self) -> None:
        """Has the loop write a checkpoint after the present step."""
        self._asked.append("save")

    def change(self, options: Mapping[str, Any]) -> None:
        """Has the loop change options after the present step."""
        self._asked.append(dict(options))

    def hook(
        self, steps: int, run: Path | None = None, adjustable: Adjustable | None = None
    ) -> Callable[[int, Snapshot], Answer]:
        """Returns the hook for a training.

        Args:
            steps: how many steps it will make.
            run: the folder whose metrics.jsonl is plotted.
            adjustable: the options that may change on the way; None for none.
        """
        watch = Watch(steps, Metrics(Path(run) / "metrics.jsonl") if run is not None else None, adjustable)

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
            if self._asked:
                watch.status_due_s = 0.0
                return self._asked.popleft()
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


class _Waiting:
    """A renderer of nothing, until there is something."""

    def render(self, camera: Any, options: Any) -> Any:
        import torch

        from recon.render import RenderOutput

        rgb = torch.tensor(options.background, dtype=torch.float32).expand(camera.height, camera.width, 3)
        return RenderOutput(rgb=rgb, alpha=torch.zeros(camera.height, camera.width))
