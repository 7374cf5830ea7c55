# SPDX-License-Identifier: Apache-2.0
"""Distances between meshes whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
from surface.analytic_shapes import sphere_mesh

from recon.errors import ReconError
from recon.surface.compare import distance_to_surface, mesh_distance, sample_surface
from recon.surface.mesh import Mesh


def square(side: float, height: float = 0.0) -> Mesh:
    vertices = np.array([[0, 0, height], [side, 0, height], [side, side, height], [0, side, height]])
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32))


def test_parallel_squares_are_their_offset_apart() -> None:
    distance = mesh_distance(square(1.0, 0.02), square(1.0), (0.019, 0.021), samples=5000)
    for value in (
        distance.accuracy_median,
        distance.accuracy_mean,
        distance.completeness_median,
        distance.completeness_mean,
    ):
        assert value == pytest.approx(0.02, rel=1e-9)
    assert distance.precision == (0.0, 1.0)
    assert distance.recall == (0.0, 1.0)
    assert distance.f_score == (0.0, 1.0)


def test_half_of_the_truth_is_half_complete() -> None:
    truth = square(1.0)
    half = Mesh(truth.vertices * [0.5, 1, 1], truth.faces)
    distance = mesh_distance(half, truth, (0.001,), samples=20_000)
    assert distance.precision[0] == 1.0
    assert distance.recall[0] == pytest.approx(0.5, abs=0.01)
    assert distance.f_score[0] == pytest.approx(2 / 3, abs=0.01)
    assert distance.completeness_mean == pytest.approx(0.125, abs=0.005)


def test_concentric_spheres() -> None:
    distance = mesh_distance(sphere_mesh(1.03), sphere_mesh(1.0), (0.02, 0.04), samples=5000)
    assert distance.accuracy_median == pytest.approx(0.03, abs=0.001)
    assert distance.precision == (0.0, 1.0)


def test_only_what_lies_in_the_box_counts() -> None:
    truth = square(1.0)
    spoiled = np.concatenate([truth.vertices, truth.vertices + [5, 0, 1]])
    mesh = Mesh(spoiled, np.concatenate([truth.faces, truth.faces + 4]).astype(np.int32))
    bounds = (np.full(3, -1.0), np.full(3, 2.0))
    assert mesh_distance(mesh, truth, (0.01,), 2000, bounds=bounds).precision[0] == 1.0
    assert mesh_distance(mesh, truth, (0.01,), 2000).precision[0] == pytest.approx(0.5, abs=0.02)


def test_distance_of_points_is_exact() -> None:
    points = np.array([[0.5, 0.5, 0.3], [0.2, 0.2, -0.1], [2.0, 0.5, 0.0], [2.0, 2.0, 0.0], [0.4, 0.4, 0.0]])
    expected = [0.3, 0.1, 1.0, 2**0.5, 0.0]
    np.testing.assert_allclose(distance_to_surface(points, square(1.0), 100), expected, atol=1e-12)


def test_samples_are_even() -> None:
    """A large and a tiny triangle get points by their areas."""
    mesh = square(1.0)
    small = Mesh(
        np.concatenate([mesh.vertices, mesh.vertices[:3] * 0.1 + 5]), np.array([[0, 1, 2], [4, 5, 6]], np.int32)
    )
    samples = sample_surface(small, 10_000, np.random.default_rng(0))
    assert (samples.face_ids == 1).mean() == pytest.approx(0.01 / 1.01, abs=0.002)
    inner = samples.points[samples.face_ids == 0]
    np.testing.assert_allclose(inner.mean(0), [2 / 3, 1 / 3, 0], atol=0.01)


def test_meshes_without_surface_are_refused() -> None:
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32))
    for mesh, truth, name in ((flat, square(1.0), "mesh"), (square(1.0), Mesh.empty(), "truth")):
        with pytest.raises(ReconError, match=f"the {name} has no surface"):
            mesh_distance(mesh, truth, (0.1,), 100)
    bounds = (np.full(3, 8.0), np.full(3, 9.0))
    with pytest.raises(ReconError, match="no surface"):
        mesh_distance(square(1.0), square(1.0), (0.1,), 100, bounds=bounds)


def test_the_seed_decides() -> None:
    first, second, third = (mesh_distance(sphere_mesh(1.1), sphere_mesh(), (0.1,), 500, seed) for seed in (1, 1, 2))
    assert first == second
    assert first != third
