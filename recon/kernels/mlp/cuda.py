# SPDX-License-Identifier: Apache-2.0
"""The multilayer perceptron on CUDA."""

from __future__ import annotations

from typing import Any

import torch

from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.mlp.types import MlpGradients, MlpShape, RowBias
from recon.kernels.workspace import Workspace

_TILE = 64
_BLOCKS = 264
"""Blocks of the backward pass: a few for each multiprocessor; the order of the sums hangs on it."""


def mlp_forward_cuda(
    inputs: torch.Tensor, parameters: torch.Tensor, shape: MlpShape, row_bias: RowBias | None, outputs: torch.Tensor
) -> None:
    """Writes the outputs of `recon.kernels.mlp.op.mlp`, for arguments that were checked."""
    params = _launch(inputs, parameters, shape, row_bias)
    params.net.outputs = outputs.data_ptr()
    program_for(inputs.device).launch_blocks("mlp_forward", params.tiles, params)


def mlp_backward_cuda(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    shape: MlpShape,
    row_bias: RowBias | None,
    gradient: torch.Tensor,
    found: MlpGradients,
    workspace: Workspace,
) -> None:
    """Writes `found` as `recon.kernels.mlp.op.mlp_backward_into` does, for arguments that were checked."""
    assert found.parameters is not None
    if row_bias is not None:
        assert found.row_bias is not None
        found.row_bias.zero_()
    if len(inputs) == 0:
        found.parameters.zero_()
        return
    params = _launch(inputs, parameters, shape, row_bias)
    blocks = params.blocks = min(_BLOCKS, params.tiles)
    scratch = workspace.take("mlp hidden", (blocks, shape.hidden_layers, shape.hidden, _TILE))
    sums = workspace.take("mlp parameter sums", (blocks, shape.parameters))
    assign(params, hidden=scratch, sums=sums)
    assign(
        params.net, gradient_stride=gradient.stride(0), gradient_width=gradient.shape[1], input_gradient=found.inputs,
        parameter_gradient=found.parameters, row_bias_gradient=found.row_bias,
    )  # fmt: skip
    params.net.gradient = gradient.data_ptr()
    program = program_for(inputs.device)
    if row_bias is not None:
        params.heads = workspace.take("mlp heads", (params.tiles, shape.hidden)).data_ptr()
    program.launch_blocks("mlp_backward", blocks, params)
    program.launch_blocks("mlp_sum_parameters", shape.parameters // 32, params)
    if row_bias is not None:
        program.launch("mlp_finish_bias", params.tiles * shape.hidden, params)


def _launch(inputs: torch.Tensor, parameters: torch.Tensor, shape: MlpShape, row_bias: RowBias | None) -> Any:
    params = params_of("MlpLaunch", tiles=-(-len(inputs) // _TILE), parameters=shape.parameters)
    assign(
        params.net, parameters=parameters.detach(), samples=len(inputs), input_stride=inputs.stride(0),
        input_width=shape.inputs, output_width=shape.outputs, hidden_width=shape.hidden,
        hidden_layers=shape.hidden_layers,
    )  # fmt: skip
    params.net.inputs = inputs.data_ptr()
    if row_bias is not None:
        values = row_bias.values.detach()
        assign(params.net, row_bias=values, row_of=row_bias.row_of, rows=len(values))
    return params
