# SPDX-License-Identifier: Apache-2.0
"""Similarities and the held-out protocol."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from recon.cameras import Camera
from recon.scene import Similarity, held_out_names


def some_similarity(seed: int) -> Similarity:
    generator = np.random.default_rng(seed)
    rotation = Rotation.random(rng=generator).as_matrix()
    return Similarity(float(generator.uniform(0.2, 5)), rotation, generator.normal(size=3))


def test_a_similarity_and_its_inverse_cancel() -> None:
    points = np.random.default_rng(1).normal(size=(20, 3))
    transform = some_similarity(0)
    assert np.allclose(transform.inverse().apply(transform.apply(points)), points)
    assert np.allclose(transform.apply(transform.inverse().apply(points)), points)


def test_composition_applies_the_argument_first() -> None:
    points = np.random.default_rng(1).normal(size=(20, 3))
    first, second = some_similarity(0), some_similarity(1)
    assert np.allclose(second.compose(first).apply(points), second.apply(first.apply(points)))


def test_moving_world_and_camera_together_leaves_the_picture() -> None:
    transform = some_similarity(2)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    pose[:3, 3] = [0.1, -0.2, 5]
    camera = Camera(100, 80, 90.0, 90.0, 50.0, 40.0, cam_from_world=pose)
    points = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    pixels, depths = camera.project(points)
    moved_pixels, moved_depths = camera.with_pose(transform.apply_to_pose(pose)).project(transform.apply(points))
    assert np.allclose(pixels, moved_pixels)
    assert np.allclose(moved_depths, depths * transform.scale)


def test_every_eighth_name_in_order_is_held_out() -> None:
    names = [f"{i:03d}.jpg" for i in range(20)]
    assert held_out_names(list(reversed(names))) == ["000.jpg", "008.jpg", "016.jpg"]
    assert held_out_names(names, 0) == []
    assert held_out_names(["b", "a"]) == ["a"]
