# SPDX-License-Identifier: Apache-2.0
"""Meshes from exact depth: how close they come, what they leave out, and what is refused."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from surface.analytic_shapes import (
    FieldRenderer,
    box_field,
    cameras_around,
    color_at,
    signed_volume,
    sphere_field,
    sphere_mesh,
    torus_field,
    union,
)

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.progress import SilentProgress
from recon.render import RenderOptions, RenderOutput
from recon.surface import MeshConfig, extract_mesh, mesh_distance
from recon.surface.clean import face_components
from recon.surface.extract import in_between_cameras, plan_cameras
from recon.surface.mesh import Mesh

QUICK = MeshConfig(max_faces=0)


class Listener(SilentProgress):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def edge_counts(mesh: Mesh) -> Counter:
    pairs = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    return Counter(map(tuple, np.sort(pairs, 1).tolist()))


@pytest.mark.parametrize("depth", ["median", "expected"])
def test_a_sphere_from_exact_depth(depth: str) -> None:
    mesh = extract_mesh(
        FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(16, 3.0), replace(QUICK, depth=depth)
    )
    diagonal = 2 * 3**0.5
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.median(np.abs(radius - 1)) < 0.001 * diagonal
    assert np.abs(radius - 1).max() < 0.01 * diagonal
    assert set(edge_counts(mesh).values()) == {2}  # closed
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    assert mesh.normals is not None
    assert (mesh.normals * mesh.vertices).sum(1).min() > 0.9
    assert mesh.colors is not None
    difference = np.abs(mesh.colors / 255 - color_at(mesh.vertices))
    assert np.median(difference) < 0.02
    distance = mesh_distance(mesh, sphere_mesh(), (0.005 * diagonal, 0.01 * diagonal), samples=20_000)
    assert distance.accuracy_median < 0.001 * diagonal
    assert distance.recall[1] > 0.999


def test_edges_and_a_hole_survive() -> None:
    field = union(torus_field(0.8, 0.3), box_field((0, 0, 0.9), (0.3, 0.3, 0.2)))
    mesh = extract_mesh(FieldRenderer(field), cameras_around(24, 3.2), QUICK)
    assert np.median(np.abs(field(mesh.vertices))) < 0.001 * mesh.diagonal
    assert np.percentile(np.abs(field(mesh.vertices)), 98) < 0.01 * mesh.diagonal
    assert len(np.unique(face_components(mesh))) == 2
    # The box's corners are there to within a voxel or two, and the torus has its hole.
    corner = np.linalg.norm(mesh.vertices - [0.3, 0.3, 1.1], axis=1).min()
    assert corner < 0.05
    assert np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 1])[np.abs(mesh.vertices[:, 2]) < 0.3].min() > 0.45


def test_floaters_are_removed() -> None:
    """Each view has opaque discs near the camera that no other view sees."""
    cameras = cameras_around(16, 3.0)
    renderer = FieldRenderer(sphere_field((0, 0, 0), 1.0), floaters=4)
    bounds = (-2.9, -2.9, -2.9, 2.9, 2.9, 2.9)
    config = replace(QUICK, bounds=bounds, voxel_size=0.04, min_component=0.0)
    clean = extract_mesh(renderer, cameras, config)
    assert np.abs(np.linalg.norm(clean.vertices, axis=1) - 1).max() < 0.1
    unchecked = extract_mesh(renderer, cameras, replace(config, confirmations=0))
    assert (np.abs(np.linalg.norm(unchecked.vertices, axis=1) - 1) > 0.1).any()  # the test can fail


def test_the_far_background_is_left_out_of_an_inward_facing_capture() -> None:
    room = FieldRenderer(union(sphere_field((0, 0, 0), 1.0), lambda p: 12 - np.linalg.norm(p, axis=-1)), far=40)
    listener = Listener()
    mesh = extract_mesh(room, cameras_around(16, 3.0), QUICK, listener)
    assert np.abs(mesh.vertices).max() < 3.5
    assert any("region focus" in line for line in listener.lines)
    everything = extract_mesh(room, cameras_around(16, 3.0), replace(QUICK, region="all", long_side=60))
    assert np.abs(everything.vertices).max() > 9


def test_given_bounds_are_kept() -> None:
    bounds = (-2.0, -2.0, 0.2, 2.0, 2.0, 2.0)
    mesh = extract_mesh(
        FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(16, 3.0), replace(QUICK, bounds=bounds)
    )
    # Blocks are kept whole, so the surface may reach a block beyond.
    assert -0.1 < mesh.vertices[:, 2].min() < 0.25
    with pytest.raises(ReconError, match="no surface in the bounds"):
        extract_mesh(
            FieldRenderer(sphere_field((0, 0, 0), 1.0)),
            cameras_around(12, 3.0),
            replace(QUICK, bounds=(5.0, 5.0, 5.0, 6.0, 6.0, 6.0)),
        )


def test_an_open_scene_seen_from_inside() -> None:
    """A room around cameras that look outwards has no focus: all of it is meshed, and it faces inwards."""
    room = box_field((0, 0, 0), (2.0, 1.5, 1.0))
    outwards = []
    for i in range(16):
        azimuth, tilt = i * np.pi / 4, (0.5 if i < 8 else -0.5)
        eye = 0.3 * np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        target = eye * 10 + np.array([0, 0, 4 * tilt])
        pose = look_at(eye, target, np.array([0.0, 0.0, 1.0]))
        outwards.append(Camera(120, 90, 50.0, 50.0, 60.0, 45.0, cam_from_world=pose))
    listener = Listener()
    mesh = extract_mesh(FieldRenderer(lambda p: -room(p)), outwards, QUICK, listener)
    assert any("region all" in line for line in listener.lines)
    assert np.median(np.abs(room(mesh.vertices))) < 0.001 * mesh.diagonal
    assert signed_volume(mesh) < -10  # of 24: it faces the cameras


def test_max_faces_simplifies_and_keeps_colours() -> None:
    renderer = FieldRenderer(sphere_field((0, 0, 0), 1.0))
    mesh = extract_mesh(renderer, cameras_around(16, 3.0), MeshConfig(max_faces=2000))
    assert 1000 < len(mesh.faces) <= 2100
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi, rel=0.03)
    assert mesh.colors is not None
    assert np.median(np.abs(mesh.colors / 255 - color_at(mesh.vertices))) < 0.03


def test_voxels_grow_to_fit_the_memory_or_are_refused() -> None:
    renderer, cameras = FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(12, 3.0)
    small = replace(QUICK, max_memory_gib=0.012)
    listener = Listener()
    mesh = extract_mesh(renderer, cameras, small, listener)
    assert any("max_memory_gib" in line and "Voxels of" in line for line in listener.lines)
    assert np.median(np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1)) < 0.02
    with pytest.raises(ReconError, match="max_memory_gib"):
        extract_mesh(renderer, cameras, replace(small, voxel_size=0.005))


def test_depth_maps_shrink_to_fit_the_memory() -> None:
    listener = Listener()
    cameras = cameras_around(10, 3.0, 2000, 1500)
    planned = plan_cameras(cameras, replace(QUICK, max_memory_gib=0.05), listener)
    assert sum(c.width * c.height * 11 for c in planned) < 0.026 * 2**30
    assert any("max_memory_gib" in line for line in listener.lines)
    assert plan_cameras(cameras, replace(QUICK, long_side=100), listener)[0].width == 100
    assert plan_cameras(cameras, QUICK, listener)[0] is cameras[0]


def test_cameras_in_between() -> None:
    cameras = cameras_around(12, 3.0)
    added = in_between_cameras(cameras, 2)
    assert 0 < len(added) <= 24
    for camera in added:
        nearest = min(np.linalg.norm(camera.center_in_world - c.center_in_world) for c in cameras)
        assert 0.05 < nearest < 2.0
        assert camera.forward_in_world @ -camera.center_in_world > 0
    assert in_between_cameras(cameras[:1], 2) == []
    mesh = extract_mesh(
        FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(10, 3.0), replace(QUICK, extra_views=1)
    )
    assert np.median(np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1)) < 0.004


def test_the_same_input_gives_the_same_mesh() -> None:
    renderer, cameras = FieldRenderer(torus_field(0.8, 0.3)), cameras_around(10, 3.0)
    first, second = (extract_mesh(renderer, cameras, MeshConfig(max_faces=3000)) for _ in range(2))
    assert np.array_equal(first.vertices, second.vertices)
    assert np.array_equal(first.faces, second.faces)


def test_one_camera_gives_what_it_sees() -> None:
    mesh = extract_mesh(FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(1, 3.0), QUICK)
    assert np.median(np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1)) < 0.01


class Nothing:
    """Shows nothing, or nonsense."""

    def __init__(self, depth: float, alpha: float) -> None:
        self.depth, self.alpha = depth, alpha

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        size = (camera.height, camera.width)
        depth = torch.full(size, self.depth)
        return RenderOutput(torch.zeros(*size, 3), torch.full(size, self.alpha), depth, depth)


@pytest.mark.parametrize(
    ("depth", "alpha"),
    [(0.0, 0.0), (1.0, 0.1), (float("nan"), 1.0), (float("inf"), 1.0), (-2.0, 1.0), (1.0, float("nan"))],
)
def test_nothing_to_see_is_told(depth: float, alpha: float) -> None:
    with pytest.raises(ReconError, match="no surface"):
        extract_mesh(Nothing(depth, alpha), cameras_around(6, 3.0), QUICK)


def test_no_cameras_are_refused() -> None:
    with pytest.raises(ReconError, match="no cameras"):
        extract_mesh(Nothing(1.0, 1.0), [], QUICK)


def test_poisson_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ReconError, match=r"pip install recon\[mesh\]"):
        extract_mesh(Nothing(1.0, 1.0), cameras_around(6, 3.0), replace(QUICK, method="poisson"))


def test_poisson_closes_the_surface() -> None:
    pytest.importorskip("open3d")
    mesh = extract_mesh(
        FieldRenderer(sphere_field((0, 0, 0), 1.0)), cameras_around(16, 3.0), replace(QUICK, method="poisson")
    )
    assert np.median(np.abs(np.linalg.norm(mesh.vertices, axis=1) - 1)) < 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"voxel_size": -1.0},
        {"voxel_size": float("nan")},
        {"truncation_voxels": 1.0},
        {"min_alpha": 2.0},
        {"max_faces": -1},
        {"bounds": (0, 0, 0, -1, 1, 1)},
        {"bounds": (0, 0, 0, 1, 1, float("inf"))},
        {"long_side": 2},
        {"tolerance": 0.0},
        {"max_memory_gib": 0.0},
    ],
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ReconError, match=next(iter(wrong))):
        MeshConfig(**wrong)
