# SPDX-License-Identifier: Apache-2.0
"""The fused multilayer perceptron against its reference, and what must hold of any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from kernels.mlp.mlp_cases import COLOR, DENSITY, SHAPES, Case, listed, make_case, near_a_kink

from recon.errors import ReconError
from recon.kernels.backend import Backend
from recon.kernels.mlp.op import MlpShape, RowBias, mlp, mlp_backward_into
from recon.kernels.native import native
from recon.kernels.workspace import Workspace

TOLERANCE = 2e-5
"""Of the largest number of a tensor: some hundred roundings of 6e-8, which the layers pass on."""

# Blocks have 24 and 96 samples, chunks 384 and 1008.
COUNTS = [1, 23, 24, 97, 1200]


def run(case: Case, backend: Backend, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Outputs and gradients of the plain function."""
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in case.leaves()]
    bias = None if case.row_bias is None else RowBias(leaves[2], case.row_bias.row_of)
    outputs = mlp(leaves[0], leaves[1], case.shape, bias, backend=backend)
    outputs.backward(case.gradient.to(dtype))
    return [outputs.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected):
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=tolerance * scale + 1e-12)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace whose memory is NaN until it is written."""

    class Poisoned(Workspace):
        def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return super().take(name, shape, dtype).fill_(float("nan"))

    return Poisoned()


# ---- against the reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.widths)))
@pytest.mark.parametrize("rows", [0, 90])
def test_it_equals_the_reference(isa: str, shape: MlpShape, rows: int) -> None:
    for samples in COUNTS if shape in (DENSITY, COLOR) else (1, 25, 400):
        case = make_case(shape, samples, rows, seed=samples)
        assert_close(run(case, "cpu"), run(case, "reference", torch.float64))


@pytest.mark.parametrize("rows", [0, 40])
def test_into_a_workspace(isa: str, rows: int, poisoned: Workspace) -> None:
    """Everything is written, whatever was there, also the rows of the bias that have no sample."""
    case = make_case(COLOR, 1000, rows)
    if case.row_bias is not None:
        row_of = case.row_bias.row_of
        # One ray has most samples, and lies in several chunks; none lie at either end.
        row_of.copy_(row_of.clamp(3, 36))
        row_of[100:900] = 20
        row_of.copy_(row_of.sort()[0])
        case.gradient[near_a_kink(case, 1e-5)] = 0
    outputs, found = case.forward(poisoned), listed(case.backward(poisoned))
    expected = run(case, "reference", torch.float64)
    assert_close([outputs, *(tensor for tensor in found if tensor is not None)], expected)


def test_a_gradient_by_the_first_outputs(isa: str) -> None:
    """What is left out counts as zero."""
    for shape in (COLOR, MlpShape(32, 112, 128), MlpShape(16, 128)):
        for width in (1, 2, 3, 5, 7, 15, 16):
            case = make_case(shape, 130, 20, seed=width)
            case.gradient[:, width:] = 0
            part = replace(case, gradient=case.gradient[:, :width])
            assert_close(listed(part.backward(Workspace())), run(case, "reference", torch.float64)[1:])


def test_the_reference_by_differences() -> None:
    for shape, rows in ((MlpShape(16, 16, 16), 3), (MlpShape(16, 16, 16, 2), 0)):
        case = make_case(shape, 4, rows)
        assert not bool(near_a_kink(case, 1e-4).any())
        leaves = [leaf.detach().double().requires_grad_() for leaf in case.leaves()]

        def outputs(*given: torch.Tensor, case: Case = case) -> torch.Tensor:
            bias = None if case.row_bias is None else RowBias(given[2], case.row_bias.row_of)
            return mlp(given[0], given[1], case.shape, bias, backend="reference")

        torch.autograd.gradcheck(outputs, leaves, eps=1e-6, fast_mode=True)


def test_the_kernel_by_differences(isa: str) -> None:
    """Along any direction of the inputs the outputs are piecewise linear; nothing here lies near a bend."""
    case = make_case(COLOR, 600, 50)
    case = case.select((~near_a_kink(case, 2e-3)).nonzero()[:, 0])
    assert len(case.inputs) > 100
    gradients = case.backward(Workspace())
    generator = torch.Generator().manual_seed(1)
    assert case.row_bias is not None
    for number, (leaf, by_leaf) in enumerate(zip(case.leaves(), listed(gradients))):
        direction = torch.randn(leaf.shape, generator=generator)
        direction *= 1e-3 / float(direction.norm(dim=-1).max())
        sums = []
        for sign in (1, -1):
            moved = [other.clone() for other in case.leaves()]
            moved[number] += sign * direction
            there = Case(case.shape, moved[0], moved[1], RowBias(moved[2], case.row_bias.row_of), case.gradient)
            sums.append(float((there.forward(Workspace()).double() * case.gradient).sum()))
        assert by_leaf is not None
        along = (by_leaf.double() * direction).sum()
        assert sums[0] - sums[1] == pytest.approx(2 * float(along), rel=5e-3)


# ---- bfloat16 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds factors where the processor can, fast or not."""
    if not native().mlp_has_bfloat16():
        pytest.skip("the processor does not multiply bfloat16")
    monkeypatch.setattr("recon.kernels.mlp.op.has_fast_bfloat16", lambda: True)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.widths)))
@pytest.mark.parametrize(("samples", "rows"), [(1, 0), (25, 7), (400, 90), (400, 0)])
@pytest.mark.usefixtures("rounding")
def test_rounded_factors(poisoned: Workspace, shape: MlpShape, samples: int, rows: int) -> None:
    """A sum that ends on the other side of a rounding moves by a bfloat16's last place, and what it goes into a little;
    all others agree."""
    for width in (3, shape.outputs):
        case = make_case(shape, samples, rows, seed=samples)
        case.gradient[:, width:] = 0
        leaves = [leaf.clone().requires_grad_() for leaf in case.leaves()]
        bias = None if case.row_bias is None else RowBias(leaves[2], case.row_bias.row_of)
        outputs = mlp(leaves[0], leaves[1], shape, bias, "bfloat16", backend="reference")
        outputs.backward(case.gradient)
        part = replace(case, gradient=case.gradient[:, :width])
        gradients = [tensor for tensor in listed(part.backward(poisoned, "bfloat16")) if tensor is not None]
        found = [case.forward(poisoned, "bfloat16"), *gradients]
        for mine, theirs in zip(found, [outputs.detach(), *(leaf.grad for leaf in leaves)]):
            assert theirs is not None
            error = (mine - theirs).abs() / theirs.abs().max().clamp_min(1e-9)
            assert float(error.max()) < 1e-2
            assert float(error.mean()) < 2e-4


@pytest.mark.usefixtures("rounding")
def test_rounding_is_what_was_asked_for() -> None:
    """And threads, order and a NaN change nothing."""
    case = make_case(COLOR, 900)
    exact, outputs = case.forward(Workspace()), case.forward(Workspace(), "bfloat16")
    error = float((outputs - exact).abs().max() / exact.abs().max())
    assert 1e-4 < error < 3e-2
    order = torch.randperm(900, generator=torch.Generator().manual_seed(0))
    assert torch.equal(case.select(order).forward(Workspace(), "bfloat16"), outputs[order])
    inputs = case.inputs.clone()
    inputs[[4, 899], 3] = float("nan")
    spoiled = replace(case, inputs=inputs)
    changed = (spoiled.forward(Workspace(), "bfloat16") != outputs).any(1).nonzero()[:, 0]
    assert changed.tolist() == [4, 899]
    found, threads = [], native().max_threads()
    try:
        for count in (1, 2):
            native().set_threads(count)
            found.append(listed(case.backward(Workspace(), "bfloat16")))
    finally:
        native().set_threads(threads)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_rounding_is_left_out_where_it_is_slower(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from recon.kernels.mlp.op import has_fast_bfloat16

    assert not has_fast_bfloat16() or native().mlp_has_bfloat16()
    assert isa == "avx512" or not native().mlp_has_bfloat16()
    monkeypatch.setattr("recon.kernels.mlp.op.has_fast_bfloat16", lambda: False)
    case = make_case(COLOR, 100, 4)
    assert torch.equal(case.forward(Workspace(), "bfloat16"), case.forward(Workspace()))


# ---- invariants ----------------------------------------------------------------------------------------------------


def test_no_samples(isa: str) -> None:
    case = make_case(COLOR, 0, 5)
    assert case.forward(Workspace()).shape == (0, 16)
    inputs, parameters, bias = listed(case.backward(Workspace()))
    assert inputs is not None
    assert inputs.shape == (0, 16)
    assert parameters is not None
    assert not bool(parameters.any())
    assert bias is not None
    assert bias.shape == (5, 64)
    assert not bool(bias.any())


def test_a_sample_stands_alone(isa: str) -> None:
    """To the last bit: in any order, in any company."""
    case = make_case(DENSITY, 1100)
    outputs, gradients = case.forward(Workspace()), case.backward(Workspace())
    order = torch.randperm(1100, generator=torch.Generator().manual_seed(0))
    permuted = case.select(order)
    assert torch.equal(permuted.forward(Workspace()), outputs[order])
    by_inputs, by_parameters, _ = listed(permuted.backward(Workspace()))
    assert gradients.inputs is not None
    assert gradients.parameters is not None
    assert torch.equal(by_inputs, gradients.inputs[order])
    assert_close([by_parameters], [gradients.parameters])
    parts = [case.select(torch.arange(first, min(first + 37, 1100))) for first in range(0, 1100, 37)]
    assert torch.equal(torch.cat([part.forward(Workspace()) for part in parts]), outputs)
    each = [part.backward(Workspace()) for part in parts]
    assert torch.equal(torch.cat([part.inputs for part in each]), gradients.inputs)
    assert_close([torch.stack([part.parameters for part in each]).sum(0)], [gradients.parameters])


def test_any_number_of_threads_gives_the_same(isa: str) -> None:
    case = make_case(COLOR, 7000, 90)
    found = []
    threads = native().max_threads()
    try:
        for count in (1, 2, 3):
            native().set_threads(count)
            workspace = Workspace()
            found.append([case.forward(workspace), *listed(case.backward(workspace))])
    finally:
        native().set_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0], other))


def test_networks_share_a_workspace() -> None:
    """A network keeps what it was last asked for while another one runs, and a second step allocates nothing."""
    workspace = Workspace()
    density, color = make_case(DENSITY, 300), make_case(COLOR, 200, 9)
    found = mlp_backward_into(density.inputs, density.parameters, DENSITY, density.gradient, workspace, "density")
    before = [tensor.clone() for tensor in listed(found) if tensor is not None]
    color.forward(workspace)
    color.backward(workspace)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(listed(found), before))
    held = workspace.bytes()
    color.select(torch.arange(100)).forward(workspace)
    color.select(torch.arange(100)).backward(workspace)
    assert workspace.bytes() == held


def test_only_what_is_wanted_gets_a_gradient() -> None:
    case = make_case(COLOR, 50, 5)
    parameters = case.parameters.clone().requires_grad_()
    mlp(case.inputs, parameters, case.shape, case.row_bias).sum().backward()
    assert parameters.grad is not None
    with torch.no_grad():
        assert not mlp(case.inputs, parameters, case.shape, case.row_bias).requires_grad


# ---- extremes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, 1e-42])
def test_extremes_stay_in_their_rows(isa: str, value: float) -> None:
    """By inputs, by the bias of a ray and by the outputs' gradient, all other rows are as without them."""
    clean = make_case(COLOR, 300, 40)
    assert clean.row_bias is not None
    rays = clean.row_bias.row_of.long()
    for place in ("inputs", "bias", "gradient"):
        inputs, values, gradient = clean.inputs.clone(), clean.row_bias.values.clone(), clean.gradient.clone()
        hit = torch.zeros(300, dtype=torch.bool)
        if place == "inputs":
            inputs[[7, 120], [3, 15]] = value
            hit[[7, 120]] = True
        elif place == "bias":
            values[rays[150], 5] = value
            hit = rays == rays[150]
        else:
            gradient[[0, 299], [0, 15]] = value
            hit[[0, 299]] = True
        case = replace(clean, inputs=inputs, row_bias=RowBias(values, clean.row_bias.row_of), gradient=gradient)
        hit_rays = torch.zeros(40, dtype=torch.bool).index_fill(0, rays[hit], True)
        before, after = clean.forward(Workspace()), case.forward(Workspace())
        assert torch.equal(after[~hit], before[~hit])
        old, new = clean.backward(Workspace()), case.backward(Workspace())
        assert old.inputs is not None
        assert new.inputs is not None
        assert old.row_bias is not None
        assert new.row_bias is not None
        assert torch.equal(new.inputs[~hit], old.inputs[~hit])
        assert torch.equal(new.row_bias[~hit_rays], old.row_bias[~hit_rays])
        if value != value:
            spoiled = new.inputs if place == "gradient" else after
            assert bool(spoiled[hit].isnan().any(1).all())


def test_a_nan_goes_through_as_in_the_reference(isa: str) -> None:
    case = make_case(DENSITY, 60)
    case.inputs[5, 2] = float("nan")
    expected = run(case, "reference")
    for mine, theirs in zip(run(case, "cpu"), expected):
        assert torch.equal(mine.isnan(), theirs.isnan())


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_shapes_that_do_not_exist() -> None:
    for widths in (
        (15, 16, 64, 1),
        (16, 0, 64, 1),
        (16, 144, 64, 1),
        (16, 16, -16, 1),
        (16, 16, 64, 0),
        (16, 16, 64, 9),
    ):
        with pytest.raises(ReconError, match="multilayer perceptron"):
            MlpShape(*widths)
    assert DENSITY.parameters == 32 * 64 + 64 * 16
    assert [tuple(matrix.shape) for matrix in COLOR.matrices(torch.zeros(COLOR.parameters))] == [
        (16, 64), (64, 64), (64, 16),
    ]  # fmt: skip


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_wrong_arguments_are_refused(backend: Backend) -> None:
    case = make_case(COLOR, 10, 4)
    bias = case.row_bias
    assert bias is not None
    wrong = {
        "inputs": {"inputs": torch.zeros(10, 17)},
        "inputs ": {"inputs": torch.zeros(16)},
        "parameters": {"parameters": case.parameters[:-1]},
        "row_bias.values": {"row_bias": RowBias(torch.zeros(4, 32), bias.row_of)},
        "row_of": {"row_bias": RowBias(bias.values, bias.row_of[:9])},
        "int32": {"row_bias": RowBias(bias.values, bias.row_of.long())},
        "descends": {"row_bias": RowBias(bias.values, bias.row_of.flip(0) + torch.arange(10, 0, -1).int())},
        "reaches": {"row_bias": RowBias(bias.values[:1], bias.row_of + 1)},
        "reaches ": {"row_bias": RowBias(bias.values, bias.row_of - 4)},
        "precision": {"precision": "float16"},
        "float": {"inputs": case.inputs.half()},
    }
    for words, change in wrong.items():
        given = {
            "inputs": case.inputs,
            "parameters": case.parameters,
            "row_bias": bias,
            "precision": "float32",
            **change,
        }
        with pytest.raises(ReconError, match=words.strip()):
            mlp(given["inputs"], given["parameters"], COLOR, given["row_bias"], given["precision"], backend)


def test_the_kernel_takes_float32_alone() -> None:
    case = make_case(DENSITY, 10)
    with pytest.raises(ReconError, match="float64"):
        mlp(case.inputs.double(), case.parameters.double(), DENSITY, backend="cpu")
