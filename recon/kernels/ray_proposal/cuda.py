# SPDX-License-Identifier: Apache-2.0
"""Drawing the samples of rays on CUDA."""

from __future__ import annotations

from typing import Any

import torch

from recon.kernels.cuda.program import params_of, program_for

_RAY_THREADS = 32


def propose_cuda(device: torch.device, fields: dict[str, Any]) -> None:
    """Fills the samples; `fields` are those of ProposalParams, and a warp owns a ray."""
    rays = fields["rays"]
    fields["offsets"][0] = 0
    program_for(device).launch("propose_samples", _RAY_THREADS * rays, params_of("ProposalParams", **fields))
