# SPDX-License-Identifier: Apache-2.0
"""The viewer without a browser: who may connect, what is opened, where it stands, how it is closed."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.formats.splat_ply import write_splat_ply
from recon.render import RenderOptions, RenderOutput
from recon.scene import Scene, SparsePoints
from recon.surface.mesh import Mesh
from recon.viewers import Content, load_content, open_viewer
from recon.viewers.layers import fov_to_show, frustum_scale, quaternion_wxyz, thumbnail
from recon.viewers.mesh_layer import simplified, unlit_glb
from recon.viewers.server import close_server, open_server, url_of
from recon.viewers.stage import clearest_camera, find_stage


class Log:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, *_: Any, **__: Any) -> None:
        raise AssertionError("no stage is opened here")

    def log(self, message: str) -> None:
        self.lines.append(message)


class Plain:
    """A renderer of one colour."""

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        return RenderOutput(
            rgb=torch.full((camera.height, camera.width, 3), 0.5), alpha=torch.ones(camera.height, camera.width)
        )


def tetrahedron(colors: bool = True) -> Mesh:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    return Mesh(vertices, faces, np.full((4, 3), 200, np.uint8) if colors else None)


# Who may connect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "x" * 300])
def test_addresses_of_other_machines_are_refused(host: str) -> None:
    with pytest.raises(ReconError, match="no such address"):
        open_server(host, 0, "recon")


@pytest.mark.parametrize("port", [-1, 65536])
def test_impossible_ports(port: int) -> None:
    with pytest.raises(ReconError, match="port"):
        open_server("127.0.0.1", port, "recon")


def test_a_taken_port_gives_the_next_free_one_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = open_server("127.0.0.1", port, "recon", log)  # type: ignore[arg-type]
        try:
            assert server.get_port() > port
            assert log.lines == [f"Port {port} is taken; the viewer is on {server.get_port()}."]
            with urllib.request.urlopen(url_of(server)) as answer:
                assert b"<html" in answer.read(2000).lower()
        finally:
            close_server(server)
    # Standard output belongs to the command's report.
    assert capsys.readouterr().out == ""


def test_a_program_that_ends_with_viewers_open_prints_nothing() -> None:
    program = (
        "from recon.viewers.server import close_server, open_server\n"
        "servers = [open_server('127.0.0.1', 0, 'recon') for _ in range(3)]\n"
        "close_server(servers[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""


def test_a_closed_viewer_frees_its_port(world: Any) -> None:
    viewer = open_viewer(Content("a", scene=world.scene), port=0)
    port = viewer.server.get_port()
    viewer.close()
    viewer.close()
    again = open_viewer(Content("a", scene=world.scene), port=port)
    try:
        assert again.server.get_port() == port
    finally:
        again.close()


# What is opened -------------------------------------------------------------------------------------------------


def test_every_kind_of_content_opens(world: Any) -> None:
    contents = {
        "splats": Content("s", splats=world.splats),
        "mesh": Content("m", mesh=tetrahedron()),
        "plain mesh": Content("m", mesh=tetrahedron(colors=False)),
        "scene": Content("c", scene=world.scene),
        "any renderer": Content("r", scene=world.scene, renderer=Plain()),
        "all": Content("*a* [b](c) <d>", world.splats, world.scene, tetrahedron()),
        "nothing in it": Content("e", scene=Scene(())),
    }
    layers = {}
    for name, content in contents.items():
        with open_viewer(content, port=0) as viewer:
            layers[name] = {key: getattr(layer, "visible", True) for key, layer in viewer.layers.items()}
            layers[name]["exact"] = viewer.exact.mode
    assert layers["splats"] == {"splats": True, "exact": "resting"}
    assert layers["mesh"] == layers["plain mesh"] == {"mesh": True, "exact": "off"}
    assert layers["scene"] == {"points": True, "cameras": True, "exact": "off"}
    assert layers["any renderer"] == {"points": False, "cameras": True, "exact": "always"}
    assert layers["all"] == {"splats": True, "mesh": False, "points": False, "cameras": True, "exact": "resting"}
    assert layers["nothing in it"] == {"exact": "off"}


def test_files_and_folders_are_told_apart(tmp_path: Path, world: Any) -> None:
    import trimesh

    from recon.scene_io import save_scene

    write_splat_ply(world.splats, tmp_path / "splats.ply")
    loaded = load_content(tmp_path / "splats.ply")
    assert loaded.splats is not None
    torch.testing.assert_close(loaded.splats.means, world.splats.means)

    save_scene(world.scene, tmp_path / "scene")
    loaded = load_content(tmp_path / "scene")
    assert loaded.splats is None
    assert loaded.scene is not None
    assert len(loaded.scene.frames) == 10

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"scene": {"relative": "../scene", "absolute": "/nowhere"}}))
    log = Log()
    loaded = load_content(run, log)  # type: ignore[arg-type]
    assert loaded.splats is None
    assert loaded.scene is not None
    assert "not finished" in log.lines[0]
    write_splat_ply(world.splats, run / "splats.ply")
    loaded = load_content(run)
    assert loaded.splats is not None
    assert len(loaded.splats) == len(world.splats)
    assert loaded.scene is not None

    trimesh.Trimesh(tetrahedron().vertices, tetrahedron().faces).export(tmp_path / "mesh.stl")
    loaded = load_content(tmp_path)
    assert loaded.splats is not None
    assert loaded.scene is not None
    assert loaded.mesh is not None
    assert len(loaded.mesh.faces) == 4


@pytest.mark.parametrize("name", ["none.ply", "notes.txt", "broken.ply", "empty"])
def test_what_cannot_be_opened_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 3\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReconError):
        load_content(tmp_path / name)


def test_large_content_is_thinned_with_a_message(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recon.viewers import layers

    log = Log()
    server = open_server("127.0.0.1", 0, "recon")
    try:
        stage = find_stage(Content("a", scene=world.scene))
        layers.SplatLayer(server, stage, world.splats, [], log, limit=100)  # type: ignore[arg-type]
        points = layers.PointLayer(server, stage, world.scene.points, log, limit=50)  # type: ignore[arg-type]
        assert points.handle.points.shape == (50, 3)
        monkeypatch.setattr(layers, "MOST_THUMBNAILS", 3)
        layers.CameraLayer(server, stage, world.scene, log).close()  # type: ignore[arg-type]
    finally:
        close_server(server)
    assert "100 most visible of 2,000 splats" in log.lines[0]
    assert "50 of 400 sparse points" in log.lines[1]
    assert "3 of 10 cameras" in log.lines[2]


def test_a_simplified_mesh_keeps_its_shape_and_colours() -> None:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=4)
    colors = np.where(ball.vertices[:, 2:] > 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    mesh = simplified(Mesh(np.array(ball.vertices), np.array(ball.faces, dtype=np.int32), colors), 600)
    assert len(mesh.faces) <= 700
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1).max() < 0.05
    assert mesh.colors is not None
    top = mesh.vertices[:, 2] > 0.1
    assert (mesh.colors[top, 0] == 255).all()


def test_the_browsers_mesh_is_unlit_and_its_colours_are_linear() -> None:
    colors = np.array([[0, 0, 0], [255, 128, 0], [10, 20, 30], [200, 200, 200]], np.uint8)
    data = unlit_glb(tetrahedron().vertices.astype(np.float32), tetrahedron().faces, colors)
    length = int.from_bytes(data[12:16], "little")
    tree = json.loads(data[20 : 20 + length])
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert tree["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = 20 + length + 8 + tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
    found = np.frombuffer(data[start : start + 16], np.uint8).reshape(4, 4)
    # sRGB 128 is 0.2159 of linear light.
    assert found[1].tolist() == [255, 55, 0, 255]


# Where it stands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e5])
def test_the_stage_suits_scenes_of_any_size(world: Any, size: float) -> None:
    frames = []
    for frame in world.scene.frames:
        pose = np.array(frame.camera.cam_from_world)
        pose[:3, 3] *= size
        from dataclasses import replace

        frames.append(replace(frame, camera=frame.camera.with_pose(pose)))
    stage = find_stage(Content("a", scene=Scene(tuple(frames))))
    assert 0.5 <= stage.extent * stage.scale <= 40
    np.testing.assert_allclose(stage.focus / size, [0.1, 0.3, 0.3], atol=0.01)
    # A browser's camera becomes the world's camera again.
    camera = frames[3].camera
    wxyz = quaternion_wxyz(camera.world_from_cam[:3, :3])
    back = stage.camera(np.array(wxyz), camera.center_in_world * stage.scale, 2 * math.atan(0.4), 320, 240)
    np.testing.assert_allclose(back.cam_from_world, camera.cam_from_world, atol=1e-9 * max(size, 1))
    assert math.isclose(back.fy, 300, rel_tol=1e-9)


def test_the_first_view_has_no_camera_in_its_way(world: Any) -> None:
    cameras = [frame.camera for frame in world.scene.frames]
    blocker = cameras[0].center_in_world + 0.3 * cameras[0].forward_in_world
    pose = look_at(blocker, np.array([0.1, 0.3, 0.3]), np.array([0.0, 0.0, 1.0]))
    assert clearest_camera([*cameras, cameras[0].with_pose(pose)], np.array([0.1, 0.3, 0.3])) not in (0, 10)
    assert clearest_camera(cameras[:1], np.zeros(3)) == 0
    assert clearest_camera([cameras[0]] * 3, cameras[0].center_in_world) == 0


def test_the_stage_without_cameras(world: Any) -> None:
    by_splats = find_stage(Content("a", splats=world.splats))
    assert np.linalg.norm(by_splats.focus) < 1.5
    assert by_splats.eye[2] > by_splats.focus[2]
    by_mesh = find_stage(Content("a", mesh=tetrahedron()))
    assert np.isfinite(by_mesh.eye).all()
    nothing = find_stage(Content("a", scene=Scene((), SparsePoints.empty())))
    assert np.linalg.norm(nothing.eye - nothing.focus) > 0.1


def test_a_window_of_any_shape_shows_all_of_a_photograph() -> None:
    tall = Camera(100, 200, 150, 150, 50, 100)
    for aspect in (0.3, 0.5, 1.0, 3.0):
        half_tan = math.tan(fov_to_show(tall, aspect) / 2)
        assert half_tan >= 100 / 150 - 1e-9
        assert half_tan * aspect >= 50 / 150 - 1e-9


def test_frusta_leave_neighbours_apart(world: Any) -> None:
    spacing = 2 * 3.2 * math.sin(math.pi / 10)
    assert 0.01 < frustum_scale(world.scene) < spacing


def test_thumbnails_are_small_and_broken_photographs_have_none(world: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    frame = world.scene.frames[0]
    picture = thumbnail(frame)
    assert picture is not None
    assert picture.shape == (96, 128, 3)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    assert thumbnail(replace(frame, image_path=tmp_path / "broken.jpg")) is None
    assert thumbnail(replace(frame, image_path=tmp_path / "none.jpg")) is None


def test_closing_does_not_wait_for_thumbnails(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recon.viewers import layers

    monkeypatch.setattr(layers, "thumbnail", lambda frame: time.sleep(0.3))
    started = time.monotonic()
    open_viewer(Content("a", scene=world.scene), port=0).close()
    assert time.monotonic() - started < 5
