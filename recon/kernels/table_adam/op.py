# SPDX-License-Identifier: Apache-2.0
"""Sparse Adam of a feature table: only rows that a step's samples touched move.

Source: Kingma and Ba, "Adam", ICLR 2015, Algorithm 1; rows without a gradient keep value and moments as in Müller et
al., "Instant Neural Graphics Primitives", 2022, section 4.
"""

from __future__ import annotations

import torch

from recon.errors import ReconError
from recon.kernels.adam.op import AdamHyper
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native


def table_adam_step(
    table: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    hyper: AdamHyper,
    backend: Backend = "auto",
) -> None:
    """Updates `table` and both moments in place and sets `gradient` to zero, in one pass.

    Rows whose gradient is all zero keep value and moments.  A number of the gradient that is NaN or above 1e19 counts
    as zero.

    Args:
        table, gradient, first_moment, second_moment: [rows, features] float32, contiguous.
        hyper: rate and constants; without `column_scale`.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ, or `column_scale` is given.
    """
    operation = "table_adam_step"
    shape = tuple(table.shape)
    tensors = {"table": table, "gradient": gradient, "first_moment": first_moment, "second_moment": second_moment}
    for name, tensor in tensors.items():
        check_tensor(operation, name, tensor, (None, None) if name == "table" else shape)
        if not tensor.is_contiguous():
            raise ReconError(f"calling {operation}", f"{name} is not contiguous", "a contiguous tensor")
    if hyper.column_scale is not None:
        raise ReconError(f"calling {operation}", "column_scale is given", "one rate for all numbers of a row")
    resolved = resolve_backend(backend, table.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        from recon.kernels.table_adam.reference import table_adam_step_reference

        with torch.no_grad():
            table_adam_step_reference(table, gradient, first_moment, second_moment, hyper)
        return
    if resolved == "cuda":
        from recon.kernels.table_adam.cuda import table_adam_step_cuda

        table_adam_step_cuda(table, gradient, first_moment, second_moment, hyper)
        return
    module = native()
    params = module.TableAdamParams()
    params.table, params.gradient = table.data_ptr(), gradient.data_ptr()
    params.first_moment, params.second_moment = first_moment.data_ptr(), second_moment.data_ptr()
    params.rows, params.width = shape
    params.learning_rate = hyper.learning_rate
    params.beta1, params.beta2, params.epsilon = hyper.beta1, hyper.beta2, hyper.epsilon
    params.bias_correction1 = 1 - hyper.beta1**hyper.step
    params.bias_correction2 = 1 - hyper.beta2**hyper.step
    module.table_adam_step(params)
