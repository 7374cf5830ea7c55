# SPDX-License-Identifier: Apache-2.0
"""The field's parameters under training: values, gradients, moments, and the optimiser's step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.mlp.op import MlpShape
from recon.kernels.table_adam.op import table_adam_step
from recon.methods.nerf.field import FieldParameters, FieldShape
from recon.methods.parameter import Parameter

_BETA2 = 0.99
_EPSILON = 1e-15
_NETWORKS = ("density", "color", "shared")


@dataclass(frozen=True)
class FieldRates:
    """Adam's learning rates of a step; `step` counts from 1."""

    table: float
    network: float
    appearance: float
    step: int


class TrainedField:
    """All parameters of a field with their Adam moments (Müller et al. 2022, section 4: β₂ = 0.99, ε = 1e-15)."""

    def __init__(self, parameters: FieldParameters) -> None:
        self._parameters = {name: Parameter.fresh(getattr(parameters, name)) for name in FieldParameters.names()}
        self.table_gradient = torch.zeros_like(parameters.table)
        """[rows, features]: what backward passes add to and `update` uses up."""

    @property
    def table(self) -> Parameter:
        """The hash table."""
        return self._parameters["table"]

    @property
    def density(self) -> Parameter:
        """The density network."""
        return self._parameters["density"]

    @property
    def color(self) -> Parameter:
        """The colour network."""
        return self._parameters["color"]

    def density_network(self, shape: FieldShape) -> tuple[torch.Tensor, MlpShape]:
        """Returns the density network's parameters, as the native calls take them, and its shape."""
        return self.density.value.detach(), shape.density

    def color_network(self, shape: FieldShape) -> tuple[torch.Tensor, MlpShape]:
        """Returns the colour network's parameters, as the native calls take them, and its shape."""
        return self.color.value.detach(), shape.color

    def parameters(self) -> FieldParameters:
        """Returns the values as they stand, as leaves of autograd."""
        return FieldParameters(**{name: parameter.value for name, parameter in self._parameters.items()})

    @torch.no_grad()
    def update(self, rates: FieldRates) -> None:
        """Makes an Adam step with the gradients that stand and uses them up.

        Table entries that no sample touched keep value and moments; so do photographs without rays.
        """
        table = self.table
        table_adam_step(
            table.value.data, self.table_gradient, table.first_moment, table.second_moment,
            AdamHyper(rates.table, rates.step, beta2=_BETA2, epsilon=_EPSILON),
        )  # fmt: skip
        hyper = AdamHyper(rates.network, rates.step, beta2=_BETA2, epsilon=_EPSILON)
        for name in _NETWORKS:
            parameter = self._parameters[name]
            gradient = parameter.value.grad
            if gradient is not None and parameter.value.numel():
                adam_step(
                    parameter.value.data, gradient.contiguous(), parameter.first_moment, parameter.second_moment, hyper
                )
            parameter.value.grad = None
        appearance = self._parameters["appearance"]
        if appearance.value.numel():
            appearance.step_rows(AdamHyper(rates.appearance, rates.step, beta2=_BETA2, epsilon=_EPSILON))

    def forget_gradients(self) -> None:
        """Drops the gradients of a step that is not to be used."""
        self.table_gradient.zero_()
        for parameter in self._parameters.values():
            parameter.value.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """Returns values and moments, for a checkpoint."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters.items():
            tensors.update(parameter.state(name))
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            ReconError: a tensor is missing or of another shape.
        """
        self._parameters = {name: p.restored(name, tensors) for name, p in self._parameters.items()}
        self.table_gradient.zero_()
