# SPDX-License-Identifier: Apache-2.0
"""The multilayer perceptron in plain torch: what the fused kernels must equal."""

from __future__ import annotations

from typing import Any

import torch

from recon.kernels.mlp.types import MlpShape, Precision, RowBias


class _RoundedProduct(torch.autograd.Function):
    """a · b of numbers that are rounded to bfloat16 first, in the products of the backward pass too."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = _rounded(a), _rounded(b)
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        gradient = _rounded(upstream[0])
        return gradient @ b.T, a.T @ gradient


def _rounded(a: torch.Tensor) -> torch.Tensor:
    return a.to(torch.bfloat16).to(a.dtype)


def mlp_reference(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    shape: MlpShape,
    row_bias: RowBias | None = None,
    precision: Precision = "float32",
) -> torch.Tensor:
    """As `recon.kernels.mlp.op.mlp`, in the inputs' own type, which may be float64."""
    matrices = shape.matrices(parameters)
    layer = inputs
    for number, matrix in enumerate(matrices):
        sums = _RoundedProduct.apply(layer, matrix) if precision == "bfloat16" else layer @ matrix
        if number == 0 and row_bias is not None:
            sums = sums + row_bias.values.index_select(0, row_bias.row_of.long())
        layer = torch.relu(sums) if number + 1 < len(matrices) else sums
    return layer
