# SPDX-License-Identifier: Apache-2.0
"""Cameras: projection and its inverse, against OpenCV where that has the model."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from recon.cameras import DISTORTION_COUNT, Camera, CameraModel, look_at
from recon.errors import ReconError

LENSES = {
    CameraModel.PINHOLE: (),
    CameraModel.OPENCV: (-0.2, 0.05, 0.001, -0.002),
    CameraModel.FULL_OPENCV: (-0.2, 0.05, 0.001, -0.002, 0.01, 0.02, -0.01, 0.003),
    CameraModel.OPENCV_FISHEYE: (-0.02, 0.005, 0.001, -0.002),
    CameraModel.EQUIRECTANGULAR: (),
}


def camera(model: CameraModel) -> Camera:
    pose = look_at(np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    return Camera(640, 480, 400.0, 410.0, 330.0, 250.0, model, LENSES[model], pose)


@pytest.mark.parametrize("model", LENSES)
def test_rays_invert_the_projection_at_every_pixel(model: CameraModel) -> None:
    lens = camera(model)
    pixels = lens.pixel_grid()
    again, depths = lens.project_from_cam(lens.ray_directions_in_cam(pixels) * 2.5)
    assert np.abs(again - pixels).max() < 1e-8
    assert (depths > 0).all()


@pytest.mark.parametrize("model", [CameraModel.OPENCV, CameraModel.FULL_OPENCV])
def test_perspective_lenses_equal_opencv(model: CameraModel) -> None:
    lens = camera(model)
    points = np.random.default_rng(0).uniform([-1, -0.7, 2], [1, 0.7, 4], (200, 3))
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), lens.intrinsic_matrix, np.array(lens.distortion))
    assert np.abs(lens.project_from_cam(points)[0] - expected[:, 0]).max() < 1e-9


def test_the_fisheye_equals_opencv() -> None:
    lens = camera(CameraModel.OPENCV_FISHEYE)
    points = np.random.default_rng(0).uniform([-2, -2, 1], [2, 2, 3], (200, 3))
    expected, _ = cv2.fisheye.projectPoints(
        points[:, None], np.zeros(3), np.zeros(3), lens.intrinsic_matrix, np.array(lens.distortion)
    )
    assert np.abs(lens.project_from_cam(points)[0] - expected[:, 0]).max() < 1e-9


def test_a_camera_looks_at_its_target_with_up_upwards() -> None:
    lens = camera(CameraModel.PINHOLE)
    center, depth = lens.project(np.zeros(3))
    above, _ = lens.project(np.array([0.0, 0.0, 0.5]))
    assert np.allclose(center, [lens.cx, lens.cy])
    assert depth == pytest.approx(np.sqrt(14))
    assert above[1] < center[1]
    assert np.allclose(lens.center_in_world, [1, 2, 3])
    assert np.allclose(lens.world_from_cam @ lens.cam_from_world, np.eye(4))


def test_points_behind_the_camera_have_no_pixel() -> None:
    lens = Camera(10, 10, 5.0, 5.0, 5.0, 5.0)
    pixels, _ = lens.project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert np.isnan(pixels[:2]).all()
    assert np.isfinite(pixels[2]).all()


def test_resizing_keeps_what_the_picture_shows() -> None:
    lens = camera(CameraModel.OPENCV)
    small = lens.fitted(320)
    assert (small.width, small.height) == (320, 240)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    assert np.allclose(small.project(points)[0] * 2, lens.project(points)[0])
    assert lens.fitted(10_000) is lens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "size"),
        ({"fx": -1.0}, "intrinsics"),
        ({"cx": float("nan")}, "intrinsics"),
        ({"distortion": (0.1,)}, "coefficients"),
        ({"cam_from_world": np.diag([1.0, 1.0, -1.0, 1.0])}, "rotation"),
        ({"cam_from_world": np.full((4, 4), np.nan)}, "finite"),
        ({"cam_from_world": np.eye(3)}, "4×4"),
    ],
)
def test_impossible_cameras_are_refused(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"width": 8, "height": 8, "fx": 5.0, "fy": 5.0, "cx": 4.0, "cy": 4.0}
    with pytest.raises(ReconError, match=message):
        Camera(**{**fields, **change})  # type: ignore[arg-type]


def test_every_model_says_how_many_coefficients_it_has() -> None:
    assert set(DISTORTION_COUNT) == set(CameraModel)
