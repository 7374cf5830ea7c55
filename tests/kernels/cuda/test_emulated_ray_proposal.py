# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernel that draws samples, against plain torch in float64 and the CPU's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.ray_march.march_cases import SPACES, random_rays
from kernels.ray_proposal.proposal_cases import assert_drawn, mixed_grid

from recon.kernels.ray_march.op import Space
from recon.kernels.ray_proposal.op import ProposalOptions, propose

OPTIONS = ProposalOptions(40, 0.05, float("inf"))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, intervals=3, places=48, far=5.0, whole=True)])
def test_samples(emulated: EmulatedProgram, space: Space, options: ProposalOptions) -> None:
    origins, directions, jitter = random_rays(49, 3)
    grid = mixed_grid()
    assert_drawn(propose(origins, directions, space, grid, options, jitter, "cuda"), space, grid, options, 3)


def test_rays_that_are_none(emulated: EmulatedProgram) -> None:
    origins, directions, _ = random_rays(5, 4)
    origins[0, 1], directions[1], directions[2, 0] = float("nan"), 0.0, float("inf")
    found = propose(origins, directions, SPACES[0], mixed_grid(), OPTIONS, backend="cuda")
    assert bool((found.lengths[:120] == 0).all())
    assert bool((found.positions[:120] == 0.5).all())
    expected = propose(origins, directions, SPACES[0], mixed_grid(), OPTIONS, backend="cpu")
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-3)
    none = propose(origins[:0], directions[:0], SPACES[0], mixed_grid(), OPTIONS, backend="cuda")
    assert none.offsets.tolist() == [0]
