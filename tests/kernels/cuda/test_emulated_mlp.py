# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the multilayer perceptron in emulation, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.mlp.mlp_cases import COLOR, DENSITY, Case, listed, make_case, near_a_kink

from recon.kernels.backend import Backend
from recon.kernels.mlp.cuda import mlp_backward_cuda
from recon.kernels.mlp.op import MlpGradients, MlpShape, RowBias, mlp
from recon.kernels.workspace import Workspace

TOLERANCE = 2e-5


def run(case: Case, backend: Backend, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in case.leaves()]
    bias = None if case.row_bias is None else RowBias(leaves[2], case.row_bias.row_of)
    outputs = mlp(leaves[0], leaves[1], case.shape, bias, backend=backend)
    outputs.backward(case.gradient.to(dtype))
    return [outputs.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected):
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=TOLERANCE * scale + 1e-12)


@pytest.mark.parametrize(
    ("shape", "samples", "rows"),
    [
        (DENSITY, 0, 0), (DENSITY, 1, 0), (DENSITY, 200, 0), (COLOR, 0, 3), (COLOR, 63, 5), (COLOR, 300, 40),
        (MlpShape(16, 48, 32, 3), 70, 4), (MlpShape(112, 80, 128), 65, 0), (MlpShape(128, 128, 96, 2), 64, 70),
    ],
)  # fmt: skip
def test_it_equals_the_reference(emulated: EmulatedProgram, shape: MlpShape, samples: int, rows: int) -> None:
    case = make_case(shape, samples, rows, seed=samples)
    assert_close(run(case, "cuda"), run(case, "reference", torch.float64))
    assert "mlp_forward" in emulated.launches or samples == 0


def test_a_ray_over_many_tiles(emulated: EmulatedProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """And fewer blocks than tiles, each of which adds to its own sums."""
    monkeypatch.setattr("recon.kernels.mlp.cuda._BLOCKS", 2)
    case = make_case(COLOR, 420, 12)
    assert case.row_bias is not None
    row_of = case.row_bias.row_of
    row_of[:] = torch.tensor([2] * 10 + [5] * 310 + [6] * 64 + [8] * 36, dtype=torch.int32)
    case.gradient[near_a_kink(case, 1e-5)] = 0
    assert_close(run(case, "cuda"), run(case, "reference", torch.float64))


def test_a_gradient_by_the_first_outputs(emulated: EmulatedProgram) -> None:
    """Without the gradient by the inputs."""
    case = make_case(COLOR, 100, 9)
    case.gradient[:, 3:] = 0
    _, _, by_parameters, by_bias = run(case, "reference", torch.float64)
    found = MlpGradients(None, torch.empty(COLOR.parameters), torch.empty(9, 64))
    part = replace(case, gradient=case.gradient[:, :3])
    mlp_backward_cuda(part.inputs, part.parameters, COLOR, part.row_bias, part.gradient, found, Workspace())
    assert_close([tensor for tensor in listed(found) if tensor is not None], [by_parameters, by_bias])


def test_a_nan_stays_in_its_row(emulated: EmulatedProgram) -> None:
    clean = make_case(DENSITY, 130)
    inputs = clean.inputs.clone()
    inputs[[3, 129], [0, 31]] = float("nan")
    hit = torch.zeros(130, dtype=torch.bool).index_fill(0, torch.tensor([3, 129]), True)
    before, after = run(clean, "cuda"), run(replace(clean, inputs=inputs), "cuda")
    assert torch.equal(after[0][~hit], before[0][~hit])
    assert torch.equal(after[1][~hit], before[1][~hit])
    assert bool(after[0][hit].isnan().all())
