# SPDX-License-Identifier: Apache-2.0
"""Exact pictures: what our own renderer shows for the browser's camera, as the background of the browser's scene.

The browser draws splats without harmonics, with rounded shapes and without the antialiasing filter; here the artist
sees what was trained: "always", with small quick pictures while the camera moves and a full one when it rests, or
"resting", with the browser's own splats while it moves and the exact picture over them when it rests.  One thread
renders for all browsers, so that many windows cost no more than one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.render import Renderer, RenderOptions
from recon.viewers.stage import Stage

if TYPE_CHECKING:
    import viser

REST_S = 0.15
"""A camera that has not moved for so long rests."""

WANTED_S = 0.08
"""How long a picture of a moving camera may take."""

MOST_PX = 1600
LEAST_PX = 160

MOST_DEPTH = 160.0
"""viser's depth is a 24-bit number of hundredths of a millimetre-like unit: it ends at 167."""


Mode = Literal["off", "resting", "always"]

COVER_S = 0.12
"""How long the browser may take to unpack a picture before the splats that it replaces are hidden."""


@dataclass
class _View:
    """What one browser needs.

    `moved_s` is when its camera last changed, `sent` how good its picture is (0 none, 1 small, 2 full), `covered`
    whether the picture stands in place of the browser's splats.
    """

    client: Any
    moved_s: float
    sent: int = 0
    covered: bool = False


class ExactPictures:
    """Renders for every connected browser while it is on.

    Attributes:
        share_of_time: the most of the time that may be spent on rendering, for training that goes on beside it.
        on_cover: called with a browser's number and whether the picture now stands in place of its splats.
        pictures_sent: counts them.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        stage: Stage,
        renderer: Renderer | None,
        background: tuple[float, float, float],
    ) -> None:
        """Starts, switched off.

        Args:
            server: whose browsers are served.
            stage: maps their cameras to the world.
            renderer: what to show; it can be changed by `show`.
            background: RGB in 0..1.
        """
        self._stage = stage
        self._renderer = renderer
        self._background = background
        self.share_of_time = 1.0
        self.on_cover: Callable[[int, bool], None] = lambda client_id, covered: None
        self._mode: Mode = "off"
        self._views: dict[int, _View] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._moving_px = 400.0
        self._last_problem = ""
        self.pictures_sent = 0
        server.on_client_connect(self._connected)
        server.on_client_disconnect(self._disconnected)
        self._thread = threading.Thread(target=self._work, name="exact pictures", daemon=True)
        self._thread.start()

    @property
    def mode(self) -> Mode:
        """When pictures are made."""
        return self._mode

    @property
    def renderer(self) -> Renderer | None:
        """What is shown."""
        return self._renderer

    def switch(self, mode: Mode) -> None:
        """Chooses when pictures are made; those that are no longer wanted are cleared from every browser."""
        with self._changed:
            self._mode = mode
            for view in self._views.values():
                view.sent, view.moved_s = 0, 0.0
                if mode != "always":
                    self._uncover(view)
            self._changed.notify()

    def _uncover(self, view: _View) -> None:
        """Takes the picture away and gives the browser's own splats back; the lock is held."""
        view.covered = False
        self.on_cover(view.client.client_id, False)
        view.client.scene.set_background_image(None)
        view.client.flush()

    def show(self, renderer: Renderer) -> None:
        """Replaces the renderer, as training goes on."""
        with self._changed:
            self._renderer = renderer
            for view in self._views.values():
                view.sent = 0
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _connected(self, client: Any) -> None:
        with self._changed:
            self._views[client.client_id] = _View(client, 0.0)
            self._changed.notify()

        @client.camera.on_update
        def _(_camera: Any) -> None:
            with self._changed:
                view = self._views.get(client.client_id)
                if view is not None:
                    view.moved_s = time.monotonic()
                    view.sent = 0
                    if view.covered and self._mode == "resting":
                        self._uncover(view)
                    self._changed.notify()

    def _disconnected(self, client: Any) -> None:
        with self._changed:
            self._views.pop(client.client_id, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next_job()
                while job is None and not self._closing:
                    # A resting camera's full picture falls due by the clock, not by an event.
                    self._changed.wait(timeout=0.05 if self._waits_for_rest() else None)
                    job = self._next_job()
                if self._closing:
                    return
                assert job is not None
                view, full = job
                view.sent = 2 if full else 1
                moved_s, renderer = view.moved_s, self._renderer
            assert renderer is not None
            started = time.perf_counter()
            try:
                self._make_picture(view, renderer, full, moved_s)
            except Exception as error:
                # The thread must outlive what a renderer or a browser that is just leaving may raise.
                self._tell(view.client, error)
            spent = time.perf_counter() - started
            if self.share_of_time < 1:
                time.sleep(min(5.0, spent * (1 / self.share_of_time - 1)))

    def _next_job(self) -> tuple[_View, bool] | None:
        """Returns a view that needs a picture, and whether the full one; moving cameras go first."""
        if self._mode == "off" or self._renderer is None:
            return None
        now = time.monotonic()
        waiting = sorted(self._views.values(), key=lambda view: view.sent)
        for view in waiting:
            resting = now - view.moved_s > REST_S
            if view.sent == 0 and not resting and self._mode == "always":
                return view, False
            if view.sent < 2 and resting:
                return view, True
        return None

    def _waits_for_rest(self) -> bool:
        return self._mode != "off" and any(view.sent < 2 for view in self._views.values())

    def _make_picture(self, view: _View, renderer: Renderer, full: bool, moved_s: float) -> None:
        """Renders and sends; a full picture of a camera that has moved meanwhile is not sent."""
        camera = camera_of(view.client, self._stage).fitted(MOST_PX if full else round(self._moving_px))
        started = time.perf_counter()
        output = renderer.render(camera, RenderOptions(background=self._background, depth=True))
        picture = (output.rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
        spent = time.perf_counter() - started
        if not full:
            # The time goes with the pixels; small steps keep the size from jumping about.
            factor = float(np.clip(np.sqrt(WANTED_S / max(spent, 1e-4)), 0.7, 1.2))
            self._moving_px = float(np.clip(self._moving_px * factor, LEAST_PX, MOST_PX))
        depth = self._depth(output)
        with self._changed:
            if self._mode == "off" or (full and view.moved_s != moved_s):
                return
            view.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=92 if full else 70, depth=depth)
            view.client.flush()
            self.pictures_sent += 1
        if self._mode == "resting":
            time.sleep(COVER_S)
            with self._changed:
                if self._mode == "resting" and view.moved_s == moved_s:
                    view.covered = True
                    self.on_cover(view.client.client_id, True)

    def _tell(self, client: Any, error: Exception) -> None:
        """Shows a browser why it has no exact picture, once."""
        text = f"{type(error).__name__}: {error}"
        if text != self._last_problem and client.client_id in self._views:
            self._last_problem = text
            client.add_notification("The exact picture could not be made", text, color="red")

    def _depth(self, output: Any) -> npt.NDArray[np.float32] | None:
        """Returns the depth that hides what lies behind the picture, in browser units; empty places hide nothing."""
        chosen = output.median_depth if output.median_depth is not None else output.depth
        if chosen is None:
            return None
        # Points that lie on the surface are not to flicker in and out of it.
        depth = chosen.float().cpu().numpy() * self._stage.scale * 1.01
        empty = (output.alpha.cpu().numpy() < 0.5) | (depth <= 0)
        return np.where(empty, MOST_DEPTH, np.minimum(depth, MOST_DEPTH)).astype(np.float32)


def camera_of(client: Any, stage: Stage) -> Camera:
    """Returns the world's camera of a connected browser, at its window's size."""
    state = client.camera
    return stage.camera(state.wxyz, state.position, state.fov, state.image_width, state.image_height)
