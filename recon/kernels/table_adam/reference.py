# SPDX-License-Identifier: Apache-2.0
"""Sparse Adam of a table in plain torch: what the fused kernel must equal."""

from __future__ import annotations

import torch

from recon.kernels.adam.op import AdamHyper
from recon.kernels.adam.reference import adam_step_reference


def table_adam_step_reference(
    table: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    hyper: AdamHyper,
) -> None:
    """Updates in place; see `recon.kernels.table_adam.op.table_adam_step`."""
    usable = gradient.abs() <= 1e19
    touched = (usable & (gradient != 0)).any(1)
    adam_step_reference(table, gradient, first_moment, second_moment, hyper, touched)
    gradient.zero_()
