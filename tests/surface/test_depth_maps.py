# SPDX-License-Identifier: Apache-2.0
"""Depth maps: shape of a surface in the picture, and agreement between views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from surface.analytic_shapes import FieldRenderer, cameras_around, sphere_field

from recon.cameras import Camera, look_at
from recon.surface.config import MeshConfig
from recon.surface.depth_maps import DepthMap, confirm, neighbor_views, render_depth_maps, surface_shape
from recon.surface.region import find_focus, find_region


def plane_depth(camera: Camera, normal: np.ndarray, offset: float) -> torch.Tensor:
    rays = camera.ray_directions_in_cam(camera.pixel_grid())
    return torch.from_numpy((offset / (rays @ normal)).astype(np.float32))


def test_the_slant_of_a_plane_is_exact() -> None:
    camera = Camera(40, 30, 50.0, 47.0, 21.0, 13.0)
    normal = np.array([0.5, -0.3, 0.8])
    normal /= np.linalg.norm(normal)
    shape = surface_shape(camera, plane_depth(camera, normal, 2.0))
    rays = camera.ray_directions_in_cam(camera.pixel_grid())
    np.testing.assert_allclose(shape.slant.numpy(), rays @ normal, rtol=1e-3)
    np.testing.assert_allclose(shape.cosine.numpy(), rays @ normal / np.linalg.norm(rays, axis=-1), rtol=1e-3)
    assert float(shape.roughness[1:-1, 1:-1].max()) < 1e-5


def test_a_jump_is_rough_and_does_not_tilt_its_sides() -> None:
    camera = Camera(40, 30, 50.0, 50.0, 20.0, 15.0)
    depth = torch.full((30, 40), 2.0)
    depth[:, 20:] = 3.0
    shape = surface_shape(camera, depth)
    assert (shape.roughness[:, 19:21] > 0.1).all()
    assert float(shape.roughness[:, :18].max()) == 0
    torch.testing.assert_close(shape.slant, torch.ones(30, 40), rtol=1e-4, atol=1e-4)


def test_unknown_pixels_have_no_shape_and_spoil_none() -> None:
    camera = Camera(20, 20, 30.0, 30.0, 10.0, 10.0)
    depth = torch.full((20, 20), 2.0)
    depth[8:12, 8:12] = 0
    shape = surface_shape(camera, depth)
    assert (shape.slant[8:12, 8:12] == 0).all()
    torch.testing.assert_close(shape.slant[depth > 0], torch.ones(int((depth > 0).sum())), rtol=1e-4, atol=1e-4)


def test_grazing_and_far_pixels_count_less() -> None:
    maps = render_depth_maps(FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(6, 3.0), MeshConfig())
    shape = surface_shape(maps[0].camera, maps[0].depth)
    known = maps[0].depth > 0
    facing, grazing = known & (shape.cosine > 0.9), known & (shape.cosine < 0.3)
    assert float(maps[0].confidence[facing].mean()) > 5 * float(maps[0].confidence[grazing].mean())
    assert (maps[0].confidence[~known] == 0).all()
    assert (maps[0].empty == ~known).all()


def test_a_wrong_depth_is_taken_out_and_right_ones_stay() -> None:
    cameras = cameras_around(20, 3.0)
    maps = render_depth_maps(FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras, MeshConfig())
    depth = maps[3].depth.clone()
    spoiled = torch.zeros_like(depth, dtype=torch.bool)
    spoiled[24:32, 32:44] = True
    depth[spoiled] *= 0.8
    broken = [*maps[:3], replace(maps[3], depth=depth), *maps[4:]]
    checked = confirm(broken, MeshConfig())
    assert (checked[3].confidence[spoiled] == 0).all()
    kept = (checked[3].confidence > 0) & ~spoiled
    # The rim is seen at a grazing angle only, where half a pixel is more than the tolerance.
    facing = (surface_shape(maps[3].camera, maps[3].depth).cosine > 0.5) & ~spoiled
    assert float(kept[facing].float().mean()) > 0.97
    untouched = confirm(broken, MeshConfig(confirmations=0))
    assert torch.equal(untouched[3].confidence, broken[3].confidence)


def test_neighbours_look_at_the_same_side() -> None:
    cameras = cameras_around(40, 3.0)
    for i, others in enumerate(neighbor_views(cameras, [3.0] * 40)):
        assert i not in others
        assert len(set(others)) == len(others) == 8
        assert all(cameras[i].forward_in_world @ cameras[j].forward_in_world > -0.2 for j in others)
    assert neighbor_views(cameras[:1], [3.0]) == [[]]
    assert neighbor_views(cameras[:2], [3.0] * 2) == [[1], [0]]


def test_points_of_a_map_lie_on_the_surface() -> None:
    seen = render_depth_maps(FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(6, 3.0), MeshConfig())[2]
    points = seen.points()
    assert len(points) == int((seen.depth > 0).sum())
    assert np.percentile(np.abs(np.linalg.norm(points, axis=1) - 1), 99) < 1e-4
    assert len(seen.points(3)) < len(points) / 7


# ---- the region ------------------------------------------------------------------------------------------------------


def test_cameras_around_an_object_have_a_focus() -> None:
    focus = find_focus([c.with_pose(_moved(c, (4, 5, 6))) for c in cameras_around(20, 3.0)])
    assert focus is not None
    assert focus.is_shared
    np.testing.assert_allclose(focus.position, (4, 5, 6), atol=1e-6)
    assert focus.radius == pytest.approx(3.0)


def test_outward_and_parallel_cameras_have_none() -> None:
    camera = cameras_around(1, 3.0)[0]
    up = np.array([0.0, 0.0, 1.0])
    angles = np.linspace(0, 6, 12)
    directions = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    outwards = [camera.with_pose(look_at(d, 3 * d, up)) for d in directions]
    focus = find_focus(outwards)
    assert focus is None or not focus.is_shared
    along = np.arange(10)[:, None] * np.array([0.0, 1.0, 0.0])
    assert find_focus([camera.with_pose(look_at(e, e + [5, 0, 0], up)) for e in along]) is None
    assert find_focus(outwards[:2]) is None


def test_the_region_follows_the_surface_not_outliers() -> None:
    maps = render_depth_maps(FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(16, 3.0), MeshConfig())
    region = find_region(maps, MeshConfig())
    assert region.kind == "focus"
    assert -1.3 < region.low.min() < -0.95
    assert 0.95 < region.high.max() < 1.3
    assert region.pixel_size == pytest.approx(2.2 / 104, rel=0.1)
    depth = maps[0].depth.clone()
    depth[depth > 0] = 100.0
    spoiled: list[DepthMap] = [replace(maps[0], depth=depth), *maps[1:]]
    np.testing.assert_allclose(find_region(spoiled, MeshConfig()).high, region.high, atol=0.1)


def _moved(camera: Camera, offset: tuple[float, float, float]) -> np.ndarray:
    pose = camera.cam_from_world.copy()
    pose[:3, 3] -= pose[:3, :3] @ np.array(offset)
    return pose
