# SPDX-License-Identifier: Apache-2.0
"""Exact pictures: what our own renderer shows for the browser's camera, as the background of the browser's scene.

The browser draws splats without harmonics, with rounded shapes and without the antialiasing filter; here the artist
sees what was trained: "always", with small quick pictures while the camera moves and a full one when it rests, or
"resting", with the browser's own splats while it moves and the exact picture over them when it rests.  One thread
renders for all browsers in turn, so that many windows cost no more than one.  A full picture is given up as soon as the
camera moves on; and nothing is rendered for a browser that has not yet taken its last picture off the server's hands.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.rasterization import SplatRenderer
from recon.render import Renderer
from recon.viewers.looks import Legend, Look, Show, Shown, Studio, make_picture
from recon.viewers.photos import Photos
from recon.viewers.stage import Stage

if TYPE_CHECKING:
    import viser

REST_S = 0.15
"""A camera that has not moved for so long rests."""

WANTED_S = 0.045
"""How long a picture of a moving camera may take: some twenty a second."""

FASTEST_S = 0.02
"""No browser gets pictures faster than this."""

MOST_PX = 1600
LEAST_PX = 320
"""Below, a picture of splats costs what its splats cost, not what its pixels do."""
LEAST_BY_PIXEL_PX = 112
"""The same for renderers whose pictures cost what their pixels cost, such as radiance fields."""
RESTING_S = 3.0
"""How long the full picture of such a renderer may take; splats are fast enough for any."""
FIRST_PX = 480.0
"""Size of the first picture of a moving camera, before its cost is known."""
LONGEST_PAUSE_S = 5.0
MOST_DEPTH_PX = 480
"""Longest side of the depth that is sent along: the browser interpolates it."""

MOST_DEPTH = 160.0
"""viser's depth is a 24-bit number of hundred-thousandths of a unit: it ends at 167."""

DEPTH_STEP = 256
"""The depth is sent in so many hundred-thousandths; finer steps only keep it from being compressed."""

Mode = Literal["off", "resting", "always"]

COVER_S = 0.12
"""How long the browser may take to unpack a picture before the splats that it replaces are hidden."""


@dataclass
class _View:
    """What one browser needs.

    `moved_s` is when its camera last changed, `version` counts every reason for a new picture, `sent` is how good its
    picture is (0 none, 1 small, 2 full), `covered` whether it stands in place of the browser's splats, `served_s` when
    it was made.
    """

    client: Any
    moved_s: float
    look: Look = field(default_factory=Look)
    version: int = 0
    sent: int = 0
    covered: bool = False
    served_s: float = 0.0
    depth_range: tuple[float, float] | None = None
    has_picture: bool = False

    def outdate(self) -> None:
        self.version += 1
        self.sent = 0


class ExactPictures:
    """Renders for every connected browser while it is on.

    Attributes:
        stage: maps browsers' cameras to the world.
        meters_per_unit: the metric scale of legends; None where it is unknown.
        share_of_time: the most of the time that may be spent on rendering, for training that goes on beside it.
        on_cover: called with a browser's number and whether the picture now stands in place of its splats.
        on_legend: called with a browser's number and the legend of its picture, None for none.
        pictures_sent, pictures_given_up: count them.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        stage: Stage,
        renderer: Renderer | None,
        background: tuple[float, float, float],
        photos: Photos | None = None,
        meters_per_unit: float | None = None,
    ) -> None:
        """Starts, switched off.

        Args:
            server: whose browsers are served.
            stage: maps their cameras to the world.
            renderer: what to show; it can be changed by `show`.
            background: RGB in 0..1.
            photos: what pictures are compared with.
            meters_per_unit: None where it is not known.
        """
        self.stage = stage
        self._renderer = renderer
        self._background = background
        self._photos = photos
        self.meters_per_unit = meters_per_unit
        self._opacity = 1.0
        self.share_of_time = 1.0
        self.on_cover: Callable[[int, bool], None] = lambda client_id, covered: None
        self.on_legend: Callable[[int, Legend | None], None] = lambda client_id, legend: None
        self._mode: Mode = "off"
        self._looks_allowed = False
        self._views: dict[int, _View] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._moving_px: dict[Show, float] = {}
        self._last_problem = ""
        self.pictures_sent = 0
        self.pictures_given_up = 0
        server.on_client_connect(self._connected)
        server.on_client_disconnect(self._disconnected)
        self._thread = threading.Thread(target=self._work, name="exact pictures", daemon=True)
        self._thread.start()

    @property
    def mode(self) -> Mode:
        """When pictures of plain colour are made."""
        return self._mode

    @property
    def renderer(self) -> Renderer | None:
        """What is shown."""
        return self._renderer

    @property
    def opacity(self) -> float:
        """How solid the picture is over the background, 0..1."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        with self._changed:
            self._opacity = opacity
            self._outdate_all()

    def switch(self, mode: Mode, looks: bool = True) -> None:
        """Chooses when pictures are made; those that are no longer wanted are cleared from every browser.

        Args:
            mode: when pictures of plain colour are made.
            looks: whether browsers that want to see something else get pictures always.
        """
        with self._changed:
            self._mode, self._looks_allowed = mode, looks
            for view in self._views.values():
                self._settle(view)
            self._changed.notify()

    def look(self, client_id: int) -> Look:
        """Returns what a browser wants to see."""
        view = self._views.get(client_id)
        return view.look if view is not None else Look()

    def set_look(self, client_id: int, **changes: Any) -> None:
        """Changes what a browser sees; the names are those of `Look`."""
        with self._changed:
            view = self._views.get(client_id)
            if view is None:
                return
            if "show" in changes and changes["show"] != view.look.show:
                view.depth_range = None
            view.look = replace(view.look, **changes)
            self._settle(view)
            self._changed.notify()

    def show(self, renderer: Renderer) -> None:
        """Replaces the renderer, as training goes on."""
        with self._changed:
            self._renderer = renderer
            self._outdate_all()

    @property
    def background(self) -> tuple[float, float, float]:
        """The colour behind everything, RGB in 0..1."""
        return self._background

    @background.setter
    def background(self, background: tuple[float, float, float]) -> None:
        with self._changed:
            self._background = background
            self._outdate_all()

    def redraw(self) -> None:
        """Makes every picture anew, as when what it is compared with has changed."""
        with self._changed:
            self._outdate_all()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout=10)

    def _outdate_all(self) -> None:
        for view in self._views.values():
            view.outdate()
        self._changed.notify()

    def _settle(self, view: _View) -> None:
        """Brings a browser to its mode: outdates its picture, and clears it where there is to be none."""
        view.outdate()
        mode = self._mode_of(view)
        if mode != "always":
            view.moved_s = 0.0
            self._uncover(view)
        elif not view.look.is_plain and not view.covered:
            view.covered = True
            self.on_cover(view.client.client_id, True)

    def _mode_of(self, view: _View) -> Mode:
        if self._renderer is None:
            return "off"
        return "always" if self._looks_allowed and not view.look.is_plain else self._mode

    def _uncover(self, view: _View) -> None:
        """Takes the picture away and gives the browser's splats back."""
        view.covered = False
        self.on_cover(view.client.client_id, False)
        self.on_legend(view.client.client_id, None)
        if view.has_picture:
            view.has_picture = False
            view.client.scene.set_background_image(None)

    async def _connected(self, client: Any) -> None:
        # Coroutines run at once and in order, without a queue that a browser could make grow.
        with self._changed:
            self._views[client.client_id] = _View(client, 0.0)
            self._changed.notify()

        @client.camera.on_update
        async def _(_camera: Any) -> None:
            with self._changed:
                view = self._views.get(client.client_id)
                if view is not None:
                    view.moved_s = time.monotonic()
                    view.outdate()
                    if view.covered and self._mode_of(view) == "resting":
                        self._uncover(view)
                    self._changed.notify()

    async def _disconnected(self, client: Any) -> None:
        with self._changed:
            self._views.pop(client.client_id, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next_job()
                while job is None and not self._closing.is_set():
                    # A resting camera's full picture falls due by the clock, not by an event.
                    self._changed.wait(timeout=0.01 if self._is_behind() else None)
                    job = self._next_job()
                if self._closing.is_set():
                    return
                assert job is not None
                view, full = job
                view.sent = 2 if full else 1
            started = time.perf_counter()
            try:
                self._serve(view, full)
            except Exception as error:
                # The thread must outlive what a renderer or a browser that is just leaving may raise.
                self._tell(view.client, error)
            spent = time.perf_counter() - started
            if self.share_of_time < 1:
                self._closing.wait(min(LONGEST_PAUSE_S, spent * (1 / self.share_of_time - 1)))

    def _next_job(self) -> tuple[_View, bool] | None:
        """Returns a view that needs a picture, and whether the full one; moving cameras go first, then who waited."""
        if self._renderer is None:
            return None
        now = time.monotonic()
        for view in sorted(self._views.values(), key=lambda view: (view.sent, view.served_s)):
            mode = self._mode_of(view)
            if mode == "off" or view.sent == 2 or has_backlog(view.client) or now - view.served_s < FASTEST_S:
                continue
            if now - view.moved_s > REST_S:
                # A small picture first tells how large the full one may be.
                is_known = self._costs_splats() or view.look.show in self._moving_px
                return view, is_known or mode == "resting" or view.sent > 0
            if view.sent == 0 and mode == "always":
                return view, False
        return None

    def _is_behind(self) -> bool:
        return any(view.sent < 2 and self._mode_of(view) != "off" for view in self._views.values())

    def _serve(self, view: _View, full: bool) -> None:
        """Renders and sends; a full picture is given up when its browser wants another."""
        renderer, look, version = self._renderer, view.look, view.version
        if renderer is None:
            return
        studio = Studio(
            renderer, self._background, self._photos, self.stage.extent, self._opacity, self.meters_per_unit
        )
        longest = self._longest(look.show, full)
        camera = camera_of(view.client, self.stage).fitted(longest)

        def cancelled() -> bool:
            return self._closing.is_set() or (full and view.version != version)

        started = time.perf_counter()
        shown = make_picture(studio, look, camera, view.depth_range, cancelled, full)
        if not full:
            self._learn(look.show, time.perf_counter() - started)
        if shown is None or not self._send(view, shown, full, version):
            self.pictures_given_up += 1
            return
        if self._mode_of(view) == "resting":
            self._closing.wait(COVER_S)
            with self._changed:
                if self._mode_of(view) == "resting" and view.version == version:
                    view.covered = True
                    self.on_cover(view.client.client_id, True)

    def _learn(self, show: Show, spent: float) -> None:
        """Finds the size that takes as long as it may: time goes with the pixels, in small steps lest it jumps."""
        splats, known = self._costs_splats(), show in self._moving_px
        factor = float(np.sqrt(WANTED_S / max(spent, 1e-4)))
        if splats or known:
            factor = float(np.clip(factor, 0.7, 1.2))
        before = self._moving_px.get(show, FIRST_PX)
        self._moving_px[show] = float(np.clip(before * factor, LEAST_PX if splats else LEAST_BY_PIXEL_PX, MOST_PX))

    def _costs_splats(self) -> bool:
        """Whether a picture's cost is that of splats rather than of its pixels."""
        return isinstance(self._renderer, SplatRenderer)

    def _longest(self, show: Show, full: bool) -> int:
        """Returns the longer side of the next picture in pixels."""
        moving = self._moving_px.get(show, FIRST_PX)
        if not full:
            return round(moving)
        if self._costs_splats():
            return MOST_PX
        # Beside a training no picture may take longer than the pause after it can make up for.
        share = self.share_of_time
        allowed = RESTING_S if share >= 1 else min(RESTING_S, LONGEST_PAUSE_S * share / (1 - share))
        return round(min(MOST_PX, moving * max(1.0, math.sqrt(allowed / WANTED_S))))

    def _send(self, view: _View, shown: Shown, full: bool, version: int) -> bool:
        def is_wanted() -> bool:
            is_here = view.client.client_id in self._views and self._mode_of(view) != "off"
            return is_here and not (full and view.version != version)

        if not is_wanted():
            return False
        # Encoding takes its time; nobody waits for the lock meanwhile.
        view.client.scene.set_background_image(
            shown.picture, format="jpeg", jpeg_quality=92 if full else 75, depth=self._depth(shown.depth)
        )
        with self._changed:
            view.has_picture, view.depth_range, view.served_s = True, shown.depth_range, time.monotonic()
            if not is_wanted():
                if view.client.client_id in self._views and self._mode_of(view) != "always":
                    self._uncover(view)
                return False
            view.client.flush()
            self.pictures_sent += 1
            self.on_legend(view.client.client_id, shown.legend)
        return True

    def _tell(self, client: Any, error: Exception) -> None:
        """Shows a browser why it has no exact picture, once."""
        text = f"{type(error).__name__}: {error}"
        if text != self._last_problem and client.client_id in self._views:
            self._last_problem = text
            with contextlib.suppress(Exception):
                client.add_notification("The exact picture could not be made", text, color="red")

    def _depth(self, depth: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
        """Returns the depth that hides what lies behind the picture, in browser units; empty places hide nothing."""
        if depth is None or not depth.any():
            return None
        step = -(-max(depth.shape) // MOST_DEPTH_PX)
        # Points that lie on the surface are not to flicker in and out of it.
        small = depth[step // 2 :: step, step // 2 :: step] * np.float32(self.stage.scale * 1.01)
        small = np.where(small <= 0, MOST_DEPTH, np.minimum(small, MOST_DEPTH))
        unit = np.float32(DEPTH_STEP / 100_000)
        return np.ascontiguousarray(np.round(small / unit) * unit, dtype=np.float32)


def has_backlog(client: Any) -> bool:
    """Whether a browser has not yet been sent its last picture: its connection is slower than the pictures."""
    buffer = client._websock_connection.get_message_buffer()
    return bool(_picture_key() in buffer.id_from_redundancy_key)


@cache
def _picture_key() -> str:
    from viser._messages import BackgroundImageMessage

    return BackgroundImageMessage("jpeg", None, None).redundancy_key()


def camera_of(client: Any, stage: Stage) -> Camera:
    """Returns the world's camera of a connected browser, at its window's size."""
    # viser replaces the whole state when a browser reports its camera: what is read from one never mixes two poses.
    state = getattr(client.camera, "_state", client.camera)
    return stage.camera(state.wxyz, state.position, state.fov, state.image_width, state.image_height)
