# SPDX-License-Identifier: Apache-2.0
"""The sparse Adam of a table against its reference, and what must hold of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.backend import Backend
from recon.kernels.native import native
from recon.kernels.table_adam.op import table_adam_step

TOLERANCE = 1e-4
"""Relative, of the moments and of the step: 1 - beta2 = 0.001 has an error of 5e-5 when beta2 is a float32."""
ROUNDING = 2e-7
"""Relative, of the table itself."""
HYPER = AdamHyper(learning_rate=0.01, step=3)


@dataclass
class State:
    """A table with what Adam keeps for it."""

    table: torch.Tensor
    gradient: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.table, self.gradient, self.first_moment, self.second_moment

    def copy(self, dtype: torch.dtype = torch.float32) -> State:
        return State(*(tensor.to(dtype, copy=True) for tensor in self.tensors()))

    def step(self, hyper: AdamHyper = HYPER, backend: Backend = "cpu") -> State:
        table_adam_step(*self.tensors(), hyper, backend)
        return self


def make_state(rows: int, width: int, share: float = 0.3, seed: int = 0) -> State:
    """Returns a random state in which that share of the rows has a gradient, some of them in one number only."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn((rows, width), generator=generator)

    touched = torch.rand((rows, 1), generator=generator) < share
    numbers = torch.rand((rows, width), generator=generator) < 0.6
    gradient = normal() * 0.01 * touched * numbers
    return State(normal(), gradient, normal() * 0.01, normal().square() * 1e-4)


def touched_rows(state: State) -> torch.Tensor:
    usable = state.gradient.abs() <= 1e19
    return ((state.gradient != 0) & usable).any(1)


def assert_close(before: State, found: State, expected: State) -> None:
    for mine, theirs in zip(found.tensors()[2:], expected.tensors()[2:]):
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=TOLERANCE, atol=1e-7 * scale)
    start = before.table.double()
    step = expected.table.double() - start
    error = (found.table.double() - start - step).abs()
    assert bool((error <= ROUNDING * (start.abs() + step.abs()) + TOLERANCE * step.abs() + 1e-9).all())
    assert not bool(found.gradient.any())


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 16, 33])
@pytest.mark.parametrize("rows", [0, 1, 15, 17, 4100])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_equals_the_reference(isa: str, width: int, rows: int, share: float) -> None:
    state = make_state(rows, width, share, seed=rows + width)
    touched = touched_rows(state)
    expected = state.copy(torch.float64)
    adam_step(*expected.tensors(), HYPER, touched, "reference")
    found = state.copy().step()
    assert_close(state, found, expected)
    for before, after in zip(state.tensors()[0::2], found.tensors()[0::2]):
        assert torch.equal(before[~touched], after[~touched])
    assert torch.equal(state.second_moment[~touched], found.second_moment[~touched])


@pytest.mark.parametrize("width", [2, 4, 8, 3])
def test_the_reference_does_the_same(isa: str, width: int) -> None:
    state = make_state(500, width)
    state.gradient[7, 1], state.gradient[8, 0] = float("nan"), 1e30
    found, expected = state.copy().step(), state.copy().step(backend="reference")
    assert not bool(expected.gradient.any())
    assert_close(state, found, expected)


@pytest.mark.parametrize("width", [1, 4, 8, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_broken_gradients_count_as_zero(isa: str, width: int, value: float) -> None:
    state = make_state(200, width)
    plain = state.copy()
    state.gradient[::7, 0], plain.gradient[::7, 0] = value, 0.0
    expected, found = plain.step(), state.step()
    for mine, theirs in zip(found.tensors(), expected.tensors()):
        assert torch.equal(mine, theirs)


def test_only_the_touched_rows_of_a_pack_move(isa: str) -> None:
    """The moments at rest are not zero: a step of a row without a gradient would show."""
    for width in (1, 2, 4, 8):
        for row in range(20):
            state = make_state(20, width, 0.0)
            state.gradient[row, width - 1] = 1e-30
            found = state.copy().step()
            moved = (found.table != state.table).any(1) | (found.first_moment != state.first_moment).any(1)
            assert moved.nonzero().flatten().tolist() == [row]


def test_a_negative_zero_touches_nothing(isa: str) -> None:
    state = make_state(64, 4, 0.0)
    state.gradient.fill_(-0.0)
    found = state.copy().step()
    assert all(torch.equal(before, after) for before, after in zip(state.tensors(), found.tensors()))


def test_threads_change_no_bit(isa: str) -> None:
    module, state, results = native(), make_state(20011, 4), []
    before = module.max_threads()
    try:
        for threads in (1, 2, 3, 7):
            module.set_threads(threads)
            results.append(state.copy().step())
    finally:
        module.set_threads(before)
    for result in results[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(result.tensors(), results[0].tensors()))


def test_rows_stand_alone(isa: str) -> None:
    state = make_state(1000, 4)
    whole = state.copy().step()
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(2))
    moved = State(*(tensor[order].clone() for tensor in state.tensors())).step()
    assert all(torch.equal(mine, theirs[order]) for mine, theirs in zip(moved.tensors(), whole.tensors()))
    for first, last in [(0, 1), (3, 20), (900, 1000)]:
        part = State(*(tensor[first:last].clone() for tensor in state.tensors())).step()
        assert torch.equal(part.table, whole.table[first:last])


def test_many_steps_find_the_target(isa: str) -> None:
    """Rows with a gradient follow torch's own Adam; the others stay where they were."""
    target = torch.randn((64, 4), generator=torch.Generator().manual_seed(1))
    start = torch.randn((64, 4), generator=torch.Generator().manual_seed(0))
    theirs = start[::2].double().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.02, betas=(0.9, 0.99), eps=1e-15)
    mine = State(start.clone(), *(torch.zeros_like(start) for _ in range(3)))
    for step in range(1, 60):
        optimizer.zero_grad()
        (theirs - target[::2]).pow(4).sum().backward()
        optimizer.step()
        mine.gradient[::2] = 4 * (mine.table - target)[::2] ** 3
        mine.step(AdamHyper(0.02, step, 0.9, 0.99, 1e-15))
    torch.testing.assert_close(mine.table[::2].double(), theirs.detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(mine.table[1::2], start[1::2])


def test_huge_and_tiny_gradients_stay_finite(isa: str) -> None:
    gradient = torch.tensor([1e18, -1e18, 1e-30, -1e-38]).repeat(7, 1)
    state = State(torch.zeros(7, 4), gradient, torch.zeros(7, 4), torch.zeros(7, 4)).step(AdamHyper(0.1, 1))
    assert bool(state.table.isfinite().all())
    assert float(state.table.abs().max()) <= 0.1001


def test_nothing_is_written_beyond_the_table(isa: str) -> None:
    whole = make_state(1100, 4, 1.0)
    before = whole.copy()
    State(*(tensor[32:1033] for tensor in whole.tensors())).step()
    for mine, theirs in zip(whole.tensors(), before.tensors()):
        assert torch.equal(mine[:32], theirs[:32])
        assert torch.equal(mine[1033:], theirs[1033:])


def test_wrong_arguments_are_refused() -> None:
    for name in ("gradient", "first_moment", "second_moment"):
        state = make_state(6, 4)
        setattr(state, name, torch.zeros(5, 4))
        with pytest.raises(ReconError, match=f"{name} has shape 5×4"):
            state.step()
        setattr(state, name, torch.zeros(6, 4, dtype=torch.float64))
        with pytest.raises(ReconError, match=f"{name} is torch.float64"):
            state.step()
        setattr(state, name, torch.zeros(4, 6).T)
        with pytest.raises(ReconError, match=f"{name} is not contiguous"):
            state.step()
    with pytest.raises(ReconError, match="table has shape 6"):
        State(*(torch.zeros(6) for _ in range(4))).step()
    with pytest.raises(ReconError, match="column_scale"):
        make_state(6, 4).step(AdamHyper(0.01, 1, column_scale=torch.ones(4)))
    with pytest.raises(ReconError, match="needs an NVIDIA GPU"):
        make_state(6, 4).step(backend="cuda")
