# SPDX-License-Identifier: Apache-2.0
"""The multiresolution hash encoding of positions: features of a grid's vertices, interpolated, level by level.

Source: Müller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding",
SIGGRAPH 2022, section 3.  `recon.kernels.hash_encoding.grid.HashGrid` says how the table is laid out.
"""

from __future__ import annotations

from typing import Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.hash_encoding.grid import HashGrid
from recon.kernels.native import native
from recon.kernels.workspace import Workspace

__all__ = ["HashGrid", "hash_encode", "hash_encode_backward_into", "hash_encode_into"]


def hash_encode(
    positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, backend: Backend = "auto"
) -> torch.Tensor:
    """Returns the features [S, levels · features] of positions, level by level; differentiable to both tensors.

    Args:
        positions: [S, 3] float32 in the unit cube.  What lies outside is moved to the border, NaN to 0; neither has a
            gradient.
        table: [rows, features] float32.
        grid: the table's layout.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    operation = "hash_encode"
    positions = check_tensor(operation, "positions", positions, (None, 3), positions.dtype)
    table = check_tensor(operation, "table", table, (grid.rows, grid.features), positions.dtype)
    if table.device != positions.device:
        raise ReconError(f"calling {operation}", f"table is on {table.device}", f"{positions.device}")
    resolved = resolve_backend(backend, positions.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        from recon.kernels.hash_encoding.reference import hash_encode_reference

        return hash_encode_reference(positions, table, grid)
    check_tensor(operation, "positions", positions, (None, 3))
    encoded: torch.Tensor = _HashEncoding.apply(positions, table, grid, resolved)
    return encoded


class _HashEncoding(torch.autograd.Function):
    """Finds the cells anew in the backward pass: that costs less than reading what was kept of them."""

    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, resolved: str) -> torch.Tensor:
        ctx.save_for_backward(positions, table)
        ctx.grid, ctx.resolved = grid, resolved
        encoded = torch.empty((len(positions), grid.width), dtype=torch.float32, device=positions.device)
        _forward(resolved, positions, table, grid, encoded)
        return encoded

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        positions, table = ctx.saved_tensors
        by_positions = torch.empty_like(positions) if ctx.needs_input_grad[0] else None
        by_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        _backward(ctx.resolved, positions, table, ctx.grid, upstream[0].contiguous(), by_table, by_positions)
        return by_positions, by_table, None, None


def hash_encode_into(
    positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, workspace: Workspace, name: str = "encoded"
) -> torch.Tensor:
    """Returns what `hash_encode` does, without autograd, in the workspace's buffer `name`; allocates nothing.

    Args:
        positions: [S, 3] float32, contiguous as the table is.
        table: [rows, features] float32.
        grid: the table's layout.
        workspace: holds the result.
        name: of the buffer.
    """
    _assert_layout(positions, (len(positions), 3))
    _assert_layout(table, (grid.rows, grid.features))
    encoded = workspace.take(name, (len(positions), grid.width))
    _forward(_kernels_of(positions.device), positions, table, grid, encoded)
    return encoded


def hash_encode_backward_into(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    gradient: torch.Tensor,
    table_gradient: torch.Tensor | None,
    position_gradient: torch.Tensor | None = None,
) -> None:
    """Adds the gradient by the table to `table_gradient` and writes the one by the positions.

    On the CPU each row takes its additions in the order of the samples, whatever the number of threads; on a GPU in any
    order.

    Args:
        positions: [S, 3] float32, contiguous like all that follow.
        table: [rows, features] float32.
        grid: the table's layout.
        gradient: [S, levels · features] float32, by what `hash_encode_into` returned.
        table_gradient: [rows, features] float32, added to; None where nobody wants it.
        position_gradient: [S, 3] float32, written; None where nobody wants it.
    """
    _assert_layout(positions, (len(positions), 3))
    _assert_layout(table, (grid.rows, grid.features))
    _assert_layout(gradient, (len(positions), grid.width))
    if table_gradient is not None:
        _assert_layout(table_gradient, (grid.rows, grid.features))
    if position_gradient is not None:
        _assert_layout(position_gradient, (len(positions), 3))
    kernels = _kernels_of(positions.device)
    _backward(kernels, positions, table, grid, gradient, table_gradient, position_gradient)


def _assert_layout(tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    assert (tuple(tensor.shape), tensor.dtype) == (shape, torch.float32), f"{tuple(tensor.shape)} {tensor.dtype}"
    assert tensor.is_contiguous()


def _kernels_of(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "cpu"


def _forward(kernels: str, positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, encoded: torch.Tensor) -> None:
    if kernels == "cuda":
        from recon.kernels.hash_encoding.cuda import hash_encode_cuda

        hash_encode_cuda(positions, table, grid, encoded)
        return
    params = _params(positions, table, grid)
    params.encoded = encoded.data_ptr()
    native().hash_encode(params)


def _backward(
    kernels: str,
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    gradient: torch.Tensor,
    table_gradient: torch.Tensor | None,
    position_gradient: torch.Tensor | None,
) -> None:
    if kernels == "cuda":
        from recon.kernels.hash_encoding.cuda import hash_encode_backward_cuda

        hash_encode_backward_cuda(positions, table, grid, gradient, table_gradient, position_gradient)
        return
    params = _params(positions, table, grid)
    params.gradient = gradient.data_ptr()
    if table_gradient is not None:
        params.table_gradient = table_gradient.data_ptr()
    if position_gradient is not None:
        params.position_gradient = position_gradient.data_ptr()
    native().hash_encode_backward(params)


def _params(positions: torch.Tensor, table: torch.Tensor, grid: HashGrid) -> Any:
    params = native().HashEncodingParams()
    params.positions, params.table = positions.data_ptr(), table.data_ptr()
    params.samples, params.levels, params.features = len(positions), grid.levels, grid.features
    params.entries = 1 << grid.log2_entries
    levels = zip(grid.resolutions, grid.offsets, grid.offsets[1:], grid.dense)
    for number, (resolution, first, last, dense) in enumerate(levels):
        params.set_level(number, resolution, first, last, dense)
    return params
