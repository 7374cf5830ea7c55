# SPDX-License-Identifier: Apache-2.0
"""Where the splats start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.methods.splat.config import SplatConfig
from recon.methods.splat.model import initial_splats, neighbour_distances
from recon.scene import Scene, SparsePoints


def test_neighbour_distances() -> None:
    line = np.array([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [6, 0, 0]])
    np.testing.assert_allclose(neighbour_distances(line)[0], np.sqrt((1 + 9 + 36) / 3))
    assert neighbour_distances(line[:1]).tolist() == [1.0]
    assert neighbour_distances(line[:0]).tolist() == []
    assert neighbour_distances(np.zeros((5, 3))).tolist() == [0.0] * 5


def test_the_start_has_the_points_colours_and_obeys_the_budget(toy_scene: Scene) -> None:
    random = np.random.default_rng(0)
    count = 500
    points = SparsePoints(
        random.normal(size=(count, 3)),
        random.integers(0, 256, (count, 3)).astype(np.uint8),
        np.ones(count, np.float32),
        np.full(count, 2, np.int32),
    )
    scene = Scene(toy_scene.frames, points)
    splats = initial_splats(scene, SplatConfig(max_gaussians=1000), np.random.default_rng(1))
    assert len(splats) == count
    order = torch.cdist(splats.means.double(), torch.from_numpy(points.positions)).argmin(1)
    torch.testing.assert_close(
        splats.base_colors, torch.from_numpy(points.colors).float()[order] / 255, rtol=0, atol=1e-6
    )
    assert float(splats.opacities.max()) == pytest.approx(0.1)
    assert len(initial_splats(scene, SplatConfig(max_gaussians=70), np.random.default_rng(1))) == 70


def test_points_in_one_place_still_start(toy_scene: Scene) -> None:
    points = SparsePoints(
        np.zeros((200, 3)), np.zeros((200, 3), np.uint8), np.ones(200, np.float32), np.full(200, 2, np.int32)
    )
    splats = initial_splats(Scene(toy_scene.frames, points), SplatConfig(), np.random.default_rng(1))
    assert bool(torch.isfinite(splats.log_scales).all())


def test_without_points_the_start_is_where_cameras_look(toy_scene: Scene) -> None:
    splats = initial_splats(toy_scene, SplatConfig(random_points=300), np.random.default_rng(1))
    assert len(splats) == 300
    seen = np.zeros(300, bool)
    for frame in toy_scene.frames:
        pixels, _ = frame.camera.project(splats.means.double().numpy())
        with np.errstate(invalid="ignore"):
            seen |= ((pixels >= 0) & (pixels <= [24, 16])).all(1)
    assert seen.all()
