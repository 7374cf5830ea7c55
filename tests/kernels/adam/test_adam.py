# SPDX-License-Identifier: Apache-2.0
"""Fused Adam against its reference and against torch's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.backend import Backend
from recon.kernels.native import native

MOMENT_TOLERANCE = 1e-4
"""Relative, of the moments and of the step: 1 - beta2 = 0.001 has an error of 5e-5 when beta2 is a float32."""
ROUNDING = 2e-7
"""Relative, of the parameter itself."""

SHAPES = [(0, 3), (1, 3), (5,), (16,), (17, 4), (1000, 3), (1023, 16, 3), (1025, 1), (3000, 45), (2049,)]


@dataclass
class State:
    """A parameter with what Adam keeps for it."""

    parameter: torch.Tensor
    gradient: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.parameter, self.gradient, self.first_moment, self.second_moment

    def copy(self, dtype: torch.dtype = torch.float32) -> State:
        return State(*(tensor.to(dtype, copy=True) for tensor in self.tensors()))

    def step(self, hyper: AdamHyper, visible: torch.Tensor | None = None, backend: Backend = "cpu") -> State:
        adam_step(*self.tensors(), hyper, visible, backend)
        return self


def make_state(shape: tuple[int, ...], seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return State(normal(), normal() * 0.01, normal() * 0.01, normal().square() * 1e-4)


def assert_close(before: State, found: State, expected: State) -> None:
    for name in ("first_moment", "second_moment"):
        mine, theirs = getattr(found, name).double(), getattr(expected, name)
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(mine, theirs, rtol=MOMENT_TOLERANCE, atol=1e-7 * scale)
    start = before.parameter.double()
    step, allowed = expected.parameter - start, ROUNDING * start.abs()
    error = (found.parameter.double() - start - step).abs()
    assert bool((error <= allowed + MOMENT_TOLERANCE * step.abs() + 1e-9).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0])
def test_a_step_equals_the_reference(isa: str, shape: tuple[int, ...], share: float | None) -> None:
    state = make_state(shape)
    generator = torch.Generator().manual_seed(1)
    visible = None if share is None else torch.rand(shape[0], generator=generator) < share
    hyper = AdamHyper(learning_rate=0.01, step=3)
    expected = state.copy(torch.float64).step(hyper, visible, "reference")
    found = state.copy().step(hyper, visible)
    assert_close(state, found, expected)
    if visible is not None:
        assert_close(state, state.copy().step(hyper, visible.to(torch.uint8)), expected)
        for before, after in zip(state.tensors(), found.tensors()):
            assert torch.equal(before[~visible], after[~visible])


def test_many_steps_equal_torch(isa: str) -> None:
    start = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    target = torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    theirs = start.clone().double().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.95), eps=1e-8)
    mine = State(start.clone(), torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(start))
    for step in range(1, 101):
        optimizer.zero_grad()
        (theirs - target).pow(4).sum().backward()
        optimizer.step()
        mine.gradient = 4 * (mine.parameter - target) ** 3
        mine.step(AdamHyper(0.02, step, 0.8, 0.95, 1e-8))
    torch.testing.assert_close(mine.parameter.double(), theirs.detach(), rtol=1e-4, atol=1e-4)


def test_the_first_step_moves_by_the_learning_rate(isa: str) -> None:
    """With the bias corrected, the first step is the sign of the gradient times the rate, however small it is."""
    gradient = torch.tensor([1e-6, -1e-3, 5.0, -1e4])
    state = State(torch.zeros(4), gradient, torch.zeros(4), torch.zeros(4)).step(AdamHyper(0.1, 1))
    torch.testing.assert_close(state.parameter, -0.1 * gradient.sign(), rtol=1e-4, atol=0)


def test_a_zero_gradient_from_rest_moves_nothing(isa: str) -> None:
    state = State(torch.ones(40), torch.zeros(40), torch.zeros(40), torch.zeros(40)).step(AdamHyper(0.1, 1))
    assert torch.equal(state.parameter, torch.ones(40))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_rows_stay_by_themselves(isa: str, value: float) -> None:
    state = make_state((100, 3))
    hyper = AdamHyper(0.01, 2)
    expected = state.copy().step(hyper)
    state.gradient[::7, 1] = value
    hit = torch.zeros(100, 3, dtype=torch.bool)
    hit[::7, 1] = True
    found = state.copy().step(hyper)
    assert torch.equal(found.parameter[~hit], expected.parameter[~hit])
    visible = ~hit.any(-1)
    kept = state.copy().step(hyper, visible)
    assert bool(kept.parameter.isfinite().all())
    assert torch.equal(kept.parameter[visible], expected.parameter[visible])


def test_huge_and_tiny_gradients_stay_finite(isa: str) -> None:
    gradient = torch.tensor([1e18, -1e18, 1e-30, -1e-38, 0.0]).repeat(7)
    state = State(torch.zeros(35), gradient, torch.zeros(35), torch.zeros(35)).step(AdamHyper(0.1, 1))
    assert bool(state.parameter.isfinite().all())
    assert float(state.parameter.abs().max()) <= 0.1001


def test_the_number_of_threads_changes_no_bit(isa: str) -> None:
    module = native()
    threads = module.max_threads()
    state = make_state((5000, 3))
    visible = torch.rand(5000, generator=torch.Generator().manual_seed(3)) < 0.5
    try:
        results = []
        for count in (1, 2, 3):
            module.set_threads(count)
            results.append(state.copy().step(AdamHyper(0.01, 5), visible))
    finally:
        module.set_threads(threads)
    for other in results[1:]:
        for mine, theirs in zip(results[0].tensors(), other.tensors()):
            assert torch.equal(mine, theirs)


def test_a_slice_is_updated_as_in_the_whole(isa: str) -> None:
    state = make_state((1100, 3))
    whole = state.copy().step(AdamHyper(0.01, 4))
    for first, last in [(0, 1), (3, 20), (1000, 1100), (1023, 1025)]:
        part = State(*(tensor[first:last].clone() for tensor in state.tensors())).step(AdamHyper(0.01, 4))
        assert torch.equal(part.parameter, whole.parameter[first:last])


def test_wrong_arguments_are_refused() -> None:
    hyper = AdamHyper(0.01, 1)
    for name in ("gradient", "first_moment", "second_moment"):
        state = make_state((6, 3))
        setattr(state, name, torch.zeros(5, 3))
        with pytest.raises(ReconError, match=f"{name} has shape 5×3"):
            state.step(hyper)
        setattr(state, name, torch.zeros(6, 3, dtype=torch.float64))
        with pytest.raises(ReconError, match=f"{name} is torch.float64"):
            state.step(hyper)
    with pytest.raises(ReconError, match="visible"):
        make_state((6, 3)).step(hyper, torch.ones(5, dtype=torch.bool))
    with pytest.raises(ReconError, match="visible"):
        make_state((6, 3)).step(hyper, torch.ones(6))
    with pytest.raises(ReconError, match="needs an NVIDIA GPU"):
        make_state((6, 3)).step(hyper, backend="cuda")
