# SPDX-License-Identifier: Apache-2.0
"""Occupancy grids: against plain torch, what their laws say, and input that is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kernels.ray_march.march_cases import BOUNDED, CONTRACTED, SPACES

from recon.cameras import Camera, CameraModel
from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.occupancy.op import (
    NEVER,
    OccupancyGrid,
    level_bytes,
    mark_unseen,
    occupancy_cells,
    update_occupancy,
)
from recon.kernels.occupancy.reference import bits_of, cell_spheres, packed, unpacked
from recon.kernels.ray_march.op import Space

SIDES = [8, 24, 40, 64]


def random_grid(side: int, seed: int = 0, share: float = 0.02) -> OccupancyGrid:
    """Densities of all kinds, and the bits that some of them have."""
    generator = torch.Generator().manual_seed(seed)
    densities = torch.rand(side**3, generator=generator)
    kinds = torch.rand(side**3, generator=generator)
    densities = torch.where(kinds < 0.1, NEVER, torch.where(kinds > 0.9, math.inf, densities))
    occupied = (torch.rand(side**3, generator=generator) < share) & (densities >= 0)
    return OccupancyGrid(side, densities, bits_of(occupied, side))


def copy(grid: OccupancyGrid) -> OccupancyGrid:
    return OccupancyGrid(grid.resolution, grid.densities.clone(), grid.bits.clone())


def random_findings(grid: OccupancyGrid, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells, many of them several times, and densities, some of which are none."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, grid.cells, (count,), generator=generator).int()
    cells[count // 2 :] = cells[: count - count // 2]
    densities = 2 * torch.rand(count, generator=generator) ** 4
    densities[::11] = torch.tensor([math.nan, math.inf, -1.0, 0.0]).repeat(count)[: len(densities[::11])]
    return cells, densities


def test_levels_tell_of_neighbours() -> None:
    """One occupied cell lights its block and the 26 blocks around it, and no other, on each level."""
    side = 16
    occupied = torch.zeros((side,) * 3, dtype=torch.bool)
    occupied[5, 9, 2] = True
    bits, begins = bits_of(occupied.flatten(), side), level_bytes(side)
    for level in range(4):
        n = side >> level
        blocks = unpacked(bits[begins[level] : begins[level + 1]], n**3).reshape(n, n, n)
        expected = torch.zeros((n, n, n), dtype=torch.bool)
        reach = 1 if level else 0
        z, y, x = (
            slice(max((c >> level) - reach, 0), (c >> level) + reach + 1) for c in (5, 9, 2)
        )  # fmt: skip
        expected[z, y, x] = True
        assert torch.equal(blocks, expected)
    assert torch.equal(unpacked(packed(occupied.flatten()), side**3), occupied.flatten())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.999])
def test_updates_equal_those_of_the_reference(isa: str, side: int, threshold: float) -> None:
    grid = random_grid(side)
    for count in (0, 1, 3000):
        cells, densities = random_findings(grid, count, count)
        found, expected = copy(grid), copy(grid)
        update_occupancy(found, cells, densities, threshold, 0.9)
        update_occupancy(expected, cells, densities, threshold, 0.9, backend="reference")
        assert torch.equal(found.densities, expected.densities)
        assert torch.equal(found.bits, expected.bits)
        unchanged = torch.ones(grid.cells, dtype=torch.bool)
        unchanged[cells.long()] = False
        assert torch.equal(found.densities[unchanged], grid.densities[unchanged])


def test_an_update_by_hand(isa: str) -> None:
    grid = OccupancyGrid.full(8)
    cells = torch.arange(512, dtype=torch.int32)
    update_occupancy(grid, cells, torch.where(cells < 4, 0.5, 0.001), threshold=0.1)
    assert grid.occupied().nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    grid.densities[7] = NEVER
    seen = torch.tensor([0, 0, 1, 2, 7, 9], dtype=torch.int32)
    update_occupancy(grid, seen, torch.tensor([0.1, 0.2, 0.9, math.nan, 5.0, 30.0]), 0.1, decay=0.5)
    torch.testing.assert_close(grid.densities[:4], torch.tensor([0.25, 0.9, 0.5, 0.5]))
    assert grid.densities[7] == NEVER
    assert grid.densities[9] == 1
    # The mean is lower than the threshold here; a cell that is not asked about stays.
    assert grid.occupied().nonzero()[:, 0].tolist() == [0, 1, 2, 3, 9]
    for _ in range(10):
        update_occupancy(grid, torch.tensor([9], dtype=torch.int32), torch.zeros(1), 0.1, decay=0.5)
    assert not grid.occupied()[9]


def test_the_order_of_a_list_does_not_matter(isa: str) -> None:
    grid, results = random_grid(40), []
    cells, densities = random_findings(grid, 20_000, 3)
    orders = (torch.arange(20_000), cells.argsort(stable=True), cells.argsort(descending=True))
    for order in orders:
        found = copy(grid)
        update_occupancy(found, cells[order], densities[order], 0.3)
        results.append(found)
    for other in results[1:]:
        assert torch.equal(other.densities, results[0].densities)
        assert torch.equal(other.bits, results[0].bits)


def test_the_number_of_threads_changes_nothing(isa: str) -> None:
    module, results = native(), []
    threads = module.max_threads()
    camera = Camera(40, 30, 40.0, 40.0, 20.0, 15.0)
    try:
        for count in (1, 2, 7):
            module.set_threads(count)
            grid = random_grid(40)
            update_occupancy(grid, *random_findings(grid, 9000, 4), 0.3)
            chosen = occupancy_cells(grid, 5, 1000)
            mark_unseen(grid, CONTRACTED, [camera], 0.1)
            results.append((grid.densities, grid.bits, *chosen))
    finally:
        module.set_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0]))


# ---- choosing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("count", [0, 1, 2, 100, 5001, 100_000, None])
def test_choices_equal_those_of_the_reference(isa: str, side: int, count: int | None) -> None:
    for seed, share in ((0, 0.02), (1 << 40, 0.0), (-7, 0.9)):
        grid = random_grid(side, 1, share)
        found, expected = (occupancy_cells(grid, seed, count, backend) for backend in ("auto", "reference"))  # type: ignore[arg-type]
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-7)
        assert len(found[0]) == (int((grid.densities >= 0).sum()) if count is None else count)


def test_choices_cover_evenly(isa: str) -> None:
    grid = random_grid(24)
    possible, occupied = (grid.densities >= 0), grid.occupied()
    cells, positions = occupancy_cells(grid, 1, 4 * grid.cells)
    counts = torch.bincount(cells[: 2 * grid.cells], minlength=grid.cells)
    assert int(counts[possible].min()) >= 2
    assert not counts[~possible].any()
    counts = torch.bincount(cells[2 * grid.cells :], minlength=grid.cells)
    assert int(counts[occupied].max()) - int(counts[occupied].min()) <= 1
    assert not counts[~occupied].any()
    corner = (positions * 24).floor().long()
    assert torch.equal((corner[:, 2] * 24 + corner[:, 1]) * 24 + corner[:, 0], cells.long())
    within = positions * 24 - corner
    assert float((within.mean(0) - 0.5).abs().max()) < 0.01
    assert float((within.var(0) - 1 / 12).abs().max()) < 0.003
    assert float(torch.corrcoef(within.T).triu(1).abs().max()) < 0.02
    few, others = (occupancy_cells(grid, seed, 2000)[0] for seed in (1, 2))
    assert bool((few[:1000].diff() >= 0).all())
    assert bool((few[1000:].diff() >= 0).all())
    assert float((few == others)[:1000].float().mean()) < 0.3


def test_nothing_to_choose_from(isa: str) -> None:
    grid = random_grid(8)
    grid.densities.fill_(NEVER)
    grid.bits.zero_()
    for count in (None, 10):
        cells, positions = occupancy_cells(grid, 0, count)
        assert cells.shape == (0,)
        assert positions.shape == (0, 3)


# ---- what no camera sees -------------------------------------------------------------------------------------------


def looking_at(eye: tuple[float, float, float], width: int = 60, height: int = 40) -> Camera:
    """A camera that looks at the centre of the tests' spaces."""
    center = np.array(eye, dtype=np.float64)
    forward = np.array(CONTRACTED.center) - center
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.1, 0.9, 0.2])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return Camera(width, height, 50.0, 55.0, 0.4 * width, 0.6 * height, cam_from_world=pose)


CAMERAS = [looking_at((2.0, 0.4, 0.1)), looking_at((-0.6, -0.4, 0.3)), looking_at((0.2, 3.0, -2.0), 30, 90)]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("min_views", [0, 1, 2, 4])
def test_marks_equal_those_of_the_reference(isa: str, space: Space, min_views: int) -> None:
    for side in (8, 24, 32):
        found, expected = random_grid(side, 0, 0.5), random_grid(side, 0, 0.5)
        mark_unseen(found, space, CAMERAS, [0.1, 0.3, 2.0], min_views)
        mark_unseen(expected, space, CAMERAS, [0.1, 0.3, 2.0], min_views, backend="reference")
        differ = found.densities != expected.densities
        assert float(differ.float().mean()) < 1e-3  # within rounding of the edge
        if not bool(differ.any()):
            assert torch.equal(found.bits, expected.bits)
        assert torch.equal(found.bits, bits_of(found.occupied(), side))
        assert not found.occupied()[found.densities == NEVER].any()


@pytest.mark.parametrize("space", SPACES)
def test_what_a_photograph_shows_is_never_cut(space: Space) -> None:
    """Points that project into a photograph, beyond near and in front of nobody's, against the camera's own code."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand((20_000, 3), generator=generator) * 0.98 + 0.01
    in_world = space.from_unit(points).double().numpy()
    grid, near = OccupancyGrid.full(32), 0.4
    mark_unseen(grid, space, CAMERAS, near)
    seen, in_the_way = np.zeros(len(points), dtype=bool), np.zeros(len(points), dtype=bool)
    radii = cell_spheres(32, space, _cells_of(points, 32))[1].double().numpy()
    margin = np.zeros(len(points), dtype=bool)
    for camera in CAMERAS:
        pixels, depth = camera.project(in_world)
        inside = (pixels >= 0).all(-1) & (pixels < [camera.width, camera.height]).all(-1) & (depth > 0)
        seen |= inside & (depth >= near)
        in_the_way |= inside & (depth < near)
        # Far from everything that the camera sees, even for the sphere of the cell.
        away = np.linalg.norm(in_world - camera.center_in_world, axis=-1)
        margin |= (depth > -2 * radii) | (away < 2 * radii)
    occupied = grid.contains(points).numpy()
    assert occupied[seen & ~in_the_way].all()
    assert not occupied[~margin].any()
    assert 0.02 < occupied.mean() < 0.98


def _cells_of(points: torch.Tensor, side: int) -> torch.Tensor:
    x, y, z = (points * side).long().unbind(-1)
    return (z * side + y) * side + x


def test_the_room_before_a_camera_is_emptied(isa: str) -> None:
    camera = looking_at((0.5, 0.1, 0.3))
    depths = torch.linspace(0.02, 0.6, 30)
    ahead = torch.tensor(camera.center_in_world + depths[:, None].numpy() * camera.forward_in_world)
    across = looking_at((0.2, 3.0, -2.0), 400, 400)  # sees all of it, from far
    grid = OccupancyGrid.full(128)
    mark_unseen(grid, BOUNDED, [camera, across], [0.3, 0.1])
    occupied = grid.contains(BOUNDED.to_unit(ahead).float())
    assert not occupied[(depths > 0.12) & (depths < 0.26)].any()
    assert occupied[depths > 0.3].all()


def test_far_cells_of_contracted_space_keep_their_place(isa: str) -> None:
    """A camera that looks along x sees the cells at the end of x, and none at the end of -x."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    grid = OccupancyGrid.full(16)
    mark_unseen(grid, Space((0, 0, 0), 1, True), [Camera(40, 40, 80, 80, 20, 20, cam_from_world=pose)], 0.1)
    occupied = grid.occupied().reshape(16, 16, 16)
    assert occupied[7:9, 7:9, 9:].all()
    assert not occupied[:, :, :7].any()
    assert not occupied[:3, :, :9].any()
    assert not occupied[:, 13:, :9].any()


def test_no_cameras_and_all_of_them(isa: str) -> None:
    grid = OccupancyGrid.full(8)
    mark_unseen(grid, BOUNDED, [], 0.1, min_views=0)
    assert grid.occupied().all()
    mark_unseen(grid, BOUNDED, [], 0.1)
    assert not grid.occupied().any()
    assert (grid.densities == NEVER).all()
    update_occupancy(grid, torch.arange(512, dtype=torch.int32), torch.ones(512), 0.01)
    assert not grid.bits.any()


# ---- what may go wrong ---------------------------------------------------------------------------------------------


def test_a_grid_of_bits_from_elsewhere_may_lie_anywhere(isa: str) -> None:
    """Bits that a checkpoint put at an odd address."""
    grid = random_grid(24)
    room = torch.zeros(len(grid.bits) + 3, dtype=torch.uint8)
    odd = OccupancyGrid(24, grid.densities.clone(), room[1 : 1 + len(grid.bits)].copy_(grid.bits))
    assert torch.equal(occupancy_cells(odd, 1, 99)[0], occupancy_cells(grid, 1, 99)[0])
    for each in (odd, grid):
        update_occupancy(each, *random_findings(grid, 500, 1), 0.2)
        mark_unseen(each, BOUNDED, CAMERAS, 0.2)
    assert torch.equal(odd.bits, grid.bits)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_wrong_arguments_are_refused(backend: str) -> None:
    grid = random_grid(8)
    before = copy(grid)
    for cell in (-1, 512, 2**31 - 1):
        with pytest.raises(ReconError, match=f"cells reach from .*{cell}"):
            update_occupancy(grid, torch.tensor([3, cell], dtype=torch.int32), torch.ones(2), 0.1, backend=backend)  # type: ignore[arg-type]
    assert torch.equal(grid.densities, before.densities)
    with pytest.raises(ReconError, match="densities has shape 3"):
        update_occupancy(grid, torch.zeros(2, dtype=torch.int32), torch.ones(3), 0.1)
    with pytest.raises(ReconError, match="int64"):
        update_occupancy(grid, torch.zeros(2, dtype=torch.int64), torch.ones(2), 0.1)
    for threshold, decay in ((0.0, 0.9), (math.nan, 0.9), (0.1, 1.1), (0.1, math.nan)):
        with pytest.raises(ReconError, match="threshold is"):
            update_occupancy(grid, torch.zeros(2, dtype=torch.int32), torch.ones(2), threshold, decay)
    with pytest.raises(ReconError, match="-1 were asked for"):
        occupancy_cells(grid, 0, -1)
    for side in (0, 4, 20, 264):
        with pytest.raises(ReconError, match=f"resolution is {side}"):
            OccupancyGrid(side, grid.densities, grid.bits)
    with pytest.raises(ReconError, match="bits has shape"):
        OccupancyGrid(8, grid.densities, grid.bits[:-1])
    with pytest.raises(ReconError, match="2 near distances for 3 cameras"):
        mark_unseen(grid, BOUNDED, CAMERAS, [0.1, 0.2])
    with pytest.raises(ReconError, match="0 or more"):
        mark_unseen(grid, BOUNDED, CAMERAS, math.nan)
    fisheye = Camera(10, 10, 5, 5, 5, 5, CameraModel.OPENCV_FISHEYE, (0, 0, 0, 0))
    with pytest.raises(ReconError, match="OPENCV_FISHEYE"):
        mark_unseen(grid, BOUNDED, [fisheye], 0.1)
