# SPDX-License-Identifier: Apache-2.0
"""transforms.json: both conventions in, ours out, and what is wrong with a file said in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon.cameras import Camera, CameraModel, look_at
from recon.errors import ReconError
from recon.formats.transforms_json import read_transforms, write_transforms
from recon.scene import Frame, Scene

UP = np.array([0.0, 0.0, 1.0])


def opengl_pose(eye: np.ndarray) -> list[list[float]]:
    """Camera-to-world with x right, y up and z backwards of a camera at `eye` that looks at the origin."""
    backward = eye / np.linalg.norm(eye)
    right = np.cross(UP, backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(backward, right), backward, eye], axis=1)
    return pose.tolist()


def document(folder: Path, count: int = 4, **extras: Any) -> dict[str, Any]:
    (folder / "images").mkdir(exist_ok=True)
    frames = []
    for index in range(count):
        Image.new("RGB", (64, 48)).save(folder / "images" / f"{index}.png")
        eye = np.array([3 * np.cos(index), 3 * np.sin(index), 1.5])
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": opengl_pose(eye)})
    return {"camera_angle_x": 0.8, "frames": frames, **extras}


def written(folder: Path, content: Any) -> Path:
    path = folder / "transforms.json"
    path.write_text(json.dumps(content))
    return path


def test_opengl_axes_become_opencv_axes(tmp_path: Path) -> None:
    scene = read_transforms(written(tmp_path, document(tmp_path))).scene
    for index, frame in enumerate(scene.frames):
        eye = np.array([3 * np.cos(index), 3 * np.sin(index), 1.5])
        assert np.allclose(frame.camera.center_in_world, eye)
        assert np.allclose(frame.camera.cam_from_world, look_at(eye, np.zeros(3), UP))
        # What is above the point looked at is in the upper half of the picture.
        assert frame.camera.project(np.array([[0.0, 0.0, 0.2]]))[0][0, 1] < 24
    assert scene.frames[0].camera.fx == pytest.approx(32 / np.tan(0.4))
    assert scene.frames[0].camera.fy == scene.frames[0].camera.fx
    assert (scene.frames[0].camera.cx, scene.frames[0].camera.cy) == (32, 24)
    assert scene.world.up_is_known


def test_missing_files_are_listed_and_suffixes_found(tmp_path: Path) -> None:
    content = document(tmp_path)
    content["frames"][1]["file_path"] = "images/1"
    content["frames"][2]["file_path"] = "./images/gone.png"
    result = read_transforms(written(tmp_path, content))
    assert result.missing == ("./images/gone.png",)
    assert [frame.name for frame in result.scene.frames] == ["0.png", "1.png", "3.png"]


def test_intrinsics_per_frame_and_every_lens(tmp_path: Path) -> None:
    content = document(tmp_path, w=64.0, h=48.0, fl_x=50, fl_y=51, cx=30, cy=25, k1=0.1, p2=0.01)
    content["frames"][1].update(fl_x=60, k1=0, p2=0)
    content["frames"][2].update(camera_model="OPENCV_FISHEYE", k1=0.1, k2=0.2, k3=0.3, k4=0.4)
    content["frames"][3].update(k3=0.05, k4=0.02)
    frames = read_transforms(written(tmp_path, content)).scene.frames
    assert [frame.camera.model.value for frame in frames] == ["OPENCV", "PINHOLE", "OPENCV_FISHEYE", "FULL_OPENCV"]
    assert frames[0].camera.distortion == (0.1, 0, 0, 0.01)
    assert (frames[1].camera.fx, frames[1].camera.fy) == (60, 51)
    assert frames[2].camera.distortion == (0.1, 0.2, 0.3, 0.4)
    assert frames[3].camera.distortion == (0.1, 0, 0, 0.01, 0.05, 0.02, 0, 0)
    assert len({frame.camera_id for frame in frames}) == 4


def test_instant_ngp_fisheye_and_other_sizes(tmp_path: Path) -> None:
    content = document(tmp_path, w=128, h=96, fl_x=100, cx=60, cy=50, is_fisheye=True, aabb_scale=16)
    camera = read_transforms(written(tmp_path, content)).scene.frames[0].camera
    assert camera.model is CameraModel.OPENCV_FISHEYE
    assert (camera.width, camera.height, camera.fx, camera.cx, camera.cy) == (64, 48, 50, 30, 25)


def test_applied_transform_is_recorded(tmp_path: Path) -> None:
    matrix = [[0, 1, 0, 1], [-1, 0, 0, 2], [0, 0, 1, 3]]
    world = read_transforms(
        written(tmp_path, document(tmp_path, applied_transform=matrix, applied_scale=2.0))
    ).scene.world
    assert world.world_from_source.apply(np.array([1.0, 0.0, 0.0])) == pytest.approx([2, 2, 6])


def test_a_world_with_y_up_is_turned(tmp_path: Path) -> None:
    content = document(tmp_path)
    for frame in content["frames"]:
        turn = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
        frame["transform_matrix"] = (turn @ np.array(frame["transform_matrix"])).tolist()
    scene = read_transforms(written(tmp_path, content)).scene
    assert not scene.world.up_is_known
    assert np.allclose(scene.camera_centers[:, 2], 1.5)


def test_scaled_rotations_are_taken(tmp_path: Path) -> None:
    content = document(tmp_path)
    for frame in content["frames"]:
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, :3] *= 0.01
        frame["transform_matrix"] = matrix[:3].tolist()
    camera = read_transforms(written(tmp_path, content)).scene.frames[0].camera
    assert np.allclose(camera.center_in_world, [3, 0, 1.5])
    assert np.allclose(camera.cam_from_world[:3, :3] @ camera.cam_from_world[:3, :3].T, np.eye(3))


def test_points_are_read(tmp_path: Path) -> None:
    (tmp_path / "cloud.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n1 2 3 10 20 30\n4 5 6 40 50 60\n"
    )
    points = read_transforms(written(tmp_path, document(tmp_path, ply_file_path="cloud.ply"))).scene.points
    assert points.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert points.colors.tolist() == [[10, 20, 30], [40, 50, 60]]


def test_written_files_come_back(tmp_path: Path) -> None:
    scene = read_transforms(written(tmp_path, document(tmp_path, k1=0.1, p1=0.002))).scene
    frames = list(scene.frames)
    fisheye = Camera(64, 48, 40, 41, 31, 25, CameraModel.OPENCV_FISHEYE, (0.1, 0.2, 0.3, 0.4))
    frames[1] = replace(frames[1], camera=fisheye.with_pose(frames[1].camera.cam_from_world), time_s=1.5)
    frames[2] = replace(frames[2], mask_path=frames[2].image_path)
    for some in (scene.frames, tuple(frames)):
        out = tmp_path / "export" / "transforms.json"
        write_transforms(Scene(some), out)
        back = read_transforms(out)
        assert back.missing == ()
        for one, other in zip(back.scene.frames, some, strict=True):
            assert np.allclose(one.camera.cam_from_world, other.camera.cam_from_world, atol=1e-12)
            assert one.camera.intrinsic_matrix.tolist() == other.camera.intrinsic_matrix.tolist()
            assert (one.camera.model, one.camera.distortion) == (other.camera.model, other.camera.distortion)
            assert one.time_s == other.time_s
            assert (one.mask_path is None) == (other.mask_path is None)


def test_rational_lenses_cannot_be_written(tmp_path: Path) -> None:
    camera = Camera(64, 48, 40, 41, 31, 25, CameraModel.FULL_OPENCV, (0.1, 0, 0, 0, 0, 0, 0.1, 0))
    with pytest.raises(ReconError, match="k5"):
        write_transforms(Scene((Frame("a", tmp_path / "a", camera),)), tmp_path / "t.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("frames", None, "list of frames"),
        ("frames", [1], "file_path"),
        ("frames", [{"file_path": 5}], "file_path"),
        ("frames", [], "none of its 0"),
        ("camera_angle_x", "wide", "camera_angle_x"),
        ("camera_angle_x", None, "fl_x"),
        ("camera_angle_x", 4.0, "fl_x"),
        ("fl_x", -5, "focals"),
        ("fl_x", float("nan"), "fl_x"),
        ("fl_x", True, "fl_x"),
        ("w", 1e300, "pixels"),
        ("camera_model", "BANANA", "BANANA"),
        ("matrix", [[1, 2], [3, 4]], "shape"),
        ("matrix", "identity", "transform_matrix"),
        ("matrix", np.zeros((4, 4)).tolist(), "rotation"),
        ("matrix", np.diag([1.0, 1.0, -1.0, 1.0]).tolist(), "rotation"),
        ("matrix", np.full((4, 4), np.inf).tolist(), "finite"),
        ("ply_file_path", "images/0.png", "points"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, key: str, value: Any, message: str) -> None:
    content = document(tmp_path)
    if key == "matrix":
        content["frames"][0]["transform_matrix"] = value
    else:
        content[key] = value
    with pytest.raises(ReconError, match=message):
        read_transforms(written(tmp_path, content))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff", "[" * 100_000])
def test_what_is_no_json_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "transforms.json"
    path.write_text(text)
    with pytest.raises(ReconError):
        read_transforms(path)
    with pytest.raises(ReconError, match="no such file"):
        read_transforms(tmp_path / "other.json")


def test_fox(captures: Path) -> None:
    result = read_transforms(captures / "fox" / "transforms.json")
    assert len(result.scene.frames) == 50
    assert len(result.missing) == 17
    camera = result.scene.frames[0].camera
    assert (camera.width, camera.height, camera.fx, camera.cx) == (1080, 1920, 1375.52, 554.558)
    # All cameras look at the fox, so the point closest to all axes is in front of every one of them.
    forward = np.array([frame.camera.forward_in_world for frame in result.scene.frames])
    projectors = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    target = np.linalg.solve(projectors.sum(0), np.einsum("fij,fj->i", projectors, result.scene.camera_centers))
    for frame in result.scene.frames:
        assert frame.camera.project(target[None])[1][0] > 1
