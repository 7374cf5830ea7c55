# SPDX-License-Identifier: Apache-2.0
"""Marching cubes: the derived table, the kernel against its reference, and watertight surfaces."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from recon.errors import ReconError
from recon.kernels.marching_cubes.op import IsoSurface, marching_cubes, neighbor_rows
from recon.kernels.marching_cubes.table import case_table, edge_between, edge_ends, faces, loops
from recon.kernels.native import native
from recon.kernels.tsdf.op import BLOCK_SIDE, GridFrame, TsdfGrid


def grid_of(values: np.ndarray, weights: np.ndarray | None = None, drop: np.ndarray | None = None) -> TsdfGrid:
    """A grid with the field values[x, y, z] (sides multiples of 8); all observed unless `weights` says otherwise.
    `drop` names rows of blocks to leave out."""
    counts = np.array(values.shape) // BLOCK_SIDE
    blocks = np.array(list(itertools.product(*map(range, counts))), np.int32) - 1
    if drop is not None:
        blocks = np.delete(blocks, drop, axis=0)
    weights = np.ones(values.shape) if weights is None else weights

    def gathered(array: np.ndarray) -> torch.Tensor:
        rows = []
        for x, y, z in (blocks + 1) * BLOCK_SIDE:
            part = array[x : x + 8, y : y + 8, z : z + 8]
            rows.append(part.transpose(2, 1, 0).reshape(-1))
        return torch.from_numpy(np.array(rows, np.float32).reshape(-1, 512))

    frame = GridFrame((0.5, -1.0, 2.0), 0.25, 1.0, (-1, -1, -1), tuple((counts - 2).tolist()))
    weight_sum = gathered(weights)
    index = np.indices(values.shape) / max(values.shape)
    colors = torch.stack([gathered(channel) * weight_sum for channel in index] + [weight_sum], 1)
    return TsdfGrid(frame, torch.from_numpy(blocks), gathered(values) * weight_sum, weight_sum, colors.contiguous())


def lattice(side: int) -> np.ndarray:
    return np.indices((side, side, side)).astype(np.float64)


def sphere(side: int = 24, radius: float = 8.3) -> np.ndarray:
    return np.linalg.norm(lattice(side) - (side / 2 - 0.37), axis=0) - radius


def torus(side: int = 32) -> np.ndarray:
    x, y, z = lattice(side) - (side / 2 - 0.21)
    return np.hypot(np.hypot(x, y) - 8.7, z) - 3.4


def noise(side: int = 24, seed: int = 0) -> np.ndarray:
    """Independent signs everywhere, all ambiguous cases at once; outside at the border."""
    values = np.random.default_rng(seed).normal(size=(side, side, side))
    border = (lattice(side) == 0) | (lattice(side) == side - 1)
    return np.where(border.any(0), np.abs(values) + 0.1, values)


def directed_edges(surface: IsoSurface) -> Counter:
    triangles = surface.faces.numpy()
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return Counter(map(tuple, pairs.tolist()))


def assert_closed_manifold(surface: IsoSurface) -> None:
    """Every edge has one triangle on each side, walked in opposite directions; every vertex has one fan."""
    edges = directed_edges(surface)
    assert edges
    assert max(edges.values()) == 1
    assert all((b, a) in edges for a, b in edges)
    # One fan: walking from triangle to triangle around a vertex visits all of its triangles.
    follower: dict[int, dict[int, int]] = {}
    for a, b, c in surface.faces.tolist():
        for here, first, second in ((a, b, c), (b, c, a), (c, a, b)):
            follower.setdefault(here, {})[first] = second
    for ring in follower.values():
        start = here = next(iter(ring))
        for _ in range(len(ring)):
            here = ring[here]
        assert here == start
        seen = {start}
        here = ring[start]
        while here != start:
            seen.add(here)
            here = ring[here]
        assert len(seen) == len(ring)


def signed_volume(surface: IsoSurface) -> float:
    a, b, c = surface.vertices[surface.faces.long()].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def euler_characteristic(surface: IsoSurface) -> int:
    return len(surface.vertices) - len(directed_edges(surface)) // 2 + len(surface.faces)


# ---- the table -----------------------------------------------------------------------------------------------------


def test_edges_and_faces_of_the_cell() -> None:
    ends = [edge_ends(edge) for edge in range(12)]
    assert len(set(ends)) == 12
    assert all((a ^ b).bit_count() == 1 and a < b for a, b in ends)
    assert all(edge_between(a, b) == edge_between(b, a) == edge for edge, (a, b) in enumerate(ends))
    corners = np.array([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)])
    for face in faces():
        points = corners[list(face)]
        normal = np.cross(points[1] - points[0], points[2] - points[1])
        assert normal @ (points.mean(0) - 0.5) > 0  # counter-clockwise from outside
    assert Counter(corner for face in faces() for corner in face) == Counter(dict.fromkeys(range(8), 3))


@pytest.mark.parametrize("case", range(256))
def test_every_case_of_the_table(case: int) -> None:
    crossed = {e for e in range(12) if len({case >> corner & 1 for corner in edge_ends(e)}) == 2}
    found = loops(case)
    assert sorted(edge for loop in found for edge in loop) == sorted(crossed)
    row = case_table()[case]
    triangles = row[1 : 1 + 3 * row[0]].reshape(-1, 3).tolist()
    assert (row[1 + 3 * row[0] :] == -1).all()
    assert len(triangles) == sum(len(loop) - 2 for loop in found)
    # The border of the triangles is the loops, in their direction.
    directed = Counter((t[i], t[(i + 1) % 3]) for t in triangles for i in range(3))
    border = {edge for edge in directed if (edge[1], edge[0]) not in directed}
    assert border == {(loop[i], loop[(i + 1) % len(loop)]) for loop in found for i in range(len(loop))}
    # No diagonal lies on a face, where it could coincide with one of the neighbour.
    for a, b in set(directed) - border:
        corners = {*edge_ends(a), *edge_ends(b)}
        assert not any(corners <= set(face) for face in faces())


@pytest.mark.parametrize("axis", range(3))
def test_neighbouring_cells_agree_on_their_face(axis: int) -> None:
    """For all 16 patterns of the shared face and any other corners, the two cells draw opposite segments on it."""
    bit = 1 << axis
    shared = [c for c in range(8) if c & bit]

    def segments(case: int, on_high_side: bool) -> set[tuple[int, ...]]:
        corners = {c for c in range(8) if bool(c & bit) == on_high_side}
        on_face = {e for e in range(12) if set(edge_ends(e)) <= corners}
        pairs = [(loop[i], loop[(i + 1) % len(loop)]) for loop in loops(case) for i in range(len(loop))]
        # Edges are named by their corners moved to the high side, so that both cells use the same names.
        return {
            tuple(edge_between(*(c | bit for c in edge_ends(e))) for e in pair)
            for pair in pairs
            if set(pair) <= on_face
        }

    for pattern in range(16):
        face = sum(1 << c for i, c in enumerate(shared) if pattern >> i & 1)
        mirrored = sum(1 << (c & ~bit) for i, c in enumerate(shared) if pattern >> i & 1)
        drawn = {frozenset(segments(face | rest, True)) for rest in _masks([c for c in range(8) if not c & bit])}
        facing = {frozenset(segments(mirrored | rest, False)) for rest in _masks(shared)}
        assert len(drawn) == len(facing) == 1
        assert {(b, a) for a, b in next(iter(drawn))} == next(iter(facing))


def _masks(corners: list[int]) -> list[int]:
    return [sum(1 << c for i, c in enumerate(corners) if pattern >> i & 1) for pattern in range(16)]


# ---- surfaces ------------------------------------------------------------------------------------------------------


def test_a_sphere_is_closed_and_faces_outwards(isa: str) -> None:
    surface = marching_cubes(grid_of(sphere()), backend="cpu")
    assert_closed_manifold(surface)
    assert euler_characteristic(surface) == 2
    voxel = 0.25
    exact = 4 / 3 * np.pi * (8.3 * voxel) ** 3
    assert signed_volume(surface) == pytest.approx(exact, rel=0.01)
    center = (12 - 0.37 - 8) * voxel + np.array([0.5, -1.0, 2.0])
    offset = surface.vertices.numpy() - center
    radius = np.linalg.norm(offset, axis=1)
    np.testing.assert_allclose(radius, 8.3 * voxel, atol=0.01 * voxel * 3)
    alignment = (surface.normals.numpy() * offset / radius[:, None]).sum(1)
    assert alignment.min() > 0.99
    # Colours were the lattice index over the side: they follow the position.
    lattice_position = (surface.vertices.numpy() - [0.5, -1.0, 2.0]) / voxel + 8
    assert surface.colors is not None
    np.testing.assert_allclose(surface.colors.numpy(), lattice_position / 24, atol=1e-3)


def test_a_torus_has_one_hole() -> None:
    surface = marching_cubes(grid_of(torus()))
    assert_closed_manifold(surface)
    assert euler_characteristic(surface) == 0
    assert signed_volume(surface) == pytest.approx(2 * np.pi**2 * 8.7 * 3.4**2 * 0.25**3, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_noise_gives_a_closed_manifold(isa: str, seed: int) -> None:
    surface = marching_cubes(grid_of(noise(seed=seed)), backend="cpu")
    assert len(surface.faces) > 10_000
    assert_closed_manifold(surface)
    assert signed_volume(surface) > 0


def canonical(surface: IsoSurface) -> tuple[np.ndarray, set[tuple[int, ...]]]:
    """Vertices in lexicographic order and the faces in their numbers, each from its smallest."""
    vertices = np.round(surface.vertices.numpy(), 5)
    order = np.lexsort(vertices.T)
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    renamed = rank[surface.faces.numpy()]
    rolled = {tuple(np.roll(face, -int(face.argmin())).tolist()) for face in renamed}
    return order, rolled


@pytest.mark.parametrize("field", ["sphere", "noise", "holes"])
def test_the_kernel_equals_the_reference(isa: str, field: str) -> None:
    values = sphere(16, 5.2) if field == "sphere" else noise(16, 5)
    weights, drop = None, None
    if field == "holes":
        weights = (np.random.default_rng(1).random(values.shape) > 0.05).astype(float)
        drop = np.array([3])
    grid = grid_of(values, weights, drop)
    fast, plain = marching_cubes(grid, backend="cpu"), marching_cubes(grid, backend="reference")
    assert len(fast.faces) > 300
    (fast_order, fast_faces), (plain_order, plain_faces) = canonical(fast), canonical(plain)
    assert fast_faces == plain_faces
    for name, tolerance in (("vertices", 1e-5), ("normals", 1e-4), ("colors", 1e-4)):
        ours, theirs = getattr(fast, name).numpy(), getattr(plain, name).numpy()
        np.testing.assert_allclose(ours[fast_order], theirs[plain_order], atol=tolerance)


def test_unobserved_voxels_are_not_meshed() -> None:
    values = sphere()
    weights = np.ones_like(values)
    weights[:12] = 0.0  # half of the sphere was never seen
    surface = marching_cubes(grid_of(values, weights))
    x = (surface.vertices.numpy()[:, 0] - 0.5) / 0.25 + 8
    assert x.min() >= 12
    assert len(surface.faces) > 300
    # Every vertex belongs to a triangle.
    assert np.array_equal(np.unique(surface.faces.numpy()), np.arange(len(surface.vertices)))
    lightly = marching_cubes(grid_of(values, np.where(weights > 0, 1.0, 0.2)), min_weight=0.5)
    assert torch.equal(lightly.faces, surface.faces)


def test_a_missing_block_leaves_a_hole_and_no_more() -> None:
    values = sphere(32, 12.0)
    whole, holed = marching_cubes(grid_of(values)), marching_cubes(grid_of(values, drop=np.array([21])))
    assert 0 < len(holed.faces) < len(whole.faces)
    assert max(directed_edges(holed).values()) == 1


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
def test_a_field_without_a_sign_change_is_empty(isa: str, value: float) -> None:
    surface = marching_cubes(grid_of(np.full((8, 8, 16), value)))
    assert surface.faces.shape == (0, 3)
    assert surface.vertices.shape == (0, 3)


def test_values_exactly_zero_stay_manifold() -> None:
    values = np.round(noise(16, 2))  # zeros at many lattice points, on the border outside
    surface = marching_cubes(grid_of(np.where(values == 0, 0.0, values)))
    assert_closed_manifold(surface)


def test_nan_and_infinite_values_are_unobserved_or_clamped(isa: str) -> None:
    values = sphere()
    values[10:12, 10:12] = np.nan
    values[14, 14] = np.inf
    surface = marching_cubes(grid_of(values))
    assert torch.isfinite(surface.vertices).all()
    assert len(surface.faces) > 100


def test_no_blocks() -> None:
    frame = GridFrame((0, 0, 0), 1.0, 2.0, (0, 0, 0), (1, 1, 1))
    for backend in ("cpu", "reference"):
        surface = marching_cubes(TsdfGrid.empty(frame, torch.zeros(0, 3, dtype=torch.int32)), backend=backend)
        assert len(surface.faces) == len(surface.vertices) == 0


def test_the_number_of_threads_changes_nothing() -> None:
    grid = grid_of(noise())
    module = native()
    threads = module.max_threads()
    try:
        module.set_threads(1)
        one = marching_cubes(grid)
        module.set_threads(4)
        four = marching_cubes(grid)
    finally:
        module.set_threads(threads)
    assert torch.equal(one.vertices, four.vertices)
    assert torch.equal(one.faces, four.faces)


def test_neighbours_are_found() -> None:
    blocks = np.array([[-1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]], np.int32)
    rows = neighbor_rows(blocks)
    assert (rows[:, 13] == np.arange(4)).all()
    assert rows[1, 12] == 0
    assert rows[1, 13 + 9] == 2
    assert rows[1, 13 + 3] == 3
    assert rows[0, 14] == 1
    assert (rows >= 0).sum() == 4 + 2 * 6 - 0  # every pair of these blocks touches at least at a corner


def test_wrong_shapes_are_refused() -> None:
    grid = grid_of(sphere(8, 3.0))
    broken = TsdfGrid(grid.frame, grid.blocks, grid.distance_sum[:, :-1], grid.weight_sum, grid.color_sum)
    with pytest.raises(ReconError, match="distance_sum"):
        marching_cubes(broken)
