# SPDX-License-Identifier: Apache-2.0
"""Rays pass through the pixels whose colours they carry."""

from __future__ import annotations

import numpy as np
import torch
from ball import SIDE, SceneMaker, see_ball

from recon.methods.nerf.config import NerfConfig
from recon.methods.nerf.pixels import PixelBank, rays_of
from recon.methods.nerf.render import pinhole_rays
from recon.views import load_views

CPU = torch.device("cpu")


def test_rays_carry_what_their_photograph_shows(make_ball: SceneMaker) -> None:
    scene = make_ball()
    views = load_views(scene, SIDE)
    bank = PixelBank(views, NerfConfig(), CPU)
    assert len(bank) == 16 * SIDE * SIDE
    pixels = bank.draw(500, np.random.default_rng(0))
    poses = torch.from_numpy(np.stack([view.camera.cam_from_world for view in views]).astype(np.float32))
    batch = rays_of(pixels, poses)
    assert batch.opacity is None
    assert len(set(batch.photographs.tolist())) == 16
    for row in range(0, 500, 25):
        view = views[int(batch.photographs[row])]
        point = batch.origins[row].double().numpy() + 2 * batch.directions[row].double().numpy()
        (pixel,), _ = view.camera.project(point[None])
        column, line = (int(value) for value in pixel)
        assert np.abs(pixel - [column + 0.5, line + 0.5]).max() < 1e-3
        expected = view.image[line, column] / 255
        np.testing.assert_allclose(batch.colors[row].numpy(), expected, atol=1e-6)


def test_masks_choose_pixels_or_become_opacity(make_ball: SceneMaker) -> None:
    views = load_views(make_ball(masked=True), SIDE)
    inside = sum(int((see_ball(view.camera)[1] > 0).sum()) for view in views)
    ignoring = PixelBank(views, NerfConfig(), CPU)
    assert abs(len(ignoring) - inside) < 0.02 * inside
    alpha = PixelBank(views, NerfConfig(masks="alpha"), CPU).draw(2000, np.random.default_rng(1))
    assert alpha.opacity is not None
    share = inside / (16 * SIDE * SIDE)
    assert abs(float(alpha.opacity.mean()) - share) < 0.05
    assert len(PixelBank(views, NerfConfig(masks="off"), CPU)) == 16 * SIDE * SIDE


def test_whole_pictures_have_the_same_rays(make_ball: SceneMaker) -> None:
    camera = make_ball().frames[2].camera
    origin, directions, cosines = pinhole_rays(camera, CPU)
    rays = camera.ray_directions_in_cam(camera.pixel_grid()).reshape(-1, 3) @ camera.world_from_cam[:3, :3].T
    np.testing.assert_allclose((directions / cosines[:, None]).numpy(), rays, atol=1e-5)
    np.testing.assert_allclose(origin.numpy(), camera.center_in_world, atol=1e-5)
