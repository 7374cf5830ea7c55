# SPDX-License-Identifier: Apache-2.0
"""Many browsers: each with its own camera and look, coming and going, slow ones and those that vanish.

`RECON_SOAK_S=300 pytest -s tests/viewers/test_clients.py -k leave_nothing` is the long version; it weighs memory, too.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recon.viewers import Content, LiveViewer, Viewer
from recon.viewers.exact import camera_of, has_backlog
from tests.viewers.sockets import Client, wait_until

ROOT = Path(__file__).parents[2]
SOAK_S = float(os.environ.get("RECON_SOAK_S", "0"))


@pytest.fixture
def viewer(world: Any) -> Iterator[Viewer]:
    with Viewer(Content("a", world.splats, world.scene), port=0, picture="exact") as opened:
        yield opened


def connected(viewer: Viewer, count: int) -> list[Any]:
    wait_until(lambda: len(viewer.server.get_clients()) == count, f"{count} browsers are there")
    return list(viewer.server.get_clients().values())


def test_each_browser_has_its_camera_and_its_look(viewer: Viewer) -> None:
    clients = [Client(viewer.server.get_port(), size=(320, 180)) for _ in range(3)]
    handles = connected(viewer, 3)
    for client, angle in zip(clients, (0.3, 1.3, 2.3)):
        client.move(angle)
    wait_until(lambda: all(client.pictures > 0 for client in clients), "all have pictures")
    # A message that was sent is not yet one that was read.
    wait_until(
        lambda: len({tuple(camera_of(handle, viewer.stage).center_in_world.round(3)) for handle in handles}) == 3,
        "every browser stands where it went",
    )
    viewer.exact.set_look(handles[0].client_id, show="depth")
    assert viewer.exact.look(handles[0].client_id).show == "depth"
    assert viewer.exact.look(handles[1].client_id).show == "color"
    for client in clients:
        client.close()


def test_one_who_does_not_read_is_not_rendered_for(viewer: Viewer) -> None:
    deaf = Client(viewer.server.get_port(), reads=False, size=(1920, 1080))
    handle = connected(viewer, 1)[0]
    buffer = handle._websock_connection.get_message_buffer()

    def gets_nothing_more() -> bool:
        sent = viewer.exact.pictures_sent
        for _ in range(25):
            deaf.move(random.random())
            time.sleep(0.02)
        return viewer.exact.pictures_sent == sent and has_backlog(handle)

    wait_until(gets_nothing_more, "its connection is full", 60)
    # What waits for it stays a handful of messages.
    assert len(buffer.message_from_id) < 100
    other = Client(viewer.server.get_port())
    wait_until(lambda: other.pictures > 0, "another one is served meanwhile")
    other.close()
    deaf.vanish()


def test_training_does_not_wait_for_one_who_does_not_read(world: Any, tmp_path: Path) -> None:
    from recon.rasterization import SplatRenderer

    with LiveViewer.for_scene(world.scene, port=0) as live:
        deaf = Client(live.viewer.server.get_port(), reads=False, size=(1920, 1080))
        handle = connected(live.viewer, 1)[0]
        live.viewer.exact.share_of_time = 1.0
        hook = live.hook(10**6, tmp_path)
        longest, step = 0.0, 0

        def trains_until_full() -> bool:
            nonlocal longest, step
            deaf.move(random.random())
            for _ in range(20):
                step += 1
                started = time.perf_counter()
                hook(step, lambda: SplatRenderer(world.splats))
                longest = max(longest, time.perf_counter() - started)
                time.sleep(0.001)
            return has_backlog(handle)

        wait_until(trains_until_full, "its connection is full", 60)
        for _ in range(20):
            trains_until_full()
        # A hook that waited for the browser would wait for ever.
        assert longest < 2
        deaf.vanish()


def test_full_pictures_are_given_up_when_the_camera_moves_on(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recon import painting

    monkeypatch.setattr(painting, "BAND_PIXELS", 1)
    bands: list[int] = []
    blend = painting.blend_forward_into

    def slow(*arguments: Any) -> Any:
        width, height = arguments[3:5]
        if width > 1000:
            bands.append(height)
            time.sleep(0.05)
        return blend(*arguments)

    monkeypatch.setattr(painting, "blend_forward_into", slow)
    with Viewer(Content("a", world.splats), port=0, picture="exact") as viewer:
        client = Client(viewer.server.get_port(), size=(1600, 1600))
        wait_until(lambda: len(bands) > 3, "a full picture is being made")
        given_up = viewer.exact.pictures_given_up
        client.move(0.5)
        wait_until(lambda: viewer.exact.pictures_given_up > given_up, "it is given up")
        client.close()
    assert max(bands) <= 16


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def come_and_go(viewer: Viewer, seconds: float, most: int) -> int:
    """Has up to `most` browsers come, look around and leave, in a process of their own; returns how many there were."""
    port = viewer.server.get_port()
    command = [sys.executable, "-m", "tests.viewers.sockets", str(port), str(seconds), str(most)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return int(done.stdout)


def test_browsers_come_and_go_and_leave_nothing(viewer: Viewer, capfd: pytest.CaptureFixture[str]) -> None:
    # viser's pool of threads, each with memory of its own, is as large after a while as it gets.
    come_and_go(viewer, 20.0 if SOAK_S else 1.0, 12)
    wait_until(lambda: not viewer.server.get_clients(), "all have left", 60)
    gc.collect()
    threads, memory = threading.active_count(), resident_bytes()
    count = come_and_go(viewer, max(3.0, SOAK_S), 12)
    wait_until(lambda: not viewer.server.get_clients(), "all have left", 60)
    time.sleep(0.5)
    gc.collect()
    assert count > 5
    assert viewer.exact._views == {}
    assert viewer.layers["splats"].handles == {}
    panel: Any = viewer._panels[0]
    assert panel._own == {}
    websocket_server = viewer.server._websock_server
    assert websocket_server._client_state_from_id == {}
    grown = (resident_bytes() - memory) / 2**20
    said = capfd.readouterr()
    if SOAK_S:
        print(f"{count} browsers in {SOAK_S:.0f} s, {viewer.exact.pictures_sent} pictures, {grown:+.1f} MiB, ", end="")
        print(f"{threads} threads before and {threading.active_count()} after")
        assert grown < 60
    # viser keeps a pool of up to 32 threads.
    assert threading.active_count() <= max(threads, 45)
    assert "Traceback" not in said.err, said.err
    assert said.out == ""
