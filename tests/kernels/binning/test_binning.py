# SPDX-License-Identifier: Apache-2.0
"""Tile lists against the brute-force reference, on every instruction set."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.binning.op import TileBinner, TileLists, bin_tiles
from recon.kernels.native import native
from recon.kernels.projection.op import Projected
from tests.projected_scenes import as_double, from_axes, make_projected

NEEDLES = ((0.55, 300.0), (0.02, 1.0))
DISCS = ((20.0, 400.0), (0.004, 1.0))
SPECKS = ((0.55, 0.7), (0.0, 0.05))


def lists(tiles: TileLists) -> list[list[int]]:
    offsets, ids = tiles.offsets.tolist(), tiles.ids.tolist()
    return [ids[begin:end] for begin, end in pairwise(offsets)]


def check_consistency(tiles: TileLists, projected: Projected) -> None:
    """Everything that must hold whatever the scene."""
    count = len(projected.means_px)
    assert tiles.offsets[0] == 0
    assert tiles.offsets[-1] == len(tiles.ids)
    assert len(tiles.offsets) == tiles.tiles_x * tiles.tiles_y + 1
    ids, pairs = tiles.entries.long().unbind(-1)
    assert torch.equal(pairs.sort().values, torch.arange(len(ids)))
    starts = tiles.pair_starts.long()
    assert ((starts[ids] <= pairs) & (pairs < starts[ids + 1])).all()
    assert torch.equal(starts[1:] - starts[:-1], torch.bincount(ids, minlength=count))
    depths = projected.depths.tolist()
    for tile in lists(tiles):
        assert tile == sorted(tile, key=lambda i: (depths[i], i))
        assert len(tile) == len(set(tile))


def check_against_reference(
    projected: Projected, width: int, height: int, slack: float, cutoff: float = 1 / 255
) -> None:
    tiles = bin_tiles(projected, width, height, cutoff, backend="cpu")
    check_consistency(tiles, projected)
    expected = bin_tiles(as_double(projected), width, height, cutoff, backend="reference")
    check_consistency(expected, projected)
    for ours, theirs in zip(lists(tiles), lists(expected)):
        assert set(theirs) <= set(ours)
    # The exact ellipse may pass between pixel centres, so a few more tiles are listed than hold a pixel.
    assert len(tiles.ids) <= (1 + slack) * len(expected.ids) + 8


@pytest.mark.parametrize("size", [(64, 48), (61, 45), (16, 16), (17, 1), (1, 1), (1, 50), (250, 15)])
def test_equals_brute_force(isa: str, size: tuple[int, int]) -> None:
    check_against_reference(make_projected(400, *size, seed=sum(size)), *size, slack=0.1)


@pytest.mark.parametrize("kind", [NEEDLES, DISCS, SPECKS])
@pytest.mark.parametrize("cutoff", [1 / 255, 1e-6])
def test_extreme_shapes(isa: str, kind: tuple[tuple[float, float], tuple[float, float]], cutoff: float) -> None:
    sigma_px, opacity = kind
    projected = make_projected(200, 150, 70, 3, sigma_px, opacity)
    check_against_reference(projected, 150, 70, slack=0.15 if kind is not SPECKS else 0.6, cutoff=cutoff)


def test_many_rows_of_tiles(isa: str) -> None:
    """More rows than one pack of rows holds."""
    check_against_reference(make_projected(40, 40, 700, 5, (1.0, 200.0)), 40, 700, slack=0.1)


def test_diagonal_needle_skips_the_corners(isa: str) -> None:
    needle = from_axes(
        torch.tensor([[128.0, 128.0]]),
        torch.tensor([[60.0, 0.6]]),
        torch.tensor([0.7853981633974483]),
        torch.tensor([0.99]),
        torch.tensor([1.0]),
    )
    tiles = bin_tiles(needle, 256, 256)
    # Its bounding box is the whole picture, 256 tiles; the needle itself passes through few.
    assert 16 <= len(tiles.ids) <= 52


def test_equal_depths_keep_their_order(isa: str) -> None:
    projected = make_projected(300, 40, 40, 1)
    projected = replace(projected, depths=(projected.depths * 2).round())
    check_consistency(bin_tiles(projected, 40, 40), projected)


def test_negative_and_zero_depths_sort(isa: str) -> None:
    projected = make_projected(300, 40, 40, 2)
    depths = projected.depths - 5
    depths[:4] = torch.tensor([0.0, -0.0, 1e-38, -1e-38])
    check_consistency(bin_tiles(replace(projected, depths=depths), 40, 40), replace(projected, depths=depths))


def test_long_lists_are_sorted_in_parallel(isa: str) -> None:
    """Enough Gaussians for the threaded sort; all in one tile, so that its list is the whole order."""
    count = 150_000
    generator = torch.Generator().manual_seed(0)
    depths = torch.exp(torch.randn(count, generator=generator))
    ones = torch.ones(count)
    projected = from_axes(torch.full((count, 2), 8.0), torch.ones(count, 2), ones, ones * 0.5, depths)
    tiles = bin_tiles(projected, 16, 16)
    assert torch.equal(tiles.ids.long(), torch.argsort(depths, stable=True))


@pytest.mark.parametrize("count", [3_000, 90_000])
def test_threads_do_not_change_the_result(isa: str, count: int) -> None:
    projected = make_projected(count, 200, 150, 4)
    module = native()
    before = module.max_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            module.set_threads(threads)
            results.append(bin_tiles(projected, 200, 150))
    finally:
        module.set_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0].entries, other.entries)
        assert torch.equal(results[0].offsets, other.offsets)
        assert torch.equal(results[0].pair_starts, other.pair_starts)


def test_no_gaussians(isa: str) -> None:
    tiles = bin_tiles(make_projected(0, 40, 40), 40, 40)
    assert tiles.offsets.tolist() == [0] * 10
    assert tiles.pair_starts.tolist() == [0]
    assert tiles.entries.shape == (0, 2)


BROKEN = {
    "means_px": [float("nan"), float("inf"), -float("inf"), 1e30],
    "conics": [float("nan"), float("inf"), -1.0, 0.0, 1e30],
    "opacities": [float("nan"), float("inf"), 0.0, -1.0, 0.003],
    "depths": [float("nan"), float("inf"), -float("inf")],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
def test_broken_gaussians_are_in_no_list(isa: str, name: str, value: float) -> None:
    projected = make_projected(60, 50, 40, 6, opacity=(0.1, 1.0))
    before = bin_tiles(projected, 50, 40)
    tensor = getattr(projected, name).clone()
    tensor[10] = value
    broken = replace(projected, **{name: tensor})
    after = bin_tiles(broken, 50, 40)
    assert 10 in before.ids
    assert lists(after) == [[i for i in tile if i != 10] for tile in lists(before)]
    assert lists(bin_tiles(as_double(broken), 50, 40, backend="reference")) == [
        [i for i in tile if i != 10] for tile in lists(bin_tiles(as_double(projected), 50, 40, backend="reference"))
    ]


def test_conic_that_is_no_ellipse_is_in_no_list(isa: str) -> None:
    projected = make_projected(5, 50, 40, 7)
    conics = projected.conics.clone()
    conics[2] = torch.tensor([1.0, 1.5, 1.0])
    assert 2 not in bin_tiles(replace(projected, conics=conics), 50, 40).ids


def test_invisible_gaussians_are_in_no_list(isa: str) -> None:
    projected = make_projected(50, 50, 40, 8)
    visible = projected.visible.clone()
    visible[::2] = 0
    tiles = bin_tiles(replace(projected, visible=visible), 50, 40)
    assert (tiles.ids % 2 == 1).all()
    assert not tiles.touched[::2].any()


def test_permutation_only_renames(isa: str) -> None:
    projected = make_projected(200, 50, 40, 9)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = Projected(**{name: tensor[order] for name, tensor in vars(projected).items()})
    renamed = [[int(order[i]) for i in tile] for tile in lists(bin_tiles(shuffled, 50, 40))]
    assert renamed == lists(bin_tiles(projected, 50, 40))


def test_too_many_pairs_are_refused_with_advice(isa: str) -> None:
    huge = make_projected(4000, 320, 320, 10, (500.0, 600.0), (0.9, 1.0))
    with pytest.raises(ReconError, match=r"more than 100000 tiles(.|\n)*--long-side"):
        bin_tiles(huge, 320, 320, max_pairs=100_000)
    assert len(bin_tiles(huge, 320, 320, max_pairs=1_600_000).ids) == 1_600_000


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (1 << 17, 10)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ReconError, match="pixels"):
        bin_tiles(make_projected(3, 10, 10), *size)


@pytest.mark.parametrize("cutoff", [0.0, 1.0, float("nan"), -1.0])
def test_impossible_cutoffs_are_refused(cutoff: float) -> None:
    with pytest.raises(ReconError, match="alpha_cutoff"):
        bin_tiles(make_projected(3, 10, 10), 10, 10, cutoff)


def test_wrong_shapes_and_types_are_refused() -> None:
    projected = make_projected(3, 10, 10)
    with pytest.raises(ReconError, match="conics has shape 3×2"):
        bin_tiles(replace(projected, conics=projected.conics[:, :2]), 10, 10)
    with pytest.raises(ReconError, match="float64"):
        bin_tiles(as_double(projected), 10, 10)
    with pytest.raises(ReconError, match="visible"):
        bin_tiles(replace(projected, visible=projected.visible.bool()), 10, 10)


def test_a_binner_keeps_its_memory_and_its_results(isa: str) -> None:
    """Pictures of changing size and content one after another, as if each were the first."""
    binner = TileBinner()
    scenes = [(300, 60, 40), (5_000, 200, 150), (0, 40, 40), (300, 60, 40), (4_000, 33, 500)]
    places = set()
    for seed, (count, width, height) in enumerate(scenes * 2):
        projected = make_projected(count, width, height, seed=seed)
        tiles, fresh = binner.bin(projected, width, height), bin_tiles(projected, width, height)
        for name in ("offsets", "entries", "pair_starts", "touched"):
            assert torch.equal(getattr(tiles, name), getattr(fresh, name)), name
        assert torch.equal(tiles.touched, tiles.pair_starts.diff() > 0)
        if seed >= len(scenes):
            places.add(tiles.pair_starts.data_ptr())
    assert len(places) == 1


def test_a_binner_recovers_from_a_refusal(isa: str) -> None:
    binner = TileBinner(max_pairs=1_000)
    with pytest.raises(ReconError, match="more than 1000 tiles"):
        binner.bin(make_projected(4000, 320, 320, 10, (500.0, 600.0), (0.9, 1.0)), 320, 320)
    projected = make_projected(100, 50, 40, 1)
    assert lists(binner.bin(projected, 50, 40)) == lists(bin_tiles(projected, 50, 40))


@pytest.mark.parametrize("levels", [1, 3])
def test_equal_depths_keep_their_order_among_many(isa: str, levels: int) -> None:
    """More Gaussians at one depth than a chunk of depths should hold."""
    projected = make_projected(20_000, 64, 64, 1, (0.55, 2.0))
    projected = replace(projected, depths=(projected.depths / 10 * (levels - 1)).round() + 1)
    check_consistency(bin_tiles(projected, 64, 64), projected)


@pytest.mark.parametrize("size", [(7680, 4320), (1 << 16, 16), (16, 1 << 16)])
def test_a_scene_in_the_corner_of_a_gigantic_picture(isa: str, size: tuple[int, int]) -> None:
    """The lists of the same scene in a small picture, moved to the far corner, some hundred thousand tiles on."""
    width, height = min(size[0], 160), min(size[1], 160)
    projected = make_projected(3000, width, height, 2, (0.7, 20.0))
    # A scene of whole and half pixels, so that moving it rounds nothing.
    small = replace(projected, means_px=(projected.means_px * 2).round().clamp(min=0) / 2)
    moved = replace(small, means_px=small.means_px + torch.tensor([size[0] - width, size[1] - height]))
    there = lists(bin_tiles(moved, *size))
    tiles_x, tiles_y = size[0] // 16, size[1] // 16
    corner = [
        there[y * tiles_x + x]
        for y in range(tiles_y - height // 16, tiles_y)
        for x in range(tiles_x - width // 16, tiles_x)
    ]
    here = lists(bin_tiles(small, width, height))
    # The margin for rounding grows with the position.
    for ours, theirs in zip(corner, here):
        assert set(theirs) <= set(ours)
    assert sum(map(len, corner)) <= 1.05 * sum(map(len, here))
