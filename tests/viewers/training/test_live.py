# SPDX-License-Identifier: Apache-2.0
"""The live viewer's hook costs training nothing, its buttons work, and it reads what training writes."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.cameras import Camera
from recon.render import RenderOptions, RenderOutput
from recon.viewers import LiveViewer
from recon.viewers.training.metrics import Metrics
from recon.viewers.training.panel import duration


class Brightness:
    """A renderer of even pictures: the `number` of a snapshot tells how bright, and neighbours differ plainly."""

    def __init__(self, number: int, slow_s: float = 0.0) -> None:
        self.number, self.slow_s = number, slow_s

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        time.sleep(self.slow_s)
        value = 0.35 + 0.15 * (self.number % 3)
        shape = (camera.height, camera.width)
        return RenderOutput(rgb=torch.full((*shape, 3), value), alpha=torch.ones(shape))


@pytest.fixture
def live(world: Any):
    with LiveViewer.for_scene(world.scene, port=0) as viewer:
        yield viewer


def test_the_hook_is_cheap_and_takes_no_snapshot_unwatched(live: LiveViewer) -> None:
    hook = live.hook(10_000)
    taken = []
    started = time.perf_counter()
    for step in range(1, 2001):
        assert hook(step, lambda: taken.append(1)) is None  # type: ignore[func-returns-value, arg-type, return-value]
    assert time.perf_counter() - started < 0.5
    assert not taken


def test_snapshots_are_taken_now_and_then_while_somebody_watches(
    live: LiveViewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveViewer, "_is_watched", lambda self: True)
    monkeypatch.setattr("recon.viewers.training.live.SNAPSHOT_EVERY_S", 0.1)
    hook = live.hook(10_000)
    taken: list[int] = []

    def snapshot() -> Brightness:
        taken.append(1)
        return Brightness(0, slow_s=1.0)

    started = time.perf_counter()
    steps = 0
    while time.perf_counter() - started < 1.0:
        steps += 1
        hook(steps, snapshot)
        time.sleep(0.001)
    # About ten snapshots; and a renderer that takes a second has not slowed the hook.
    assert 3 <= len(taken) <= 12
    assert steps > 200


def test_slow_snapshots_are_taken_less_often(live: LiveViewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveViewer, "_is_watched", lambda self: True)
    monkeypatch.setattr("recon.viewers.training.live.SNAPSHOT_EVERY_S", 0.01)
    hook = live.hook(10_000)
    taken: list[int] = []

    def snapshot() -> Brightness:
        time.sleep(0.05)
        taken.append(1)
        return Brightness(0)

    started = time.perf_counter()
    step = 0
    while time.perf_counter() - started < 1.0:
        step += 1
        hook(step, snapshot)
        time.sleep(0.001)
    assert len(taken) == 1


def test_pause_resume_and_stop(live: LiveViewer) -> None:
    hook = live.hook(100)
    assert hook(1, Brightness) is None  # type: ignore[arg-type]
    live.pause()
    assert hook(1, Brightness) == "pause"  # type: ignore[arg-type]
    live.pause(False)
    assert hook(1, Brightness) is None  # type: ignore[arg-type]
    live.pause()
    live.stop()
    # A paused training must be able to stop.
    assert hook(1, Brightness) == "stop"  # type: ignore[arg-type]


def test_metrics_are_read_as_they_grow(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    assert not metrics.update()
    path.write_text(json.dumps({"step": 50, "loss": 0.2}) + "\n" + '{"step": 100, "lo')
    assert metrics.update()
    assert metrics.series["loss"] == [(50, 0.2)]
    with path.open("a") as file:
        file.write('ss": 0.1, "held_out_psnr_db": 21.5}\n{"step": 150, "loss": null}\nnonsense\n[1]\n')
    assert metrics.update()
    assert metrics.series["loss"] == [(50, 0.2), (100, 0.1)]
    assert metrics.series["held_out_psnr_db"] == [(100, 21.5)]
    assert metrics.last("gaussians") is None
    assert not metrics.update()
    path.write_text(json.dumps({"step": 1, "loss": 0.5}) + "\n")
    assert metrics.update()
    assert metrics.series["loss"] == [(1, 0.5)]


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m.jsonl")
    metrics.series["loss"] = list(zip(range(5000), np.linspace(1, 0, 5000).tolist()))
    steps, losses = metrics.curve("loss", 100)
    assert len(steps) == len(losses) == 100
    assert (steps[0], steps[-1]) == (0, 4999)


def test_durations_as_people_say_them() -> None:
    assert [duration(s) for s in (-1, 4.4, 100, 7300)] == ["0 s", "4 s", "1 min 40 s", "2 h 1 min"]


@pytest.mark.browser
def test_the_browser_sees_training_and_its_buttons_work(live: LiveViewer, page: Any, tmp_path: Path) -> None:
    from tests.viewers.test_browser import canvas, wait_for

    hook = live.hook(1_000_000, tmp_path)
    state = {"step": 0, "answer": None, "over": False}
    # The brightness follows the snapshots, not the steps: a period of the steps may fall in with that of the snapshots,
    # and then every picture is the same.
    numbers = itertools.count()

    def train() -> None:
        while not state["over"]:
            state["answer"] = hook(state["step"], lambda: Brightness(next(numbers)))
            if state["answer"] == "stop":
                return
            if state["answer"] is None:
                state["step"] += 1
                with (tmp_path / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"step": state["step"], "loss": 1 / state["step"]}) + "\n")
            time.sleep(0.05)

    live.viewer.set_layer("cameras", False)
    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        page.set_viewport_size({"width": 700, "height": 700})
        page.goto(live.url)
        wait_for(lambda: 60 < canvas(page).mean() < 250, "a snapshot is seen")
        before = canvas(page).mean()
        wait_for(lambda: abs(canvas(page).mean() - before) > 5, "another one is seen")
        assert page.get_by_text("Step").first.is_visible()
        page.get_by_role("button", name="Pause").click()
        wait_for(lambda: state["answer"] == "pause", "training pauses")
        step = state["step"]
        page.get_by_role("button", name="Resume").click()
        wait_for(lambda: state["step"] > step, "training goes on")
        page.get_by_role("button", name="Stop and keep").click()
        wait_for(lambda: state["answer"] == "stop", "training stops")
        thread.join(5)
        assert not thread.is_alive()
    finally:
        state["over"] = True
