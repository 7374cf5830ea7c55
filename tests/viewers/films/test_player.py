# SPDX-License-Identifier: Apache-2.0
"""A film is played at the pace of its browser, by the clock, until it is over, stopped, or taken out of its hands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recon.cameras import Camera, look_at
from recon.film.keyframes import film_through
from recon.film.paths import CameraPath
from recon.viewers.films import player as film_player
from recon.viewers.films.player import FilmPlayer
from recon.viewers.stage import Stage

STAGE = Stage(2.0, np.zeros(3), np.array([3.0, 0.0, 1.0]), 0.9, 3.0)


class Browser:
    """What the player sees of a browser; it takes `slow_s` to show a frame."""

    client_id = 7

    def __init__(self, slow_s: float = 0.0) -> None:
        self.slow_s = slow_s
        self.camera = self
        self.shown: list[tuple[float, np.ndarray]] = []
        self._told: Callable[[Any], None] = lambda camera: None
        self._position = np.zeros(3)
        self.wxyz, self.fov = (1.0, 0.0, 0.0, 0.0), 0.0

    @property
    def position(self) -> np.ndarray:
        return self._position

    @position.setter
    def position(self, position: np.ndarray) -> None:
        self._position = np.asarray(position)

    def on_update(self, callback: Callable[[Any], None]) -> None:
        self._told = callback

    def atomic(self) -> Any:
        return contextlib.nullcontext()

    def flush(self) -> None:
        self.shown.append((time.monotonic(), self._position))
        time.sleep(self.slow_s)
        self._told(self)

    def drag(self) -> None:
        self._position = self._position + 5.0
        self._told(self)


class Server:
    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def on_client_connect(self, callback: Callable[[Any], None]) -> None:
        callback(self._browser)

    def on_client_disconnect(self, callback: Callable[[Any], None]) -> None:
        self.leave = lambda: callback(self._browser)


def film_of(seconds: float, loop: bool = False) -> Any:
    cameras = []
    for angle in (0.0, 1.0, 2.0):
        eye = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.0])
        pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
        cameras.append(Camera(320, 180, 300, 300, 160, 90, cam_from_world=pose))
    film = film_through(CameraPath(tuple(cameras), 2 / seconds))
    return replace(film, loop=loop)


def played(player: FilmPlayer) -> None:
    deadline = time.monotonic() + 20
    while player.playing:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("slow_s", [0.0, 0.15])
def test_a_slow_browser_gets_fewer_frames_and_the_same_end(slow_s: float) -> None:
    browser, film, times = Browser(slow_s), film_of(0.8), []
    player = FilmPlayer(Server(browser), STAGE)
    player.play(browser, film, 0.0, times.append)
    played(player)
    np.testing.assert_allclose(browser.shown[-1][1], 2.0 * np.array(film.keyframes[-1].position), atol=1e-9)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(0.8)
    # Frames that nobody could see are not sent: the film keeps to the clock.
    assert len(browser.shown) <= (0.8 / max(slow_s, 1 / 30)) + 3
    assert len(browser.shown) >= 2


def test_a_film_begins_where_it_is_asked_to_and_anew_when_it_is_over() -> None:
    browser, film = Browser(), film_of(9.0)
    player = FilmPlayer(Server(browser), STAGE)
    for begin_s, least_s, most_s in ((4.0, 4.0, 8.0), (9.0, 0.0, 4.0)):
        times: list[float] = []
        player.play(browser, film, begin_s, times.append)
        deadline = time.monotonic() + 10
        while not times:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        player.stop(7)
        played(player)
        assert least_s <= times[0] < most_s


@pytest.mark.parametrize("how", ["stop", "drag", "leave", "close", "another"])
def test_a_loop_goes_on_until_somebody_ends_it(how: str) -> None:
    browser, ended = Browser(), []
    server = Server(browser)
    player = FilmPlayer(server, STAGE)
    player.play(browser, film_of(0.2, loop=True), 0.0, on_end=lambda: ended.append(1))
    deadline = time.monotonic() + 10
    while len(browser.shown) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert player.is_playing(7)
    if how == "another":
        player.play(browser, film_of(0.1), 0.0)
    else:
        {"stop": lambda: player.stop(7), "drag": browser.drag, "leave": server.leave, "close": player.close}[how]()
    played(player)
    deadline = time.monotonic() + 10
    while not ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_browser_that_never_answers_does_not_hold_the_film(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_player, "SLOWEST_FRAME_S", 0.1)
    browser, film = Browser(), film_of(0.3)
    player = FilmPlayer(Server(browser), STAGE)
    browser.on_update(lambda camera: None)
    player.play(browser, film, 0.0)
    played(player)
    assert len(browser.shown) >= 2
