# SPDX-License-Identifier: Apache-2.0
"""Rows of the parameters move within their storage, and none is lost."""

from __future__ import annotations

import pytest
import torch

from recon.methods.splat.model import SplatParameters
from recon.splats import Splats


def make(count: int, capacity: int = 0) -> SplatParameters:
    generator = torch.Generator().manual_seed(count)
    parameters = SplatParameters(
        Splats(
            torch.randn(count, 3, generator=generator),
            torch.randn(count, 4, generator=generator),
            torch.randn(count, 3, generator=generator),
            torch.randn(count, generator=generator),
            torch.randn(count, 4, 3, generator=generator),
        ),
        capacity,
    )
    for name in parameters:
        parameters[name].first_moment.copy_(parameters[name].value.detach() + 1)
        parameters[name].second_moment.copy_(parameters[name].value.detach() + 2)
    return parameters


@pytest.mark.parametrize("capacity", [0, 200])
@pytest.mark.parametrize("most", [1, 4])
def test_rows_move_as_an_index_would_move_them(capacity: int, most: int) -> None:
    parameters = make(60, capacity)
    before = {name: tensor.clone() for name, tensor in parameters.state().items()}
    generator = torch.Generator().manual_seed(1)
    keep = (torch.rand(60, generator=generator) < 0.7).nonzero()[:, 0]
    copies = torch.randint(1, most + 1, (len(keep),), generator=generator)
    firsts = parameters.rearrange(keep, copies)
    index = torch.repeat_interleave(keep, copies)
    assert len(parameters) == len(index)
    assert torch.equal(index[firsts], keep)
    for name, tensor in parameters.state().items():
        assert torch.equal(tensor, before[name][index]), name


def test_storage_stays_where_it_is_while_there_is_room() -> None:
    parameters = make(50, capacity=100)
    place = parameters.means.data_ptr()
    everything = torch.arange(50)
    parameters.rearrange(everything, torch.full((50,), 2))
    assert parameters.means.data_ptr() == place
    parameters.rearrange(torch.arange(100), torch.full((100,), 2))
    assert len(parameters) == 200


def test_assigned_rows_have_no_history() -> None:
    parameters, other = make(20), make(30)
    rows = torch.tensor([3, 7])
    parameters.assign(rows, other.values().select(rows))
    assert torch.equal(parameters.sh[rows], other.sh[rows])
    assert not bool(parameters["sh"].first_moment[rows].any() or parameters["sh"].second_moment[rows].any())
    assert bool(parameters["sh"].first_moment[0].any())


def test_nothing_may_be_left() -> None:
    parameters = make(10)
    parameters.rearrange(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert len(parameters) == 0
