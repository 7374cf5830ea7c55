# SPDX-License-Identifier: Apache-2.0
"""Fitting similarities and measuring pose errors."""

from __future__ import annotations

import numpy as np
import pytest

from recon.errors import ReconError
from recon.scene import Similarity
from recon.sfm import fit_similarity, pose_errors
from recon.sfm.alignment import rotation_angles_deg, transform_camera
from tests.sfm.scenes import arc_of_cameras, plain_lens


def turn(angle: float, axis: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("seed", range(5))
def test_a_similarity_is_found_again(seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = generator.normal(size=(12, 3))
    true = Similarity(
        generator.uniform(0.1, 9), turn(generator.uniform(0, 3.1), (1, 2, seed)), generator.normal(size=3)
    )
    found = fit_similarity(source, true.apply(source))
    assert found.scale == pytest.approx(true.scale, rel=1e-12)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-12)
    np.testing.assert_allclose(found.apply(source), true.apply(source), atol=1e-11)


def test_mirrored_points_get_a_rotation_not_a_mirror() -> None:
    source = np.random.default_rng(0).normal(size=(20, 3))
    found = fit_similarity(source, source * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


@pytest.mark.parametrize("points", [np.zeros((5, 3)), np.zeros((2, 3)), np.zeros((4, 2))])
def test_degenerate_points_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ReconError, match="fitting a similarity"):
        fit_similarity(points, points)


def test_pose_errors_vanish_under_any_similarity_and_measure_what_is_moved() -> None:
    cameras = arc_of_cameras(7, plain_lens())
    truth = {str(i): camera for i, camera in enumerate(cameras)}
    away = Similarity(2.5, turn(1.1, (1, -1, 2)), np.array([3.0, 2.0, 1.0]))
    moved = {name: transform_camera(camera, away) for name, camera in truth.items()}
    errors = pose_errors(moved, truth)
    assert errors.cameras == 7
    assert errors.center_max < 1e-9
    assert errors.rotation_max_deg < 1e-6
    pose = moved["3"].cam_from_world.copy()
    pose[:3, :3] = turn(np.radians(2.0), (0, 1, 0)) @ pose[:3, :3]
    pose[:3, 3] = -pose[:3, :3] @ moved["3"].center_in_world
    errors = pose_errors({**moved, "3": moved["3"].with_pose(pose)}, truth)
    assert errors.center_max < 1e-9
    assert errors.rotation_max_deg == pytest.approx(2.0, abs=1e-6)
    assert errors.rotation_mean_deg == pytest.approx(2.0 / 7, abs=1e-6)


def test_tiny_and_large_angles() -> None:
    for degrees in (1e-7, 0.5, 90.0, 179.9):
        assert rotation_angles_deg([turn(np.radians(degrees), (1, 1, 0))])[0] == pytest.approx(degrees, rel=1e-6)
