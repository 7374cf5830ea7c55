# SPDX-License-Identifier: Apache-2.0
"""The depth of splats: exact on slanted discs, where the median depth makes a stair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from surface.analytic_shapes import cameras_around

from recon.cameras import Camera, look_at
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.splats import Splats
from recon.surface import MeshConfig, extract_mesh
from recon.surface.preview import MeshRenderer
from recon.surface.splat_depth import SplatSurfaceRenderer, has_surface_depth, splat_surface_depth


def discs(points: np.ndarray, normals: np.ndarray, sigma: float, opacity: float = 0.98) -> Splats:
    """Flat Gaussians on a surface: their third axis is the normal."""
    # The shortest rotation from z to the normal: (1 + n_z, -n_y, n_x, 0), not normalised.
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], 0 * normals[:, 0]], 1)
    quats[normals[:, 2] < -0.999] = (0, 1, 0, 0)
    scales = np.broadcast_to(np.log([sigma, sigma, 0.02 * sigma]), (len(points), 3))

    def as_tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    sh = np.zeros((len(points), 1, 3))
    sh[:, 0] = (0.5 + 0.4 * np.sin(4 * points) - 0.5) / 0.28209479177387814
    logits = torch.full((len(points),), math.log(opacity / (1 - opacity)))
    return Splats(as_tensor(points), as_tensor(quats), as_tensor(scales), logits, as_tensor(sh))


def sphere_splats(count: int = 3000) -> Splats:
    share = 1 - 2 * (np.arange(count) + 0.5) / count
    level, azimuth = np.sqrt(1 - share**2), np.arange(count) * np.pi * (3 - np.sqrt(5))
    points = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), share], 1)
    return discs(points, points, 0.03)


def test_a_slanted_plane_is_exact_where_the_median_is_a_stair(isa: str) -> None:
    normal = np.array([0.6, -0.2, -0.77])
    normal /= np.linalg.norm(normal)
    across = np.cross(normal, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    steps = np.linspace(-5, 5, 101)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    points = np.array([0, 0, 3.0]) + grid[:, :1] * across + grid[:, 1:] * np.cross(normal, across)
    splats = discs(points, np.broadcast_to(normal, points.shape), 0.12)
    camera = Camera(60, 40, 70.0, 70.0, 30.0, 20.0)
    rays = camera.ray_directions_in_cam(camera.pixel_grid())
    true = torch.from_numpy((normal @ [0, 0, 3.0]) / (rays @ normal)).float()
    found = splat_surface_depth(splats, camera)
    assert (found > 0).all()
    error = (found / true - 1).abs()
    assert float(error.max()) < 2e-3
    median = SplatRenderer(splats).render(camera, RenderOptions(depth=True)).median_depth
    assert median is not None
    assert float((median / true - 1).abs().median()) > 5 * float(error.median())


def test_nothing_in_the_way_is_zero() -> None:
    camera = cameras_around(3, 3.0)[0]
    splats = sphere_splats(3000)
    depth = splat_surface_depth(splats, camera)
    assert float(depth[0, 0]) == 0
    assert float(depth[36, 48]) == pytest.approx(2.0, abs=0.05)
    faint = Splats(splats.means, splats.quats, splats.log_scales, torch.full((3000,), -5.0), splats.sh)
    assert (splat_surface_depth(faint, camera) == 0).all()


def test_wild_splats_give_finite_depth() -> None:
    splats = sphere_splats(400)
    splats.log_scales[::3] = torch.tensor([3.0, -30.0, -30.0])
    splats.log_scales[1::7] = -40.0
    splats.quats[::5] *= 1e-3
    pose = look_at(np.array([0.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.5]), np.array([0.0, 0.0, 1.0]))
    for camera in (cameras_around(3, 3.0)[1], cameras_around(3, 3.0)[0].with_pose(pose)):
        depth = splat_surface_depth(splats, camera)
        assert torch.isfinite(depth).all()
        assert float(depth.min()) >= 0


def test_only_splats_have_it() -> None:
    renderer = SplatRenderer(sphere_splats(10))
    assert has_surface_depth(renderer)
    assert not has_surface_depth(MeshRenderer)
    camera = cameras_around(3, 3.0)[0]
    plain = SplatSurfaceRenderer(renderer).render(camera, RenderOptions())
    assert plain.median_depth is None
    assert torch.equal(plain.rgb, renderer.render(camera, RenderOptions()).rgb)


@pytest.mark.parametrize("depth", ["surface", "median", "expected"])
def test_a_mesh_from_splats(depth: str) -> None:
    config = MeshConfig(depth=depth, max_faces=0)  # type: ignore[arg-type]
    mesh = extract_mesh(SplatRenderer(sphere_splats()), cameras_around(16, 3.0), config)
    error = np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1)
    assert np.median(error) < (0.004 if depth == "surface" else 0.03)
    assert mesh.colors is not None
    assert np.median(np.abs(mesh.colors / 255 - (0.5 + 0.4 * np.sin(4 * mesh.vertices)))) < 0.06
