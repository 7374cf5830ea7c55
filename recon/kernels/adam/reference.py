# SPDX-License-Identifier: Apache-2.0
"""Adam in plain torch: what the fused kernel must equal."""

from __future__ import annotations

import torch

from recon.kernels.adam.op import AdamHyper


def adam_step_reference(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    hyper: AdamHyper,
    visible: torch.Tensor | None = None,
) -> None:
    """Updates parameter and moments in place; see `recon.kernels.adam.op.adam_step`."""
    gradient = torch.where(gradient.abs() <= 1e19, gradient, torch.zeros_like(gradient))
    m = hyper.beta1 * first_moment + (1 - hyper.beta1) * gradient
    v = hyper.beta2 * second_moment + (1 - hyper.beta2) * gradient * gradient
    m_hat = m / (1 - hyper.beta1**hyper.step)
    v_hat = v / (1 - hyper.beta2**hyper.step)
    rate: float | torch.Tensor = hyper.learning_rate
    if hyper.column_scale is not None:
        rate = rate * hyper.column_scale.to(parameter.dtype).reshape(parameter.shape[1:])
    updated = parameter - rate * m_hat / (v_hat.sqrt() + hyper.epsilon)
    if visible is None:
        keep = torch.ones(parameter.shape[0], dtype=torch.bool, device=parameter.device)
    else:
        keep = visible.bool()
    keep = keep.reshape(-1, *[1] * (parameter.ndim - 1))
    parameter.copy_(torch.where(keep, updated, parameter))
    first_moment.copy_(torch.where(keep, m, first_moment))
    second_moment.copy_(torch.where(keep, v, second_moment))
