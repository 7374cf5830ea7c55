# SPDX-License-Identifier: Apache-2.0
"""Adam with a rate for each column, and its indifference to gradients that are not numbers."""

from __future__ import annotations

import pytest
import torch

from recon.errors import ReconError
from recon.kernels.adam.op import AdamHyper, adam_step


def run(shape: tuple[int, ...], scale: torch.Tensor | None, visible: torch.Tensor | None, backend: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    parameter, gradient, first = (torch.randn(*shape, generator=generator) for _ in range(3))
    adam_step(parameter, gradient, first, first.square(), AdamHyper(0.1, 3, column_scale=scale), visible, backend)  # type: ignore[arg-type]
    return parameter


@pytest.mark.parametrize("shape", [(1, 1), (700, 3), (1030, 16, 3), (65, 4, 3), (33, 9, 3), (2000,), (40, 17)])
@pytest.mark.parametrize("masked", [False, True])
def test_column_rates_equal_the_reference(isa: str, shape: tuple[int, ...], masked: bool) -> None:
    width = 1
    for size in shape[1:]:
        width *= size
    scale = 0.1 + torch.rand(width, generator=torch.Generator().manual_seed(1))
    visible = torch.rand(shape[0], generator=torch.Generator().manual_seed(2)) < 0.6 if masked else None
    found, expected = run(shape, scale, visible, "cpu"), run(shape, scale, visible, "reference")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, run(shape, None, visible, "cpu")) or shape[0] == 1


def test_a_wrong_number_of_columns_is_refused() -> None:
    with pytest.raises(ReconError, match="column_scale has shape 4"):
        run((6, 3), torch.ones(4), None, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_gradient_that_is_no_number_counts_as_zero(isa: str, value: float, backend: str) -> None:
    parameter, first, second = torch.ones(50), torch.zeros(50), torch.zeros(50)
    gradient = torch.full((50,), value)
    adam_step(parameter, gradient, first, second, AdamHyper(0.1, 1), None, backend)  # type: ignore[arg-type]
    assert torch.equal(parameter, torch.ones(50))
    assert torch.equal(first, torch.zeros(50))
    assert torch.equal(second, torch.zeros(50))
