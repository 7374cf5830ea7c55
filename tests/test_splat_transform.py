# SPDX-License-Identifier: Apache-2.0
"""A transformed scene from a transformed camera is the same picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from recon.cameras import Camera, look_at
from recon.formats.splat_axes import splats_from_world
from recon.rasterization import RasterizeOptions, rasterize
from recon.scene import Similarity
from recon.splat_transform import harmonics_matrix, quaternion_of, rotation_of, transform_splats
from recon.splats import Splats


def some_splats(degree: int, dtype: torch.dtype = torch.float64, count: int = 60) -> Splats:
    generator = torch.Generator().manual_seed(degree)
    return Splats(
        means=torch.randn(count, 3, generator=generator, dtype=dtype),
        quats=torch.randn(count, 4, generator=generator, dtype=dtype),
        log_scales=torch.randn(count, 3, generator=generator, dtype=dtype) * 0.4 - 1.5,
        opacity_logits=torch.randn(count, generator=generator, dtype=dtype) * 2,
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=generator, dtype=dtype) * 0.4,
    )


SIMILARITY = Similarity(1.7, Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix(), np.array([0.3, -2.0, 1.5]))
POSE = look_at(np.array([3.0, -4.0, 2.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
CAMERA = Camera(48, 40, 45.0, 45.0, 24.0, 20.0, cam_from_world=POSE)


def picture(splats: Splats, camera: Camera) -> torch.Tensor:
    return rasterize(splats, camera, RasterizeOptions(depth=True), backend="reference").output.rgb


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_moved_scene_from_the_moved_camera_is_the_same_picture(degree: int) -> None:
    splats = some_splats(degree)
    expected = picture(splats, CAMERA)
    moved_camera = CAMERA.with_pose(SIMILARITY.apply_to_pose(CAMERA.cam_from_world))
    seen = picture(transform_splats(splats, SIMILARITY), moved_camera)
    torch.testing.assert_close(seen, expected, atol=1e-9, rtol=0)
    # The comparison can fail: with harmonics that were left behind, the colours differ.
    if degree:
        wrong = transform_splats(splats, SIMILARITY)
        object.__setattr__(wrong, "sh", splats.sh)
        assert (picture(wrong, moved_camera) - expected).abs().max() > 0.01


def test_in_float32_the_kernels_show_the_same_picture_too() -> None:
    splats = some_splats(3, torch.float32, 300)
    camera = CAMERA.with_pose(SIMILARITY.apply_to_pose(CAMERA.cam_from_world))
    expected = rasterize(splats, CAMERA).output.rgb
    seen = rasterize(transform_splats(splats, SIMILARITY), camera).output.rgb
    assert (seen - expected).abs().max() < 2e-3
    assert (seen - expected).abs().mean() < 1e-5


def test_there_and_back_is_where_it_was() -> None:
    splats = some_splats(3)
    back = transform_splats(transform_splats(splats, SIMILARITY), SIMILARITY.inverse())
    for name in ("means", "log_scales", "sh"):
        torch.testing.assert_close(getattr(back, name), getattr(splats, name), atol=1e-12, rtol=1e-12)
    turned = (back.quats * splats.quats).sum(1).abs() / splats.quats.norm(dim=1) / back.quats.norm(dim=1)
    torch.testing.assert_close(turned, torch.ones_like(turned), atol=1e-12, rtol=0)


def test_what_is_not_concerned_keeps_its_bits() -> None:
    splats = some_splats(3, torch.float32)
    moved = transform_splats(splats, Similarity(1.0, np.eye(3), np.array([1.0, 2.0, 3.0])))
    assert moved.sh is splats.sh
    assert moved.quats is splats.quats
    assert moved.log_scales is splats.log_scales
    assert torch.equal(transform_splats(splats, Similarity()).means, splats.means)
    assert transform_splats(splats, Similarity(2.0)).sh is splats.sh


def test_matrices_of_harmonics_are_rotations_and_multiply_as_rotations_do() -> None:
    one, other = Rotation.random(2, random_state=0).as_matrix()
    for band in (1, 2, 3):
        first, second = harmonics_matrix(one, band), harmonics_matrix(other, band)
        np.testing.assert_allclose(first @ first.T, np.eye(2 * band + 1), atol=1e-13)
        np.testing.assert_allclose(harmonics_matrix(one @ other, band), first @ second, atol=1e-13)


def test_a_quarter_turn_agrees_with_the_one_of_the_file_formats() -> None:
    splats = some_splats(3)
    quarter = Similarity(1.0, np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
    ours, theirs = transform_splats(splats, quarter), splats_from_world(splats, "-y")
    torch.testing.assert_close(ours.means, theirs.means)
    torch.testing.assert_close(ours.sh, theirs.sh)
    camera = CAMERA.with_pose(quarter.apply_to_pose(CAMERA.cam_from_world))
    torch.testing.assert_close(picture(ours, camera), picture(theirs, camera), atol=1e-9, rtol=0)


def test_quaternions_and_matrices_say_the_same() -> None:
    for rotation in Rotation.random(20, random_state=1).as_matrix():
        np.testing.assert_allclose(rotation_of(quaternion_of(rotation)), rotation, atol=1e-14)
    np.testing.assert_allclose(rotation_of(np.array([0, 0, 0, 2.0])), np.diag([-1.0, -1, 1]), atol=1e-15)


def test_no_splats_are_no_trouble() -> None:
    empty = some_splats(2, count=1).select(torch.zeros(1, dtype=torch.bool))
    assert len(transform_splats(empty, SIMILARITY)) == 0
