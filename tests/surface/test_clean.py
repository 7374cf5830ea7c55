# SPDX-License-Identifier: Apache-2.0
"""Cleaning: pieces, simplification, colours."""

from __future__ import annotations

import numpy as np
import pytest
from surface.analytic_shapes import cameras_around, color_at, signed_volume, sphere_mesh

from recon.errors import ReconError
from recon.surface.clean import (
    drop_small_components,
    drop_unseen,
    face_components,
    simplify,
    smooth,
    transfer_colors,
)
from recon.surface.mesh import Mesh


def joined(*meshes: Mesh) -> Mesh:
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets)]).astype(np.int32),
        np.concatenate([np.asarray(mesh.colors) for mesh in meshes]),
    )


def test_small_pieces_are_dropped_by_area() -> None:
    # The small sphere has as many triangles as the large one: only its area tells it apart.
    mesh = joined(sphere_mesh(1.0, 16), sphere_mesh(0.05, 16, (2, 0, 0)), sphere_mesh(0.5, 16, (-2, 0, 0)))
    assert len(np.unique(face_components(mesh))) == 3
    kept = drop_small_components(mesh, 0.02)
    assert len(np.unique(face_components(kept))) == 2
    assert kept.vertices[:, 0].max() < 1.01
    assert len(kept.vertices) == 2 * len(sphere_mesh(1.0, 16).vertices)
    assert kept.colors is not None
    np.testing.assert_array_equal(kept.colors, (color_at(kept.vertices) * 255).astype(np.uint8))
    assert len(np.unique(face_components(drop_small_components(mesh, 0.5)))) == 1
    assert drop_small_components(mesh, 0.0) is mesh
    assert len(drop_small_components(Mesh.empty(), 0.5).faces) == 0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_simplifying_keeps_the_shape_at_any_scale(scale: float) -> None:
    sphere = sphere_mesh(1.0, 48)
    mesh = Mesh(sphere.vertices * scale + 3 * scale, sphere.faces, sphere.colors)
    slim = simplify(mesh, 1000)
    assert 500 < len(slim.faces) <= 1000
    assert signed_volume(Mesh((slim.vertices - 3 * scale) / scale, slim.faces)) == pytest.approx(4.15, rel=0.02)
    assert slim.colors is not None
    expected = color_at(slim.vertices / scale - 3) * 255
    assert np.abs(slim.colors - expected).mean() < 4
    assert slim.normals is not None
    outwards = ((slim.vertices / scale - 3) * slim.normals).sum(1)
    assert outwards.min() > 0.8


def test_walls_inside_walls_are_dropped() -> None:
    mesh = joined(sphere_mesh(1.0, 24), sphere_mesh(0.8, 24), sphere_mesh(0.99, 24))
    kept = drop_unseen(mesh, cameras_around(12, 3.0), margin=0.05)
    assert len(np.unique(face_components(kept))) == 2  # what is just behind the surface stays
    assert np.linalg.norm(kept.vertices, axis=1).min() > 0.95
    assert len(kept.faces) == 2 * len(sphere_mesh(1.0, 24).faces)
    one_sided = drop_unseen(sphere_mesh(1.0, 24), cameras_around(1, 3.0), margin=0.05)
    assert 0.2 < len(one_sided.faces) / len(sphere_mesh(1.0, 24).faces) < 0.6


def test_smoothing_takes_noise_and_no_volume() -> None:
    sphere = sphere_mesh(1.0, 32)
    noise = np.random.default_rng(0).normal(scale=0.01, size=sphere.vertices.shape)
    smoothed = smooth(Mesh(sphere.vertices + noise, sphere.faces, sphere.colors), 10)
    rough = np.abs(np.linalg.norm(sphere.vertices + noise, axis=1) - 1).mean()
    assert np.abs(np.linalg.norm(smoothed.vertices, axis=1) - 1).mean() < 0.6 * rough
    assert signed_volume(smoothed) == pytest.approx(signed_volume(sphere), rel=0.01)
    assert smoothed.normals is not None
    assert smoothed.colors is sphere.colors
    # The border of an open mesh stays.
    half = sphere.keep_faces(sphere.triangles.mean(1)[:, 2] > 0.05)
    rim = half.vertices[:, 2] == half.vertices[:, 2].min()
    np.testing.assert_allclose(smooth(half, 10).vertices[rim], half.vertices[rim], atol=1e-12)
    assert smooth(sphere, 0) is sphere
    assert len(smooth(Mesh.empty(), 3).faces) == 0


def test_what_is_small_enough_stays_as_it_is() -> None:
    mesh = sphere_mesh(1.0, 8)
    assert simplify(mesh, 10_000) is mesh
    assert simplify(mesh, 0) is mesh


def test_colours_come_from_the_nearest() -> None:
    source = Mesh(
        np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]),
        np.zeros((0, 3), np.int32),
        np.array([[0, 0, 0], [200, 100, 50], [255, 255, 255]], np.uint8),
    )
    points = np.array([[1.0, 0, 0], [0.5, 0, 0]])
    found = transfer_colors(source, points, neighbors=2)
    np.testing.assert_array_equal(found, [[200, 100, 50], [100, 50, 25]])


def test_vertex_normals_of_a_sphere() -> None:
    mesh = sphere_mesh(2.0, 24)
    np.testing.assert_allclose((mesh.vertex_normals() * mesh.vertices).sum(1) / 2, 1, atol=0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vertices", np.zeros((4, 2))),
        ("vertices", np.zeros((4, 3), np.float32)),
        ("vertices", np.full((4, 3), np.nan)),
        ("faces", np.array([[0, 1, 4]], np.int32)),
        ("faces", np.array([[-1, 1, 2]], np.int32)),
        ("faces", np.array([[0, 1, 2]], np.int64)),
        ("colors", np.zeros((3, 3), np.uint8)),
        ("colors", np.zeros((4, 3))),
        ("normals", np.zeros((4, 3))),
    ],
)
def test_wrong_meshes_are_refused(field: str, value: np.ndarray) -> None:
    good = {"vertices": np.zeros((4, 3)), "faces": np.array([[0, 1, 2]], np.int32)}
    with pytest.raises(ReconError, match=field):
        Mesh(**{**good, field: value})  # type: ignore[arg-type]
