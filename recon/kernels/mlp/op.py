# SPDX-License-Identifier: Apache-2.0
"""Fused multilayer perceptrons without biases, with ReLU between the layers and a linear output.

With X [S, inputs], the matrices W₀ .. W_L and the rows' bias B:

    A₁ = X W₀ + B[row_of],  H₁ = max(A₁, 0),  A₂ = H₁ W₁,  ...,  Y = H_L W_L.

All layers of some samples are computed while they lie in the cache, as in Müller, "tiny-cuda-nn", 2021; the backward
pass computes the hidden layers again.  A sample's output and input gradient depend on its own row alone, so a NaN or an
infinity stays there (and in its ray's gradient of the bias); the gradient by the parameters takes it up.
"""

from __future__ import annotations

from typing import Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.mlp.reference import mlp_reference
from recon.kernels.mlp.types import MlpGradients, MlpShape, Precision, RowBias
from recon.kernels.workspace import Workspace

__all__ = ["MlpGradients", "MlpShape", "Precision", "RowBias", "mlp", "mlp_backward_into", "mlp_forward_into"]

_OPERATION = "mlp"


def mlp(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    shape: MlpShape,
    row_bias: RowBias | None = None,
    precision: Precision = "float32",
    backend: Backend = "auto",
) -> torch.Tensor:
    """Returns the outputs [S, outputs]; differentiable to `inputs`, `parameters` and `row_bias.values`.

    Args:
        inputs: [S, inputs] float32; rows may lie apart.
        parameters: [P] float32, matrix after matrix, each [in, out] row by row; see `MlpShape.matrices`.
        shape: the layers' widths.
        row_bias: what is added to the first layer's sums, by rays; None for nothing.
        precision: "bfloat16" rounds both factors of all products to bfloat16 and sums in float32.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ, or the rows of the bias descend or do not exist.
    """
    inputs = _checked(inputs, parameters, shape, row_bias, precision)
    resolve_backend(backend, inputs.device, ("cpu", "reference"))
    return mlp_reference(inputs, parameters, shape, row_bias, precision)


def _checked(
    inputs: torch.Tensor, parameters: torch.Tensor, shape: MlpShape, row_bias: RowBias | None, precision: Precision
) -> torch.Tensor:
    if precision not in ("float32", "bfloat16"):
        raise ReconError(f"calling {_OPERATION}", f"precision is {precision!r}", "float32 or bfloat16")
    if inputs.ndim != 2 or inputs.stride(1) != 1:
        inputs = check_tensor(_OPERATION, "inputs", inputs, (None, shape.inputs), inputs.dtype)
    check_tensor(_OPERATION, "inputs", inputs[:0], (0, shape.inputs), inputs.dtype)
    check_tensor(_OPERATION, "parameters", parameters, (shape.parameters,), inputs.dtype)
    if row_bias is not None:
        check_tensor(_OPERATION, "row_bias.values", row_bias.values, (None, shape.hidden), inputs.dtype)
        row_of = check_tensor(_OPERATION, "row_bias.row_of", row_bias.row_of, (len(inputs),), torch.int32)
        _check_rows(row_of, len(row_bias.values))
    return inputs


def _check_rows(row_of: torch.Tensor, rows: int) -> None:
    if len(row_of) == 0:
        return
    if bool((row_of[1:] < row_of[:-1]).any()):
        raise ReconError(f"calling {_OPERATION}", "row_bias.row_of descends", "numbers that never descend")
    if int(row_of[0]) < 0 or int(row_of[-1]) >= rows:
        raise ReconError(
            f"calling {_OPERATION}", f"row_bias.row_of reaches from {int(row_of[0])} to {int(row_of[-1])}",
            f"0 to {rows - 1}",
        )  # fmt: skip


def mlp_forward_into(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    shape: MlpShape,
    workspace: Workspace,
    name: str,
    row_bias: RowBias | None = None,
    precision: Precision = "float32",
) -> torch.Tensor:
    """Returns the outputs [S, outputs] of `mlp`, which live in the workspace; without autograd, allocating nothing.

    Args:
        inputs: [S, inputs] float32; rows may lie apart, the numbers of a row not.  The other tensors are contiguous.
        name: what this network is called: those of several may live in one workspace.
        parameters, shape, workspace, row_bias, precision: as for `mlp`.
    """
    with torch.no_grad():
        found = mlp_reference(inputs, parameters, shape, row_bias, precision)
    return workspace.take(f"{name} outputs", (len(inputs), shape.outputs)).copy_(found)


def mlp_backward_into(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    shape: MlpShape,
    gradient: torch.Tensor,
    workspace: Workspace,
    name: str,
    row_bias: RowBias | None = None,
    precision: Precision = "float32",
) -> MlpGradients:
    """Returns the gradients for `gradient` [S, outputs] by the outputs; all live in the workspace and are overwritten
    by the next call with this name.  Sums run in an order that does not depend on the number of threads.

    Args:
        gradient: [S, outputs] float32; rows may lie apart.
        inputs, parameters, shape, workspace, name, row_bias, precision: as for `mlp_forward_into`.
    """
    leaves = [inputs.detach().requires_grad_(), parameters.detach().requires_grad_()]
    if row_bias is not None:
        leaves.append(row_bias.values.detach().requires_grad_())
        row_bias = RowBias(leaves[2], row_bias.row_of)
    with torch.enable_grad():
        outputs = mlp_reference(leaves[0], leaves[1], shape, row_bias, precision)
        found: Any = torch.autograd.grad(outputs, leaves, gradient)
    names = ("input gradient", "parameter gradient", "row bias gradient")
    kept = [workspace.take(f"{name} {what}", tuple(g.shape)).copy_(g) for what, g in zip(names, found)]
    return MlpGradients(kept[0], kept[1], kept[2] if row_bias is not None else None)
