# SPDX-License-Identifier: Apache-2.0
"""What a multilayer perceptron is made of: its shape, the bias by rays, its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from recon.errors import ReconError

Precision = Literal["float32", "bfloat16"]

MOST_WIDTH = 128
MOST_HIDDEN_LAYERS = 8
_UNIT = 16


@dataclass(frozen=True)
class MlpShape:
    """The widths of the layers.

    Args:
        inputs, outputs, hidden: multiples of 16, at most 128.
        hidden_layers: how many hidden layers there are, 1 to 8.

    Raises:
        ReconError: a width or the number of layers is none of these.
    """

    inputs: int
    outputs: int
    hidden: int = 64
    hidden_layers: int = 1

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "hidden"):
            width = getattr(self, name)
            if width % _UNIT or not 0 < width <= MOST_WIDTH:
                raise ReconError(
                    "describing a multilayer perceptron", f"{name} is {width}", f"a multiple of 16 up to {MOST_WIDTH}"
                )
        if not 1 <= self.hidden_layers <= MOST_HIDDEN_LAYERS:
            raise ReconError(
                "describing a multilayer perceptron", f"hidden_layers is {self.hidden_layers}",
                f"1 to {MOST_HIDDEN_LAYERS}",
            )  # fmt: skip

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths from the inputs to the outputs, one more than there are matrices."""
        return (self.inputs, *[self.hidden] * self.hidden_layers, self.outputs)

    @property
    def parameters(self) -> int:
        """How many parameters there are."""
        return sum(rows * columns for rows, columns in zip(self.widths, self.widths[1:]))

    def matrices(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns views [in, out] of the flat `parameters`, layer after layer."""
        found, at = [], 0
        for rows, columns in zip(self.widths, self.widths[1:]):
            found.append(parameters[at : at + rows * columns].view(rows, columns))
            at += rows * columns
        return tuple(found)


@dataclass(frozen=True, eq=False)
class RowBias:
    """What is added to the first layer's sums and is the same for all samples of a ray.

    Args:
        values: [R, hidden] float32, contiguous.
        row_of: [S] int32, each sample's row, in 0..R-1 and never descending.
    """

    values: torch.Tensor
    row_of: torch.Tensor


@dataclass(frozen=True, eq=False)
class MlpGradients:
    """Gradients by the inputs [S, inputs], the parameters [P] and the row bias [R, hidden]; None where not wanted."""

    inputs: torch.Tensor | None
    parameters: torch.Tensor | None
    row_bias: torch.Tensor | None
