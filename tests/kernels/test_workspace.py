# SPDX-License-Identifier: Apache-2.0
"""Buffers stay where they are as long as they fit, and grow by more than is asked for."""

from __future__ import annotations

import pytest
import torch

from recon.kernels.workspace import Workspace


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
