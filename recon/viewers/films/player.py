# SPDX-License-Identifier: Apache-2.0
"""Films played in browsers: each at its own pace, each until its person stops it or takes the camera over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from recon.film.motion import KeyframedFilm, Motion, View
from recon.viewers.layers import quaternion_wxyz
from recon.viewers.stage import Stage

MOST_FRAMES_PER_S = 30.0

SLOWEST_FRAME_S = 2.0
"""A browser that takes longer for one frame gets the next one all the same."""

TAKEN_OVER = 0.03
"""A camera this far from the film's, as a share of the stage's extent, is in somebody's hands."""


class FilmPlayer:
    """Moves the cameras of browsers along films.

    Attributes:
        stage: the browsers' units.
    """

    def __init__(self, server: Any, stage: Stage) -> None:
        self.stage = stage
        self._lock = threading.Lock()
        self._plays: dict[int, _Play] = {}
        server.on_client_connect(self._connected)
        server.on_client_disconnect(lambda client: self.stop(client.client_id))

    def _connected(self, client: Any) -> None:
        @client.camera.on_update
        def _(camera: Any) -> None:
            play = self._plays.get(client.client_id)
            if play is not None:
                play.hear(np.asarray(camera.position))

    def is_playing(self, client_id: int) -> bool:
        """Whether a film is being played in a browser."""
        return client_id in self._plays

    @property
    def playing(self) -> int:
        """In how many browsers a film is being played."""
        return len(self._plays)

    def play(
        self,
        client: Any,
        film: KeyframedFilm,
        from_s: float,
        on_time: Callable[[float], None] = lambda time_s: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Plays a film in a browser, from a time on, and returns at once; what was played there before stops.

        Args:
            client: the browser.
            film: the film; a loop goes on until it is stopped.
            from_s: seconds after the film's beginning.
            on_time: told what time of the film is shown.
            on_end: called when it is over, stopped or not.
        """
        self.stop(client.client_id)
        play = _Play(client, film, self.stage, from_s, on_time)
        with self._lock:
            self._plays[client.client_id] = play

        def run() -> None:
            try:
                play.run()
            finally:
                with self._lock:
                    if self._plays.get(client.client_id) is play:
                        del self._plays[client.client_id]
                on_end()

        threading.Thread(target=run, name="film preview", daemon=True).start()

    def stop(self, client_id: int) -> None:
        """Stops what is played in a browser."""
        play = self._plays.get(client_id)
        if play is not None:
            play.stop()

    def close(self) -> None:
        """Stops everything."""
        for client_id in list(self._plays):
            self.stop(client_id)


class _Play:
    """One film in one browser."""

    def __init__(
        self, client: Any, film: KeyframedFilm, stage: Stage, from_s: float, on_time: Callable[[float], None]
    ) -> None:
        self._client, self._film, self._stage, self._from_s, self._on_time = client, film, stage, from_s, on_time
        self._stopped = threading.Event()
        self._heard = threading.Event()
        self._shown: list[np.ndarray] = []

    def stop(self) -> None:
        self._stopped.set()
        self._heard.set()

    def hear(self, position: np.ndarray) -> None:
        """Takes what the browser says of its camera: that a frame has arrived, or that somebody moves it."""
        near = TAKEN_OVER * self._stage.extent * self._stage.scale
        if self._shown and min(float(np.linalg.norm(position - shown)) for shown in self._shown) > near:
            self.stop()
        self._heard.set()

    def run(self) -> None:
        film, motion = self._film, Motion(self._film)
        # A film that is over begins anew.
        ended = not film.is_closed and self._from_s >= film.duration_s - 1e-3
        begun_s = time.monotonic() - (0.0 if ended else self._from_s)
        while not self._stopped.is_set():
            at_s = time.monotonic() - begun_s
            over = not film.is_closed and at_s >= film.duration_s
            at_s = min(at_s, film.duration_s) if not film.is_closed else at_s % film.duration_s
            self._heard.clear()
            self._show(motion.at([film.begin_s + at_s])[0])
            self._on_time(at_s)
            if over:
                return
            # The next frame is sent when this one has arrived: a slow browser skips frames instead of lagging behind.
            shown_s = time.monotonic()
            self._heard.wait(SLOWEST_FRAME_S)
            self._stopped.wait(max(0.0, 1 / MOST_FRAMES_PER_S - (time.monotonic() - shown_s)))

    def _show(self, view: View) -> None:
        self._shown = [*self._shown[-2:], view.position * self._stage.scale]
        try:
            stand(self._client, self._stage, view)
        except (AssertionError, ValueError):
            # The browser has just left, or has not told of its camera yet.
            self.stop()


def stand(client: Any, stage: Stage, view: View) -> None:
    """Puts a browser's camera at a view at once."""
    camera = client.camera
    with client.atomic():
        camera.wxyz = quaternion_wxyz(view.rotation)
        camera.position = view.position * stage.scale
        camera.fov = view.fov_rad
    client.flush()
