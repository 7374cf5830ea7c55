# SPDX-License-Identifier: Apache-2.0
"""Exact pictures: what our own renderer shows for the browser's camera, as the background of the browser's scene.

The browser draws splats without harmonics, with rounded shapes and without the antialiasing filter; here the artist
sees what was trained.  While the camera moves, pictures are small and quick; when it rests, one in full size follows.
One thread renders for all browsers, so that many windows cost no more than one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass
class _View:
    """What one browser needs: `moved_s` is when its camera last changed, `sent` how good its picture is."""

    client: Any
    moved_s: float
    sent: int = 0


class ExactPictures:
    """Renders for every connected browser while it is on."""

    def __init__(
        self,
        server: viser.ViserServer,
        stage: Stage,
        renderer: Renderer | None,
        background: tuple[float, float, float],
        share_of_time: float = 1.0,
    ) -> None:
        """Starts, switched off.

        Args:
            server: whose browsers are served.
            stage: maps their cameras to the world.
            renderer: what to show; it can be changed by `show`.
            background: RGB in 0..1.
            share_of_time: the most of the time that may be spent on rendering, for training that goes on beside it.
        """
        self._server = server
        self._stage = stage
        self._renderer = renderer
        self._background = background
        self.share_of_time = share_of_time
        self._on = False
        self._views: dict[int, _View] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._moving_px = 400.0
        self.pictures_sent = 0
        server.on_client_connect(self._connected)
        server.on_client_disconnect(self._disconnected)
        self._thread = threading.Thread(target=self._work, name="exact pictures", daemon=True)
        self._thread.start()

    @property
    def is_on(self) -> bool:
        """Whether pictures are being made."""
        return self._on

    def switch(self, on: bool) -> None:
        """Turns the pictures on or off; off clears them from every browser."""
        with self._changed:
            self._on = on
            for view in self._views.values():
                view.sent = 0
                view.moved_s = 0.0
            views = list(self._views.values())
            self._changed.notify()
        if not on:
            for view in views:
                view.client.scene.set_background_image(None)

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
            self._make_picture(view, renderer, full, moved_s)
            spent = time.perf_counter() - started
            if self.share_of_time < 1:
                time.sleep(min(5.0, spent * (1 / self.share_of_time - 1)))

    def _next_job(self) -> tuple[_View, bool] | None:
        """Returns a view that needs a picture, and whether the full one; moving cameras go first."""
        if not self._on or self._renderer is None:
            return None
        now = time.monotonic()
        waiting = sorted(self._views.values(), key=lambda view: view.sent)
        for view in waiting:
            resting = now - view.moved_s > REST_S
            if view.sent == 0 and not resting:
                return view, False
            if view.sent < 2 and resting:
                return view, True
        return None

    def _waits_for_rest(self) -> bool:
        return self._on and self._renderer is not None and any(view.sent == 1 for view in self._views.values())

    def _make_picture(self, view: _View, renderer: Renderer, full: bool, moved_s: float) -> None:
        """Renders and sends; a full picture of a camera that has moved meanwhile is not sent."""
        with contextlib.suppress(AssertionError):
            # viser asserts that a camera was heard of; a browser that has just connected may not have told its own.
            state = view.client.camera
            camera = self._stage.camera(state.wxyz, state.position, state.fov, state.image_width, state.image_height)
            long_side = MOST_PX if full else round(self._moving_px)
            started = time.perf_counter()
            output = renderer.render(camera.fitted(long_side), RenderOptions(background=self._background, depth=True))
            spent = time.perf_counter() - started
            if not full:
                # The time goes with the pixels; small steps keep the size from jumping about.
                factor = float(np.clip(np.sqrt(WANTED_S / max(spent, 1e-4)), 0.7, 1.2))
                self._moving_px = float(np.clip(self._moving_px * factor, LEAST_PX, MOST_PX))
            elif view.moved_s != moved_s:
                return
            picture = (output.rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
            if not self._on:
                return
            view.client.scene.set_background_image(
                picture, format="jpeg", jpeg_quality=92 if full else 70, depth=self._depth(output)
            )
            view.client.flush()
            self.pictures_sent += 1

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
