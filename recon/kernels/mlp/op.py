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
from recon.kernels.native import native
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
    inputs, parameters, row_bias = _checked(inputs, parameters, shape, row_bias, precision)
    resolved = resolve_backend(backend, inputs.device, ("cpu", "reference"))
    if resolved == "reference":
        return mlp_reference(inputs, parameters, shape, row_bias, precision)
    check_tensor(_OPERATION, "inputs", inputs[:0], (0, None))
    values, row_of = (None, None) if row_bias is None else (row_bias.values, row_bias.row_of)
    return _Mlp.apply(inputs, parameters, values, row_of, shape, precision)


class _Mlp(torch.autograd.Function):
    """Keeps nothing but what it was given: the backward pass computes the hidden layers again."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        parameters: torch.Tensor,
        values: torch.Tensor | None,
        row_of: torch.Tensor | None,
        shape: MlpShape,
        precision: Precision,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, parameters, values, row_of)
        ctx.shape, ctx.precision = shape, precision
        bias = None if values is None or row_of is None else RowBias(values, row_of)
        return mlp_forward_into(inputs, parameters, shape, Workspace(inputs.device), "", bias, precision)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, parameters, values, row_of = ctx.saved_tensors
        bias = None if values is None else RowBias(values, row_of)
        gradient = upstream[0].contiguous()
        workspace = Workspace(inputs.device)
        found = mlp_backward_into(inputs, parameters, ctx.shape, gradient, workspace, "", bias, ctx.precision)
        return found.inputs, found.parameters, found.row_bias, None, None, None


def _checked(
    inputs: torch.Tensor, parameters: torch.Tensor, shape: MlpShape, row_bias: RowBias | None, precision: Precision
) -> tuple[torch.Tensor, torch.Tensor, RowBias | None]:
    """Returns the tensors laid out as the kernels want them, or refuses them."""
    if precision not in ("float32", "bfloat16"):
        raise ReconError(f"calling {_OPERATION}", f"precision is {precision!r}", "float32 or bfloat16")
    dtype = inputs.dtype
    if inputs.ndim != 2 or inputs.shape[1] != shape.inputs or not _has_rows(inputs):
        inputs = check_tensor(_OPERATION, "inputs", inputs, (None, shape.inputs), dtype)
    parameters = check_tensor(_OPERATION, "parameters", parameters, (shape.parameters,), dtype)
    if row_bias is not None:
        values = check_tensor(_OPERATION, "row_bias.values", row_bias.values, (None, shape.hidden), dtype)
        row_of = check_tensor(_OPERATION, "row_bias.row_of", row_bias.row_of, (len(inputs),), torch.int32)
        _check_rows(row_of, len(values))
        row_bias = RowBias(values, row_of)
    return inputs, parameters, row_bias


def _has_rows(tensor: torch.Tensor) -> bool:
    return tensor.stride(1) == 1 and tensor.stride(0) >= tensor.shape[1]


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
    params = _params(inputs, parameters, shape, row_bias)
    outputs = workspace.take(f"{name} outputs", (len(inputs), shape.outputs))
    params.outputs = outputs.data_ptr()
    _lend_scratch(params, workspace)
    native().mlp_forward(params)
    return outputs


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
    assert tuple(gradient.shape) == (len(inputs), shape.outputs), f"{tuple(gradient.shape)}"
    assert gradient.dtype == torch.float32
    assert _has_rows(gradient)
    params = _params(inputs, parameters, shape, row_bias)
    input_gradient = workspace.take(f"{name} input gradient", (len(inputs), shape.inputs))
    parameter_gradient = workspace.take(f"{name} parameter gradient", (shape.parameters,))
    params.gradient, params.gradient_stride = gradient.data_ptr(), gradient.stride(0)
    params.input_gradient, params.parameter_gradient = input_gradient.data_ptr(), parameter_gradient.data_ptr()
    bias_gradient = None
    if row_bias is not None:
        bias_gradient = workspace.take(f"{name} row bias gradient", tuple(row_bias.values.shape))
        params.row_bias_gradient = bias_gradient.data_ptr()
    _lend_scratch(params, workspace)
    native().mlp_backward(params)
    return MlpGradients(input_gradient, parameter_gradient, bias_gradient)


def _params(inputs: torch.Tensor, parameters: torch.Tensor, shape: MlpShape, row_bias: RowBias | None) -> Any:
    assert tuple(inputs.shape) == (len(inputs), shape.inputs), f"{tuple(inputs.shape)}"
    assert tuple(parameters.shape) == (shape.parameters,), f"{tuple(parameters.shape)}"
    assert inputs.dtype == parameters.dtype == torch.float32
    assert _has_rows(inputs)
    assert parameters.is_contiguous()
    params = native().MlpParams()
    params.inputs, params.parameters = inputs.data_ptr(), parameters.data_ptr()
    params.samples, params.input_stride = len(inputs), inputs.stride(0)
    params.input_width, params.output_width = shape.inputs, shape.outputs
    params.hidden_width, params.hidden_layers = shape.hidden, shape.hidden_layers
    if row_bias is not None:
        assert row_bias.values.shape[1] == shape.hidden
        assert row_bias.row_of.shape == (len(inputs),)
        assert (row_bias.values.dtype, row_bias.row_of.dtype) == (torch.float32, torch.int32)
        assert row_bias.values.is_contiguous()
        assert row_bias.row_of.is_contiguous()
        params.row_bias, params.row_of = row_bias.values.data_ptr(), row_bias.row_of.data_ptr()
        params.rows = len(row_bias.values)
    return params


def _lend_scratch(params: Any, workspace: Workspace) -> None:
    params.scratch = workspace.take("mlp scratch", (native().mlp_scratch_floats(params),)).data_ptr()
