# SPDX-License-Identifier: Apache-2.0
"""A little world of known splats, and a headless browser to look at it with.

`RECON_CHROMIUM` names the browser where it has no usual name; without one the browser tests skip visibly.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon.cameras import Camera, look_at
from recon.scene import Frame, Scene, SparsePoints
from recon.splats import SH_C0, Splats

BALLS = (((0.0, 0.0, 0.5), (0.9, 0.15, 0.1)), ((1.1, 0.3, 0.4), (0.1, 0.7, 0.2)), ((-0.6, 1.0, 0.3), (0.15, 0.25, 0.9)))


@dataclass(frozen=True, eq=False)
class World:
    """Three coloured balls on a chequered floor, the scene of ten cameras around them, and the splats."""

    splats: Splats
    scene: Scene
    cameras: list[Camera]


def make_splats(per_part: int = 500) -> Splats:
    generator = torch.Generator().manual_seed(0)
    means, colors = [], []
    for center, color in BALLS:
        direction = torch.nn.functional.normalize(torch.randn(per_part, 3, generator=generator), dim=1)
        means.append(torch.tensor(center) + direction * center[2])
        colors.append(torch.tensor(color) * (0.8 + 0.2 * direction[:, 2:]))
    floor = torch.rand(per_part, 3, generator=generator) * 4 - 2
    floor[:, 2] = 0
    light = ((floor[:, 0].floor() + floor[:, 1].floor()) % 2 == 0)[:, None]
    means.append(floor)
    colors.append(torch.where(light, torch.tensor([0.85, 0.8, 0.7]), torch.tensor([0.35, 0.3, 0.3])))
    log_scales = torch.full((4 * per_part, 3), 0.06).log()
    log_scales[-per_part:, :2] += 0.7
    log_scales[-per_part:, 2] -= 2
    return Splats(
        torch.cat(means),
        torch.tensor([1.0, 0, 0, 0]).repeat(4 * per_part, 1),
        log_scales,
        torch.full((4 * per_part,), 3.0),
        ((torch.cat(colors) - 0.5) / SH_C0)[:, None],
    )


def ring_of_cameras(count: int = 10) -> list[Camera]:
    cameras = []
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        eye = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), 1.6])
        pose = look_at(eye, np.array([0.1, 0.3, 0.3]), np.array([0.0, 0.0, 1.0]))
        cameras.append(Camera(320, 240, 300, 300, 160, 120, cam_from_world=pose))
    return cameras


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world") / "images"
    folder.mkdir()
    splats, cameras = make_splats(), ring_of_cameras()
    frames = []
    for index, camera in enumerate(cameras):
        path = folder / f"{index:03d}.png"
        # A plain colour each: a thumbnail that is easy to find in a screenshot.
        Image.fromarray(np.full((240, 320, 3), (255, 0, 255), np.uint8)).save(path)
        frames.append(Frame(path.name, path, camera))
    positions = splats.means[::5].double().numpy()
    colors = (splats.base_colors[::5] * 255).byte().numpy()
    count = len(positions)
    points = SparsePoints(positions, colors, np.zeros(count, np.float32), np.full(count, 3, np.int32))
    return World(splats, Scene(tuple(frames), points, root=folder.parent), cameras)


def find_chromium() -> str | None:
    named = os.environ.get("RECON_CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser with software WebGL, or a visible skip."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium: install it or set RECON_CHROMIUM to its path")
    playwright = pytest.importorskip("playwright.sync_api")
    arguments = [
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """An empty page; what it asks of other machines is collected in `page.foreign_requests`."""
    page = chromium.new_page(viewport={"width": 640, "height": 400})
    page.set_default_timeout(60_000)
    page.foreign_requests = []

    def note(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:")):
            page.foreign_requests.append(request.url)

    page.on("request", note)
    yield page
    page.close()


@pytest.fixture
def pictures() -> Path | None:
    """Where to keep screenshots for a person to look at: the folder named by RECON_TEST_PICTURES."""
    named = os.environ.get("RECON_TEST_PICTURES")
    if not named:
        return None
    Path(named).mkdir(parents=True, exist_ok=True)
    return Path(named)
