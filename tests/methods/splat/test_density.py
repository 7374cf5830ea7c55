# SPDX-License-Identifier: Apache-2.0
"""Density control: budgets, what is split and removed, and the formulas behind it."""

from __future__ import annotations

import math

import pytest
import torch

from recon.methods.splat.config import DensityConfig, SplatConfig
from recon.methods.splat.density import (
    ClassicDensity,
    DensityContext,
    McmcDensity,
    Schedule,
    halves,
    relocated,
    rotate,
)
from recon.methods.splat.model import SplatParameters
from recon.splats import Splats


def make_parameters(count: int, opacity: float = 0.6, seed: int = 0) -> SplatParameters:
    generator = torch.Generator().manual_seed(seed)
    return SplatParameters(
        Splats(
            means=torch.randn(count, 3, generator=generator),
            quats=torch.randn(count, 4, generator=generator),
            log_scales=-3 + 0.5 * torch.randn(count, 3, generator=generator),
            opacity_logits=torch.full((count,), math.log(opacity / (1 - opacity))),
            sh=torch.randn(count, 4, 3, generator=generator),
        )
    )


def gather(density: ClassicDensity, gradients: torch.Tensor, weights: torch.Tensor | None = None) -> None:
    """What one step adds."""
    gathered = density.accumulators(1)
    assert gathered is not None
    gathered.gradient_sum.add_(gradients)
    gathered.seen.add_(gradients > 0)
    torch.maximum(
        gathered.most_weight, torch.ones_like(gradients) if weights is None else weights, out=gathered.most_weight
    )


def context(step: int) -> DensityContext:
    return DensityContext(step=step, extent=1.0, position_rate=1e-4)


CONFIG = SplatConfig(
    steps=1000, max_gaussians=300, density=DensityConfig(start=0.1, stop=0.5, every=100, prune_weight=0.01)
)


def test_the_budget_grows_evenly_and_is_reached_in_the_last_round() -> None:
    schedule = Schedule.of(CONFIG, 100)
    rounds = [step for step in range(1001) if schedule.is_round(step)]
    assert rounds == [100, 200, 300, 400, 500]
    assert [schedule.budget(step) for step in rounds] == [140, 180, 220, 260, 300]


def test_more_start_points_than_the_budget_never_grow() -> None:
    schedule = Schedule.of(CONFIG, 300)
    assert {schedule.budget(step) for step in range(100, 501, 100)} == {300}


def test_the_highest_gradients_are_split_within_the_budget() -> None:
    parameters = make_parameters(100)
    before = parameters.copied()
    density = ClassicDensity(CONFIG, 100, torch.device("cpu"))
    gradients = torch.arange(100, dtype=torch.float32) / 100 + 0.001
    gather(density, gradients)
    gather(density, gradients)
    density.update(parameters, context(99))
    assert len(parameters) == 100
    density.update(parameters, context(100))
    assert len(parameters) == 140
    assert torch.equal(parameters.means[:60], before.means[:60])
    middle = (parameters.means[60::2] + parameters.means[61::2]) / 2
    torch.testing.assert_close(middle, before.means[60:])
    assert density.state()["gradient_sum"].shape == (140,)


def test_faint_huge_and_hidden_gaussians_go() -> None:
    parameters = make_parameters(100)
    with torch.no_grad():
        parameters.opacity_logits[:10] = -8.0
        parameters.log_scales[10:20, 1] = 2.0
        parameters.means[20:25] = float("nan")
    weights = torch.full((100,), 0.5)
    weights[25:30] = 0.001
    density = ClassicDensity(CONFIG, 100, torch.device("cpu"))
    gather(density, torch.full((100,), 1e-3), weights)
    density.update(parameters, context(100))
    assert len(parameters) == 140
    assert bool(torch.isfinite(parameters.means).all())
    assert float(parameters.opacity_logits.detach().min()) > -5
    assert float(parameters.log_scales.detach().max()) < 0


def test_unseen_gaussians_are_neither_split_nor_removed() -> None:
    parameters = make_parameters(50)
    density = ClassicDensity(CONFIG, 50, torch.device("cpu"))
    gradients = torch.zeros(50)
    gradients[:5] = 1.0
    gather(density, gradients, gradients)
    density.update(parameters, context(100))
    assert len(parameters) == 55


def test_one_survivor_is_kept_when_all_would_go() -> None:
    parameters = make_parameters(30, opacity=0.001)
    density = ClassicDensity(CONFIG, 30, torch.device("cpu"))
    density.update(parameters, context(100))
    assert len(parameters) >= 1


def test_kept_gaussians_keep_their_moments_and_new_ones_have_none() -> None:
    parameters = make_parameters(40)
    for name in parameters:
        parameters[name].first_moment.copy_(torch.randn_like(parameters[name].first_moment))
    moments = parameters["quats"].first_moment.clone()
    density = ClassicDensity(CONFIG, 40, torch.device("cpu"))
    gradients = torch.zeros(40)
    gradients[30:] = 1.0
    gather(density, gradients)
    density.update(parameters, context(100))
    assert torch.equal(parameters["quats"].first_moment[:30], moments[:30])
    assert not bool(parameters["quats"].first_moment[30:].any())


def test_halves_keep_the_mean_and_the_variance_along_the_longest_axis() -> None:
    splats = make_parameters(200).values()
    both = halves(splats)
    first, second = both.select(torch.arange(200)), both.select(torch.arange(200, 400))
    torch.testing.assert_close((first.means + second.means) / 2, splats.means)
    offset = (first.means - second.means).norm(dim=1) / 2
    longest = splats.log_scales.argmax(1, keepdim=True)
    variance = offset**2 + first.scales.gather(1, longest)[:, 0] ** 2
    torch.testing.assert_close(variance, splats.scales.gather(1, longest)[:, 0] ** 2, rtol=1e-4, atol=0)
    axis = torch.zeros(200, 3).scatter_(1, longest, 1.0)
    direction = torch.nn.functional.normalize(first.means - second.means, dim=1)
    torch.testing.assert_close(direction, rotate(splats.quats, axis), rtol=1e-3, atol=1e-4)


def test_relocation_keeps_the_opacity_of_the_whole() -> None:
    opacity = torch.tensor([0.1, 0.5, 0.9, 0.99])
    for copies in (1, 2, 3, 10, 50):
        new, shrink = relocated(opacity, torch.full((4,), copies))
        torch.testing.assert_close(1 - (1 - new.double()) ** copies, opacity.double(), rtol=1e-4, atol=1e-5)
        assert bool((shrink <= 1.0001).all())
        if copies == 1:
            torch.testing.assert_close(shrink, torch.ones(4))


def test_relocation_equals_the_double_sum_of_the_paper() -> None:
    for opacity, copies in ((0.3, 2), (0.8, 5), (0.95, 9)):
        new = 1 - (1 - opacity) ** (1 / copies)
        total = 0.0
        for i in range(1, copies + 1):
            for k in range(i):
                total += math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
        _, shrink = relocated(torch.tensor([opacity]), torch.tensor([copies]))
        assert float(shrink[0]) == pytest.approx(opacity / total, rel=1e-4)


def test_mcmc_moves_the_dead_and_stays_within_the_budget() -> None:
    torch.manual_seed(0)
    config = SplatConfig(
        steps=1000, max_gaussians=120, density=DensityConfig(strategy="mcmc", start=0.1, stop=0.5, noise=0.0)
    )
    parameters = make_parameters(100)
    with torch.no_grad():
        parameters.opacity_logits[:20] = -9.0
    alive = parameters.means[20:].detach().clone()
    density = McmcDensity(config, 100)
    for step in range(100, 600, 100):
        density.update(parameters, context(step))
    assert len(parameters) == 120
    assert float(torch.sigmoid(parameters.opacity_logits.detach().min())) > 0.004
    nearest = torch.cdist(parameters.means.detach().double(), alive.double()).min(1).values
    assert float(nearest.max()) < 1e-6


def test_rotation_by_quaternions() -> None:
    half = math.sqrt(0.5)
    about_z = torch.tensor([[half, 0.0, 0.0, half]]) * 3
    torch.testing.assert_close(rotate(about_z, torch.tensor([[1.0, 0.0, 0.0]])), torch.tensor([[0.0, 1.0, 0.0]]))
