# SPDX-License-Identifier: Apache-2.0
"""Density control on the emulated CUDA kernels changes the Gaussians as the one in torch does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.cuda.conftest import emulated, emulation  # noqa: F401, fixtures
from kernels.projection.projection_cases import make_splats

from recon.kernels.blend.op import DensityAccumulators
from recon.kernels.density.cuda import SplitRules, choose_splits_cuda
from recon.kernels.workspace import Workspace
from recon.methods.splat.config import DensityConfig, SplatConfig
from recon.methods.splat.density import ClassicDensity, CudaClassicDensity, DensityContext
from recon.methods.splat.model import PARAMETER_NAMES, SplatParameters

CPU = torch.device("cpu")


def gathered(count: int, seed: int, kinds: int = 0) -> DensityAccumulators:
    """Random statistics; with `kinds`, of so few values that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    gradient, weight = torch.rand(count, generator=generator) ** 4, torch.rand(count, generator=generator)
    seen = torch.randint(0, 5, (count,), generator=generator).float()
    if kinds:
        gradient, seen = (gradient * kinds).floor(), torch.ones(count)
    return DensityAccumulators(gradient * (seen > 0), seen, weight * (seen > 0))


def trained(count: int, seed: int, bases: int = 4) -> SplatParameters:
    parameters = SplatParameters(make_splats(count, bases, seed), capacity=count)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        parameters.opacity_logits.copy_(4 * torch.randn(count, generator=generator))
        for tensors in parameters._storage.values():
            for moment in tensors[1:]:
                moment.copy_(torch.rand(moment.shape, generator=generator))
    return parameters


def changed(
    strategy: type[ClassicDensity], count: int, budget: int, statistics: DensityAccumulators, **rules: float
) -> dict[str, torch.Tensor]:
    config = SplatConfig(
        steps=100,
        max_gaussians=budget,
        density=DensityConfig(start=0.1, stop=0.1, every=1, **rules),  # type: ignore[arg-type]
    )
    density = strategy(config, count, CPU)
    density.restore({name: getattr(statistics, name) for name in ("gradient_sum", "seen", "most_weight")})
    parameters = trained(count, 3)
    density.update(parameters, DensityContext(10, 1.0, 1e-3))
    assert bool((density.state()["seen"] == 0).all())
    return {name: tensor.detach().clone() for name, tensor in parameters.state().items()}


@pytest.mark.parametrize("count", [1, 2, 256, 257, 700])
@pytest.mark.parametrize("room", ["none", "some", "plenty", "below"])
def test_the_same_gaussians_are_split_and_removed(emulated: EmulatedProgram, count: int, room: str) -> None:  # noqa: F811
    budget = {"none": count, "some": count + count // 3, "plenty": 5 * count, "below": max(1, count // 2)}[room]
    given = count, budget, gathered(count, count)
    rules = {"prune_extent": 0.12, "prune_weight": 0.2, "prune_opacity": 0.02}
    found, expected = (changed(strategy, *given, **rules) for strategy in (CudaClassicDensity, ClassicDensity))
    if count > 100:
        assert len(expected["means"]) != count
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=2e-5, atol=1e-5, msg=name)
    assert set(PARAMETER_NAMES) <= set(found)


@pytest.mark.parametrize("seed", range(4))
def test_no_more_than_the_budget_and_the_first_of_equals(emulated: EmulatedProgram, seed: int) -> None:  # noqa: F811
    count = 600
    statistics, splats = gathered(count, seed, kinds=4), trained(count, seed).values()
    rules = SplitRules(0.0, math.inf, 0.0, count + 150 + 37 * seed)
    choice = choose_splits_cuda(splats, statistics, rules, Workspace())
    assert choice is not None
    score = statistics.gradient_sum
    wanted = min(rules.budget - count, int((score > 0).sum()))
    first = torch.sort(score, descending=True, stable=True).indices[:wanted]
    copies = torch.ones(count, dtype=torch.uint8)
    copies[first] = 2
    assert torch.equal(choice.copies, copies)
    assert torch.equal(choice.starts, copies.long().cumsum(0) - copies.long())
    assert choice.total == count + wanted


def test_scores_far_apart_and_next_to_each_other(emulated: EmulatedProgram) -> None:  # noqa: F811
    """Every byte of the numbers decides somewhere."""
    bits = [1, 2, 255, 256, 257, 65535, 65536, 65537, 1 << 24, (1 << 24) + 1, 0x3F800000, 0x3F800001, 0x7F7FFFFF]
    scores = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    splats = trained(len(bits), 0).values()
    statistics = DensityAccumulators(scores, torch.ones(len(bits)), torch.ones(len(bits)))
    for taken in range(len(bits) + 1):
        rules = SplitRules(0.0, math.inf, 0.0, len(bits) + taken)
        choice = choose_splits_cuda(splats, statistics, rules, Workspace())
        assert choice is not None
        assert choice.copies.tolist() == [1] * (len(bits) - taken) + [2] * taken


def test_what_is_not_finite_goes_and_something_always_stays(emulated: EmulatedProgram) -> None:  # noqa: F811
    parameters = trained(40, 1)
    with torch.no_grad():
        parameters.means[3, 1], parameters.means[5, 0] = math.nan, math.inf
        parameters.log_scales[7, 2], parameters.opacity_logits[9] = math.nan, math.nan
    statistics = gathered(40, 1)
    rules = SplitRules(0.0, math.inf, 0.0, 40)
    choice = choose_splits_cuda(parameters.values(), statistics, rules, Workspace())
    assert choice is not None
    assert (choice.copies == 0).nonzero()[:, 0].tolist() == [3, 5, 7, 9]
    assert choose_splits_cuda(parameters.values(), statistics, replace(rules, least_opacity=2.0), Workspace()) is None
    found, expected = (
        changed(strategy, 30, 40, gathered(30, 0), prune_extent=1e-6)
        for strategy in (CudaClassicDensity, ClassicDensity)
    )
    assert len(found["means"]) == len(expected["means"]) > 0


def test_without_weights_nobody_is_removed_for_them(emulated: EmulatedProgram) -> None:  # noqa: F811
    statistics = replace(gathered(50, 0), most_weight=torch.zeros(50))
    choice = choose_splits_cuda(trained(50, 0).values(), statistics, SplitRules(0.0, math.inf, 0.5, 50), Workspace())
    assert choice is not None
    assert choice.total == 50
