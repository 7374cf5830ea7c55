# SPDX-License-Identifier: Apache-2.0
"""The radiance field: a hash grid and two small networks (Müller et al., "Instant Neural Graphics Primitives", 2022).

    h = density network(encoding(u)),  raw density h_0,  raw colour = colour network(h; direction, appearance)

`u` is the position in the unit cube (`recon.kernels.ray_march`).  What a ray's samples share, its direction in
spherical harmonics and its photograph's appearance, enters the first layer of the colour network as sums that are made
once per ray.  Exponential and sigmoid are applied where rays are composited.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from recon.errors import ReconError
from recon.kernels.hash_encoding.op import HashGrid, hash_encode
from recon.kernels.mlp.op import MlpShape, RowBias, mlp
from recon.kernels.projection.spherical_harmonics import sh_basis
from recon.methods.cameras import rows_of

if TYPE_CHECKING:
    from recon.kernels.backend import Backend
    from recon.methods.nerf.config import FieldConfig

LATENT = 16
"""Outputs of the density network, the first of which is the raw density."""

COLORS = 3
PADDED_COLORS = 16
"""Outputs of the colour network, a whole number of the widest vectors; the first `COLORS` are used."""

_TABLE_START = 1e-4


@dataclass(frozen=True)
class FieldShape:
    """What the sizes of all parameters follow from."""

    grid: HashGrid
    density: MlpShape
    color: MlpShape
    direction_degree: int
    appearance: int

    @staticmethod
    def of(config: FieldConfig) -> FieldShape:
        """Returns the shape that options ask for.

        Raises:
            ReconError: levels and features that do not fill whole vectors.
        """
        width = config.levels * config.features
        if width % 16 or width > 128:
            raise ReconError(
                "making the radiance field",
                f"{config.levels} levels of {config.features} features are {width} numbers",
                "a multiple of 16 up to 128",
                "choose other --field.levels or --field.features",
            )
        if config.finest < config.coarsest:
            raise ReconError(
                "making the radiance field",
                f"the finest resolution {config.finest} is below the coarsest, {config.coarsest}",
                "a finest resolution of at least the coarsest",
            )
        grid = HashGrid(config.levels, config.features, config.log2_entries, config.coarsest, config.finest)
        return FieldShape(
            grid=grid,
            density=MlpShape(width, LATENT, config.density_width, 1),
            color=MlpShape(LATENT, PADDED_COLORS, config.color_width, config.color_layers),
            direction_degree=config.direction_degree,
            appearance=config.appearance,
        )

    @property
    def shared(self) -> int:
        """Numbers that all samples of a ray have in common."""
        return (self.direction_degree + 1) ** 2 + self.appearance


@dataclass(frozen=True, eq=False)
class FieldParameters:
    """The trained numbers.

    Attributes:
        table: [rows, features], the hash grid.
        density, color: flat, the networks.
        shared: [direction_degree² … + appearance, color_width], the first layer of the colour network for what the
            samples of a ray have in common.
        appearance: [F, appearance], of each training photograph.
    """

    table: torch.Tensor
    density: torch.Tensor
    color: torch.Tensor
    shared: torch.Tensor
    appearance: torch.Tensor

    @staticmethod
    def fresh(shape: FieldShape, photographs: int, seed: int) -> FieldParameters:
        """Returns parameters before training: the table near zero, matrices by He et al. 2015, no appearance."""
        generator = torch.Generator().manual_seed(seed)

        def matrices(network: MlpShape, inputs: int) -> torch.Tensor:
            flat = torch.empty(network.parameters)
            for index, matrix in enumerate(network.matrices(flat)):
                reach = (6.0 / (inputs if index == 0 else matrix.shape[0])) ** 0.5
                matrix.uniform_(-reach, reach, generator=generator)
            return flat

        inputs = LATENT + shape.shared
        reach = (6.0 / inputs) ** 0.5
        return FieldParameters(
            table=torch.empty(shape.grid.rows, shape.grid.features).uniform_(
                -_TABLE_START, _TABLE_START, generator=generator
            ),
            density=matrices(shape.density, shape.density.inputs),
            color=matrices(shape.color, inputs),
            shared=torch.empty(shape.shared, shape.color.hidden).uniform_(-reach, reach, generator=generator),
            appearance=torch.zeros(photographs, shape.appearance),
        )

    @staticmethod
    def names() -> tuple[str, ...]:
        """Returns the parameters' names."""
        return tuple(spec.name for spec in fields(FieldParameters))

    def to(self, device: torch.device) -> FieldParameters:
        """Returns the parameters on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.names()})

    def copied(self) -> FieldParameters:
        """Returns parameters that training leaves alone; the appearances give way to their mean."""
        mean = self.appearance.detach().mean(0, keepdim=True) if len(self.appearance) else self.appearance.detach()
        kept = {name: getattr(self, name).detach().clone() for name in self.names()}
        return FieldParameters(**{**kept, "appearance": mean})

    def require(self, shape: FieldShape, doing: str) -> None:
        """Checks what was read from a file.

        Raises:
            ReconError: a parameter of another shape, or one that is not finite.
        """
        wanted = {
            "table": (shape.grid.rows, shape.grid.features),
            "density": (shape.density.parameters,),
            "color": (shape.color.parameters,),
            "shared": (shape.shared, shape.color.hidden),
            "appearance": (len(self.appearance), shape.appearance),
        }
        for name, size in wanted.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != size or tensor.dtype != torch.float32:
                raise ReconError(doing, f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}", f"float32 {size}")
            if not bool(torch.isfinite(tensor).all()):
                raise ReconError(doing, f"{name} holds NaN or infinity", "finite numbers", "train again")


def ray_bias(
    shape: FieldShape, parameters: FieldParameters, directions: torch.Tensor, photographs: torch.Tensor | None
) -> torch.Tensor:
    """Returns what the rays add to the first layer of the colour network, [R, color_width]; differentiable.

    Args:
        shape: of the field.
        parameters: of the field.
        directions: [R, 3] of unit length.
        photographs: [R] index of each ray's photograph; None takes the mean of all appearances.
    """
    basis = sh_basis(directions, shape.direction_degree)
    if shape.appearance:
        if photographs is None:
            look = parameters.appearance.mean(0, keepdim=True).expand(len(directions), -1)
        else:
            look = rows_of(parameters.appearance, photographs)
        basis = torch.cat([basis, look], 1)
    return basis @ parameters.shared


def field_latent(
    shape: FieldShape, parameters: FieldParameters, positions: torch.Tensor, backend: Backend = "auto"
) -> torch.Tensor:
    """Returns the outputs of the density network [S, 16] at positions [S, 3] in the unit cube; differentiable."""
    encoded = hash_encode(positions, parameters.table, shape.grid, backend=backend)
    return mlp(encoded, parameters.density, shape.density, backend=backend)


def field_color(
    shape: FieldShape,
    parameters: FieldParameters,
    latent: torch.Tensor,
    bias: RowBias,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Returns raw colours [S, 16], of which the first three count, for samples with latents [S, 16]; differentiable."""
    return mlp(latent, parameters.color, shape.color, row_bias=bias, backend=backend)
