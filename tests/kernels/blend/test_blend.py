# SPDX-License-Identifier: Apache-2.0
"""Blending against the reference in double precision, on every instruction set: forward, gradients, statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend
from recon.kernels.binning.op import bin_tiles
from recon.kernels.binning.reference import lists_of
from recon.kernels.blend.op import Blended, BlendStatistics, blend
from recon.kernels.native import native
from recon.kernels.projection.op import Projected
from tests.projected_scenes import as_double, from_axes, make_projected, with_gradients

# Largest error relative to the largest value, for float32 against float64.
TOLERANCE = {"forward": 4e-6, "gradient": 1e-5}
# A Gaussian that reaches far outside of the picture sees its pixels from far away: positions round more coarsely.
FAR_TOLERANCE = {"forward": 3e-4, "gradient": 1e-3}

Results = dict[str, torch.Tensor]


def render_and_differentiate(
    projected: Projected, channels: torch.Tensor, size: tuple[int, int], backend: Backend, cutoff: float = 1 / 255
) -> Results:
    """Returns everything that a blend and the gradient of a random linear loss give."""
    width, height = size
    leaf, values = with_gradients(projected), channels.clone().requires_grad_()
    tiles = bin_tiles(leaf, width, height, cutoff, backend=backend)
    statistics = BlendStatistics()
    out = blend(leaf, values, tiles, width, height, True, statistics, backend)
    assert out.median_depth is not None
    generator = torch.Generator().manual_seed(1)
    by_channels = torch.randn(out.channels.shape, generator=generator, dtype=torch.float64).to(channels.dtype)
    by_alpha = torch.randn(out.alpha.shape, generator=generator, dtype=torch.float64).to(channels.dtype)
    ((out.channels * by_channels).sum() + (out.alpha * by_alpha).sum()).backward()
    results: dict[str, torch.Tensor | None] = {
        "channels": out.channels,
        "alpha": out.alpha,
        "median_depth": out.median_depth,
    }
    results |= {f"d_{name}": getattr(leaf, name).grad for name in ("means_px", "conics", "opacities")}
    results["d_channels"] = values.grad
    results |= vars(statistics)
    return {name: value.detach() for name, value in results.items() if value is not None}


def compare(ours: Results, theirs: Results, tolerance: dict[str, float] = TOLERANCE) -> None:
    for name, expected in theirs.items():
        kind = "forward" if name in ("channels", "alpha", "weight_sum", "weight_max") else "gradient"
        if name == "median_depth":
            # A transmittance within rounding of one half may fall on either side.
            wrong = (ours[name] - expected).abs() > 1e-5 * expected
            assert wrong.sum() <= 0.002 * expected.numel() + 1
            continue
        scale = expected.abs().max().clamp(min=1e-12)
        error = ((ours[name] - expected).abs().max() / scale).item()
        assert error <= tolerance[kind], f"{name}: {error:.2e}"


def check(
    projected: Projected,
    size: tuple[int, int],
    d: int = 3,
    cutoff: float = 1 / 255,
    tolerance: dict[str, float] = TOLERANCE,
) -> None:
    generator = torch.Generator().manual_seed(2)
    channels = torch.randn(len(projected.means_px), d, generator=generator)
    ours = render_and_differentiate(projected, channels, size, "cpu", cutoff)
    theirs = render_and_differentiate(as_double(projected), channels.double(), size, "reference", cutoff)
    compare(ours, theirs, tolerance)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7, 11, 40])
def test_any_number_of_channels(isa: str, d: int) -> None:
    check(make_projected(300, 50, 37, seed=d), (50, 37), d)


@pytest.mark.parametrize("size", [(64, 48), (17, 33), (16, 16), (1, 1), (1, 40), (40, 1), (31, 15)])
def test_any_size(isa: str, size: tuple[int, int]) -> None:
    check(make_projected(150, *size, seed=sum(size)), size)


@pytest.mark.parametrize("d", [3, 4])
def test_opaque_pixels_stop(isa: str, d: int) -> None:
    """Lists so long that rows, strips and whole tiles become opaque early."""
    check(make_projected(1500, 40, 40, 11, (2.0, 12.0), (0.5, 1.0)), (40, 40), d)


def test_low_cutoff(isa: str) -> None:
    check(make_projected(200, 40, 40, 12), (40, 40), cutoff=1e-8)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(((0.55, 300.0), (0.02, 1.0)), id="needles"),
        pytest.param(((30.0, 3000.0), (0.004, 1.0)), id="discs"),
        pytest.param(((0.01, 0.3), (0.0, 1.0)), id="specks"),
    ],
)
def test_extreme_shapes(isa: str, shape: tuple[tuple[float, float], tuple[float, float]]) -> None:
    check(make_projected(150, 70, 50, 13, *shape), (70, 50), tolerance=FAR_TOLERANCE)


def test_hundreds_in_one_pixel(isa: str) -> None:
    count = 600
    generator = torch.Generator().manual_seed(3)
    means = 8 + torch.rand(count, 2, generator=generator)
    opacities = 0.004 + 0.05 * torch.rand(count, generator=generator)
    depths = 1 + torch.rand(count, generator=generator)
    angle = torch.rand(count, generator=generator)
    check(from_axes(means, torch.full((count, 2), 0.6), angle, opacities, depths), (20, 20))


def test_one_gaussian_by_hand(isa: str) -> None:
    projected = from_axes(
        torch.tensor([[5.5, 3.5]]), torch.tensor([[2.0, 1.0]]), torch.zeros(1), torch.tensor([0.8]), torch.tensor([4.0])
    )
    out = blend(projected, torch.tensor([[2.0]]), bin_tiles(projected, 12, 8), 12, 8, median_depth=True)
    x = torch.arange(12) + 0.5 - 5.5
    y = torch.arange(8) + 0.5 - 3.5
    alpha = 0.8 * torch.exp(-0.5 * ((x[None] / 2) ** 2 + y[:, None] ** 2))
    alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros(()))
    assert torch.allclose(out.alpha, alpha, atol=1e-6)
    assert torch.allclose(out.channels[..., 0], 2 * alpha, atol=1e-6)
    assert out.median_depth is not None
    assert torch.equal(out.median_depth, torch.where(alpha >= 0.5, 4.0, 0.0))


def test_nothing_to_draw(isa: str) -> None:
    projected = with_gradients(make_projected(0, 20, 20))
    channels = torch.zeros(0, 3, requires_grad=True)
    out = blend(projected, channels, bin_tiles(projected, 20, 20), 20, 20, median_depth=True)
    out.channels.sum().backward()
    assert out.median_depth is not None
    assert not out.channels.any()
    assert not out.alpha.any()
    assert not out.median_depth.any()
    assert channels.grad is not None
    assert channels.grad.shape == (0, 3)


def test_lists_beyond_need_change_nothing(isa: str) -> None:
    """Listing every Gaussian in every tile gives the same picture: tile lists only leave out what is not seen."""
    projected = make_projected(120, 50, 40, 14)
    order = torch.argsort(projected.depths, stable=True)
    everything = lists_of([order] * 12, 120, 4, 3, 1 / 255)
    full = blend(projected, projected.colors, everything, 50, 40)
    exact = blend(projected, projected.colors, bin_tiles(projected, 50, 40), 50, 40)
    assert torch.equal(full.channels, exact.channels)
    assert torch.equal(full.alpha, exact.alpha)


def test_permutation_changes_nothing(isa: str) -> None:
    projected = make_projected(200, 50, 40, 15)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = Projected(**{name: tensor[order] for name, tensor in vars(projected).items()})
    ours = render_and_differentiate(projected, projected.colors, (50, 40), "cpu")
    theirs = render_and_differentiate(shuffled, shuffled.colors, (50, 40), "cpu")
    for name, value in ours.items():
        per_gaussian = len(value) == 200
        assert torch.equal(value[order] if per_gaussian else value, theirs[name])


def test_shift_by_a_tile_changes_nothing(isa: str) -> None:
    projected = make_projected(100, 32, 32, 16, (0.6, 4.0))
    moved = replace(projected, means_px=projected.means_px + torch.tensor([16.0, 32.0]))
    here = blend(projected, projected.colors, bin_tiles(projected, 32, 32), 32, 32)
    there = blend(moved, projected.colors, bin_tiles(moved, 48, 64), 48, 64)
    assert torch.allclose(here.channels, there.channels[32:, 16:], atol=2e-5)


def test_threads_do_not_change_the_result(isa: str) -> None:
    projected = make_projected(3000, 150, 100, 17)
    module = native()
    before = module.max_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            module.set_threads(threads)
            results.append(render_and_differentiate(projected, projected.colors, (150, 100), "cpu"))
    finally:
        module.set_threads(before)
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


def test_two_renders_alive_before_a_backward(isa: str) -> None:
    first, second = make_projected(100, 40, 30, 18), make_projected(150, 25, 50, 19)
    alone = [
        render_and_differentiate(first, first.colors, (40, 30), "cpu")["d_means_px"],
        render_and_differentiate(second, second.colors, (25, 50), "cpu")["d_means_px"],
    ]
    leaves = [with_gradients(first), with_gradients(second)]
    generator = [torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)]
    outs: list[Blended] = []
    for leaf, size in zip(leaves, ((40, 30), (25, 50))):
        outs.append(blend(leaf, leaf.colors, bin_tiles(leaf, *size), *size))
    for out, random in zip(outs, generator):
        by_channels = torch.randn(out.channels.shape, generator=random, dtype=torch.float64).float()
        by_alpha = torch.randn(out.alpha.shape, generator=random, dtype=torch.float64).float()
        ((out.channels * by_channels).sum() + (out.alpha * by_alpha).sum()).backward()
    for leaf, expected in zip(leaves, alone):
        assert leaf.means_px.grad is not None
        assert torch.equal(leaf.means_px.grad, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_channels_are_not_drawn(isa: str, value: float) -> None:
    projected = make_projected(100, 40, 30, 20, opacity=(0.3, 0.9))
    channels = projected.colors.clone()
    channels[7, 1] = value
    visible = projected.visible.clone()
    visible[7] = 0
    broken = render_and_differentiate(projected, channels, (40, 30), "cpu")
    without = render_and_differentiate(replace(projected, visible=visible), projected.colors, (40, 30), "cpu")
    for name, expected in without.items():
        assert torch.equal(broken[name], expected), name


def test_broken_gaussians_leave_others_alone(isa: str) -> None:
    """Whatever is wrong with every third Gaussian, the others look as if it were not there."""
    projected = make_projected(90, 40, 30, 21)
    kept = torch.arange(90) % 3 != 0
    visible = kept.to(torch.uint8)
    without = render_and_differentiate(replace(projected, visible=visible), projected.colors, (40, 30), "cpu")
    for name in ("means_px", "conics", "opacities", "depths"):
        for value in (float("nan"), float("inf"), -float("inf"), 3e38):
            if name == "depths" and value == 3e38:
                continue  # far away, and finite
            tensor = getattr(projected, name).clone()
            tensor[~kept] = value
            broken = replace(projected, **{name: tensor})
            results = render_and_differentiate(broken, projected.colors, (40, 30), "cpu")
            for key, expected in without.items():
                rows = kept if len(results[key]) == 90 else slice(None)
                assert torch.equal(results[key][rows], expected[rows]), (name, value, key)


@pytest.mark.parametrize("seed", range(12))
def test_fuzz(isa: str, seed: int) -> None:
    """Random scenes of random size, from specks to walls, from glass to opaque."""
    generator = torch.Generator().manual_seed(seed)
    count, width, height = (
        int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 120), (1, 60), (1, 60))
    )
    largest = float(torch.exp(6 * torch.rand((), generator=generator)))
    projected = make_projected(count, width, height, seed + 100, (0.1, largest + 0.2), (0.0, 1.0))
    check(projected, (width, height), tolerance=FAR_TOLERANCE)


def test_gradients_of_one_output_only(isa: str) -> None:
    """A loss of alpha alone, or of the channels alone."""
    projected = make_projected(80, 30, 30, 22)
    for pick in ("alpha", "channels"):
        gradients = []
        scenes: list[tuple[Projected, Backend]] = [(projected, "cpu"), (as_double(projected), "reference")]
        for scene, backend in scenes:
            leaf = with_gradients(scene)
            out = blend(leaf, leaf.colors, bin_tiles(leaf, 30, 30, backend=backend), 30, 30, backend=backend)
            getattr(out, pick).square().sum().backward()
            gradients.append(leaf.means_px.grad)
        ours, theirs = gradients
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).abs().max() <= TOLERANCE["gradient"] * theirs.abs().max()


def test_reference_passes_gradcheck() -> None:
    projected = as_double(make_projected(12, 9, 7, 23, (1.0, 4.0), (0.1, 0.6)))
    tiles = bin_tiles(projected, 9, 7, 1e-12, backend="reference")

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scene = replace(projected, means_px=values[0], conics=values[1], opacities=values[2])
        out = blend(scene, values[3], tiles, 9, 7, backend="reference")
        return out.channels, out.alpha

    leaf = with_gradients(projected)
    assert torch.autograd.gradcheck(function, (leaf.means_px, leaf.conics, leaf.opacities, leaf.colors))


def test_finite_differences_of_the_kernel(isa: str) -> None:
    """Coarse, since the kernel is float32; the cutoff is lowered because it is a step."""
    projected = make_projected(25, 24, 20, 24, (1.5, 5.0), (0.2, 0.7))
    weights = torch.randn(20, 24, 3, generator=torch.Generator().manual_seed(0))

    def loss(scene: Projected) -> torch.Tensor:
        tiles = bin_tiles(scene, 24, 20, 1e-10)
        out = blend(scene, scene.colors, tiles, 24, 20)
        return (out.channels * weights).double().sum() + out.alpha.double().square().sum()

    leaf = with_gradients(projected)
    loss(leaf).backward()
    generator = torch.Generator().manual_seed(5)
    for name, step in (("means_px", 3e-3), ("conics", 1e-4), ("opacities", 1e-3), ("colors", 1e-2)):
        value = getattr(projected, name)
        direction = torch.randn(value.shape, generator=generator)
        if name == "conics":
            direction = direction * value.abs()
            step = 3e-3
        ahead = loss(replace(projected, **{name: value + step * direction}))
        behind = loss(replace(projected, **{name: value - step * direction}))
        expected = float(((ahead - behind) / (2 * step)).detach())
        found = float((getattr(leaf, name).grad * direction).sum())
        scale = float((getattr(leaf, name).grad * direction).abs().sum())
        assert abs(found - expected) <= 3e-3 * scale, name


def test_wrong_shapes_and_types_are_refused() -> None:
    projected = make_projected(5, 20, 20)
    tiles = bin_tiles(projected, 20, 20)
    with pytest.raises(ReconError, match="channels has shape 4×3"):
        blend(projected, projected.colors[:4], tiles, 20, 20)
    with pytest.raises(ReconError, match="tiles"):
        blend(projected, projected.colors, tiles, 20, 200)
    with pytest.raises(ReconError, match="float64"):
        blend(projected, projected.colors.double(), tiles, 20, 20)
    with pytest.raises(ReconError, match="channels"):
        blend(projected, torch.zeros(5, 0), tiles, 20, 20)
