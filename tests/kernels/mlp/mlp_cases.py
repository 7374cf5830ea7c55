# SPDX-License-Identifier: Apache-2.0
"""Random multilayer perceptrons with samples to put through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.kernels.mlp.op import MlpGradients, MlpShape, Precision, RowBias, mlp_backward_into, mlp_forward_into
from recon.kernels.workspace import Workspace

DENSITY, COLOR = MlpShape(32, 16), MlpShape(16, 16, hidden_layers=2)
SHAPES = [
    DENSITY, COLOR, MlpShape(16, 48, 32, 3), MlpShape(112, 80, 128), MlpShape(128, 128, 96, 4),
    MlpShape(48, 16, 16, 2), MlpShape(16, 112, 80), MlpShape(16, 16, 16, 8),
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its samples and the gradient [S, outputs] by its outputs."""

    shape: MlpShape
    inputs: torch.Tensor
    parameters: torch.Tensor
    row_bias: RowBias | None
    gradient: torch.Tensor

    def leaves(self) -> list[torch.Tensor]:
        """Inputs, parameters and, where there is one, the values of the row bias."""
        return [self.inputs, self.parameters] + ([] if self.row_bias is None else [self.row_bias.values])

    def forward(self, workspace: Workspace, precision: Precision = "float32") -> torch.Tensor:
        return mlp_forward_into(
            self.inputs, self.parameters, self.shape, workspace, "net", self.row_bias, precision
        ).clone()

    def backward(self, workspace: Workspace, precision: Precision = "float32") -> MlpGradients:
        found = mlp_backward_into(
            self.inputs, self.parameters, self.shape, self.gradient, workspace, "net", self.row_bias, precision
        )
        return MlpGradients(*(None if tensor is None else tensor.clone() for tensor in listed(found)))

    def select(self, samples: torch.Tensor) -> Case:
        """Some of the samples; they must keep their order where there is a row bias."""
        bias = self.row_bias and RowBias(self.row_bias.values, self.row_bias.row_of[samples])
        return Case(self.shape, self.inputs[samples], self.parameters, bias, self.gradient[samples])


def listed(gradients: MlpGradients) -> list[torch.Tensor | None]:
    return [gradients.inputs, gradients.parameters, gradients.row_bias]


def make_case(shape: MlpShape, samples: int, rows: int = 0, seed: int = 0) -> Case:
    """Returns a network whose layers keep the variance of what goes through them; `rows` 0 gives no row bias."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    # Rows of the inputs lie apart.
    inputs = normal(samples, shape.inputs + 3)[:, : shape.inputs]
    parameters = normal(shape.parameters)
    for matrix in shape.matrices(parameters):
        matrix *= (2 / len(matrix)) ** 0.5
    bias = None
    if rows:
        row_of = torch.randint(0, rows, (samples,), generator=generator, dtype=torch.int32).sort()[0]
        bias = RowBias(normal(rows, shape.hidden), row_of)
    case = Case(shape, inputs, parameters, bias, normal(samples, shape.outputs))
    case.gradient[near_a_kink(case, 1e-5)] = 0
    return case


def near_a_kink(case: Case, distance: float) -> torch.Tensor:
    """Returns which samples have a hidden sum so near to 0 that rounding may decide upon its gradient, [S] bool."""
    layer, near = case.inputs.double(), torch.zeros(len(case.inputs), dtype=torch.bool)
    for number, matrix in enumerate(case.shape.matrices(case.parameters)[:-1]):
        sums = layer @ matrix.double()
        if number == 0 and case.row_bias is not None:
            sums = sums + case.row_bias.values[case.row_bias.row_of.long()].double()
        near |= (sums.abs() < distance).any(1)
        layer = sums.relu()
    return near
