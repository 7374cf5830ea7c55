# SPDX-License-Identifier: Apache-2.0
"""A trained tensor with its Adam moments, as every method keeps them: in steps, in checkpoints, and out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recon.errors import ReconError
from recon.kernels.adam.op import AdamHyper, adam_step


@dataclass(eq=False)
class Parameter:
    """One trained tensor [N, ...] with its moments; the three are always of one shape."""

    value: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor

    @property
    def gradient(self) -> torch.Tensor:
        """The gradient that the last backward pass left."""
        assert self.value.grad is not None
        return self.value.grad

    @staticmethod
    def fresh(value: torch.Tensor) -> Parameter:
        """Returns a parameter without history."""
        value = value.detach().clone().contiguous().requires_grad_(True)
        return Parameter(value, torch.zeros_like(value.data), torch.zeros_like(value.data))

    @torch.no_grad()
    def step_rows(self, hyper: AdamHyper) -> None:
        """Makes an Adam step with the gradient that the backward pass left, on the rows that it reached.

        Rows whose gradient is zero keep value and moments.  Without a gradient, or with one that is not finite, nothing
        changes.  The gradient is used up.
        """
        gradient = self.value.grad
        self.value.grad = None
        if gradient is None:
            return
        # Nothing here waits for a GPU.
        touched = (gradient.reshape(len(gradient), -1).abs().amax(1) > 0) & torch.isfinite(gradient).all()
        adam_step(self.value.data, gradient, self.first_moment, self.second_moment, hyper, touched)

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """Returns value and moments under a name, for `TrainerState.tensors`; they share memory with the parameter."""
        return {
            name: self.value.detach(),
            f"{name}.first_moment": self.first_moment,
            f"{name}.second_moment": self.second_moment,
        }

    def restored(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Parameter:
        """Returns a parameter like this one with what `state` gave under that name.

        Raises:
            ReconError: a tensor is missing or of another shape.
        """
        found = []
        for key in (name, f"{name}.first_moment", f"{name}.second_moment"):
            tensor = tensors.get(key)
            if tensor is None or tensor.shape != self.value.shape:
                raise ReconError(
                    "resuming a training",
                    f"{key} is {'missing' if tensor is None else f'of shape {tuple(tensor.shape)}'} in the checkpoint",
                    "×".join(map(str, self.value.shape)),
                )
            found.append(tensor.to(self.value.device).clone())
        value, first, second = found
        return Parameter(value.requires_grad_(True), first, second)
