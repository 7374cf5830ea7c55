# SPDX-License-Identifier: Apache-2.0
"""Meshes of a density that is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ball_scene import RADIUS, BallRenderer, ball_cameras, ball_color

from recon.errors import ReconError
from recon.surface import MeshConfig, extract_mesh
from recon.surface.density import colors_of_views
from recon.surface.depth_maps import render_depth_maps

CAMERAS = ball_cameras(14, 64)


class SoftBall(BallRenderer):
    """The ball with a density that rises to `peak` over a few hundredths of its radius, and a wall around it all."""

    peak = 60.0
    width = 0.02

    @property
    def density_bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        return (-2.0, -2.0, -1.5), (2.0, 2.0, 1.4)

    def density(self, points: torch.Tensor) -> torch.Tensor:
        assert points.dtype == torch.float32
        radii = points.norm(dim=1)
        ball = self.peak * torch.sigmoid((RADIUS - radii) / self.width)
        # Trained fields hold what nobody sees, inside and beyond.
        return torch.where(radii < 0.5, torch.zeros(()), ball)


class HardBall(SoftBall):
    """Nothing outside at all."""

    def density(self, points: torch.Tensor) -> torch.Tensor:
        return super().density(points) * (points.norm(dim=1) < RADIUS + 0.02)


@pytest.mark.parametrize("voxel", [0.1, 0.05])
def test_the_surface_is_the_balls(voxel: float) -> None:
    mesh = extract_mesh(SoftBall(), CAMERAS, MeshConfig(method="density", voxel_size=voxel, smoothing=0))
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert np.median(np.abs(radii - RADIUS)) < 0.001
    assert np.abs(radii - RADIUS).max() < 0.004
    assert mesh.face_areas.sum() == pytest.approx(4 * np.pi * RADIUS**2, rel=0.02)
    assert mesh.colors is not None
    assert np.quantile(np.abs(mesh.colors / 255 - ball_color(mesh.vertices)), 0.95) < 0.06
    assert mesh.normals is not None
    assert ((mesh.normals * mesh.vertices).sum(1) > 0.9).mean() > 0.95


def test_the_usual_cleaning_keeps_it_there() -> None:
    mesh = extract_mesh(SoftBall(), CAMERAS, MeshConfig(method="density", max_faces=3000))
    assert 1500 < len(mesh.faces) <= 3000
    assert np.median(np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS)) < 0.005


def test_beside_empty_space_the_surface_stays_near() -> None:
    config = MeshConfig(method="density", voxel_size=0.05, smoothing=0)
    radii = np.linalg.norm(extract_mesh(HardBall(), CAMERAS, config).vertices, axis=1)
    assert np.quantile(np.abs(radii - RADIUS), 0.95) < 0.005
    # Where the normal leaves the ball beside a lattice point that is empty, half a voxel is not far enough.
    assert np.abs(radii - RADIUS).max() < 0.05


def test_the_level_may_be_given() -> None:
    config = MeshConfig(method="density", voxel_size=0.05, density_level=SoftBall.peak / (1 + np.e), smoothing=0)
    radii = np.linalg.norm(extract_mesh(SoftBall(), CAMERAS, config).vertices, axis=1)
    assert np.median(radii) == pytest.approx(RADIUS + SoftBall.width, abs=0.003)


def test_memory_bounds_the_lattice() -> None:
    config = MeshConfig(method="density", max_memory_gib=0.01)
    mesh = extract_mesh(SoftBall(), CAMERAS, config)
    assert np.median(np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS)) < 0.02
    with pytest.raises(ReconError, match="max_memory_gib"):
        extract_mesh(SoftBall(), CAMERAS, replace(config, voxel_size=0.01))


def test_what_cannot_be_meshed_is_told() -> None:
    with pytest.raises(ReconError, match="has no density"):
        extract_mesh(BallRenderer(), CAMERAS, MeshConfig(method="density"))
    with pytest.raises(ReconError, match="is outside of"):
        far = MeshConfig(method="density", bounds=(-0.9, -0.9, 0.3, 0.9, 0.9, 1.2))

        class Elsewhere(SoftBall):
            @property
            def density_bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
                return (5.0, 5.0, 5.0), (6.0, 6.0, 6.0)

        extract_mesh(Elsewhere(), CAMERAS, far)

    class Nothing(SoftBall):
        def density(self, points: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(points))

    with pytest.raises(ReconError, match="zero at most of the surface"):
        extract_mesh(Nothing(), CAMERAS, MeshConfig(method="density"))
    for level in (0.0, -1.0, float("nan")):
        with pytest.raises(ReconError, match="density_level"):
            MeshConfig(density_level=level)


def test_colours_come_from_the_views_that_see() -> None:
    maps = render_depth_maps(BallRenderer(), CAMERAS[:1], MeshConfig())
    toward = CAMERAS[0].center_in_world / np.linalg.norm(CAMERAS[0].center_in_world)
    points = np.array([toward, -toward])
    colors = colors_of_views(points, maps)
    assert np.abs(colors[0] / 255 - ball_color(points[:1])).max() < 0.05
    # Nobody sees the far side, which borrows from the nearest place that is seen.
    assert np.array_equal(colors[0], colors[1])
    assert colors_of_views(3 * points, maps).tolist() == [[128, 128, 128]] * 2
