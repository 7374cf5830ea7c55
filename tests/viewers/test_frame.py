# SPDX-License-Identifier: Apache-2.0
"""The viewer's frame: what panels stand on."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recon.rasterization import SplatRenderer
from recon.scene import Similarity
from recon.surface.mesh import Mesh
from recon.viewers import Content, open_viewer
from recon.viewers.layers import quaternion_wxyz
from recon.viewers.picking import surface_at
from recon.viewers.viewer import Viewer


@pytest.fixture
def viewer(world: Any):
    mesh = Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32), None)
    with open_viewer(Content("a", world.splats, world.scene, mesh), port=0) as opened:
        yield opened


def client_at(viewer: Viewer, camera: Any) -> Any:
    """What a browser that stands in a camera is to `depth_at`."""
    state = SimpleNamespace(
        wxyz=np.array(quaternion_wxyz(camera.world_from_cam[:3, :3])),
        position=camera.center_in_world * viewer.stage.scale,
        fov=2 * math.atan(0.5 * camera.height / camera.fy),
        image_width=camera.width,
        image_height=camera.height,
    )
    return SimpleNamespace(camera=state)


def test_tabs_are_there_once_they_are_asked_for(viewer: Viewer) -> None:
    assert "View" in viewer.tabs
    assert "Nothing of the kind" not in viewer.tabs
    tab = viewer.tabs["Nothing of the kind"]
    assert viewer.tabs["Nothing of the kind"] is tab


def test_other_splats_replace_the_shown_ones(viewer: Viewer, world: Any) -> None:
    half = world.splats.select(torch.arange(0, len(world.splats), 2))
    viewer.set_splats(half)
    assert viewer.splats is half
    assert viewer.content.splats is world.splats
    assert isinstance(viewer.exact.renderer, SplatRenderer)
    assert len(viewer.exact.renderer.splats) == len(half)
    assert len(viewer.layers["splats"].prepared.centers) == len(half)


def test_the_surface_under_a_pixel(viewer: Viewer, world: Any) -> None:
    camera = world.cameras[2]
    for x, y in [(160.5, 120.5), (100.0, 150.0), (200.25, 180.75)]:
        point = viewer.depth_at(client_at(viewer, camera), x, y)
        assert point is not None
        (u, v), depth = camera.project(point)
        np.testing.assert_allclose([u, v], [x, y], atol=1e-3)
        whole = SplatRenderer(world.splats).render(camera, None)
        assert whole.alpha[int(y), int(x)] > 0.3
        assert 1.5 < depth < 6
    sky = replace(camera, cy=camera.cy + 2000)
    assert surface_at(SplatRenderer(world.splats), sky, 160, 5) is None
    viewer.set_splats(world.splats.select(torch.arange(0)))
    assert viewer.depth_at(client_at(viewer, camera), 160, 120) is None


def test_a_pixel_on_a_ball_is_on_the_ball(viewer: Viewer, world: Any) -> None:
    camera = world.cameras[0]
    center = np.array([0.0, 0.0, 0.5])
    (x, y), _ = camera.project(center)
    point = viewer.depth_at(client_at(viewer, camera), x, y)
    assert point is not None
    assert abs(np.linalg.norm(point - center) - 0.5) < 0.12


def test_cameras_points_and_mesh_move_together(viewer: Viewer, world: Any) -> None:
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    move = Similarity(2.0, turn, np.array([1.0, 2.0, 3.0]))
    viewer.set_world(move)
    assert viewer.scene is not None
    for frame, camera, handle in zip(viewer.scene.frames, world.cameras, viewer.layers["cameras"].handles):
        expected = move.apply(camera.center_in_world)
        np.testing.assert_allclose(frame.camera.center_in_world, expected, atol=1e-9)
        np.testing.assert_allclose(handle.position, expected * viewer.stage.scale, atol=1e-9)
    np.testing.assert_allclose(viewer.scene.points.positions, move.apply(world.scene.points.positions))
    assert viewer.layers["mesh"].handle.scale == 2.0
    np.testing.assert_allclose(viewer.layers["points"].handle.position, np.array([1.0, 2, 3]) * viewer.stage.scale)
    viewer.set_world(Similarity())
    np.testing.assert_allclose(viewer.layers["cameras"].handles[0].position, world.cameras[0].center_in_world)
