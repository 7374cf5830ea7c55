# SPDX-License-Identifier: Apache-2.0
"""Fused Adam over the rows of a parameter that were seen in this step.

Source: Kingma and Ba, "Adam", ICLR 2015, Algorithm 1.  Rows that were not visible keep parameter and moments, as in
the sparse Adam of Taming 3DGS (Mallick et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native


@dataclass(frozen=True)
class AdamHyper:
    """Learning rate and constants of one step; `step` counts from 1.

    `column_scale` multiplies the rate by column: [width] float32 over a row's numbers in order; None for 1.
    """

    learning_rate: float
    step: int
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-15
    column_scale: torch.Tensor | None = None


_MOST_LANES = 16


def adam_step(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    hyper: AdamHyper,
    visible: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> None:
    """Updates `parameter` and both moments in place; gradients that are NaN or above 1e19 count as zero.

    Args:
        parameter, gradient, first_moment, second_moment: float32 of one shape [N, ...], contiguous.
        hyper: rates and constants.
        visible: [N] bool or uint8; rows with 0 are left alone.  None updates all.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    from recon.kernels.adam.reference import adam_step_reference

    resolved = resolve_backend(backend, parameter.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        adam_step_reference(parameter, gradient, first_moment, second_moment, hyper, visible)
        return
    shape = tuple(parameter.shape)
    assert all(tensor.is_contiguous() for tensor in (parameter, first_moment, second_moment))
    for name, tensor in (
        ("parameter", parameter),
        ("first_moment", first_moment),
        ("second_moment", second_moment),
    ):
        check_tensor("adam_step", name, tensor, shape)
    gradient = check_tensor("adam_step", "gradient", gradient, shape)
    if visible is not None:
        visible = visible.view(torch.uint8) if visible.dtype == torch.bool else visible
        visible = check_tensor("adam_step", "visible", visible, (shape[0],), torch.uint8)
    if resolved == "cuda":
        from recon.kernels.adam.cuda import adam_step_cuda

        adam_step_cuda(parameter, gradient, first_moment, second_moment, hyper, visible)
        return
    module = native()
    params = module.AdamParams()
    params.parameter = parameter.data_ptr()
    params.gradient = gradient.data_ptr()
    params.first_moment = first_moment.data_ptr()
    params.second_moment = second_moment.data_ptr()
    if visible is not None:
        params.visible = visible.data_ptr()
    params.rows = shape[0]
    params.width = parameter.numel() // max(shape[0], 1)
    if hyper.column_scale is not None:
        scale = check_tensor("adam_step", "column_scale", hyper.column_scale, (params.width,))
        # A pack may begin at any column, so the factors are repeated for as long as a pack reaches beyond a row.
        repeated = scale.repeat(2 + _MOST_LANES // max(params.width, 1))[: params.width + _MOST_LANES].contiguous()
        params.column_scale = repeated.data_ptr()
    params.learning_rate = hyper.learning_rate
    params.beta1, params.beta2, params.epsilon = hyper.beta1, hyper.beta2, hyper.epsilon
    params.bias_correction1 = 1 - hyper.beta1**hyper.step
    params.bias_correction2 = 1 - hyper.beta2**hyper.step
    module.adam_step(params)
