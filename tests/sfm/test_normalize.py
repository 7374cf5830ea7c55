# SPDX-License-Identifier: Apache-2.0
"""Which way is up, and how large the world is."""

from __future__ import annotations

import numpy as np
import pytest

from recon.cameras import Camera, look_at
from recon.sfm.normalize import MEDIAN_DEPTH, normalizing_similarity, rotation_to_z, up_direction
from tests.sfm.scenes import arc_of_cameras, plain_lens
from tests.sfm.test_alignment import turn

TILT = turn(0.9, (1, 2, -1))
UP = TILT @ [0, 0, 1.0]


def tilted(cameras: list[Camera]) -> list[Camera]:
    """The same cameras in a world that is turned by `TILT`."""
    moved = []
    for camera in cameras:
        pose = camera.cam_from_world.copy()
        pose[:3, :3] = pose[:3, :3] @ TILT.T
        moved.append(camera.with_pose(pose))
    return moved


def rolled(camera: Camera, degrees: float) -> Camera:
    pose = camera.cam_from_world.copy()
    return camera.with_pose(
        np.block([[turn(np.radians(degrees), (0, 0, 1)) @ pose[:3, :3], np.zeros((3, 1))], [np.zeros((1, 3)), 1]])
    )


def degrees_between(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def test_level_cameras_tell_up() -> None:
    assert degrees_between(up_direction(tilted(arc_of_cameras(12, plain_lens()))), UP) < 0.5


def test_some_portrait_photos_do_not_tip_the_world() -> None:
    cameras = arc_of_cameras(12, plain_lens(), degrees=200)
    cameras[2:5] = [rolled(camera, 90) for camera in cameras[2:5]]
    assert degrees_between(up_direction(tilted(cameras)), UP) < 2.0


def test_shaky_hands_average_out() -> None:
    generator = np.random.default_rng(4)
    cameras = [rolled(camera, generator.normal(0, 4)) for camera in arc_of_cameras(30, plain_lens(), degrees=300)]
    assert degrees_between(up_direction(tilted(cameras)), UP) < 3.0


def test_a_wall_seen_from_one_side() -> None:
    lens = plain_lens()
    cameras = [
        lens.with_pose(look_at(np.array([x, -4.0, 0.1 * x]), np.array([x, 0.0, 0.0]), np.array([0.0, 0, 1])))
        for x in np.linspace(-2, 2, 9)
    ]
    assert degrees_between(up_direction(tilted(cameras)), UP) < 3.0


def test_looking_down_from_above() -> None:
    lens = plain_lens()
    cameras = []
    for index, angle in enumerate(np.radians(np.arange(0, 360, 30))):
        heading = np.array([np.cos(angle), np.sin(angle), 0.0])
        eye = np.array([index % 4, index // 4, 10.0])
        cameras.append(lens.with_pose(look_at(eye, eye - [0, 0, 10.0], heading)))
    assert degrees_between(up_direction(tilted(cameras)), UP) < 2.0


@pytest.mark.parametrize("up", [(0, 0, 1.0), (0, 0, -1.0), (1.0, 2, 3), (0, 1.0, 0)])
def test_the_rotation_takes_up_to_z(up: tuple[float, float, float]) -> None:
    rotation = rotation_to_z(np.array(up), np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation @ up, [0, 0, np.linalg.norm(up)], atol=1e-12)


def test_scale_and_origin() -> None:
    cameras = tilted(arc_of_cameras(8, plain_lens()))
    positions = np.random.default_rng(0).normal(size=(101, 3)) + [5.0, 0, 0]
    depths = np.random.default_rng(1).uniform(2, 12, 999)
    found = normalizing_similarity(cameras, positions, depths)
    assert found.scale * np.median(depths) == pytest.approx(MEDIAN_DEPTH)
    np.testing.assert_allclose(found.apply(np.median(positions, axis=0)), 0, atol=1e-12)
    assert normalizing_similarity(cameras, positions, depths, meters_per_unit=1.0).scale == 1.0
    assert np.isfinite(normalizing_similarity(cameras, np.zeros((0, 3)), np.zeros(0)).translation).all()
