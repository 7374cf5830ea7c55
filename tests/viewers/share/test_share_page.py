# SPDX-License-Identifier: Apache-2.0
"""The page that one can send: in a browser it shows what our renderer shows, loads nothing, and obeys the hand."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.film import CameraPath
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.viewers.share import (
    Annotation,
    SharedFilm,
    SharedScene,
    pack_splats,
    read_annotations,
    unpack_splats,
    write_shared_folder,
    write_shared_page,
)
from recon.viewers.share.page import page_html
from tests.viewers.share.test_packing import colorful
from tests.viewers.summary.test_page import EVIL, Parsed
from tests.viewers.test_browser import wait_for

BACKGROUND = (0.2, 0.3, 0.4)
SOFTWARE_GL_MS = 90_000


def shared_scene(world: Any, text: str = "A little world", antialiased: bool = False, **changes: Any) -> SharedScene:
    splats = colorful(world.splats, antialiased=antialiased)
    poses = [camera.cam_from_world for camera in world.cameras[:3]]
    frames = [replace(world.cameras[0], width=640, height=360).with_pose(pose) for pose in poses]
    scene = SharedScene(
        pack_splats(splats, world.cameras),
        text,
        text,
        [(f"{text} {index}", camera) for index, camera in enumerate(world.cameras)],
        SharedFilm(CameraPath(tuple(frames), 1.0)),
        [Annotation(text, text, np.array([0.0, 0.0, 1.0])), Annotation("Second", "", np.array([1.1, 0.3, 0.8]))],
        BACKGROUND,
    )
    return replace(scene, **changes)


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Of whole pictures, pixel by pixel."""
    assert one.shape == other.shape
    return 10 * math.log10(255**2 / max(float(((one - other) ** 2).mean()), 1e-9))


class Opened:
    """The page in a browser; console errors and requests are collected."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.complaints, self.requests = page, [], []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda note: self.complaints.append(note.text) if note.type == "error" else None)
        page.on("request", lambda request: self.requests.append(request.url))
        # Without flights and soft following, which take many pictures of a second each here.
        page.emulate_media(reduced_motion="reduce")
        page.set_default_timeout(SOFTWARE_GL_MS)
        page.goto(url)

    def ready(self) -> Opened:
        self.page.evaluate("recon.ready()")
        return self

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.page.evaluate("recon.state()")
        return state

    def picture(self, camera: Camera) -> np.ndarray:
        """What the canvas shows of a camera, [H, W, 3]."""
        lens = {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
        self.page.evaluate(
            "camera => recon.look(camera)", {**lens, "cam_from_world": camera.cam_from_world.ravel().tolist()}
        )
        return self.canvas()

    def canvas(self) -> np.ndarray:
        _, _, data = self.page.evaluate("recon.picture()").partition(",")
        return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(float)

    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.state()["view"]
        return view

    def rests(self) -> bool:
        return not self.state()["moving"]


def quick_scene(world: Any) -> SharedScene:
    """As `shared_scene`, of small splats, which draw faster."""
    small = replace(world.splats, log_scales=world.splats.log_scales - 1.2)
    return shared_scene(world, splats=pack_splats(colorful(small, degree=1), world.cameras))


@pytest.fixture
def shared(world: Any, page: Any, tmp_path: Path) -> Opened:
    write_shared_page(tmp_path / "page.html", quick_scene(world))
    return Opened(page, f"file://{tmp_path}/page.html").ready()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address at which a plain web server shows `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def our_picture(splats: Any, camera: Camera) -> np.ndarray:
    rgb = SplatRenderer(splats).render(camera, RenderOptions(background=BACKGROUND)).rgb
    picture: np.ndarray = (rgb.clamp(0, 1) * 255).round().numpy()
    return picture


def off_center(camera: Camera) -> Camera:
    """A camera with another focal length in each direction, and its centre elsewhere."""
    return replace(camera, width=301, height=203, fx=310.0, fy=280.0, cx=120.5, cy=99.25)


@pytest.mark.browser
@pytest.mark.parametrize("antialiased", [False, True])
def test_the_canvas_shows_what_was_trained(world: Any, page: Any, tmp_path: Path, antialiased: bool) -> None:
    scene = shared_scene(world, antialiased=antialiased)
    write_shared_page(tmp_path / "page.html", scene)
    opened = Opened(page, f"file://{tmp_path}/page.html").ready()
    unpacked, trained = unpack_splats(scene.splats), colorful(world.splats, antialiased=antialiased)
    near = world.cameras[4].with_pose(
        look_at(np.array([0.9, 1.6, 0.5]), np.array([0.0, 0.2, 0.4]), np.array([0, 0, 1.0]))
    )
    for camera in (world.cameras[0], off_center(world.cameras[3]), near):
        seen = opened.picture(camera)
        assert psnr_db(seen, our_picture(trained, camera)) > 40
        # The same splats, so that nothing is left but the order within a step of sorting, and half floats.
        assert psnr_db(seen, our_picture(unpacked, camera)) > 46
        assert psnr_db(seen, our_picture(unpacked, world.cameras[5].resized(camera.width, camera.height))) < 25
    # Splats of a pixel and less tell the two modes apart.
    tiny = world.cameras[0].resized(64, 48)
    assert psnr_db(opened.picture(tiny), our_picture(unpacked, tiny)) > 46
    assert psnr_db(opened.picture(tiny), our_picture(replace(unpacked, antialiased=not antialiased), tiny)) < 40
    assert opened.state()["float"]
    assert (opened.complaints, page.foreign_requests) == ([], [])


@pytest.mark.browser
def test_over_http_and_in_parts(world: Any, page: Any, tmp_path: Path, web: str) -> None:
    scene = shared_scene(world)
    write_shared_page(tmp_path / "page.html", scene)
    opened = Opened(page, f"{web}/page.html").ready()
    first = opened.picture(world.cameras[0])
    assert psnr_db(first, our_picture(colorful(world.splats), world.cameras[0])) > 40
    assert [url.partition(":")[0] for url in opened.requests] == ["http", "blob"]
    generator = torch.Generator().manual_seed(0)
    small = replace(world.splats, log_scales=world.splats.log_scales - 2)
    many = colorful(small, degree=1).select(torch.randint(len(small), (33_000,), generator=generator))
    parts = replace(scene, splats=pack_splats(many, world.cameras, spatial=True), film=None)
    write_shared_folder(tmp_path / "parts", parts)
    opened.requests.clear()
    page.set_viewport_size({"width": 160, "height": 100})
    page.goto(f"{web}/parts/")
    opened.ready()
    assert opened.state()["splats"] == 33_000
    assert psnr_db(opened.picture(world.cameras[0]), our_picture(unpack_splats(parts.splats), world.cameras[0])) > 38
    assert len([url for url in opened.requests if url.endswith(".bin")]) == 2
    assert opened.complaints == []
    page.goto(f"file://{tmp_path}/parts/index.html")
    assert "web server" in page.locator("#message").inner_text()
    assert page.foreign_requests == []


@pytest.mark.browser
def test_the_hand_turns_moves_and_flies(shared: Opened) -> None:
    page, start = shared.page, shared.view()
    page.mouse.move(300, 200)
    page.mouse.down()
    page.mouse.move(400, 230, steps=2)
    page.mouse.up()
    wait_for(lambda: shared.rests() and abs(shared.view()["yaw"] - start["yaw"]) > 0.3, "dragging turns")
    turned = shared.view()
    assert turned["focus"] == pytest.approx(start["focus"])
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(360, 230, steps=2)
    page.mouse.up()
    page.keyboard.up("Shift")
    wait_for(lambda: shared.rests() and shared.view()["focus"] != turned["focus"], "dragging with shift moves")
    assert shared.view()["yaw"] == pytest.approx(turned["yaw"])
    page.mouse.wheel(0, 300)
    wait_for(lambda: shared.rests() and shared.view()["distance"] > 1.2 * start["distance"], "the wheel goes away")
    before = shared.view()["focus"]
    page.keyboard.down("w")
    wait_for(lambda: float(np.linalg.norm(np.subtract(shared.view()["focus"], before))) > 0.05, "W flies")
    page.keyboard.up("w")
    page.keyboard.press("0")
    wait_for(lambda: shared.rests() and shared.view()["focus"] == pytest.approx(start["focus"]), "0 is the first view")
    assert shared.view()["yaw"] == pytest.approx(start["yaw"])
    page.mouse.dblclick(320, 200)
    wait_for(lambda: shared.rests() and shared.view()["focus"] != pytest.approx(start["focus"]), "a point is focussed")
    assert shared.complaints == []


@pytest.mark.browser
def test_film_annotations_views_and_help(shared: Opened, world: Any, pictures: Path | None) -> None:
    page = shared.page
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert "2,000 Gaussian splats" in page.locator("#help").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("1")
    wait_for(lambda: shared.rests() and shared.state()["annotation"] == 0, "an annotation opens")
    assert page.locator(".card").inner_text().count("A little world") == 2

    def pin_is_in_the_middle() -> bool:
        box = page.locator(".pin").first.bounding_box()
        return math.hypot(box["x"] + box["width"] / 2 - 320, box["y"] + box["height"] / 2 - 200) < 4

    wait_for(pin_is_in_the_middle, "the annotation is looked at")
    if pictures is not None:
        page.screenshot(path=pictures / "share_annotation.png")
    page.keyboard.press("]")
    wait_for(lambda: shared.rests(), "the flight to a photograph ends")
    assert "open" in page.locator("#views li").first.get_attribute("class")
    # A photograph's view is the photograph's camera, whatever the window's shape.
    axes, camera = shared.state()["axes"], world.cameras[0]
    assert [*axes["right"], *axes["down"], *axes["forward"]] == pytest.approx(
        camera.cam_from_world[:3, :3].ravel(), abs=1e-4
    )
    page.keyboard.press(" ")
    wait_for(lambda: 0 < shared.state()["time"] <= 2, "the film runs")
    wait_for(lambda: shared.state()["time"] == 2 and not shared.state()["playing"], "the film ends")
    last = world.cameras[2].cam_from_world[2, :3]
    assert shared.state()["axes"]["forward"] == pytest.approx(last, abs=1e-4)
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") in ("dark", "light")
    assert (shared.complaints, page.foreign_requests) == ([], [])


@pytest.mark.browser
def test_fingers_on_a_phone(chromium: Any, world: Any, tmp_path: Path, pictures: Path | None) -> None:
    write_shared_page(tmp_path / "page.html", quick_scene(world))
    device = {"viewport": {"width": 390, "height": 700}, "has_touch": True, "is_mobile": True, "device_scale_factor": 1}
    with chromium.new_context(**device) as context:
        page = context.new_page()
        opened = Opened(page, f"file://{tmp_path}/page.html").ready()
        start, session = opened.view(), context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[int, int]) -> None:
            touches = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

        touch("touchStart", (200, 300))
        touch("touchMove", (260, 300))
        touch("touchEnd")
        wait_for(lambda: opened.rests() and abs(opened.view()["yaw"] - start["yaw"]) > 0.1, "one finger turns")
        turned = opened.view()
        touch("touchStart", (150, 300), (250, 300))
        touch("touchMove", (100, 300), (300, 300))
        touch("touchEnd")
        wait_for(lambda: opened.rests() and opened.view()["distance"] < 0.7 * start["distance"], "a pinch comes nearer")
        assert opened.view()["yaw"] == pytest.approx(turned["yaw"])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tools = page.locator("#tools").bounding_box()
        assert tools["x"] >= 0
        assert tools["x"] + tools["width"] <= 390
        if pictures is not None:
            page.screenshot(path=pictures / "share_phone.png")
        assert opened.complaints == []


@pytest.mark.browser
def test_a_lost_graphics_card_comes_back(shared: Opened, world: Any) -> None:
    before = shared.picture(world.cameras[0])
    shared.page.evaluate(
        "window.card = document.getElementById('canvas').getContext('webgl2').getExtension('WEBGL_lose_context');"
        "card.loseContext()"
    )
    wait_for(lambda: "graphics card" in shared.page.locator("#message").inner_text(), "people are told")
    shared.page.evaluate("card.restoreContext()")
    wait_for(lambda: not shared.page.locator("#message").is_visible(), "the message goes")
    shared.ready()
    assert psnr_db(shared.picture(world.cameras[0]), before) > 60


@pytest.mark.browser
def test_without_webgl_people_are_told(page: Any, world: Any, tmp_path: Path) -> None:
    write_shared_page(tmp_path / "page.html", quick_scene(world))
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    opened = Opened(page, f"file://{tmp_path}/page.html")
    assert "WebGL2" in page.locator("#message").inner_text()
    assert opened.complaints == []


def test_everything_is_inside_and_text_stays_text(world: Any) -> None:
    plain, evil = (Parsed(page_html(shared_scene(world, text), "", None)) for text in ("plain", EVIL))
    assert evil.tags == plain.tags
    assert not evil.handlers
    assert all(source.startswith("data:image/") for source in evil.sources)
    assert json.loads(evil.text[evil.text.index('{"schema"') :].partition("\n")[0])["annotations"][0]["text"] == EVIL
    html = page_html(shared_scene(world), "", None)
    assert "default-src 'none'" in html
    assert "connect-src" not in html
    assert "{{" not in html.partition("<script>")[0]


def test_annotation_files(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    view = {"position": [3, 0, 1], "look_at": [1, 2, 3], "fov_deg": 40}
    entries = [{"title": "A", "position": [1, 2, 3]}, {"title": "B", "text": "b", "position": [0, 0, 0], "view": view}]
    path.write_text(json.dumps({"schema": 1, "annotations": entries}))
    first, second = read_annotations(path)
    assert (first.title, first.text, first.position.tolist(), first.cam_from_world) == ("A", "", [1, 2, 3], None)
    assert second.cam_from_world is not None
    assert second.fov_rad == pytest.approx(math.radians(40))
    broken: list[Any] = [
        "no list", [3], [{"position": [0, 0, 0]}], [{"title": " ", "position": [0, 0, 0]}], [{"title": "A"}],
        [{"title": "A", "position": [0, 0]}], [{"title": "A", "position": [0, 0, float("nan")]}],
        [{"title": "A", "position": [0, 0, 0], "colour": 1}], [{"title": "A" * 500, "position": [0, 0, 0]}],
        [{"title": "A", "position": [0, 0, 0], "view": {"position": [0, 0, 0]}}],
        [{"title": "A", "position": [0, 0, 0], "view": {"position": [1, 0, 0], "fov_deg": True}}],
        [entries[0]] * 1000,
    ]  # fmt: skip
    for entries in broken:
        path.write_text(json.dumps({"schema": 1, "annotations": entries}))
        with pytest.raises(ReconError, match="annotations"):
            read_annotations(path)
