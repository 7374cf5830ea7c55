# SPDX-License-Identifier: Apache-2.0
"""Adam on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recon.kernels.cuda.program import params_of, program_for

if TYPE_CHECKING:
    from recon.kernels.adam.op import AdamHyper


def adam_step_cuda(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    hyper: AdamHyper,
    visible: torch.Tensor | None,
) -> None:
    """As `recon.kernels.adam.op.adam_step`, for arguments that were checked; `visible` is uint8."""
    rows = parameter.shape[0]
    scale = None if hyper.column_scale is None else hyper.column_scale.to(parameter.device).contiguous()
    params = params_of(
        "AdamParams",
        parameter=parameter.detach(), gradient=gradient, first_moment=first_moment, second_moment=second_moment,
        visible=visible, column_scale=scale, rows=rows, width=parameter.numel() // max(rows, 1),
        learning_rate=hyper.learning_rate, beta1=hyper.beta1, beta2=hyper.beta2, epsilon=hyper.epsilon,
        bias_correction1=1 - hyper.beta1**hyper.step, bias_correction2=1 - hyper.beta2**hyper.step,
    )  # fmt: skip
    program_for(parameter.device).launch("adam_step", parameter.numel(), params)
