# SPDX-License-Identifier: Apache-2.0
"""The multiresolution hash encoding on CUDA; arguments as those of `recon.kernels.hash_encoding.op`, checked."""

from __future__ import annotations

from typing import Any

import torch

from recon.kernels.cuda.program import params_of, program_for
from recon.kernels.hash_encoding.grid import HashGrid


def hash_encode_cuda(positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, encoded: torch.Tensor) -> None:
    """Writes the features [S, levels · features] of positions."""
    params = _params(positions, table, grid, encoded=encoded)
    program_for(positions.device).launch("hash_encode", len(positions) * grid.levels, params)


def hash_encode_backward_cuda(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    gradient: torch.Tensor,
    table_gradient: torch.Tensor | None,
    position_gradient: torch.Tensor | None,
) -> None:
    """Adds to the gradient by the table, in any order, and writes the one by the positions."""
    params = _params(
        positions, table, grid,
        gradient=gradient, table_gradient=table_gradient, position_gradient=position_gradient,
    )  # fmt: skip
    program = program_for(positions.device)
    if table_gradient is not None:
        program.launch("hash_encode_by_table", len(positions) * grid.levels, params)
    if position_gradient is not None:
        program.launch("hash_encode_by_positions", len(positions), params)


def _params(positions: torch.Tensor, table: torch.Tensor, grid: HashGrid, **fields: Any) -> Any:
    params = params_of(
        "HashEncodingParams",
        positions=positions, table=table.detach(), samples=len(positions), levels=grid.levels, features=grid.features,
        entries=1 << grid.log2_entries, dense_levels=sum(dense << level for level, dense in enumerate(grid.dense)),
        **fields,
    )  # fmt: skip
    params.resolutions[: grid.levels] = grid.resolutions
    params.first_rows[: grid.levels + 1] = grid.offsets
    return params
