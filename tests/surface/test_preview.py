# SPDX-License-Identifier: Apache-2.0
"""Pictures of meshes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from surface.analytic_shapes import FieldRenderer, cameras_around, color_at, sphere_field, sphere_mesh

from recon.render import Renderer, RenderOptions
from recon.surface.mesh import Mesh
from recon.surface.preview import MeshRenderer, orbit_cameras, preview_sheet

EVERYTHING = RenderOptions(background=(0.2, 0.3, 0.4), depth=True, normal=True)


def test_a_mesh_looks_like_its_surface() -> None:
    camera = cameras_around(5, 3.0)[1]
    renderer = MeshRenderer(sphere_mesh(1.0, 96))
    assert isinstance(renderer, Renderer)
    seen = renderer.render(camera, EVERYTHING)
    exact = FieldRenderer(sphere_field((0, 0, 0), 1.0)).render(camera, EVERYTHING)
    both = (seen.alpha > 0) & (exact.alpha > 0)
    assert float((seen.alpha != exact.alpha).float().mean()) < 0.01
    assert seen.depth is not None
    assert exact.depth is not None
    assert float((seen.depth - exact.depth)[both].abs().median()) < 1e-3
    assert float((seen.rgb - exact.rgb)[both].abs().median()) < 0.01
    torch.testing.assert_close(seen.rgb[~both & (seen.alpha == 0)][0], torch.tensor([0.2, 0.3, 0.4]))
    # Normals stand on the surface, towards the camera.
    assert seen.normal is not None
    rays = camera.ray_directions_in_cam(camera.pixel_grid()) @ camera.cam_from_world[:3, :3]
    points = camera.center_in_world + rays * seen.depth.double().numpy()[..., None]
    alignment = (seen.normal.numpy() * points).sum(-1)[both.numpy()]
    assert alignment.min() > 0.98
    assert (seen.normal[~both] == 0).all() or float(seen.normal[seen.alpha == 0].abs().max()) == 0


def test_what_was_not_asked_for_is_not_given() -> None:
    seen = MeshRenderer(sphere_mesh(1.0, 8)).render(cameras_around(3, 3.0)[0], RenderOptions())
    assert seen.depth is None
    assert seen.normal is None
    assert seen.median_depth is None


def test_the_inside_is_shaded_too() -> None:
    """Seen from inside, normals turn towards the camera, so that rooms are not black."""
    renderer = MeshRenderer(sphere_mesh(5.0, 24), "shaded")
    seen = renderer.render(cameras_around(3, 1.0)[0], EVERYTHING)
    assert float(seen.alpha.min()) == 1
    assert float(seen.rgb.median()) > 0.3


@pytest.mark.parametrize("style", ["color", "shaded", "normals"])
def test_styles_differ_and_stay_in_range(style: str) -> None:
    mesh = sphere_mesh(1.0, 24)
    seen = MeshRenderer(mesh, style, supersample=2).render(cameras_around(4, 3.0)[2], RenderOptions((1, 1, 1)))  # type: ignore[arg-type]
    assert 0 <= float(seen.rgb.min()) <= float(seen.rgb.max()) <= 1.0001
    border = (seen.alpha > 0) & (seen.alpha < 1)
    assert border.any()  # averaged edges
    assert float(seen.rgb[seen.alpha == 1].std()) > 0.05


def test_a_mesh_without_colours_is_clay() -> None:
    plain = Mesh(sphere_mesh().vertices, sphere_mesh().faces)
    camera = cameras_around(4, 3.0)[2]
    seen, clay = (MeshRenderer(plain, style).render(camera, RenderOptions()) for style in ("color", "shaded"))
    assert torch.equal(seen.rgb, clay.rgb)


def test_an_empty_mesh_is_background() -> None:
    seen = MeshRenderer(Mesh.empty()).render(cameras_around(3, 3.0)[0], EVERYTHING)
    assert float(seen.alpha.max()) == 0
    assert float((seen.rgb - torch.tensor([0.2, 0.3, 0.4])).abs().max()) == 0


def test_orbit_cameras_see_all_of_a_mesh() -> None:
    mesh = sphere_mesh(0.3, 12, (5, -3, 2))
    for camera in orbit_cameras(mesh, 5, 80, 60):
        pixels, depth = camera.project(mesh.vertices)
        assert depth.min() > 0
        assert pixels.min() >= 0
        assert (pixels.max(0) <= [80, 60]).all()
        assert np.ptp(pixels[:, 1]) > 0.8 * 60  # and they come close
        assert camera.cam_from_world[1, 2] < 0  # up is up


def test_the_sheet_has_a_column_per_camera() -> None:
    mesh = sphere_mesh(1.0, 24)
    sheet = preview_sheet(mesh, orbit_cameras(mesh, 3, 80, 60))
    assert sheet.shape == (120, 240, 3)
    assert sheet.dtype == np.uint8
    middle = sheet[30, 40] / 255
    assert np.abs(middle - 1).max() > 0.1
    assert (sheet[0, 0] == 255).all()
    assert np.abs(color_at(mesh.vertices)).max() <= 1  # the shapes' own colours are valid
    assert preview_sheet(Mesh(mesh.vertices, mesh.faces), orbit_cameras(mesh, 2, 80, 60)).shape == (60, 160, 3)
