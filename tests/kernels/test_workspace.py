# SPDX-License-Identifier: Apache-2.0
"""Buffers stay where they are as long as they fit, and grow by more than is asked for."""

from __future__ import annotations

import pytest
import torch

from recon.kernels.workspace import Loans, Workspace


def test_a_buffer_stays_where_it_is_as_long_as_it_fits() -> None:
    workspace = Workspace()
    first = workspace.take("a", (10, 3))
    assert first.shape == (10, 3)
    assert first.is_contiguous()
    assert workspace.take("a", (4, 5)).data_ptr() == first.data_ptr()
    assert workspace.take("b", (4, 5)).data_ptr() != first.data_ptr()


def test_a_buffer_that_grows_leaves_room() -> None:
    workspace = Workspace()
    workspace.take("a", (100,), torch.int32)
    grown = workspace.take("a", (101,), torch.int32)
    assert workspace.bytes() == 125 * 4
    assert workspace.take("a", (125,), torch.int32).data_ptr() == grown.data_ptr()


def test_a_name_keeps_its_type_and_may_be_empty() -> None:
    workspace = Workspace()
    assert workspace.take("a", (0, 3)).shape == (0, 3)
    with pytest.raises(AssertionError, match="float32"):
        workspace.take("a", (1,), torch.int64)


def test_lent_memory_comes_back_once_nobody_holds_it() -> None:
    loans = Loans()
    first = loans.take((4, 5))
    first.fill_(1)
    place = first.data_ptr()
    row, array = first[2], first.numpy()
    del first
    second = loans.take((4, 5))
    second.fill_(2)
    assert second.data_ptr() != place
    assert float(row[0]) == 1
    del row
    assert loans.take((4, 5)).data_ptr() not in (place, second.data_ptr())
    assert array[2, 0] == 1
    del array
    assert loans.take((4, 5)).data_ptr() == place


def test_loans_beyond_the_number_kept_and_of_other_sizes() -> None:
    loans = Loans(most=2)
    held = [loans.take((3,)) for _ in range(4)]
    assert len({tensor.data_ptr() for tensor in held}) == 4
    assert loans.take((2, 2)).shape == (2, 2)
    held.clear()
    other = loans.take((7,))
    assert other.shape == (7,)
    assert other.is_contiguous()
