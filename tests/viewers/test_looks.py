# SPDX-License-Identifier: Apache-2.0
"""What exact pictures show of depth, normals, alpha and error, and photographs over them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon.cameras import Camera
from recon.film.writing import color_picture
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions, RenderOutput
from recon.scene import Frame, Scene, Similarity
from recon.viewers.looks import Look, Show, Studio, compared, make_picture, render_in_bands
from recon.viewers.photos import Photos, Reprojection
from recon.viewers.view_panel import legend_html


def turned(camera: Camera, angle_rad: float) -> Camera:
    """A camera at the same place that looks a little to the side."""
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    pose = np.eye(4)
    pose[:3, :3] = [[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]
    return camera.with_pose(pose @ camera.cam_from_world)


@pytest.fixture(scope="module")
def photographed(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The world's scene, with photographs that show what is rendered; the first has a red square."""
    folder = tmp_path_factory.mktemp("photographed")
    renderer, frames = SplatRenderer(world.splats), []
    for index, camera in enumerate(world.cameras):
        picture = color_picture(renderer.render(camera, RenderOptions())).copy()
        if index == 0:
            picture[150:170, 140:170] = (255, 0, 0)
        path = folder / f"{index:03d}.png"
        Image.fromarray(picture).save(path)
        frames.append(Frame(path.name, path, camera))
    return Scene(tuple(frames))


@pytest.fixture(scope="module")
def studio(world: Any, photographed: Scene) -> Studio:
    return Studio(SplatRenderer(world.splats), (0.0, 0.0, 0.0), Photos(photographed), 3.0)


def shown(studio: Studio, camera: Camera, look: Look, **options: Any) -> Any:
    picture = make_picture(studio, look, camera, options.pop("depth_range", None), lambda: False, **options)
    assert picture is not None
    return picture


def test_colour_is_what_we_render(studio: Studio, world: Any) -> None:
    camera = world.cameras[3]
    expected = color_picture(studio.renderer.render(camera, RenderOptions()))
    found = shown(studio, camera, Look())
    assert np.abs(found.picture.astype(int) - expected).max() <= 1
    assert found.legend is None


@pytest.mark.parametrize("show", ["depth", "normal", "alpha", "ellipsoids", "error"])
def test_every_look_has_a_legend_and_a_picture(studio: Studio, world: Any, show: Show) -> None:
    for full in (True, False):
        found = shown(studio, world.cameras[3], Look(show=show), full=full)
        assert found.picture.shape == (240, 320, 3)
        assert found.picture.std() > 5
        assert found.depth.max() > 1
        assert found.legend is not None
        assert "<script" not in legend_html(replace(found.legend, note="<script>"))


def test_who_gives_up_gets_nothing(studio: Studio, world: Any) -> None:
    assert make_picture(studio, Look(), world.cameras[0], None, lambda: True) is None


def test_depth_keeps_its_scale_while_it_fits(studio: Studio, world: Any) -> None:
    camera = world.cameras[3]
    near, far = shown(studio, camera, Look(show="depth")).depth_range
    assert 1.5 < near < 3 < far < 6
    kept = (near * 1.1, far * 0.9)
    assert shown(studio, camera, Look(show="depth"), depth_range=kept).depth_range == kept
    assert shown(studio, camera, Look(show="depth"), depth_range=(near * 3, far)).depth_range == (near, far)
    in_metres = shown(replace(studio, meters_per_unit=2.0), camera, Look(show="depth")).legend
    assert in_metres.low == f"{near * 2:.3g} m"


def test_no_error_where_the_photograph_shows_what_is_rendered(studio: Studio, world: Any) -> None:
    camera = world.cameras[3]
    found = shown(studio, camera, Look(show="error"))
    # Dark is no error; rows of the sky are grey, since nothing is there.
    dark = found.picture[130:230, 60:260].max(2) < 60
    assert dark.mean() > 0.9
    assert "003.png" in found.legend.note


def test_the_error_is_found_where_it_is_and_moves_with_the_surface(studio: Studio, world: Any) -> None:
    camera = world.cameras[0]
    bright = shown(studio, camera, Look(show="error")).picture.max(2) > 150
    inside = np.zeros_like(bright)
    inside[148:172, 138:172] = True
    assert bright[152:168, 142:168].mean() > 0.6
    assert bright[~inside].mean() < 0.05
    # From another place the square lies where its surface is seen there.
    middle = np.array([[155.0, 160.0]])
    depth = float(studio.renderer.render(camera, RenderOptions(depth=True)).depth[160, 155])
    ray = camera.ray_directions_in_cam(middle)[0]
    point = (ray / ray[2] * depth - camera.cam_from_world[:3, 3]) @ camera.cam_from_world[:3, :3]
    other = turned(camera, 0.15)
    (x, y), _ = other.project(point)
    moved = shown(studio, other, Look(show="error")).picture.max(2) > 150
    rows, columns = np.nonzero(moved[145:180])
    assert abs(np.median(columns) - x) < 8
    assert abs(np.median(rows) + 145 - y) < 8


def test_what_a_photograph_does_not_see_is_grey(studio: Studio, world: Any) -> None:
    assert studio.photos is not None
    camera = world.cameras[5]
    output = studio.renderer.render(camera, RenderOptions(depth=True))
    depth, solid = output.depth.numpy(), (output.alpha > 0.5).numpy()
    opposite = studio.photos.reprojected(0, camera, depth, solid, studio.renderer)
    itself = studio.photos.reprojected(5, camera, depth, solid, studio.renderer)
    assert opposite is not None
    assert itself is not None
    assert itself.seen[solid].mean() > 0.95
    # The near sides of the balls are hidden from a camera behind them.
    assert opposite.seen[solid].mean() < 0.75
    assert not opposite.seen[~solid].any()


def test_a_photograph_lies_over_the_picture_from_where_it_was_taken(studio: Studio, world: Any) -> None:
    photos = studio.photos
    assert photos is not None
    view = photos.view(4)
    assert view is not None
    same = photos.laid_over(4, world.cameras[4], 1e-3)
    assert same is not None
    assert same.seen.all()
    np.testing.assert_allclose(255 * same.colors, view.image, atol=1)
    side = turned(world.cameras[4], 0.2)
    over = photos.laid_over(4, side, 1e-3)
    assert over is not None
    assert 0.5 < over.seen.mean() < 0.95
    # A photograph that shows what is rendered agrees with the rendering in any direction.
    rendered = studio.renderer.render(side, RenderOptions()).rgb.numpy()
    assert np.abs(over.colors - rendered)[over.seen].mean() < 0.02
    assert photos.laid_over(4, world.cameras[5], 1e-3) is None
    assert photos.laid_over(4, turned(world.cameras[4], np.pi), 1e-3) is None


def test_blend_and_swipe() -> None:
    picture = np.zeros((4, 100, 3), np.float32)
    photo = Reprojection(np.full((4, 100, 3), 0.8, np.float32), np.ones((4, 100), bool))
    photo.seen[0] = False
    blended = compared(picture, photo, "blend", 0.25)
    np.testing.assert_allclose(blended[1:], 0.2, atol=1e-6)
    assert (blended[0] == 0).all()
    swiped = compared(picture, photo, "swipe", 0.4)
    np.testing.assert_allclose(swiped[1:, :39], 0.8)
    assert (swiped[:, 39:41] == 1).all()
    assert (swiped[:, 41:] == 0).all()
    assert (compared(picture, photo, "swipe", 0.0)[1:, 1:] == 0).all()
    np.testing.assert_allclose(compared(picture, photo, "swipe", 1.0)[1:, :99], 0.8)


def test_photographs_go_with_their_world_and_broken_ones_are_none(photographed: Scene, tmp_path: Path) -> None:
    photos = Photos(photographed)
    move = Similarity(2.0, np.eye(3), np.array([1.0, 0, 0]))
    photos.set_world(move)
    view = photos.view(1)
    assert view is not None
    expected = move.apply(photographed.frames[1].camera.center_in_world)
    np.testing.assert_allclose(view.camera.center_in_world, expected)
    assert photos.nearest(photos.cameras[7], 3.0) == 7
    assert not (photographed.frames[0].image_path.parent / "cache").exists()
    broken = Photos(Scene((replace(photographed.frames[0], image_path=tmp_path / "none.png"),)))
    assert broken.view(0) is None
    assert broken.laid_over(0, broken.cameras[0], 1.0) is None


def test_a_faded_picture_lets_layers_through(studio: Studio, world: Any) -> None:
    found = shown(replace(studio, opacity=0.5), world.cameras[3], Look())
    whole = shown(studio, world.cameras[3], Look())
    np.testing.assert_allclose(found.picture, whole.picture / 2, atol=1.5)
    assert found.depth.max() == 0


class Rays:
    """A renderer whose colours are the rays' directions."""

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        rays = torch.from_numpy(camera.ray_directions_in_cam(camera.pixel_grid()))
        return RenderOutput(rgb=rays, alpha=rays[..., 0].abs(), depth=rays[..., 1])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_pictures_of_any_renderer_are_made_in_bands(world: Any, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Bands together are the picture, and between two of them it can be given up."""
    monkeypatch.setattr("recon.viewers.looks._FIRST_BAND_PX", 320 * 16)
    renderer, camera, asked = Rays(), world.cameras[0], []
    # Each band is four times as high as the one before: 16, 64 and 160 rows of 240.
    monkeypatch.setattr("recon.viewers.looks.BAND_S", 1e9)
    options = RenderOptions((0.1, 0.2, 0.3), depth=True)
    whole, banded = renderer.render(camera, options), render_in_bands(renderer, camera, options, lambda: False)
    assert banded is not None
    for name in ("rgb", "alpha", "depth"):
        assert torch.equal(getattr(whole, name), getattr(banded, name)), name
    assert banded.normal is None

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > after

    assert (render_in_bands(renderer, camera, options, cancelled) is None) == (after < 2)
