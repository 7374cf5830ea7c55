# SPDX-License-Identifier: Apache-2.0
"""Sparse Adam of a feature table on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recon.kernels.cuda.program import params_of, program_for

if TYPE_CHECKING:
    from recon.kernels.adam.op import AdamHyper


def table_adam_step_cuda(
    table: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    hyper: AdamHyper,
) -> None:
    """As `recon.kernels.table_adam.op.table_adam_step`, for arguments that were checked."""
    rows, width = table.shape
    params = params_of(
        "TableAdamParams",
        table=table.detach(), gradient=gradient, first_moment=first_moment, second_moment=second_moment, rows=rows,
        width=width, learning_rate=hyper.learning_rate, beta1=hyper.beta1, beta2=hyper.beta2, epsilon=hyper.epsilon,
        bias_correction1=1 - hyper.beta1**hyper.step, bias_correction2=1 - hyper.beta2**hyper.step,
    )  # fmt: skip
    program_for(table.device).launch("table_adam_step", rows, params)
