# SPDX-License-Identifier: Apache-2.0
"""The ray caster against every ray times every triangle, on every instruction set, and against broken input."""

from __future__ import annotations

import math

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.raycast.op import RayHits, TriangleBvh, build_bvh, cast_rays


def triangle_soup(count: int, seed: int, size: float = 0.3) -> TriangleBvh:
    generator = torch.Generator().manual_seed(seed)
    middles = torch.rand((count, 1, 3), generator=generator) * 2 - 1
    corners = middles + size * torch.randn((count, 3, 3), generator=generator)
    return build_bvh(corners.reshape(-1, 3), torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3))


def random_rays(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origins = 3 * torch.randn((count, 3), generator=generator)
    targets = torch.rand((count, 3), generator=generator) * 2 - 1
    return origins, targets - origins


def unit_sphere(rings: int, sectors: int) -> TriangleBvh:
    latitude = torch.linspace(-math.pi / 2, math.pi / 2, rings + 1)
    longitude = torch.arange(sectors) * (2 * math.pi / sectors)
    a, b = torch.meshgrid(latitude, longitude, indexing="ij")
    vertices = torch.stack([a.cos() * b.cos(), a.cos() * b.sin(), a.sin()], -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(rings), torch.arange(sectors), indexing="ij")
    k = (j + 1) % sectors
    corner = [i * sectors + j, i * sectors + k, (i + 1) * sectors + k, (i + 1) * sectors + j]
    lower = torch.stack([corner[0], corner[1], corner[2]], -1).reshape(-1, 3)
    upper = torch.stack([corner[0], corner[2], corner[3]], -1).reshape(-1, 3)
    return build_bvh(vertices, torch.cat([lower, upper]).to(torch.int32))


def assert_same_hits(found: RayHits, wanted: RayHits) -> None:
    """Distances agree everywhere but for the rare ray that grazes an edge within rounding."""
    differs = ~torch.isclose(found.distances, wanted.distances.float(), rtol=1e-4, atol=1e-5)
    assert differs.float().mean() < 1e-3
    same = ~differs & (found.triangles == wanted.triangles)
    assert same.float().mean() > 0.995
    hit = same & (found.triangles >= 0)
    # Barycentric weights of slivers are ill-conditioned in float32.
    error = (found.barycentrics[hit] - wanted.barycentrics[hit].float()).abs()
    assert error.median() < 1e-5
    assert error.quantile(0.99) < 1e-2


@pytest.mark.parametrize("triangle_count", [1, 3, 5, 200])
def test_agrees_with_the_reference(isa: str, triangle_count: int) -> None:
    bvh = triangle_soup(triangle_count, seed=triangle_count)
    origins, directions = random_rays(3001, seed=1)
    wanted = cast_rays(bvh, origins.double(), directions.double(), backend="reference")
    assert (wanted.triangles >= 0).sum() > 10
    assert_same_hits(cast_rays(bvh, origins, directions), wanted)


def test_hits_lie_on_their_triangles(isa: str) -> None:
    bvh = triangle_soup(300, seed=5)
    origins, directions = random_rays(2000, seed=6)
    hits = cast_rays(bvh, origins, directions)
    hit = hits.triangles >= 0
    corners = bvh.vertices[bvh.triangles[hits.triangles[hit].long()].long()].double()
    weights = hits.barycentrics[hit].double()
    on_triangle = (1 - weights.sum(-1, keepdim=True)) * corners[:, 0]
    on_triangle += weights[:, :1] * corners[:, 1] + weights[:, 1:] * corners[:, 2]
    on_ray = origins[hit].double() + hits.distances[hit, None].double() * directions[hit].double()
    assert (on_triangle - on_ray).norm(dim=-1).quantile(0.99) < 1e-4


def test_distance_range_counts_strictly_between(isa: str) -> None:
    square = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 2, 2], [-1, -1, 5], [1, -1, 5], [0, 2, 5]])
    bvh = build_bvh(square, torch.arange(6, dtype=torch.int32).reshape(2, 3))
    origin, along = torch.zeros((1, 3)), torch.tensor([[0.0, 0.0, 1.0]])
    assert cast_rays(bvh, origin, along).distances.item() == pytest.approx(2)
    assert cast_rays(bvh, origin, along, min_distance=2.5).distances.item() == pytest.approx(5)
    assert cast_rays(bvh, origin, along, min_distance=2.5).triangles.item() == 1
    assert cast_rays(bvh, origin, along, max_distance=1.5).triangles.item() == -1
    assert math.isinf(cast_rays(bvh, origin, along, max_distance=1.5).distances.item())
    assert cast_rays(bvh, origin, 2 * along).distances.item() == pytest.approx(1)
    assert cast_rays(bvh, origin, -along).triangles.item() == -1


def test_any_hit_finds_the_same_shadows(isa: str) -> None:
    bvh = triangle_soup(100, seed=2)
    origins, directions = random_rays(4000, seed=3)
    nearest = cast_rays(bvh, origins, directions, max_distance=1.0)
    shadows = cast_rays(bvh, origins, directions, max_distance=1.0, any_hit=True)
    assert torch.equal(nearest.triangles >= 0, shadows.triangles >= 0)
    assert 0.1 < (nearest.triangles >= 0).float().mean() < 0.95


def test_a_closed_surface_has_no_leaks(isa: str) -> None:
    sphere = unit_sphere(24, 48)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn((100_000, 3), generator=generator)
    # Rays through vertices and edge middles are the ones that slip between triangles.
    corners = sphere.vertices[sphere.triangles.long()]
    directions = torch.cat([directions, corners.reshape(-1, 3), corners.mean(1), (corners[:, 0] + corners[:, 1]) / 2])
    hits = cast_rays(sphere, torch.zeros_like(directions), directions)
    assert (hits.triangles >= 0).all()
    radius = hits.distances * directions.norm(dim=-1)
    assert (radius - 1).abs().max() < 0.01


def test_axis_parallel_rays_on_axis_parallel_boxes(isa: str) -> None:
    """Zero direction components and origins on the planes of boxes, where 0 times infinity lurks."""
    grid = torch.arange(5.0)
    x, y = torch.meshgrid(grid, grid, indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    c = i * 5 + j
    triangles = torch.cat([torch.stack([c, c + 5, c + 6], -1), torch.stack([c, c + 6, c + 1], -1)]).reshape(-1, 3)
    bvh = build_bvh(vertices, triangles.to(torch.int32))
    origins = vertices + torch.tensor([0.0, 0.0, 1.0])
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(origins)
    hits = cast_rays(bvh, origins, down)
    assert torch.equal(hits.distances, torch.ones(25))
    assert (cast_rays(bvh, origins, -down).triangles == -1).all()


def test_nothing_to_hit_and_nobody_who_asks(isa: str) -> None:
    empty = build_bvh(torch.zeros((0, 3)), torch.zeros((0, 3), dtype=torch.int32))
    origins, directions = random_rays(20, seed=0)
    hits = cast_rays(empty, origins, directions)
    assert (hits.triangles == -1).all()
    assert torch.isinf(hits.distances).all()
    nobody = cast_rays(triangle_soup(4, 0), origins[:0], directions[:0])
    assert nobody.distances.shape == (0,)
    assert nobody.barycentrics.shape == (0, 2)


def test_broken_rays_hit_nothing_and_spare_their_neighbours(isa: str) -> None:
    bvh = triangle_soup(50, seed=8)
    origins, directions = random_rays(160, seed=9)
    wanted = cast_rays(bvh, origins, directions)
    broken_origins, broken_directions = origins.clone(), directions.clone()
    broken_origins[::16] = math.nan
    broken_directions[1::16] = math.nan
    broken_directions[2::16] = math.inf
    broken_directions[3::16] = 0
    broken_origins[4::16] = 1e30
    hits = cast_rays(bvh, broken_origins, broken_directions)
    for offset in (0, 1, 3, 4):
        assert (hits.triangles[offset::16] == -1).all()
    for offset in range(5, 16):
        assert torch.equal(hits.triangles[offset::16], wanted.triangles[offset::16])
        assert torch.equal(hits.distances[offset::16], wanted.distances[offset::16])


def test_degenerate_meshes(isa: str) -> None:
    """Points, slivers and a thousand triangles in one place build a finite tree."""
    one = torch.tensor([[0.0, 0, 1], [1, 0, 1], [0, 1, 1]])
    vertices = one.repeat(1000, 1)
    triangles = torch.arange(3000, dtype=torch.int32).reshape(-1, 3)
    bvh = build_bvh(vertices, triangles)
    hits = cast_rays(bvh, torch.tensor([[0.2, 0.2, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert hits.distances.item() == 1
    point = build_bvh(torch.ones((3, 3)), torch.tensor([[0, 1, 2], [0, 0, 0]], dtype=torch.int32))
    assert cast_rays(point, torch.zeros((1, 3)), torch.ones((1, 3))).triangles.item() == -1
    # Spacing that doubles each time drives a surface area split off one triangle at a time.
    far = one * 1e-3 + (2.0 ** torch.arange(-60.0, 60.0))[:, None, None]
    bvh = build_bvh(far.reshape(-1, 3), torch.arange(360, dtype=torch.int32).reshape(-1, 3))
    assert torch.equal(bvh.order.sort().values, torch.arange(120, dtype=torch.int32))


def test_the_same_mesh_gives_the_same_hierarchy() -> None:
    first, second = triangle_soup(500, 4), triangle_soup(500, 4)
    assert torch.equal(first.nodes.view(torch.int32), second.nodes.view(torch.int32))
    assert torch.equal(first.order, second.order)


def test_wrong_arguments_are_refused() -> None:
    vertices, triangles = torch.rand((4, 3)), torch.tensor([[0, 1, 2]], dtype=torch.int32)
    with pytest.raises(ReconError, match="vertices has shape 4×2"):
        build_bvh(vertices[:, :2], triangles)
    with pytest.raises(ReconError, match="int64"):
        build_bvh(vertices, triangles.long())
    with pytest.raises(ReconError, match="vertices 0 to 7"):
        build_bvh(vertices, torch.tensor([[0, 1, 7]], dtype=torch.int32))
    with pytest.raises(ReconError, match="vertices -1 to 2"):
        build_bvh(vertices, torch.tensor([[0, -1, 2]], dtype=torch.int32))
    with pytest.raises(ReconError, match="not finite"):
        build_bvh(vertices * math.nan, triangles)
    bvh = build_bvh(vertices, triangles)
    with pytest.raises(ReconError, match="directions has shape 3×3"):
        cast_rays(bvh, torch.zeros((4, 3)), torch.zeros((3, 3)))
    with pytest.raises(ReconError, match="gsplat"):
        cast_rays(bvh, vertices, vertices, backend="gsplat")
