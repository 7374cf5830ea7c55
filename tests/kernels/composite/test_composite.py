# SPDX-License-Identifier: Apache-2.0
"""Compositing on every instruction set against the float64 reference, and what must hold of it in itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernels.composite.composite_cases import COUNTS, OPTIONS, assert_near, double, make_raw, make_samples, ray_alone

from recon.errors import ReconError
from recon.kernels.composite.op import (
    Composited,
    CompositeGradients,
    CompositeOptions,
    composite,
    composite_backward_into,
    composite_into,
)
from recon.kernels.composite.reference import composite_reference, distortion_of
from recon.kernels.native import native
from recon.kernels.ray_march.types import RaySamples
from recon.kernels.workspace import Workspace

FIELDS = ("color", "alpha", "depth", "median_distance", "distortion", "weights")
GRADIENT_PART = 5e-6
"""Of the largest gradient: a sample's is what it gains against what lies behind it, a difference."""


def make_gradients(rays: int, channels: int, seed: int = 5) -> CompositeGradients:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rays, channels), (rays,), (rays,), (rays,))
    return CompositeGradients(*(torch.randn(shape, generator=generator) for shape in shapes))


def exact(
    samples: RaySamples,
    density: torch.Tensor,
    color: torch.Tensor,
    channels: int,
    options: CompositeOptions,
    gradients: CompositeGradients,
) -> tuple[Composited, torch.Tensor, torch.Tensor]:
    """Returns results and gradients of the reference in float64."""
    inputs = [tensor.double().requires_grad_() for tensor in (density, color)]
    found = composite_reference(*inputs, double(samples), channels, options)
    loss = torch.zeros((), dtype=torch.float64) + 0 * sum(tensor.sum() for tensor in inputs)
    for name in ("color", "alpha", "depth", "distortion"):
        by = getattr(gradients, name)
        if by is not None:
            loss = loss + (getattr(found, name) * by).sum()
    by_density, by_color = torch.autograd.grad(loss, inputs)
    return found, by_density, by_color


@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize(("channels", "width"), [(3, 16), (3, 3), (1, 1), (2, 5), (9, 16)])
def test_results_and_gradients_equal_the_reference(isa: str, case: str, channels: int, width: int) -> None:
    samples = make_samples(COUNTS[case])
    density, color = make_raw(samples, width)
    gradients, workspace = make_gradients(len(COUNTS[case]), channels), Workspace()
    expected, by_density, by_color = exact(samples, density, color, channels, OPTIONS, gradients)
    found = composite_into(density, color, samples, channels, OPTIONS, workspace)
    for name in FIELDS:
        assert_near(getattr(found, name), getattr(expected, name).detach())
    into = torch.ones_like(density)
    found_by_color = composite_backward_into(found, gradients, samples, OPTIONS, into, workspace)
    assert_near(found_by_color, by_color, GRADIENT_PART)
    assert bool((into[:, 1:] == 1).all()), "only column 0 takes a gradient"
    assert_near(into[:, 0] - 1, by_density[:, 0], GRADIENT_PART + 2e-7 / max(1e-12, float(by_density.abs().max()))
                if len(density) else 1)  # fmt: skip


@pytest.mark.parametrize("leave_out", [("depth",), ("distortion",), ("depth", "distortion")])
def test_gradients_that_are_none_are_zero(isa: str, leave_out: tuple[str, ...]) -> None:
    samples = make_samples(COUNTS["many"])
    density, color = make_raw(samples)
    gradients = replace(make_gradients(700, 3), **dict.fromkeys(leave_out))
    _, by_density, by_color = exact(samples, density, color, 3, OPTIONS, gradients)
    workspace, into = Workspace(), torch.zeros_like(density)
    found = composite_into(density, color, samples, 3, OPTIONS, workspace)
    assert_near(composite_backward_into(found, gradients, samples, OPTIONS, into, workspace), by_color, GRADIENT_PART)
    assert_near(into, by_density, GRADIENT_PART)


def test_autograd_gives_the_same(isa: str) -> None:
    samples = make_samples(COUNTS["short, long and empty"])
    density, color = (tensor.requires_grad_() for tensor in make_raw(samples, 4))
    gradients = make_gradients(8, 3)
    found = composite(density, color, samples, 3, OPTIONS)
    assert not found.weights.requires_grad
    assert not found.median_distance.requires_grad
    torch.autograd.backward(
        [found.color, found.alpha, found.depth, found.distortion],
        [gradients.color, gradients.alpha, gradients.depth, gradients.distortion],
    )
    _, by_density, by_color = exact(samples, density.detach(), color.detach(), 3, OPTIONS, gradients)
    assert density.grad is not None
    assert color.grad is not None
    assert_near(density.grad, by_density, GRADIENT_PART)
    assert_near(color.grad, by_color, GRADIENT_PART)


def test_one_output_alone_has_a_gradient(isa: str) -> None:
    samples = make_samples([4, 0, 9])
    density, color = (tensor.requires_grad_() for tensor in make_raw(samples))
    composite(density, color, samples, 3, OPTIONS).alpha.sum().backward()
    assert density.grad is not None
    assert color.grad is not None
    assert float(density.grad.abs().max()) > 0
    assert float(color.grad.abs().max()) == 0


def test_rows_may_lie_apart(isa: str) -> None:
    samples = make_samples(COUNTS["many"])
    wide_density, wide_color = make_raw(samples, 24)
    density, color = wide_density[:, 3:20], wide_color[:, 5:12]
    found = composite_into(density, color, samples, 3, OPTIONS, Workspace())
    expected = composite_into(density.contiguous(), color.contiguous(), samples, 3, OPTIONS, Workspace())
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_rays_are_independent_of_neighbours_and_threads(isa: str) -> None:
    """Bit for bit: each ray alone gives what it gives among others, with any number of threads."""
    counts = [(13 * i * i) % 150 for i in range(150)]
    samples, gradients = make_samples(counts), make_gradients(150, 3)
    density, color = make_raw(samples)
    module, before, results = native(), native().max_threads(), []
    try:
        for threads in (1, 2, 5):
            module.set_threads(threads)
            workspace, into = Workspace(), torch.zeros_like(density)
            found = composite_into(density, color, samples, 3, OPTIONS, workspace)
            by_color = composite_backward_into(found, gradients, samples, OPTIONS, into, workspace)
            results.append([*(getattr(found, name) for name in FIELDS), into, by_color])
    finally:
        module.set_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))
    for ray in range(0, 150, 7):
        alone, at = ray_alone(samples, ray)
        workspace, into = Workspace(), torch.zeros_like(density[at])
        found = composite_into(density[at], color[at], alone, 3, OPTIONS, workspace)
        own = [getattr(gradients, name)[ray : ray + 1] for name in ("color", "alpha", "depth", "distortion")]
        by_color = composite_backward_into(found, CompositeGradients(*own), alone, OPTIONS, into, workspace)
        for index, name in enumerate(FIELDS):
            expected = results[0][index][at if name == "weights" else slice(ray, ray + 1)]
            assert torch.equal(getattr(found, name), expected), name
        assert torch.equal(into, results[0][6][at])
        assert torch.equal(by_color, results[0][7][at])


def test_weights_and_what_is_left_make_one(isa: str) -> None:
    samples = make_samples(COUNTS["many"])
    found = composite_into(*make_raw(samples), samples, 3, OPTIONS, Workspace())
    assert found.saved is not None
    last = samples.offsets[1:].long() - 1
    left = torch.where(samples.offsets.diff() > 0, found.saved.behind[last.clamp_min(0)], 1.0)
    torch.testing.assert_close(found.alpha + left, torch.ones(700), rtol=0, atol=2e-6)
    assert bool((found.alpha <= 1 + 1e-6).all())
    assert bool((found.weights >= 0).all())


def test_a_wall_is_seen_where_it_stands(isa: str) -> None:
    """Opaque from a distance on: colour, depth and median are its own, distortion is next to nothing."""
    samples = make_samples([64])
    samples = replace(samples, lengths=torch.full((64,), 0.01), distances=1 + 0.01 * torch.arange(64.0))
    density, color = torch.full((64, 1), -100.0), torch.zeros((64, 3))
    density[40:], color[40:] = 100.0, torch.tensor([2.0, -2.0, 0.5])
    found = composite_into(density, color, samples, 3, CompositeOptions(), Workspace())
    torch.testing.assert_close(found.color[0], torch.tensor([2.0, -2.0, 0.5]).sigmoid())
    torch.testing.assert_close(found.alpha[0], torch.tensor(1.0))
    torch.testing.assert_close(found.depth[0], torch.tensor(1.4))
    torch.testing.assert_close(found.median_distance[0], torch.tensor(1.395), rtol=1e-5, atol=0)
    assert 0 < float(found.distortion[0]) < 0.001


def test_the_median_does_not_depend_on_the_sampling(isa: str) -> None:
    """Even fog of density 1: transmittance halves at ln 2, wherever samples begin and end."""
    for count in (3, 8, 1000):
        samples = make_samples([count])
        length = 2.0 / count
        samples = replace(samples, lengths=torch.full((count,), length), distances=(torch.arange(count) + 0.5) * length)
        found = composite_into(torch.zeros((count, 1)), torch.zeros((count, 1)), samples, 1, CompositeOptions(),
                               Workspace())  # fmt: skip
        torch.testing.assert_close(found.median_distance[0], torch.tensor(math.log(2)), rtol=1e-5, atol=0)
        torch.testing.assert_close(found.alpha[0], torch.tensor(1 - math.exp(-2)))


def test_gradients_fade_near_the_camera(isa: str) -> None:
    samples = make_samples(COUNTS["many"])
    density, color = make_raw(samples)
    results = []
    for near in (0.0, 0.4):
        options, workspace, into = replace(OPTIONS, near_scale=near), Workspace(), torch.zeros_like(density)
        found = composite_into(density, color, samples, 3, options, workspace)
        by_color = composite_backward_into(found, make_gradients(700, 3), samples, options, into, workspace)
        results.append((into[:, 0], by_color.clone()))
    factor = (samples.distances / 0.4).square().clamp(max=1)
    assert float(factor.min()) < 0.1
    assert float(factor.max()) == 1
    torch.testing.assert_close(results[1][0], results[0][0] * factor)
    torch.testing.assert_close(results[1][1], results[0][1] * factor[:, None])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_numbers_that_are_not_stay_on_their_ray(isa: str, broken: float) -> None:
    counts = [5, 30, 0, 17, 140]
    samples, gradients = make_samples(counts), make_gradients(5, 3)
    density, color = make_raw(samples)
    density[:, 0] -= 4  # light reaches the broken samples
    workspace = Workspace()
    good = composite_into(density, color, samples, 3, OPTIONS, workspace, "good")
    for in_density in (True, False):
        changed = [density.clone(), color.clone()]
        changed[0 if in_density else 1][40, 0] = broken  # ray 3
        found = composite_into(*changed, samples, 3, OPTIONS, workspace, "broken")
        into = torch.zeros_like(density)
        by_color = composite_backward_into(found, gradients, samples, OPTIONS, into, workspace, "broken")
        others = torch.tensor([0, 1, 2, 4])
        for name in FIELDS[:-1]:
            assert torch.equal(getattr(found, name)[others], getattr(good, name)[others])
        own = samples.ray_of == 3
        assert bool(into[~own].isfinite().all())
        assert bool(by_color[~own].isfinite().all())
        if math.isnan(broken):
            assert bool(found.color[3, 0].isnan())
        else:
            assert bool(found.color.isfinite().all())
            assert bool(into.isfinite().all())
            assert bool(by_color.isfinite().all())


def test_what_no_light_reaches_counts_for_nothing(isa: str) -> None:
    samples, gradients = make_samples([50, 3]), make_gradients(2, 3)
    density, color = make_raw(samples)
    density[10:20, 0] = 50.0
    workspace = Workspace()
    good = composite_into(density, color, samples, 3, OPTIONS, workspace, "good")
    density[25:50], color[25:50] = float("nan"), float("nan")
    found = composite_into(density, color, samples, 3, OPTIONS, workspace, "broken")
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(good, name)), name
    into = torch.zeros_like(density)
    by_color = composite_backward_into(found, gradients, samples, OPTIONS, into, workspace, "broken")
    assert bool(into.isfinite().all())
    assert bool((by_color[25:50] == 0).all())


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_extreme_scales_stay_finite(isa: str, scale: float) -> None:
    samples = make_samples(COUNTS["many"])
    samples = replace(samples, lengths=samples.lengths * scale, distances=samples.distances * scale)
    density, color = make_raw(samples)
    workspace, into = Workspace(), torch.zeros_like(density)
    found = composite_into(density, color, samples, 3, OPTIONS, workspace)
    by_color = composite_backward_into(found, make_gradients(700, 3), samples, OPTIONS, into, workspace)
    assert all(bool(getattr(found, name).isfinite().all()) for name in FIELDS)
    assert bool(into.isfinite().all())
    assert bool(by_color.isfinite().all())


def test_no_optical_length_has_no_weight(isa: str) -> None:
    samples = make_samples([7, 20])
    samples = replace(samples, lengths=torch.zeros(27))
    found = composite_into(*make_raw(samples), samples, 3, OPTIONS, Workspace())
    assert all(float(getattr(found, name).abs().max()) == 0 for name in FIELDS)


def test_distortion_is_the_double_sum_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    weights, widths = torch.rand((2, 4, 9), generator=generator, dtype=torch.float64)
    middles = torch.rand((4, 9), generator=generator, dtype=torch.float64).sort(1).values
    pairs = weights[:, :, None] * weights[:, None, :] * (middles[:, :, None] - middles[:, None, :]).abs()
    expected = pairs.sum((1, 2)) + (weights.square() * widths).sum(1) / 3
    torch.testing.assert_close(distortion_of(weights, middles, widths), expected)


def test_gradcheck_of_the_reference() -> None:
    samples = double(make_samples([3, 0, 5, 1]))
    density, color = (tensor.double().requires_grad_() for tensor in make_raw(samples, 3))
    options = replace(OPTIONS, near_scale=0.0)  # what fades gradients on purpose would not agree

    def outputs(density: torch.Tensor, color: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = composite_reference(density, color, samples, 2, options)
        return found.color, found.alpha, found.depth, found.distortion

    assert torch.autograd.gradcheck(outputs, (density, color))


def test_finite_differences_of_the_kernel(isa: str) -> None:
    """Along random directions; the loss is a weighted sum of everything that is differentiable."""
    samples, options = make_samples([6, 0, 25, 2]), replace(OPTIONS, near_scale=0.0)
    density, color = make_raw(samples)
    gradients, workspace = make_gradients(4, 3), Workspace()

    def loss(density: torch.Tensor, color: torch.Tensor) -> float:
        found = composite_into(density, color, samples, 3, options, workspace, "probe")
        names = ("color", "alpha", "depth", "distortion")
        return sum(float((getattr(found, n).double() * getattr(gradients, n).double()).sum()) for n in names)

    into = torch.zeros_like(density)
    found = composite_into(density, color, samples, 3, options, workspace)
    by_color = composite_backward_into(found, gradients, samples, options, into, workspace)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        along = [torch.randn(density.shape, generator=generator) for _ in range(2)]
        step = 5e-3
        plus = loss(density + step * along[0], color + step * along[1])
        minus = loss(density - step * along[0], color - step * along[1])
        expected = float((into * along[0]).sum() + (by_color * along[1]).sum())
        assert (plus - minus) / (2 * step) == pytest.approx(expected, rel=2e-3, abs=2e-4)


def test_a_workspace_serves_batches_of_all_sizes(isa: str) -> None:
    workspace = Workspace()
    for seed, case in enumerate(("many", "one sample", "longer than a block", "nothing", "many")):
        samples = make_samples(COUNTS[case], seed)
        density, color = make_raw(samples, seed=seed)
        found = composite_into(density, color, samples, 3, OPTIONS, workspace)
        expected = composite_reference(density.double(), color.double(), double(samples), 3, OPTIONS)
        for name in FIELDS:
            assert_near(getattr(found, name), getattr(expected, name))


def test_wrong_arguments_are_refused() -> None:
    samples = make_samples([3, 4])
    density, color = make_raw(samples)
    for wrong in (density[:6], density[:, 0], density[:, :0], density.double()):
        with pytest.raises(ReconError, match="composite"):
            composite(wrong, color, samples)
    for channels in (0, 17):
        with pytest.raises(ReconError, match="channels"):
            composite(density, color, samples, channels)
    with pytest.raises(ReconError, match="length_scale"):
        CompositeOptions(length_scale=0.0)
    with pytest.raises(ReconError, match="near_scale"):
        CompositeOptions(near_scale=float("nan"))
