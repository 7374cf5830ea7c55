# SPDX-License-Identifier: Apache-2.0
"""Points on the surface that a renderer shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ball_scene import RADIUS, BallRenderer, ball_cameras, ball_color

from recon.cameras import Camera
from recon.errors import ReconError
from recon.render import RenderOptions, RenderOutput
from recon.surface.points import contracted, sample_surface

CAMERAS = ball_cameras(16, 48)


@pytest.mark.parametrize("most", [500, 4000])
def test_points_lie_on_the_surface_in_its_colours(most: int) -> None:
    points = sample_surface(BallRenderer(), CAMERAS, most)
    assert 0.4 * most < len(points) <= most
    radii = np.linalg.norm(points.positions, axis=1)
    cell = (4 * np.pi / most) ** 0.5
    # The mean of a cell's points lies a little below a curved surface.
    assert RADIUS - cell**2 < radii.min()
    assert radii.max() < RADIUS + 1e-3
    error = np.abs(points.colors / 255 - ball_color(points.positions))
    assert np.quantile(error, 0.95) < 0.05
    assert points.track_lengths.min() >= 1
    assert points.track_lengths.max() <= len(CAMERAS)
    again = sample_surface(BallRenderer(), CAMERAS, most)
    assert np.array_equal(points.positions, again.positions)


def test_points_are_spread_evenly() -> None:
    """All around the ball where cameras are, however many of them look there."""
    crowded = CAMERAS + 3 * CAMERAS[:2]
    directions = sample_surface(BallRenderer(), crowded, 1500).positions
    octants = (directions > 0) @ [1, 2, 4]
    counts = np.bincount(octants, minlength=8)
    assert counts.min() > 0.4 * counts.max()


def test_what_one_camera_sees_alone_is_left_out() -> None:
    class Floating(BallRenderer):
        def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
            output = super().render(camera, options)
            if np.array_equal(camera.cam_from_world, CAMERAS[3].cam_from_world):
                assert output.depth is not None
                output.depth[:10] = 0.5
                output.alpha[:10] = 1
            return output

    points = sample_surface(Floating(), CAMERAS, 2000)
    assert np.linalg.norm(points.positions, axis=1).max() < RADIUS + 1e-2


def test_far_points_are_sparser_than_near_ones() -> None:
    centers = np.array([camera.center_in_world for camera in CAMERAS])
    line = np.linspace(0, 1e6, 2000)[:, None] * np.array([[1.0, 0, 0]])
    places = contracted(line, centers)
    assert np.abs(places).max() < 2
    assert (np.diff(places[:, 0]) > 0).all()
    extent = np.linalg.norm(centers - centers.mean(0), axis=1).max()
    np.testing.assert_allclose(
        contracted(0.5 * centers, 0 * centers + centers), (0.5 * centers - centers.mean(0)) / extent
    )


def test_nothing_to_see_is_told() -> None:
    class Empty:
        def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
            nothing = torch.zeros(camera.height, camera.width)
            return RenderOutput(nothing[..., None].expand(-1, -1, 3), nothing, nothing, nothing)

    with pytest.raises(ReconError, match="0 pixels of 16 cameras"):
        sample_surface(Empty(), CAMERAS)
    with pytest.raises(ReconError, match="two or more"):
        sample_surface(BallRenderer(), CAMERAS[:1])
