# SPDX-License-Identifier: Apache-2.0
"""The field's region holds what was photographed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ball import RADIUS, SceneMaker

from recon.cameras import Camera
from recon.errors import ReconError
from recon.methods.nerf.config import NerfConfig
from recon.methods.nerf.space import choose_space
from recon.scene import Frame, Scene, SparsePoints
from recon.views import load_views


def test_the_unit_region_holds_the_cameras(make_ball: SceneMaker) -> None:
    scene, config = make_ball(), NerfConfig()
    for points in (scene.points, SparsePoints.empty()):
        space = choose_space(replace(scene, points=points), load_views(scene, 32), config)
        assert space.contracted
        reach = np.abs(scene.camera_centers - np.array(space.center)).max()
        assert reach < space.half_size < 1.3 * reach
        assert np.linalg.norm(space.center) < 0.2


def test_masks_give_a_tight_cube(make_ball: SceneMaker) -> None:
    scene = make_ball(masked=True)
    space = choose_space(scene, load_views(scene, 32), NerfConfig(masks="alpha"))
    assert not space.contracted
    assert RADIUS < space.half_size < 1.5 * RADIUS
    assert np.abs(space.center).max() < 0.15


def test_a_given_size_is_kept(make_ball: SceneMaker) -> None:
    scene, config = make_ball(), NerfConfig()
    config = replace(config, space=replace(config.space, half_size=7.5, kind="bounded"))
    space = choose_space(scene, load_views(scene, 32), config)
    assert space.half_size == 7.5
    assert not space.contracted


def test_a_walk_straight_ahead_has_a_region(make_ball: SceneMaker) -> None:
    frames = []
    for i, frame in enumerate(make_ball().frames):
        pose = np.eye(4)
        pose[2, 3] = -0.1 * i
        frames.append(Frame(frame.name, frame.image_path, frame.camera.with_pose(pose)))
    space = choose_space(Scene(tuple(frames)), [], NerfConfig())
    assert np.isfinite(space.center).all()
    assert 0.5 < space.half_size < 100


def test_poses_that_are_no_numbers_are_refused(make_ball: SceneMaker) -> None:
    scene = make_ball()
    pose = scene.frames[0].camera.cam_from_world.copy()
    pose[0, 3] = 1e300
    bad = object.__new__(Camera)
    for name, value in scene.frames[0].camera.__dict__.items():
        object.__setattr__(bad, name, value)
    object.__setattr__(bad, "cam_from_world", pose * np.nan)
    frames = (replace(scene.frames[0], camera=bad), *scene.frames[1:])
    with pytest.raises(ReconError, match="not finite"):
        choose_space(replace(scene, frames=frames), [], NerfConfig())
