# SPDX-License-Identifier: Apache-2.0
"""The multiresolution hash encoding of positions: features of a grid's vertices, interpolated, level by level.

Source: Müller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding",
SIGGRAPH 2022, section 3.  `recon.kernels.hash_encoding.grid.HashGrid` says how the table is laid out.
"""

from __future__ import annotations

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.hash_encoding.grid import HashGrid
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
    from recon.kernels.hash_encoding.reference import hash_encode_reference

    operation = "hash_encode"
    positions = check_tensor(operation, "positions", positions, (None, 3), positions.dtype)
    table = check_tensor(operation, "table", table, (grid.rows, grid.features), positions.dtype)
    if table.device != positions.device:
        raise ReconError(f"calling {operation}", f"table is on {table.device}", f"{positions.device}")
    resolve_backend(backend, positions.device, ("cpu", "reference"))
    return hash_encode_reference(positions, table, grid)


def hash_encode_into(
    positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, workspace: Workspace, name: str = "encoded"
) -> torch.Tensor:
    """Returns what `hash_encode` does, without autograd, in the workspace's buffer `name`; allocates nothing."""
    encoded = workspace.take(name, (len(positions), grid.width))
    with torch.no_grad():
        encoded.copy_(hash_encode(positions, table, grid))
    return encoded


def hash_encode_backward_into(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    gradient: torch.Tensor,
    table_gradient: torch.Tensor,
    position_gradient: torch.Tensor | None = None,
) -> None:
    """Adds the gradient by the table to `table_gradient` and writes the one by the positions.

    Args:
        positions: [S, 3] float32, contiguous like all that follow.
        table: [rows, features] float32.
        grid: the table's layout.
        gradient: [S, levels · features] float32, by what `hash_encode_into` returned.
        table_gradient: [rows, features] float32, added to.
        position_gradient: [S, 3] float32, written; None where nobody wants it.
    """
    with torch.enable_grad():
        leaves = [positions.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()]
        found = torch.autograd.grad(hash_encode(leaves[0], leaves[1], grid), leaves, gradient)
    table_gradient += found[1]
    if position_gradient is not None:
        position_gradient.copy_(found[0])
