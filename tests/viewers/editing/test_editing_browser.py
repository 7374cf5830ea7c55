# SPDX-License-Identifier: Apache-2.0
"""Editing and measuring in a real browser: with the mouse, the keys and the buttons."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon.cameras import Camera
from recon.edits import Delete, Range, Select, read_edits
from recon.edits.masks import inside_polygon
from recon.edits.measurements import read_measurements
from recon.film.writing import color_picture
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.viewers.content import Content
from recon.viewers.editing.measure_panel import MeasurePanel
from recon.viewers.editing.panel import EditPanel
from recon.viewers.exact import camera_of
from recon.viewers.viewer import Viewer

pytestmark = pytest.mark.browser

SOFTWARE_GL_S = 90.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOFTWARE_GL_S
    while not condition():
        assert time.monotonic() < deadline, f"after {SOFTWARE_GL_S} s still not: {what}"
        time.sleep(0.1)


class Desk:
    """A viewer, the page that looks at it, and its panels."""

    def __init__(self, viewer: Viewer, page: Any) -> None:
        self.viewer, self.page = viewer, page
        page.set_viewport_size({"width": 720, "height": 400})
        page.set_default_timeout(1000 * SOFTWARE_GL_S)
        page.goto(viewer.url)
        wait_for(lambda: bool(viewer.server.get_clients()), "the browser has connected")
        self.client = next(iter(viewer.server.get_clients().values()))
        self.edit = next(panel for panel in viewer._panels if isinstance(panel, EditPanel))
        self.measure = next(panel for panel in viewer._panels if isinstance(panel, MeasurePanel))
        assert self.edit.session is not None
        self.session = self.edit.session

    @property
    def camera(self) -> Camera:
        return camera_of(self.client, self.viewer.stage)

    @property
    def selected(self) -> np.ndarray:
        return self.session.state.selected

    def sees(self, splats: Any) -> bool:
        """Whether the free part of the window, left of the panel, shows these splats."""
        style = self.page.add_style_tag(content="body * { visibility: hidden } canvas { visibility: visible }")
        shot = np.array(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))[:, :380]
        style.evaluate("element => element.remove()")
        background = (20 / 255, 20 / 255, 20 / 255)
        output = SplatRenderer(splats).render(self.camera, RenderOptions(background=background))
        expected = color_picture(output)[:, :380]
        return small_error(shot, expected) < 3.0

    def button(self, name: str) -> None:
        # Playwright's own click waits for frames that software drawing takes seconds for.
        self.page.get_by_role("button", name=name, exact=True).first.evaluate("element => element.click()")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click(force=True)

    def press(self, name: str, done: Callable[[], bool]) -> None:
        """Presses a button; again where the browser was still building its panel."""
        for _ in range(10):
            self.button(name)
            deadline = time.monotonic() + 5
            while not done() and time.monotonic() < deadline:
                time.sleep(0.1)
            if done():
                return
        raise AssertionError(f"the button {name} does nothing")

    def take(self, name: str) -> None:
        """Takes a tool by its button."""
        self.press(name, lambda: self.viewer.pointer.tool_of(self.client) is not None)
        self.wait_for_tool()

    def wait_for_tool(self) -> None:
        wait_for(lambda: self.viewer.pointer.tool_of(self.client) is not None, "the tool is in hand")
        self.page.get_by_text("Escape stops").first.wait_for()
        # Nodes of the scene are mounted a moment after notices are.
        time.sleep(1.0)

    def drag(self, way: list[tuple[float, float]], modifier: str = "") -> None:
        """Drags with the tool in hand until it has drawn; a browser that draws in software may miss a press."""
        for _ in range(5):
            if modifier:
                self.page.keyboard.down(modifier)
            self.page.mouse.move(*way[0])
            self.page.mouse.down()
            for place in way[1:]:
                self.page.mouse.move(*place)
                time.sleep(0.12)
            self.page.mouse.up()
            if modifier:
                self.page.keyboard.up(modifier)
            deadline = time.monotonic() + 15
            while self.viewer.pointer.tool_of(self.client) is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.viewer.pointer.tool_of(self.client) is None:
                return
        raise AssertionError("the tool has drawn nothing")

    def pick(self, places: list[tuple[float, float]]) -> None:
        """Clicks at pixels, one after the other is taken."""
        tool: Any = self.viewer.pointer.tool_of(self.client)
        for place in places:
            before = len(tool.points)
            # A browser that draws in software may miss a click, as it may miss a drag.
            for _ in range(5):
                self.page.mouse.click(*place)
                deadline = time.monotonic() + 15
                while len(tool.points) == before and time.monotonic() < deadline:
                    time.sleep(0.1)
                if len(tool.points) > before:
                    break
            assert len(tool.points) == before + 1, "the point was not taken"


def small_error(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of two pictures, without what JPEG and antialiasing may change."""
    parts = [
        np.asarray(Image.fromarray(part).resize((48, 50), Image.Resampling.BOX)).astype(float) for part in (one, other)
    ]
    return float(np.abs(parts[0] - parts[1]).mean())


@pytest.fixture
def desk(world: Any, page: Any, tmp_path: Path) -> Iterator[Desk]:
    content = Content("a little world", world.splats, world.scene, edits_path=tmp_path / "edits.json")
    with Viewer(content, port=0, picture="exact") as viewer:
        viewer.set_layer("cameras", False)
        yield Desk(viewer, page)


def test_rectangle_lasso_delete_undo_and_reopen(desk: Desk, tmp_path: Path, pictures: Path | None) -> None:
    splats = desk.viewer.content.splats
    assert splats is not None
    desk.tab("Edit")
    # A rectangle, by the button and the mouse.
    desk.take("Rectangle")
    pixels, _ = desk.camera.project(splats.means.double().numpy())
    # To the right of the notices, which would take the press.
    desk.drag([(375.0, 390.0), (350.0, 200.0), (290.0, 145.0)])
    wait_for(lambda: bool(desk.selected.any()), "something is selected")
    corners = np.array([[290.0, 145.0], [375.0, 145.0], [375.0, 390.0], [290.0, 390.0]])
    expected = inside_polygon(pixels, corners)
    assert (desk.selected != expected).mean() < 0.01
    wait_for(lambda: desk.session.is_shown and desk.sees(desk.viewer.splats), "the selection is shown in its colour")
    assert not desk.sees(splats)
    if pictures is not None:
        desk.page.screenshot(path=pictures / "selected.png")
    # A lasso freehand, with Shift, is added.
    desk.take("Lasso")
    circle = [(280 + 60 * math.cos(a), 190 + 60 * math.sin(a)) for a in np.linspace(0, 2 * np.pi, 16)]
    desk.drag(circle, "Shift")
    wait_for(lambda: len(desk.session.editor.edits) == 2, "the lasso has selected")
    both = expected | inside_polygon(pixels, np.array(circle))
    assert (desk.selected != both).mean() < 0.03
    assert desk.selected.sum() > expected.sum()
    # The key deletes, Ctrl+Z brings back, Ctrl+Shift+Z deletes again.
    doomed = desk.selected.copy()
    desk.page.keyboard.press("Delete")
    wait_for(lambda: bool(desk.session.state.deleted.any()), "they are deleted")
    np.testing.assert_array_equal(desk.session.state.deleted, doomed)
    wait_for(lambda: desk.session.is_shown and desk.sees(splats.select(~_torch(doomed))), "they are gone")
    desk.page.keyboard.press("Control+z")
    wait_for(lambda: not desk.session.state.deleted.any(), "they are back")
    desk.page.keyboard.press("Control+Shift+Z")
    wait_for(lambda: bool(desk.session.state.deleted.any()), "they are deleted again")
    assert desk.page.foreign_requests == []
    # Opened again the edits are there.
    with Viewer(replace(desk.viewer.content), port=0, picture="exact") as again:
        assert again.splats is not None
        assert len(again.splats) == int((~doomed).sum())
    assert read_edits(tmp_path / "edits.json") == desk.session.editor.edits


def _torch(mask: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(mask)


def floor_point(camera: Camera, x: float, y: float) -> np.ndarray:
    """Where the floor, z = 0, is seen at a pixel."""
    ray = camera.ray_directions_in_cam(np.array([[x, y]]))[0] @ camera.cam_from_world[:3, :3]
    point: np.ndarray = camera.center_in_world - ray * camera.center_in_world[2] / ray[2]
    return point


PLACES = [(60.0, 330.0), (340.0, 320.0), (140.0, 270.0)]
"""Pixels of the window left of the panel at which the floor is seen."""


def test_measuring_floaters_and_the_metric_scale(desk: Desk, tmp_path: Path, pictures: Path | None) -> None:
    desk.tab("Measure")
    desk.take("Distance")
    known = [floor_point(desk.camera, *place) for place in PLACES]
    desk.pick(PLACES[:2])
    wait_for(lambda: len(desk.measure.measurements) == 1, "the distance is there")
    true = float(np.linalg.norm(known[0] - known[1]))
    assert desk.measure.measurements[0].value(desk.viewer.world) == pytest.approx(true, rel=0.02)
    assert desk.measure.texts() == [f"{desk.measure.measurements[0].value(desk.viewer.world):.4g} units"]
    desk.take("Area")
    desk.pick(PLACES[:3])
    desk.page.keyboard.press("Enter")
    wait_for(lambda: len(desk.measure.measurements) == 2, "the area is there")
    area = 0.5 * float(np.linalg.norm(np.cross(known[1] - known[0], known[2] - known[0])))
    assert desk.measure.measurements[1].value(desk.viewer.world) == pytest.approx(area, rel=0.04)
    if pictures is not None:
        desk.page.screenshot(path=pictures / "measured.png")
    # Two clicks that are 3 m apart make the scene metric; what was measured follows, and the window sees the same.
    before = desk.camera
    desk.edit.align._meters.value = 3.0
    desk.edit.align.scale_from_clicks(desk.client)
    desk.wait_for_tool()
    desk.pick(PLACES[:2])
    wait_for(lambda: desk.viewer.meters_per_unit == 1.0 and desk.session.is_shown, "the scene is metric")
    assert desk.measure.measurements[0].value(desk.viewer.world) == pytest.approx(3.0, rel=0.01)
    assert desk.measure.texts()[0].endswith(" m")
    factor = desk.viewer.world.scale
    assert factor == pytest.approx(3.0 / true, rel=0.02)
    np.testing.assert_allclose(desk.camera.center_in_world, before.center_in_world * factor, rtol=1e-3, atol=1e-3)
    assert read_measurements(tmp_path / "measurements.json") == desk.measure.measurements
    # Floaters: a preview first, then gone.
    desk.tab("Edit")
    desk.edit.floaters.slider.value = 0.4
    # The slider's own preview comes a moment after it rests, and anything else may take it away again.
    time.sleep(1.5)
    desk.edit.floaters.act(desk.client, "Show")
    count = desk.session.previewed
    assert count is not None
    desk.edit.floaters.act(desk.client, "Delete")
    assert int(desk.session.state.deleted.sum()) == count
    assert desk.session.editor.edits.in_force[-1] == Delete(Range("floater", 0.4, 1.0))
    # The sphere that the panel shows crops.
    desk.press("Sphere", lambda: desk.edit.shape is not None)
    assert desk.edit.shape is not None
    wait_for(lambda: desk.session.previewed is not None, "what the sphere holds is shown")
    rule = desk.edit.shape.rule
    assert desk.session.previewed == int(desk.session.state.find(rule).sum()) > 0
    if pictures is not None:
        wait_for(lambda: desk.session.is_shown, "it is shown")
        time.sleep(3)
        desk.page.screenshot(path=pictures / "sphere.png")
    desk.press("Select", lambda: bool(desk.selected.any()))
    assert desk.session.editor.edits.in_force[-1] == Select(rule)
