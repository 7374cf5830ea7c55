# SPDX-License-Identifier: Apache-2.0
"""Marching: against plain torch in double precision, its laws, and rays that are none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernels.ray_march.march_cases import BOUNDED, CONTRACTED, SPACES, blobs, grid_with, random_rays, spotted

from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import MarchOptions, RaySamples, Space, march, march_backward, march_into
from recon.kernels.ray_march.reference import Lattice, march_backward_reference, march_reference, sample_positions
from recon.kernels.workspace import Workspace

OPTIONS = MarchOptions(step=0.02, near=0.05)
FIELDS = ("positions", "distances", "lengths", "offsets", "ray_of", "ends")


def assert_identical(found: RaySamples, expected: RaySamples) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.served == expected.served


def assert_close(found: RaySamples, expected: RaySamples, borderline: float = 0.01) -> None:
    """A lattice point within rounding of a cell's face may be a sample or not: so of few rays the counts differ."""
    same = found.offsets.diff() == expected.offsets.diff()
    assert float((~same).float().mean()) <= borderline
    mine, other = same[found.ray_of.long()], same[expected.ray_of.long()]
    spacing = expected.lengths[other]
    assert float(((found.distances[mine] - expected.distances[other]) / spacing).abs().max()) < 5e-3
    assert float(((found.lengths[mine] - expected.lengths[other]) / spacing).abs().max()) < 5e-3
    torch.testing.assert_close(found.positions[mine].double(), expected.positions[other].double(), rtol=0, atol=2e-5)
    assert torch.equal(found.ray_of[mine], expected.ray_of[other])
    assert torch.equal(found.ends.isfinite()[same], expected.ends.isfinite()[same])
    stopped = same & found.ends.isfinite()
    torch.testing.assert_close(found.ends[stopped].double(), expected.ends[stopped].double(), rtol=1e-3, atol=1e-4)


# ---- the reference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_the_lattice_keeps_the_spacing(space: Space) -> None:
    """Its closed form against finite differences: dt/ds = step · half_size · max(1, m)²."""
    origins, directions, _ = (tensor.double() for tensor in random_rays(200, 1))
    lattice = Lattice(origins, directions, space, OPTIONS)
    usable = lattice.valid & (lattice.last > 2)
    assert int(usable.sum()) > 50
    s = torch.linspace(0, 1, 2000, dtype=torch.float64) * lattice.last[:, None]
    t = lattice.distance(s)
    points = origins[:, None] + (t[:, 1:] + t[:, :-1])[..., None] / 2 * directions[:, None]
    m = ((points - points.new_tensor(space.center)) / space.half_size).abs().amax(-1).clamp_min(1)
    spacing = OPTIONS.step * space.half_size * (m.square() if space.contracted else torch.ones_like(m))
    ratio = (t.diff(dim=-1) / s.diff(dim=-1) / spacing)[usable]
    assert float((ratio - 1).abs().max()) < 0.03
    assert float((ratio - 1).abs().median()) < 1e-4
    numbers = torch.stack([lattice.number(t[:, column]) for column in range(0, 2000, 100)], -1)
    torch.testing.assert_close(numbers[usable], s[:, ::100][usable])


def test_even_steps_in_the_contracted_space() -> None:
    """A ray from the centre moves by the same in the contracted space with every step."""
    space, direction = Space((0.0, 0.0, 0.0), 2.0, True), torch.tensor([[1.0, 0.2, -0.3]])
    direction = direction / direction.norm()
    found = march(torch.zeros((1, 3)), direction, space, OccupancyGrid.full(8), replace(OPTIONS, near=0.0))
    steps = found.positions[:, 0].diff()
    torch.testing.assert_close(
        steps, torch.full_like(steps, OPTIONS.step * float(direction[0, 0]) / 4), rtol=0.01, atol=0
    )
    assert float(found.positions[-1, 0]) > 1 - 0.02
    assert float(found.distances[-1]) > 2 * 50


def test_the_spaces_are_undone() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn((500, 3), generator=generator, dtype=torch.float64) * torch.logspace(-1, 3, 500)[:, None]
    for space in SPACES:
        unit = space.to_unit(points)
        torch.testing.assert_close(space.from_unit(unit), points, rtol=1e-9, atol=1e-9)
        if space.contracted:
            assert 0 < float(unit.min()) < float(unit.max()) < 1
    inside = points.abs().amax(-1) < 1
    torch.testing.assert_close(
        (2 * BOUNDED.to_unit(points[inside]) - 1), (4 * CONTRACTED.to_unit(points[inside]) - 2), rtol=0, atol=3
    )


@pytest.mark.parametrize("space", SPACES)
def test_gradcheck_of_the_reference(space: Space) -> None:
    origins, directions, _ = (tensor.double() for tensor in random_rays(4, 3, 0.7))
    samples = march_reference(origins, directions, space, OccupancyGrid.full(8), MarchOptions(0.3, max_samples=6))
    assert len(samples.distances) > 8
    torch.autograd.gradcheck(
        lambda o, d: sample_positions(samples, o, d, space), (origins.requires_grad_(), directions.requires_grad_())
    )


# ---- the kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("spread", "most"), [(1.5, 1024), (0.3, 9), (30.0, 1024)])
def test_samples_are_those_of_the_reference(isa: str, space: Space, spread: float, most: int) -> None:
    origins, directions, jitter = random_rays(400, int(spread), spread)
    options, grid = replace(OPTIONS, max_samples=most), blobs(32)
    expected = march_reference(origins.double(), directions.double(), space, grid, options, jitter.double())
    found = march(origins, directions, space, grid, options, jitter)
    assert len(expected.distances) > 100
    assert_close(found, expected)
    no_jitter = march(origins, directions, space, grid, options)
    assert_identical(no_jitter, march(origins, directions, space, grid, options, torch.full_like(jitter, 0.5)))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("step", [0.1, 0.02, 0.001])
def test_skipping_misses_nothing(isa: str, space: Space, step: float) -> None:
    """Marching a grid of few cells gives the samples of marching the full grid, less those in other cells, exactly."""
    origins, directions, jitter = random_rays(300, 5, 0.7)
    options = MarchOptions(step, near=0.1, far=20.0, max_samples=100_000)
    everything = march(origins, directions, space, OccupancyGrid.full(32), options, jitter)
    for grid in (spotted(32, 0.01), blobs(32, 1)):
        found = march(origins, directions, space, grid, options, jitter)
        keep = grid.contains(everything.positions.clamp_max(1 - 1e-7))
        expected = torch.stack([everything.ray_of[keep], everything.distances[keep].view(torch.int32)], -1)
        mine = torch.stack([found.ray_of, found.distances.view(torch.int32)], -1)
        both, counts = torch.cat([expected, mine]).unique(dim=0, return_counts=True)
        # The position that is given may lie on the other side of a cell's face than the one that was looked up.
        assert int((counts != 2).sum()) <= max(2, len(both) // 1000)
        assert len(both) > 20


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("most", [1, 7, 64])
def test_portions_make_up_the_whole(isa: str, space: Space, most: int) -> None:
    origins, directions, jitter = random_rays(200, 2)
    grid, starts, parts = blobs(32), None, []
    whole = march(origins, directions, space, grid, OPTIONS, jitter)
    for _ in range(100):
        part = march(origins, directions, space, grid, replace(OPTIONS, max_samples=most), jitter, starts)
        assert int(part.offsets.diff().max()) <= most
        parts.append(part)
        starts = part.ends
        if bool(starts.isinf().all()):
            break
    assert bool(starts.isinf().all())
    ray_of, distances = (torch.cat([getattr(part, name) for part in parts]) for name in ("ray_of", "distances"))
    order = ray_of.argsort(stable=True)
    assert torch.equal(ray_of[order], whole.ray_of)
    assert torch.equal(distances[order], whole.distances)
    assert whole.ends.isinf().all()


@pytest.mark.parametrize("space", SPACES)
def test_the_number_of_threads_changes_nothing(isa: str, space: Space) -> None:
    origins, directions, jitter = random_rays(3000, 4)
    grid, module, results = blobs(32), native(), []
    threads = module.max_threads()
    try:
        for count in (1, 2, 5):
            module.set_threads(count)
            for limit in (1 << 20, 500):
                options = replace(OPTIONS, max_samples=50, max_total=limit)
                results.append(march(origins, directions, space, grid, options, jitter))
    finally:
        module.set_threads(threads)
    for other in results[2:]:
        assert_identical(other, results[0] if other.served is None else results[1])
    assert results[1].served is not None


def test_a_ray_does_not_depend_on_its_neighbours(isa: str) -> None:
    origins, directions, jitter = random_rays(100, 6)
    grid = blobs(32)
    whole = march(origins, directions, CONTRACTED, grid, OPTIONS, jitter)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    shuffled = march(origins[order], directions[order], CONTRACTED, grid, OPTIONS, jitter[order])
    for place, ray in enumerate(order.tolist()):
        mine = slice(int(shuffled.offsets[place]), int(shuffled.offsets[place + 1]))
        there = slice(int(whole.offsets[ray]), int(whole.offsets[ray + 1]))
        assert torch.equal(shuffled.distances[mine], whole.distances[there])
        assert torch.equal(shuffled.positions[mine], whole.positions[there])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("limit", [30, 100, 1000])
def test_rays_that_there_is_no_room_for_get_none(backend: str, limit: int) -> None:
    origins, directions, _ = random_rays(100, 7, 0.3)
    grid, options = OccupancyGrid.full(8), MarchOptions(0.02, near=0.1, max_samples=30)
    every = march(origins, directions, CONTRACTED, grid, options, backend=backend)  # type: ignore[arg-type]
    starts = torch.linspace(0.0, 0.5, 100)
    for given in (None, starts):
        found = march(
            origins, directions, CONTRACTED, grid, replace(options, max_total=limit), None, given,
            backend=backend,  # type: ignore[arg-type]
        )  # fmt: skip
        assert found.served == limit // 30
        assert int(found.offsets[-1]) == 30 * found.served == len(found.distances)
        if given is None:
            assert torch.equal(found.distances, every.distances[: 30 * found.served])
        begins = torch.full((100,), 0.1) if given is None else starts.clamp_min(0.1)
        assert torch.equal(found.ends[found.served :], begins[found.served :])


@pytest.mark.parametrize("space", SPACES)
def test_near_and_far_bound_the_samples(isa: str, space: Space) -> None:
    origins, directions, jitter = random_rays(300, 8, 0.4)
    options = MarchOptions(0.02, near=0.3, far=0.9)
    found = march(origins, directions, space, OccupancyGrid.full(16), options, jitter)
    assert 0.3 <= float(found.distances.min()) < 0.33
    assert 0.87 < float(found.distances.max()) <= 0.9
    assert found.ends.isinf().all()


@pytest.mark.parametrize("space", SPACES)
def test_the_backward_pass(isa: str, space: Space) -> None:
    origins, directions, jitter = random_rays(150, 9)
    samples = march(origins, directions, space, blobs(32), OPTIONS, jitter)
    gradient = torch.randn(samples.positions.shape, generator=torch.Generator().manual_seed(1))
    found = march_backward(samples, origins, directions, space, gradient)
    double = replace(samples, distances=samples.distances.double())
    expected = march_backward_reference(double, origins.double(), directions.double(), space, gradient.double())
    for mine, other in zip(found, expected):
        torch.testing.assert_close(mine.double(), other, rtol=1e-3, atol=1e-4)
    nothing = samples.offsets.diff() == 0
    assert bool(nothing.any())
    assert not found[0][nothing].any()


@pytest.mark.parametrize("space", SPACES)
def test_finite_differences_through_positions(isa: str, space: Space) -> None:
    """Moving the rays moves the positions of the same samples as the gradients say."""
    origins, directions, _ = (tensor.double() for tensor in random_rays(60, 10, 0.8))
    samples = march_reference(origins, directions, space, OccupancyGrid.full(8), MarchOptions(0.1))
    gradient = torch.randn((len(samples.distances), 3), generator=torch.Generator().manual_seed(2))
    single = replace(samples, distances=samples.distances.float())
    found = march_backward(single, origins.float(), directions.float(), space, gradient)
    generator = torch.Generator().manual_seed(3)
    for which in (0, 1):
        move = torch.randn((60, 3), generator=generator, dtype=torch.float64)
        rays = [[origins, directions], [origins, directions]]
        for sign, pair in zip((1, -1), rays):
            pair[which] = pair[which] + sign * 1e-6 * move
        plus, minus = (sample_positions(samples, *pair, space) for pair in rays)
        expected = float(((plus - minus) / 2e-6 * gradient).sum())
        assert float((found[which].double() * move).sum()) == pytest.approx(expected, rel=2e-3, abs=1e-2)


# ---- what may go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_broken_rays_get_nothing_and_spare_their_neighbours(isa: str, space: Space) -> None:
    origins, directions, jitter = random_rays(320, 11)
    starts = torch.zeros(320)
    grid = blobs(32)
    whole = march(origins, directions, space, grid, OPTIONS, jitter, starts)
    broken = [tensor.clone() for tensor in (origins, directions, jitter, starts)]
    broken[0][0::32, 1] = math.nan
    broken[0][1::32, 2] = math.inf
    broken[0][2::32] = 1e30
    broken[1][3::32] = 0
    broken[1][4::32, 0] = math.nan
    broken[1][5::32] = -math.inf
    broken[1][6::32] = 1e-20
    broken[2][7::32] = math.nan
    broken[2][8::32] = 2.0
    broken[3][9::32] = math.nan
    broken[3][10::32] = math.inf
    broken[3][11::32] = 1e30
    for backend in ("cpu", "reference"):
        found = march(broken[0], broken[1], space, grid, OPTIONS, broken[2], broken[3], backend=backend)  # type: ignore[arg-type]
        counts, expected = found.offsets.diff(), whole.offsets.diff()
        for place in range(12):
            assert not counts[place::32].any(), (backend, place)
            assert found.ends[place::32].isinf().all(), (backend, place)
        assert found.positions.isfinite().all()
        if backend == "cpu":
            for place in range(12, 32):
                assert torch.equal(counts[place::32], expected[place::32])


def test_nothing_to_march(isa: str) -> None:
    origins, directions, _ = random_rays(50, 12)
    empty = grid_with(torch.zeros((16, 16, 16), dtype=torch.bool))
    for space in SPACES:
        found = march(origins, directions, space, empty, OPTIONS)
        assert found.positions.shape == (0, 3)
        assert not found.offsets.any()
        assert found.ends.isinf().all()
        none = march(origins[:0], directions[:0], space, OccupancyGrid.full(8), OPTIONS)
        assert none.offsets.tolist() == [0]
        gradients = march_backward(none, origins[:0], directions[:0], space, torch.zeros((0, 3)))
        assert gradients[0].shape == (0, 3)
    away = torch.tensor([[10.0, 0.0, 0.0]]).expand(50, 3)
    missing = march(away, torch.tensor([[0.0, 1.0, 0.0]]).expand(50, 3), BOUNDED, OccupancyGrid.full(8), OPTIONS)
    assert not missing.offsets.any()


@pytest.mark.parametrize("space", SPACES)
def test_rays_along_axes_faces_and_edges(isa: str, space: Space) -> None:
    """Where lines of the envelope coincide or are parallel."""
    values = torch.tensor([-2.6, -1.3, 0.0, 1.3, 2.6])
    origins = torch.cartesian_prod(values, values, values) + torch.tensor(space.center)
    axes = [(1, 0, 0), (0, -1, 0), (0, 0, 1), (1, 1, 0), (-1, 0, 1), (1, 1, 1), (1, -1, 1), (1, 1e-7, 0)]
    grid = OccupancyGrid.full(16)
    for axis in axes:
        direction = torch.tensor(axis, dtype=torch.float32)
        directions = (direction / direction.norm()).expand_as(origins).contiguous()
        found = march(origins, directions, space, grid, OPTIONS)
        expected = march_reference(origins.double(), directions.double(), space, grid, OPTIONS)
        assert found.positions.isfinite().all()
        # A ray within a face of the cube is inside or outside by rounding.
        assert_close(found, expected, 0.6 if not space.contracted else 0.05)


def test_far_away_and_tiny_and_huge_spaces(isa: str) -> None:
    corners, targets, _ = random_rays(100, 13)
    for size in (1e-6, 1.0, 1e6):
        for distance in (1.0, 1e3, 1e7):
            space = Space((0.0, 0.0, 0.0), size, True)
            origins = size * distance * corners
            directions = torch.nn.functional.normalize(size * targets - origins, dim=-1, eps=0.0)
            found = march(origins, directions, space, OccupancyGrid.full(8), MarchOptions(0.05))
            assert found.positions.isfinite().all()
            assert found.distances.isfinite().all()
            assert (found.distances >= 0).all()
            assert len(found.distances) > 1000
            # Distances of 1e7 half sizes cannot be told apart as finely as that.
            backward = found.distances.diff()[found.ray_of.diff() == 0] / (size * distance)
            assert float(backward.min()) >= -1e-5


def test_a_workspace_is_used_again(isa: str) -> None:
    origins, directions, jitter = random_rays(300, 14)
    workspace, grid = Workspace(), blobs(32)
    march_into(origins, directions, CONTRACTED, grid, OPTIONS, workspace, jitter)
    held = workspace.bytes()
    found = march_into(origins[:200], directions[:200], CONTRACTED, grid, OPTIONS, workspace, jitter[:200])
    assert workspace.bytes() == held
    assert_identical(found, march(origins[:200], directions[:200], CONTRACTED, grid, OPTIONS, jitter[:200]))


def test_wrong_arguments_are_refused() -> None:
    origins, directions, jitter = random_rays(5, 0)
    grid = OccupancyGrid.full(8)
    with pytest.raises(ReconError, match="directions has shape 4×3"):
        march(origins, directions[:4], CONTRACTED, grid, OPTIONS)
    with pytest.raises(ReconError, match="jitter has shape 4"):
        march(origins, directions, CONTRACTED, grid, OPTIONS, jitter[:4])
    with pytest.raises(ReconError, match=r"starts is torch\.float64"):
        march(origins, directions, CONTRACTED, grid, OPTIONS, None, jitter.double())
    with pytest.raises(ReconError, match="gsplat"):
        march(origins, directions, CONTRACTED, grid, OPTIONS, backend="gsplat")
    for step, near, far in ((0.0, 0, 1), (math.nan, 0, 1), (0.1, -1, 1), (0.1, 1, 1), (0.1, 0, math.nan)):
        with pytest.raises(ReconError):
            MarchOptions(step, near, far)
    with pytest.raises(ReconError, match="at most 0 samples"):
        MarchOptions(0.1, max_samples=0)
    with pytest.raises(ReconError, match="positive size"):
        Space((0, 0, math.nan), 1, True)
    samples = march(origins, directions, CONTRACTED, grid, OPTIONS)
    with pytest.raises(ReconError, match="position_gradient"):
        march_backward(samples, origins, directions, CONTRACTED, samples.positions[1:])
