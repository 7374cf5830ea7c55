# SPDX-License-Identifier: Apache-2.0
"""Fused multilayer perceptrons without biases, with ReLU between the layers and a linear output.

With X [S, inputs], the matrices W₀ .. W_L and the rows' bias B:

    A₁ = X W₀ + B[row_of],  H₁ = max(A₁, 0),  A₂ = H₁ W₁,  ...,  Y = H_L W_L.

All layers of some samples are computed while they lie in the cache, as in Müller, "tiny-cuda-nn", 2021; the backward
pass computes the hidden layers again.  A sample's output and input gradient depend on its own row alone, so a NaN or an
infinity stays there (and in its ray's gradient of the bias); the gradient by the parameters takes it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.mlp.reference import mlp_reference
from recon.kernels.mlp.types import MlpGradients, MlpShape, Precision, RowBias
from recon.kernels.native import native
from recon.kernels.workspace import Workspace

__all__ = [
    "MlpGradients", "MlpShape", "Precision", "RowBias", "has_fast_bfloat16", "mlp", "mlp_backward_into",
    "mlp_forward_into",
]  # fmt: skip

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
        precision: "bfloat16" lets both factors of all products be rounded to bfloat16, with sums in float32, where that
            is faster (see `has_fast_bfloat16`); the reference always rounds them.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ, or the rows of the bias descend or do not exist.
    """
    inputs, parameters, row_bias = _checked(inputs, parameters, shape, row_bias, precision)
    resolved = resolve_backend(backend, inputs.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        return mlp_reference(inputs, parameters, shape, row_bias, precision)
    check_tensor(_OPERATION, "inputs", inputs[:0], (0, None))
    values, row_of = (None, None) if row_bias is None else (row_bias.values, row_bias.row_of)
    return _Mlp.apply(inputs, parameters, values, row_of, shape, precision, resolved)


class _Mlp(torch.autograd.Function):
    """Keeps nothing but what it was given: the backward pass computes the hidden layers again."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        parameters: torch.Tensor,
        values: torch.Tensor | None,
        row_of: torch.Tensor | None,
        *rest: Any,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, parameters, values, row_of)
        ctx.rest = rest
        network = _Network(inputs, parameters, *_with_bias(values, row_of, *rest))
        return _forward(network, Workspace(inputs.device), "")

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, parameters, values, row_of = ctx.saved_tensors
        network = _Network(inputs, parameters, *_with_bias(values, row_of, *ctx.rest))
        gradient = upstream[0].contiguous()
        found = _backward(network, gradient, Workspace(inputs.device), "", ctx.needs_input_grad[0])
        return found.inputs, found.parameters, found.row_bias, None, None, None, None


@dataclass(frozen=True, eq=False)
class _Network:
    """A network and its inputs, laid out as the kernels want them, and the backend that runs it."""

    inputs: torch.Tensor
    parameters: torch.Tensor
    shape: MlpShape
    row_bias: RowBias | None
    precision: Precision
    backend: str

    def __post_init__(self) -> None:
        inputs, parameters, shape, bias = self.inputs, self.parameters, self.shape, self.row_bias
        assert tuple(inputs.shape) == (len(inputs), shape.inputs), f"{tuple(inputs.shape)}"
        assert tuple(parameters.shape) == (shape.parameters,), f"{tuple(parameters.shape)}"
        assert inputs.dtype == parameters.dtype == torch.float32
        assert _has_rows(inputs)
        assert parameters.is_contiguous()
        if bias is not None:
            assert bias.values.shape[1] == shape.hidden
            assert bias.row_of.shape == (len(inputs),)
            assert (bias.values.dtype, bias.row_of.dtype) == (torch.float32, torch.int32)
            assert bias.values.is_contiguous()
            assert bias.row_of.is_contiguous()


def _with_bias(
    values: torch.Tensor | None, row_of: torch.Tensor | None, shape: MlpShape, precision: Precision, backend: str
) -> tuple[MlpShape, RowBias | None, Precision, str]:
    bias = None if values is None or row_of is None else RowBias(values, row_of)
    return shape, bias, precision, backend


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


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32 with the kernels in use.

    That is so on AMD's with AVX512-BF16 by what is known of them.  Intel's Emerald Rapids has the instructions too, and
    takes twice as long with them as with float32.
    """
    found: bool = native().mlp_bfloat16_is_faster()
    return found


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
    network = _Network(inputs, parameters, shape, row_bias, precision, _own_backend(inputs.device))
    return _forward(network, workspace, name)


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
    """Returns the gradients of `mlp` for that by its outputs; all live in the workspace and are overwritten
    by the next call with this name.  Sums run in an order that does not depend on the number of threads.

    Args:
        gradient: [S, 1 to outputs] float32, by the first outputs; by the others it is 0.  Rows may lie apart.
        inputs, parameters, shape, workspace, name, row_bias, precision: as for `mlp_forward_into`.
    """
    network = _Network(inputs, parameters, shape, row_bias, precision, _own_backend(inputs.device))
    return _backward(network, gradient, workspace, name, True)


def _own_backend(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "cpu"


def _forward(network: _Network, workspace: Workspace, name: str) -> torch.Tensor:
    outputs = workspace.take(f"{name} outputs", (len(network.inputs), network.shape.outputs))
    if network.backend == "cuda":
        from recon.kernels.mlp.cuda import mlp_forward_cuda

        mlp_forward_cuda(network.inputs, network.parameters, network.shape, network.row_bias, outputs)
        return outputs
    params = _params(network, workspace)
    params.outputs = outputs.data_ptr()
    native().mlp_forward(params)
    return outputs


def _backward(
    network: _Network, gradient: torch.Tensor, workspace: Workspace, name: str, with_inputs: bool
) -> MlpGradients:
    inputs, shape, row_bias = network.inputs, network.shape, network.row_bias
    assert gradient.ndim == 2, f"{tuple(gradient.shape)}"
    assert len(gradient) == len(inputs), f"{tuple(gradient.shape)}"
    assert 1 <= gradient.shape[1] <= shape.outputs, f"{tuple(gradient.shape)}"
    assert gradient.dtype == torch.float32
    assert _has_rows(gradient)
    by_inputs = workspace.take(f"{name} input gradient", (len(inputs), shape.inputs)) if with_inputs else None
    by_parameters = workspace.take(f"{name} parameter gradient", (shape.parameters,))
    by_bias = None
    if row_bias is not None:
        by_bias = workspace.take(f"{name} row bias gradient", tuple(row_bias.values.shape))
    found = MlpGradients(by_inputs, by_parameters, by_bias)
    if network.backend == "cuda":
        from recon.kernels.mlp.cuda import mlp_backward_cuda

        mlp_backward_cuda(inputs, network.parameters, shape, row_bias, gradient, found, workspace)
        return found
    params = _params(network, workspace)
    params.gradient, params.gradient_stride = gradient.data_ptr(), gradient.stride(0)
    params.gradient_width = gradient.shape[1]
    params.parameter_gradient = by_parameters.data_ptr()
    if by_inputs is not None:
        params.input_gradient = by_inputs.data_ptr()
    if by_bias is not None:
        params.row_bias_gradient = by_bias.data_ptr()
    native().mlp_backward(params)
    return found


def _params(network: _Network, workspace: Workspace) -> Any:
    inputs, shape, bias = network.inputs, network.shape, network.row_bias
    module = native()
    params = module.MlpParams()
    params.inputs, params.parameters = inputs.data_ptr(), network.parameters.data_ptr()
    params.samples, params.input_stride = len(inputs), inputs.stride(0)
    params.input_width, params.output_width = shape.inputs, shape.outputs
    params.hidden_width, params.hidden_layers = shape.hidden, shape.hidden_layers
    params.bfloat16 = network.precision == "bfloat16" and has_fast_bfloat16()
    if bias is not None:
        params.row_bias, params.row_of = bias.values.data_ptr(), bias.row_of.data_ptr()
        params.rows = len(bias.values)
    params.scratch = workspace.take("mlp scratch", (module.mlp_scratch_floats(params),)).data_ptr()
    return params
