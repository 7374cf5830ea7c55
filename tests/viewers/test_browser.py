# SPDX-License-Identifier: Apache-2.0
"""What a browser shows: compared with our own rendering of the same view, and with what an empty canvas would give."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon.cameras import Camera
from recon.film.writing import color_picture
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.viewers.content import Content
from recon.viewers.exact import camera_of
from recon.viewers.viewer import CANVAS_COLOR, Viewer

pytestmark = pytest.mark.browser

SOFTWARE_GL_S = 90.0
"""Drawing in software takes seconds, and more on a busy machine."""

BIGGEST_CANVAS = """
    document.querySelectorAll('canvas').forEach(c => c.classList.remove('the-scene'));
    [...document.querySelectorAll('canvas')].sort((a, b) => b.width * b.height - a.width * a.height)[0]
        ?.classList.add('the-scene');
"""


def canvas(page: Any) -> np.ndarray:
    """The scene's canvas alone, without panel and notices, [H, W, 3] float."""
    page.evaluate(BIGGEST_CANVAS)
    style = page.add_style_tag(content="body * { visibility: hidden } canvas.the-scene { visibility: visible }")
    shot = np.array(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)
    style.evaluate("element => element.remove()")
    return shot


def small(picture: np.ndarray) -> np.ndarray:
    """A picture without what antialiasing, sorting and JPEG may change."""
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(image.resize((80, 50), Image.Resampling.BOX)).astype(float)


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    error = float(((small(one) - small(other)) ** 2).mean())
    return 10 * np.log10(255**2 / max(error, 1e-9))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = small(one).ravel(), small(other).ravel()
    return 0.0 if a.std() < 1e-6 or b.std() < 1e-6 else float(np.corrcoef(a, b)[0, 1])


def wait_for(condition: Callable[[], bool], what: str, seconds: float = SOFTWARE_GL_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.2)


class Opened:
    """A viewer and the page that looks at it."""

    def __init__(self, viewer: Viewer, page: Any) -> None:
        self.viewer, self.page = viewer, page
        page.goto(viewer.url)
        wait_for(lambda: bool(viewer.server.get_clients()), "the browser has connected")
        self.client = next(iter(viewer.server.get_clients().values()))

    @property
    def camera(self) -> Camera:
        return camera_of(self.client, self.viewer.stage)

    def expected(self) -> np.ndarray:
        """Our own rendering of what the browser's camera sees."""
        renderer = SplatRenderer(self.viewer.content.splats)
        return color_picture(renderer.render(self.camera, RenderOptions(background=CANVAS_COLOR))).astype(float)

    def shows(self, least_db: float, least_correlation: float, first_row: int = 0) -> bool:
        seen, expected = canvas(self.page)[first_row:], self.expected()[first_row:]
        return psnr_db(seen, expected) > least_db and correlation(seen, expected) > least_correlation

    def keep(self, pictures: Path | None, name: str) -> None:
        if pictures is not None:
            self.page.screenshot(path=pictures / f"{name}.png")
            Image.fromarray(canvas(self.page).astype(np.uint8)).save(pictures / f"{name}_canvas.png")
            Image.fromarray(self.expected().astype(np.uint8)).save(pictures / f"{name}_expected.png")


@pytest.fixture
def opened(world: Any, page: Any) -> Iterator[Opened]:
    content = Content("a little world", world.splats, world.scene)
    with Viewer(content, port=0, picture="splats") as viewer:
        viewer.set_layer("cameras", False)
        yield Opened(viewer, page)


def test_the_browser_shows_the_splats_that_we_render(opened: Opened, pictures: Path | None) -> None:
    wait_for(lambda: opened.shows(25, 0.97), "the splats look like our own rendering")
    opened.keep(pictures, "splats")
    assert (opened.camera.width, opened.camera.height) == (640, 400)
    # The very comparison must fail when nothing is drawn, and when it is drawn from elsewhere.
    right = opened.expected()
    opened.viewer.set_picture("nothing")
    wait_for(lambda: canvas(opened.page).std() < 3, "the canvas is empty")
    assert not opened.shows(25, 0.97)
    assert psnr_db(canvas(opened.page), right) < 20
    assert correlation(canvas(opened.page), right) < 0.1
    opened.viewer.set_picture("splats")
    wait_for(lambda: opened.shows(25, 0.97), "the splats are back")
    opened.viewer.layers["splats"].handles[opened.client.client_id].position = (0.0, 0.0, 0.5)
    wait_for(lambda: not opened.shows(25, 0.97), "splats that are half a unit too high are noticed")
    assert opened.page.foreign_requests == []


def test_the_exact_picture_is_exact_and_takes_over_when_the_camera_rests(opened: Opened, pictures: Path | None) -> None:
    opened.viewer.set_picture("exact")
    wait_for(lambda: opened.shows(36, 0.995), "the exact picture is our rendering")
    opened.keep(pictures, "exact")
    before = opened.expected()
    opened.viewer.set_picture("both")
    handle = opened.viewer.layers["splats"].handles[opened.client.client_id]
    wait_for(lambda: not handle.visible, "the picture stands in place of the splats")
    sent = opened.viewer.exact.pictures_sent
    opened.client.camera.position = (-2.5, 1.5, 2.0)
    opened.client.camera.look_at = (0.0, 0.2, 0.3)
    wait_for(lambda: psnr_db(opened.expected(), before) < 22, "the camera has moved")
    wait_for(lambda: opened.viewer.exact.pictures_sent > sent and not handle.visible, "the next picture is there")
    wait_for(lambda: opened.shows(36, 0.995), "the exact picture follows")
    opened.viewer.set_picture("splats")
    wait_for(lambda: handle.visible and opened.shows(25, 0.97), "the splats are back")


def magenta(picture: np.ndarray) -> int:
    """How many pixels have the thumbnails' colour."""
    return int(((picture[..., 0] > 180) & (picture[..., 1] < 90) & (picture[..., 2] > 180)).sum())


def test_cameras_show_their_photographs_and_take_one_there(opened: Opened, pictures: Path | None) -> None:
    assert magenta(canvas(opened.page)) == 0
    opened.viewer.set_layer("cameras", True)
    wait_for(lambda: opened.shows(24, 0.96, 160), "the frustum that one stands in is out of the way")
    opened.client.camera.position = (5.5, 0.5, 3.5)
    opened.client.camera.look_at = (0.0, 0.2, 0.5)
    wait_for(lambda: magenta(canvas(opened.page)) > 300, "thumbnails are seen")
    centers = np.array([camera.center_in_world for camera in opened.viewer.layers["cameras"].cameras])
    stood_in = int(np.argmin(np.linalg.norm(centers - opened.viewer.stage.eye, axis=1)))
    first = opened.viewer.layers["cameras"].handles[stood_in]
    wait_for(lambda: first.visible, "the frustum that was left is back")
    opened.keep(pictures, "cameras")
    # A click on the middle of a frustum that is in the free part of the window flies there.
    layer = opened.viewer.layers["cameras"]
    middles = {}
    for camera in layer.cameras:
        (x, y), depth = opened.camera.project(camera.center_in_world + 0.5 * layer._size * camera.forward_in_world)
        if depth > 0 and 10 < x < 290 and 140 < y < 390:
            middles[camera] = (x, y)
    target, (x, y) = next(iter(middles.items()))
    opened.page.mouse.click(x, y)
    wait_for(
        lambda: np.linalg.norm(opened.camera.center_in_world - target.center_in_world) < 1e-3, "the flight has arrived"
    )
    np.testing.assert_allclose(opened.camera.cam_from_world, target.cam_from_world, atol=1e-3)
    # All of the photograph is in the window, and its own frustum is out of the way.
    corners = np.array([[0.0, 0.0], [320.0, 240.0]])
    points = target.center_in_world + target.ray_directions_in_cam(corners) @ target.cam_from_world[:3, :3]
    seen, _ = opened.camera.project(points)
    assert (seen > -1).all()
    assert (seen < [641, 401]).all()
    wait_for(lambda: opened.shows(24, 0.96, 160), "splats are seen through where the frustum was")
    opened.viewer.set_layer("cameras", False)
    wait_for(lambda: magenta(canvas(opened.page)) == 0, "the cameras are hidden")


def test_the_panel_switches_layers(opened: Opened, pictures: Path | None) -> None:
    wait_for(lambda: opened.shows(25, 0.97), "the splats are seen")
    opened.page.locator("input[value^='Splats of']").first.click()
    opened.page.get_by_text("Nothing", exact=True).first.click()
    wait_for(lambda: canvas(opened.page).std() < 3, "nothing is chosen in the panel")
    opened.viewer.set_layer("points", True)
    wait_for(lambda: canvas(opened.page).std() > 3, "points are seen")
    opened.keep(pictures, "points")


def choose(page: Any, label: str, value: str) -> None:
    """Takes a choice in the panel as a person does."""
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=value, exact=True).first.click()


def test_the_panel_shows_depth_with_its_scale_and_photographs_beside_the_picture(
    opened: Opened, pictures: Path | None
) -> None:
    page, client_id = opened.page, opened.client.client_id
    page.set_viewport_size({"width": 900, "height": 700})
    wait_for(lambda: opened.shows(25, 0.97), "the splats are seen")
    choose(page, "Show", "Depth")
    wait_for(lambda: opened.viewer.exact.look(client_id).show == "depth", "depth is chosen")
    page.get_by_text("in units of the scene").wait_for()

    def shows_depth() -> bool:
        seen = canvas(page)[:, :560]
        # The floor runs from near red to far blue; no colour picture of this world does.
        near, far = seen[-60:, 200:400].mean((0, 1)), seen[:, 200:400][seen[:, 200:400].max(2) > 60][:2000].mean(0)
        return near[0] > near[2] + 30 and far[2] > far[0] + 20

    wait_for(shows_depth, "near is red and far is blue")
    opened.keep(pictures, "panel_depth")
    choose(page, "Show", "Colour")
    choose(page, "Compare", "Swipe")
    wait_for(lambda: opened.viewer.exact.look(client_id).photo is not None, "it flies to a photograph")
    # The photographs of this world are plainly magenta: the left half is, the right half is not.
    middle = (slice(250, 450), slice(250, 420)), (slice(250, 450), slice(480, 560))
    wait_for(
        lambda: magenta(canvas(page)[middle[0]]) > 20_000 and magenta(canvas(page)[middle[1]]) == 0,
        "the photograph is left of the line",
    )
    opened.keep(pictures, "panel_swipe")
    choose(page, "Compare", "Off")
    wait_for(lambda: magenta(canvas(page)) == 0, "the photograph is gone")
    assert page.foreign_requests == []
