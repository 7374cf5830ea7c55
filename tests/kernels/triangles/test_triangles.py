# SPDX-License-Identifier: Apache-2.0
"""The triangle rasterizer against its reference, and what must hold of any picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.cameras import Camera, CameraModel, look_at
from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.triangles.op import Fragments, draw_triangles


def camera(width: int = 48, height: int = 36) -> Camera:
    pose = look_at(np.array([2.0, -1.5, 1.2]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    return Camera(width, height, 50.0, 47.0, width / 2 + 2.3, height / 2 - 1.4, cam_from_world=pose)


def soup(count: int, seed: int = 0, size: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(count, 1, 3, generator=generator, dtype=torch.float64) * 0.7
    corners = centers + torch.randn(count, 3, 3, generator=generator, dtype=torch.float64) * size
    return corners.reshape(-1, 3), torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)


def assert_equal(fast: Fragments, plain: Fragments) -> None:
    same = fast.face_ids == plain.face_ids
    assert same.float().mean() > 0.999  # a pixel centre on an edge may fall to either side
    torch.testing.assert_close(fast.depth[same], plain.depth[same], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast.barycentric[same], plain.barycentric[same], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cull", [False, True])
def test_equals_the_reference(isa: str, cull: bool) -> None:
    """Triangles of all sizes, some through the camera and behind it."""
    vertices, faces = soup(150, size=1.0)
    fast = draw_triangles(vertices, faces, camera(), cull=cull, backend="cpu")
    plain = draw_triangles(vertices, faces, camera(), cull=cull, backend="reference")
    assert len(plain.face_ids.unique()) > 20
    assert_equal(fast, plain)


def test_a_triangle_through_the_camera_plane_is_drawn() -> None:
    view = Camera(32, 24, 20.0, 20.0, 16.0, 12.0)
    ground = torch.tensor([[-50.0, 1.0, -10.0], [50.0, 1.0, -10.0], [0.0, 1.0, 1000.0]], dtype=torch.float64)
    seen = draw_triangles(ground, torch.tensor([[0, 1, 2]], dtype=torch.int32), view)
    assert (seen.face_ids[13:] == 0).float().mean() > 0.9
    assert (seen.face_ids[:12] == -1).all()
    # Depth of the plane y = 1 along the ray (x, (v - 12) / 20, 1) is 20 / (v - 12).
    assert float(seen.depth[23, 16]) == pytest.approx(20 / 11.5, rel=1e-5)


def test_depth_and_weights_rebuild_the_point() -> None:
    vertices, faces = soup(40)
    view = camera()
    seen = draw_triangles(vertices, faces, view)
    hit = seen.face_ids >= 0
    corners = vertices[faces[seen.face_ids[hit].long()].long()]
    points = (corners * seen.weights()[hit][..., None]).sum(1).numpy()
    pixels, depth = view.project(points)
    np.testing.assert_allclose(depth, seen.depth[hit].numpy(), rtol=1e-5)
    np.testing.assert_allclose(pixels, view.pixel_grid()[hit.numpy()], atol=1e-3)


def test_a_closed_surface_has_no_cracks() -> None:
    """A finely divided quad covers each pixel inside exactly once, whatever the rounding."""
    side = 60
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-0.8, 0.8, side))
    wave = 0.05 * np.sin(7 * x) * np.cos(5 * y)
    vertices = torch.from_numpy(np.stack([x, y, 3 + wave], -1).reshape(-1, 3))
    at = np.arange(side * side).reshape(side, side)
    quads = np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]], -1).reshape(-1, 4)
    faces = torch.from_numpy(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32))
    view = Camera(200, 160, 300.0, 300.0, 100.0, 80.0)
    seen = draw_triangles(vertices, faces, view)
    assert (seen.face_ids[8:-8, 8:-8] >= 0).all()


def test_the_nearest_wins_and_of_equals_the_first() -> None:
    near = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]], dtype=torch.float64)
    far = near * torch.tensor([2.0, 2.0, 2.0])
    faces = torch.tensor([[3, 4, 5], [0, 1, 2], [0, 1, 2]], dtype=torch.int32)
    seen = draw_triangles(torch.cat([near, far]), faces, Camera(20, 20, 10.0, 10.0, 10.0, 10.0))
    assert set(seen.face_ids.unique().tolist()) == {-1, 1}
    assert float(seen.depth.max()) == 2.0


def test_culling_leaves_out_back_faces() -> None:
    corners = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]], dtype=torch.float64)
    view = Camera(20, 20, 10.0, 10.0, 10.0, 10.0)
    # In camera coordinates (y down) these run clockwise seen in the picture's axes: away from the camera.
    for face, seen in (((0, 1, 2), False), ((0, 2, 1), True)):
        drawn = draw_triangles(corners, torch.tensor([face], dtype=torch.int32), view, cull=True)
        normal = np.cross(*(corners[list(face[1:])] - corners[face[0]]).numpy())
        assert (normal[2] < 0) == seen  # towards the camera
        assert bool((drawn.face_ids >= 0).any()) == seen


def test_the_number_of_threads_changes_nothing() -> None:
    vertices, faces = soup(500)
    module = native()
    threads = module.max_threads()
    try:
        pictures = []
        for count in (1, 3):
            module.set_threads(count)
            pictures.append(draw_triangles(vertices, faces, camera(160, 120)))
    finally:
        module.set_threads(threads)
    assert torch.equal(pictures[0].face_ids, pictures[1].face_ids)
    assert torch.equal(pictures[0].depth, pictures[1].depth)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300, 0.0])
def test_wild_vertices_do_no_harm(isa: str, bad: float) -> None:
    vertices, faces = soup(60)
    clean = draw_triangles(vertices, faces[3:], camera())
    vertices[:9:2] = bad
    seen = draw_triangles(vertices, faces, camera())
    assert torch.isfinite(seen.depth).all()
    assert seen.face_ids.max() < 60
    if not np.isfinite(bad):
        assert torch.equal(seen.depth, clean.depth)  # the first three triangles are gone, nothing else


def test_nothing_to_draw(isa: str) -> None:
    for backend in ("cpu", "reference"):
        seen = draw_triangles(
            torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.int32), camera(), backend=backend
        )
        assert (seen.face_ids == -1).all()
        assert (seen.depth == 0).all()


def test_bad_arguments_are_refused() -> None:
    vertices, faces = soup(3)
    with pytest.raises(ReconError, match="faces name vertices"):
        draw_triangles(vertices, faces + 1, camera())
    with pytest.raises(ReconError, match="faces name vertices"):
        draw_triangles(vertices, faces - 1, camera())
    with pytest.raises(ReconError, match="float32"):
        draw_triangles(vertices.float(), faces, camera())
    with pytest.raises(ReconError, match="shape"):
        draw_triangles(vertices[:, :2], faces, camera())
    lens = Camera(48, 36, 50, 47, 24, 18, CameraModel.OPENCV, (0.1, 0, 0, 0))
    with pytest.raises(ReconError, match="PINHOLE"):
        draw_triangles(vertices, faces, lens)
