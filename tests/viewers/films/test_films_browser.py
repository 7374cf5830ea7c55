# SPDX-License-Identifier: Apache-2.0
"""Films, exports, help and theme as a person in a browser has them: pressing what is there, keeping what comes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon.film.keyframes import read_film
from recon.film.writing import color_picture
from recon.formats.mesh_files import read_mesh
from recon.formats.splat_files import read_splats
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.viewers.content import Content
from recon.viewers.downloads import send_file
from recon.viewers.exports.panel import ExportPanel
from recon.viewers.films.panel import FilmPanel
from recon.viewers.help import HelpPanel
from recon.viewers.viewer import Viewer

pytestmark = pytest.mark.browser


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.1)


class Studio:
    """A viewer of a run, a browser that looks at it, and its panels."""

    def __init__(self, viewer: Viewer, page: Any, run: Path) -> None:
        self.viewer, self.page, self.run = viewer, page, run
        page.goto(viewer.url)
        wait_for(lambda: bool(viewer.server.get_clients()), "the browser has connected")
        self.client = next(iter(viewer.server.get_clients().values()))
        self.film = self.panel(FilmPanel)
        self.export = self.panel(ExportPanel)
        self.help = self.panel(HelpPanel)

    def panel(self, kind: Any) -> Any:
        return next(panel for panel in self.viewer._panels if isinstance(panel, kind))

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).last.click()

    def look_from(self, x: float, y: float, z: float) -> None:
        self.client.camera.position = (x, y, z)
        self.client.camera.look_at = (0.1, 0.3, 0.3)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.run)) for path in self.run.rglob("*") if path.is_file())

    def download(self, act: Callable[[], Any], keep: Path) -> Path:
        with self.page.expect_download(timeout=90_000) as caught:
            act()
        caught.value.save_as(keep / caught.value.suggested_filename)
        return Path(keep / caught.value.suggested_filename)


@pytest.fixture
def studio(world: Any, page: Any, tmp_path: Path) -> Iterator[Studio]:
    run = tmp_path / "run"
    run.mkdir()
    content = Content("a little world", world.splats, world.scene, run_path=run)
    # Without a picture the browser, which draws in software here, is quick to answer.
    with Viewer(content, port=0, picture="nothing") as viewer:
        viewer.set_layer("cameras", False)
        yield Studio(viewer, page, run)


def decode(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray().astype(float)
            for frame in container.decode(container.streams.video[0])
        ]


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((one - other) ** 2).mean(), 1e-9)))


def test_a_film_is_made_played_saved_rendered_and_downloaded(
    studio: Studio, tmp_path: Path, pictures: Path | None
) -> None:
    page, film, editor = studio.page, studio.film, studio.film.editor
    page.get_by_role("tab", name="Film").click()
    views = [(3.0, -1.0, 1.5), (2.0, 2.5, 1.0), (-2.0, 2.0, 2.0)]
    for count, view in enumerate(views, 1):
        studio.look_from(*view)
        studio.press("Add keyframe")
        wait_for(lambda count=count: len(editor) == count, f"{count} keyframes")
    for frame, view in zip(editor.film.keyframes, views):
        np.testing.assert_allclose(frame.position, view, atol=1e-6)
    # The preview takes the browser's camera along, and ends where the film does.
    editor.set_duration(1.5)
    film._refresh()
    studio.press("Play")
    wait_for(lambda: film.player.playing == 1, "the film is played")
    wait_for(lambda: film.player.playing == 0, "the film is over")
    np.testing.assert_allclose(studio.client.camera.position, views[-1], atol=1e-3)
    studio.look_from(4.0, 4.0, 4.0)

    def plays() -> bool:
        # The browser's answer to the move before counts as a hand on the camera, which stops the film.
        if not film.player.playing:
            film.toggle(studio.client, True)
        return bool(film.player.playing == 1)

    wait_for(plays, "it is played once more")
    studio.press("Stop")
    wait_for(lambda: film.player.playing == 0, "it is stopped")
    # Saved, cleared, opened again.
    before = editor.film
    page.get_by_text("Save and open").click()
    page.locator("input[value='film']").fill("../my film")
    page.keyboard.press("Tab")
    studio.press("Save")
    wait_for(lambda: studio.files() == ["paths/my film.json"], "the path is saved where it belongs")
    studio.press("Clear")
    wait_for(lambda: len(editor) == 0, "the film is empty")
    studio.press("Open")
    wait_for(lambda: len(editor) == 3, "the film is back")
    assert editor.film == read_film(studio.run / "paths" / "my film.json") == before
    # Rendered and downloaded.
    editor.change(width=320, height=180, fps=8.0)
    film._refresh()
    studio.press("Render MP4")
    wait_for(lambda: film.render.path is not None, "the film is rendered")
    kept = studio.download(lambda: studio.press("Download my film.mp4"), tmp_path)
    assert kept.read_bytes() == (studio.run / "exports" / "my film.mp4").read_bytes()
    frames, cameras = decode(kept), editor.film.path().cameras
    assert len(frames) == len(cameras) == 13
    renderer = SplatRenderer(studio.viewer.content.splats)
    for index in (0, 6, 12):
        expected = color_picture(renderer.render(cameras[index], RenderOptions())).astype(float)
        assert psnr_db(frames[index], expected) > 30
        assert psnr_db(frames[index], frames[(index + 6) % 18]) < 25
    if pictures is not None:
        page.screenshot(path=pictures / "film.png")
    # A cancelled one leaves nothing, and the next can start.
    editor.change(width=1920, height=1080, fps=60.0)
    editor.set_duration(60)
    film._name = "long"
    film._refresh()
    studio.press("Render MP4")
    wait_for(lambda: studio.viewer.jobs.running is not None, "a long film is begun")
    wait_for(lambda: (studio.viewer.jobs.running or film).__dict__.get("share"), "a frame is there")
    studio.press("Cancel")
    wait_for(lambda: studio.viewer.jobs.running is None, "it is cancelled")
    assert studio.files() == ["exports/my film.mp4", "paths/my film.json"]
    assert page.foreign_requests == []


def test_everything_is_exported_and_downloaded(
    studio: Studio, world: Any, tmp_path: Path, pictures: Path | None
) -> None:
    export = studio.export
    studio.page.get_by_role("tab", name="Export").click()
    assert export.kinds[:3] == ("Splats", "Mesh", "Picture")
    keep = tmp_path / "downloads"
    # By hand once, then what the buttons do for every format.
    first = studio.download(lambda: studio.press("Export"), keep)
    assert first.name == "a little world.ply"
    np.testing.assert_allclose(read_splats(first).means, world.splats.means, atol=1e-6)
    if pictures is not None:
        studio.page.screenshot(path=pictures / "export.png")

    def exported(kind: str, control: Any = None, value: Any = None) -> Path:
        wait_for(lambda: studio.viewer.jobs.running is None, "the one before is done")
        export._what.value = kind
        if control is not None:
            control.value = value
        return studio.download(lambda: export.start(studio.client), keep)

    for label in export._splat_format.options[1:]:
        back = read_splats(exported("Splats", export._splat_format, label))
        assert len(back) == len(world.splats), label
    seen = np.array(Image.open(exported("Picture")))
    camera = studio.film._camera(studio.client)
    assert seen.shape == (camera.height, camera.width, 3)
    background = studio.viewer.exact.background
    expected = color_picture(SplatRenderer(world.splats).render(camera, RenderOptions(background)))
    np.testing.assert_array_equal(seen, expected)
    export._width.value = "Window × 2"
    clear = np.array(Image.open(exported("Picture", export._transparent, True))).astype(float)
    assert clear.shape == (2 * camera.height, 2 * camera.width, 4)
    big = SplatRenderer(world.splats).render(
        camera.resized(2 * camera.width, 2 * camera.height), RenderOptions((1, 1, 1))
    )
    alpha = clear[..., 3:] / 255
    assert np.abs(clear[..., :3] * alpha + 255 * (1 - alpha) - color_picture(big)).mean() < 1.0
    assert clear[..., 3].min() == 0
    export._mesh_detail.value = "Draft"
    mesh = read_mesh(exported("Mesh"))
    assert len(mesh.faces) > 200
    points = exported("Points").read_bytes()
    assert f"element vertex {len(world.scene.points)}\n".encode() in points
    cameras = json.loads(exported("Cameras").read_text())
    assert len(cameras["frames"]) == 10
    import zipfile

    with zipfile.ZipFile(exported("Cameras", export._camera_format, "COLMAP model (.zip)")) as archive:
        assert {"sparse/0/cameras.bin", "sparse/0/images.bin"} <= set(archive.namelist())
    if "Page to share" in export.kinds:
        assert b"<html" in exported("Page to share").read_bytes()[:2000].lower()
    # A file in many pieces arrives whole, and no thread has failed.
    large = studio.run / "large.bin"
    large.write_bytes(np.random.default_rng(0).bytes((9 << 20) + 5))
    shares: list[float] = []
    got = studio.download(lambda: send_file(studio.client, large, "large.dat", shares.append), keep)
    assert got.read_bytes() == large.read_bytes()
    assert shares[-1] == 1.0
    assert len(shares) == 2
    large.unlink()
    # Whatever a browser sends as a name stays in the folder.
    export._name.value = "../../../etc/passwd"
    wait_for(lambda: studio.viewer.jobs.running is None, "the one before is done")
    assert exported("Points").name == "etc-passwd-points.ply"
    assert all(name.startswith("exports/") and "tmp" not in name for name in studio.files())


def test_help_keys_views_and_theme(studio: Studio, pictures: Path | None) -> None:
    page, camera, stage = studio.page, studio.client.camera, studio.viewer.stage
    page.get_by_role("tab", name="Export").wait_for()
    page.mouse.click(200, 200)
    page.keyboard.press("h")
    page.get_by_text("fly ahead, left, back, right").wait_for()
    if pictures is not None:
        page.screenshot(path=pictures / "help.png")
    page.keyboard.press("h")
    page.get_by_text("fly ahead, left, back, right").wait_for(state="detached")
    page.keyboard.press("3")
    ahead = np.array([-1.0, 0.0, 0.0])

    def looks_ahead() -> bool:
        forward = np.asarray(camera.look_at) - np.asarray(camera.position)
        return float(forward @ ahead) > 0.999 * float(np.linalg.norm(forward))

    wait_for(looks_ahead, "one looks from the right")
    page.keyboard.press("f")
    wait_for(lambda: np.allclose(camera.position, stage.eye * stage.scale, atol=1e-3), "one is home")
    page.keyboard.press("k")
    wait_for(lambda: len(studio.film.editor) == 1, "the key adds a keyframe")
    # What is typed into a field is no command.
    page.get_by_role("tab", name="Export").click()
    page.locator("input[value='a little world']").first.press("k")
    assert len(studio.film.editor) == 1
    page.mouse.click(200, 200)
    before = page.evaluate("document.documentElement.getAttribute('data-mantine-color-scheme')")
    page.keyboard.press("t")
    scheme = "document.documentElement.getAttribute('data-mantine-color-scheme')"
    wait_for(lambda: page.evaluate(scheme) != before, "the page has become light")
    assert (before, page.evaluate(scheme)) == ("dark", "light")
    assert studio.viewer.exact.background == (1.0, 1.0, 1.0)
    # The point under a click becomes what one turns around.
    expected = studio.viewer.depth_at(studio.client, 250, 210)
    assert expected is not None
    page.keyboard.down("Alt")
    page.mouse.click(250, 210)
    page.keyboard.up("Alt")
    wait_for(lambda: np.allclose(camera.look_at, expected, atol=0.05), "the point is looked at")


def test_a_phone_can_be_used(world: Any, chromium: Any, tmp_path: Path, pictures: Path | None) -> None:
    content = Content("a little world", world.splats, world.scene, run_path=tmp_path)
    context = chromium.new_context(
        viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True, device_scale_factor=1
    )
    with Viewer(content, port=0, picture="nothing") as viewer:
        phone = Studio(viewer, context.new_page(), tmp_path)
        phone.page.set_default_timeout(30_000)
        start = np.array(phone.client.camera.position)
        # Everything in the panel is within the window, and a tap on its head makes room for the scene.
        tab = phone.page.get_by_role("tab", name="Film")
        box = tab.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        tab.tap()
        phone.page.get_by_role("button", name="Add keyframe", exact=True).last.tap()
        wait_for(lambda: len(phone.film.editor) == 1, "a tap adds a keyframe")
        if pictures is not None:
            phone.page.screenshot(path=pictures / "phone.png")
        swipe(phone.page, [[(100, 150)], [(180, 170)]])
        wait_for(lambda: np.linalg.norm(phone.client.camera.position - start) > 0.05, "a finger turns the scene")
        turned = np.array(phone.client.camera.position)
        distance = float(np.linalg.norm(turned - phone.client.camera.look_at))
        swipe(phone.page, [[(150, 150), (190, 190)], [(100, 100), (240, 240)]])

        def came_nearer() -> bool:
            camera = phone.client.camera
            return float(np.linalg.norm(np.asarray(camera.position) - camera.look_at)) < 0.9 * distance

        wait_for(came_nearer, "two fingers zoom")
        phone.page.get_by_text("recon", exact=True).first.tap()
        tab.wait_for(state="hidden")
        if pictures is not None:
            phone.page.screenshot(path=pictures / "phone_collapsed.png")
    context.close()


def swipe(page: Any, ends: list[list[tuple[int, int]]], steps: int = 6) -> None:
    """Moves fingers from their first places to their last."""
    session = page.context.new_cdp_session(page)
    first, last = (np.array(places, dtype=float) for places in ends)

    def touch(kind: str, places: np.ndarray) -> None:
        points = [{"x": float(x), "y": float(y), "id": i} for i, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", first)
    for step in range(1, steps + 1):
        touch("touchMove", first + (last - first) * step / steps)
        time.sleep(0.05)
    touch("touchEnd", last[:0])


def test_a_film_can_be_changed_while_another_is_rendered(world: Any, tmp_path: Path) -> None:
    """Without a browser: the job has its own copy of everything."""
    content = Content("a little world", world.splats, world.scene, run_path=tmp_path)
    with Viewer(content, port=0, picture="nothing") as viewer:
        film = next(panel for panel in viewer._panels if isinstance(panel, FilmPanel))
        film._begin_with("Orbit")
        film.editor.change(width=64, height=36, fps=10.0)
        film.editor.set_duration(2.0)
        expected = len(film.editor.film.path().cameras)
        job = film.render.start()
        film.editor.change(keyframes=())
        wait_for(lambda: job.state != "running", "the film is rendered")
        assert job.state == "done", job.problem
        assert len(decode(job.result.path)) == expected
        assert replace(film.editor.film, keyframes=()) == film.editor.film
