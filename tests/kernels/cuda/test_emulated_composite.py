# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels of compositing against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from kernels.composite.composite_cases import COUNTS, OPTIONS, assert_near, double, make_raw, make_samples
from kernels.composite.test_composite import FIELDS, GRADIENT_PART, exact, make_gradients
from kernels.composite.test_portions import SAMPLE_FIELDS, STATE, portions_of
from kernels.cuda.build import EmulatedProgram

from recon.kernels.composite.op import (
    RayState,
    accumulate_into,
    composite,
    composite_backward_into,
    composite_into,
    truncate_into,
)
from recon.kernels.composite.reference import truncate_reference
from recon.kernels.workspace import Workspace

CASES = ("nothing", "one empty ray", "one sample", "short, long and empty", "longer than a block")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("channels", "width"), [(3, 16), (1, 1), (5, 6)])
def test_results_and_gradients(emulated: EmulatedProgram, case: str, channels: int, width: int) -> None:
    samples = make_samples(COUNTS[case])
    density, color = make_raw(samples, width)
    gradients, workspace = make_gradients(len(COUNTS[case]), channels), Workspace()
    expected, by_density, by_color = exact(samples, density, color, channels, OPTIONS, gradients)
    found = composite_into(density, color, samples, channels, OPTIONS, workspace, backend="cuda")
    for name in FIELDS:
        assert_near(getattr(found, name), getattr(expected, name).detach(), 5e-6)
    into = torch.zeros_like(density)
    found_by = composite_backward_into(found, gradients, samples, OPTIONS, into, workspace, backend="cuda")
    assert_near(found_by, by_color, GRADIENT_PART)
    assert_near(into, by_density, GRADIENT_PART)


def test_autograd(emulated: EmulatedProgram) -> None:
    samples = make_samples([4, 0, 40])
    gradients = []
    for backend in ("cuda", "cpu"):
        density, color = (tensor.requires_grad_() for tensor in make_raw(samples))
        found = composite(density, color, samples, 3, OPTIONS, backend=backend)
        (found.color.sum() + found.distortion.sum()).backward()
        gradients.append((density.grad, color.grad))
    for found_by, expected in zip(*gradients):
        assert found_by is not None
        assert expected is not None
        assert_near(found_by, expected, GRADIENT_PART)


def test_what_no_light_reaches_counts_for_nothing(emulated: EmulatedProgram) -> None:
    samples, gradients = make_samples([70, 3]), make_gradients(2, 3)
    density, color = make_raw(samples)
    density[10:20, 0] = 50.0
    workspace = Workspace()
    good = composite_into(density, color, samples, 3, OPTIONS, workspace, "good", backend="cuda")
    density[25:70], color[25:70] = float("nan"), float("nan")
    found = composite_into(density, color, samples, 3, OPTIONS, workspace, "broken", backend="cuda")
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(good, name)), name
    into = torch.zeros_like(density)
    by = composite_backward_into(found, gradients, samples, OPTIONS, into, workspace, "broken", backend="cuda")
    assert bool(into.isfinite().all())
    assert bool((by[25:70] == 0).all())


@pytest.mark.parametrize("limit", [1e-3, 0.3, 0.0])
def test_truncation(emulated: EmulatedProgram, limit: float) -> None:
    samples = make_samples(COUNTS["longer than a block"])
    density, color = make_raw(samples)
    arrays = [color, density[:, 0].contiguous()]
    found, moved = truncate_into(density, samples, limit, arrays, OPTIONS, Workspace(), backend="cuda")
    expected, rows = truncate_reference(density.double(), double(samples), limit, arrays, OPTIONS)
    for name in SAMPLE_FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name).to(getattr(found, name).dtype)), name
    assert all(torch.equal(a, b) for a, b in zip(moved, rows))


def test_portions(emulated: EmulatedProgram) -> None:
    samples = make_samples(COUNTS["short, long and empty"])
    density, color = make_raw(samples)
    density[:, 0] -= 1
    rows = torch.tensor([3, 9, 0, 1, 2, 8, 5, 6], dtype=torch.int32)
    states = {backend: RayState.start(10, 3) for backend in ("cuda", "cpu")}
    workspace = Workspace()
    for keep, portion in portions_of(samples, (2, 5, 50)):
        alive = [
            accumulate_into(state, density[keep], color[keep], portion, rows, OPTIONS, workspace, 0.2, backend).clone()
            for backend, state in states.items()
        ]
        assert torch.equal(*alive)
    for name in STATE:
        assert_near(getattr(states["cuda"], name), getattr(states["cpu"], name), 5e-6)
