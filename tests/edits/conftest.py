# SPDX-License-Identifier: Apache-2.0
"""Splats to edit."""

from __future__ import annotations

import pytest
import torch

from recon.splats import Splats


@pytest.fixture
def splats() -> Splats:
    """400 splats of degree 3 in a cloud of about two units."""
    generator = torch.Generator().manual_seed(0)
    count = 400
    return Splats(
        means=torch.randn(count, 3, generator=generator),
        quats=torch.randn(count, 4, generator=generator),
        log_scales=torch.randn(count, 3, generator=generator) * 0.5 - 2,
        opacity_logits=torch.randn(count, generator=generator) * 2,
        sh=torch.randn(count, 16, 3, generator=generator) * 0.3,
    )
