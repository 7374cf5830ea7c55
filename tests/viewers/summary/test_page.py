# SPDX-License-Identifier: Apache-2.0
"""The summary page holds everything it shows, asks nobody for anything, and shows text as text."""

from __future__ import annotations

import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.film.writing import color_picture
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.viewers.stage import find_stage_of
from recon.viewers.summary.page import (
    Comparison,
    PageFile,
    PagePicture,
    SummaryData,
    ViewScore,
    summary_html,
    write_summary_page,
)
from recon.viewers.summary.parts import camera_map_svg, curve_svg, image_tag
from recon.viewers.summary.splats import BACKGROUND
from tests.viewers.test_browser import psnr_db, wait_for

EVIL = '<script>alert("x")</script>\'"><img src=x onerror=alert(1)>&amp;'


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def full_page(world: Any, tmp_path: Path, text: str = "plain") -> SummaryData:
    Image.fromarray(picture()).save(tmp_path / "side.png")
    return SummaryData(
        title=text,
        subtitle=text,
        attention=[text],
        highlights=[(text, text)],
        facts=[(text, text)],
        scores=[ViewScore(text, 30.0, 0.9), ViewScore(text, float("nan"), None, 0.1)],
        comparisons=[Comparison(text, picture(), picture(1), text)],
        pictures=[PagePicture(tmp_path / "side.png", text)],
        mesh_pictures=[PagePicture(picture(2), text)],
        steps=[50, 100, 150],
        losses=[0.2, None, 0.1],
        psnr_by_step=[(100, 25.0), (150, 27.0)],
        cameras=[(f"{text}{i}", camera) for i, camera in enumerate(world.cameras)],
        held_out=frozenset([f"{text}0"]),
        points=world.scene.points.positions,
        point_colors=world.scene.points.colors,
        splats=world.splats,
        files=[PageFile(text, text, 12_345_678), PageFile("run/", "a folder")],
        commands=[(text, text)],
    )


class Parsed(HTMLParser):
    """Collects tags, attributes that load something, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "srcset", "action"):
                self.sources.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_is_inside_and_nothing_is_loaded(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_summary_page(path, full_page(world, tmp_path))
    text = path.read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert all(source.startswith("data:image/") for source in parsed.sources)
    assert len([source for source in parsed.sources if source]) >= 5
    outside = re.findall(r"(?:https?:)?//[\w.-]+", re.sub(r"data:image/[^\"]+|base64[^\"]*", "", text))
    assert not [address for address in outside if "." in address], outside
    assert "default-src 'none'" in text
    assert len(text) < 2_000_000


def test_text_stays_text(world: Any, tmp_path: Path) -> None:
    plain = Parsed(summary_html(full_page(world, tmp_path)))
    evil = Parsed(summary_html(full_page(world, tmp_path, EVIL)))
    assert evil.tags == plain.tags
    assert not evil.handlers
    assert EVIL in evil.text


def test_an_empty_page_has_its_title_only(tmp_path: Path) -> None:
    text = summary_html(SummaryData("Nothing yet"))
    assert "<h1>Nothing yet</h1>" in text
    assert "<h2>" not in text
    assert "script-src 'none'" in text


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    assert "cannot be read" in image_tag(tmp_path / "none.png", "a")
    assert "cannot be read" in image_tag(tmp_path / "broken.png", "a")
    assert 'width="480"' in image_tag(np.zeros((2000, 1000, 3), np.uint8), "a")


def test_curves_of_any_data() -> None:
    assert "No training curve" in curve_svg([], [], [])
    assert "No training curve" in curve_svg([1], [float("nan")], [])
    for svg in (
        curve_svg([1], [0.5], []),
        curve_svg([1, 2, 3], [0.5, 0.5, 0.5], [(3, 20.0)]),
        curve_svg([], [], [(5, 20.0)]),
        curve_svg(np.arange(1, 9000, 3).tolist(), np.linspace(1, 0.001, 3000).tolist(), [(9000, float("inf"))]),
        curve_svg([0.5, 1], [1e-30, 1e30], []),
    ):
        assert svg.startswith("<svg")
        assert "nan" not in svg.lower().replace("tenant", "")
        assert "inf" not in svg


def test_the_map_of_cameras(world: Any) -> None:
    svg = camera_map_svg([("a", world.cameras[0]), ("b", world.cameras[5])])
    # Camera 0 stands at +x, camera 5 at -x: right and left on the map.
    first, second = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert first > 600
    assert second < 120
    assert "No cameras" in camera_map_svg([])
    assert "<svg" in camera_map_svg([("a", world.cameras[0])])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReconError):
        write_summary_page(tmp_path / "file" / "page.html", SummaryData("a"))


def grab(element: Any) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(float)


def first_view(world: Any, width: int, height: int) -> np.ndarray:
    """Our own rendering of the preview's first view."""
    stage = find_stage_of(world.cameras, np.zeros((0, 3)))
    focal = 0.5 * height / math.tan(0.5 * stage.fov_rad)
    pose = look_at(stage.eye, stage.focus, np.array([0.0, 0.0, 1.0]))
    camera = Camera(width, height, focal, focal, width / 2, height / 2, cam_from_world=pose)
    output = SplatRenderer(world.splats).render(camera, RenderOptions(background=BACKGROUND))
    return color_picture(output).astype(float)


@pytest.mark.browser
def test_the_page_in_a_browser(world: Any, tmp_path: Path, page: Any, pictures: Path | None) -> None:
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    write_summary_page(tmp_path / "page.html", full_page(world, tmp_path, EVIL))
    page.goto(f"file://{tmp_path}/page.html")
    page.wait_for_selector("svg")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    box = page.locator(".compare").first
    box.hover(position={"x": 20, "y": 20})
    near_left = page.evaluate("getComputedStyle(document.querySelector('.compare')).getPropertyValue('--cut')")
    assert float(near_left.rstrip("%")) < 15
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The preview shows what our own renderer shows from its first view, and turns with the pointer.
    canvas = page.locator("#preview")
    seen = grab(canvas)
    expected = first_view(world, seen.shape[1], seen.shape[0])
    assert psnr_db(seen, expected) > 25
    assert psnr_db(np.full_like(seen, 20), expected) < 20
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 130, steps=3)
    page.mouse.up()
    page.mouse.wheel(0, 200)
    wait_for(lambda: psnr_db(grab(canvas), seen) < 22, "the preview turns")
    canvas.dblclick()
    wait_for(lambda: psnr_db(grab(canvas), seen) > 40, "a double click begins again")
    if pictures is not None:
        page.screenshot(path=pictures / "page.png", full_page=True)
    assert not complaints
    assert not page.foreign_requests
