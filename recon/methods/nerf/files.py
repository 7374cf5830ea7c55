# SPDX-License-Identifier: Apache-2.0
"""A trained field in one file: parameters, the space and the occupied cells, as safetensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import Space
from recon.methods.nerf.field import FieldParameters
from recon.methods.nerf.render import NerfRenderer
from recon.methods.nerf.step import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recon.methods.nerf.config import NerfConfig

FIELD_FILE = "field.safetensors"
"""What a run exports."""

_SPACE = "space"
_OCCUPANCY = "occupancy"


def write_field(renderer: NerfRenderer, path: Path) -> None:
    """Writes a field: its parameters, "space" [5] float64 (centre, half size, 1 if contracted) and "occupancy"."""
    from safetensors.torch import save_file

    space = renderer.stage.space
    numbers = [*space.center, space.half_size, float(space.contracted)]
    tensors = {name: getattr(renderer.parameters, name) for name in FieldParameters.names()}
    tensors |= {_SPACE: torch.tensor(numbers, dtype=torch.float64), _OCCUPANCY: renderer.occupancy.densities}
    tensors["occupancy.bits"] = renderer.occupancy.bits
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(temporary))


def read_field(path: Path, config: NerfConfig) -> NerfRenderer:
    """Reads what `write_field` wrote, by the options that it was trained with.

    Raises:
        ReconError: no such file, or not a field of these options.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    doing = f"reading the field {path}"
    try:
        # Not mapped: a file that is replaced or cut short while the field lives must not take the process with it.
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise ReconError(doing, f"it is not readable ({error})", "a whole safetensors file") from error
    numbers = tensors.get(_SPACE)
    if numbers is None or tuple(numbers.shape) != (5,):
        raise ReconError(doing, "it does not say where the field is", "what recon wrote")
    x, y, z, half_size, contracted = numbers.tolist()
    return field_renderer(tensors, Space((x, y, z), half_size, contracted != 0), config, doing)


def field_renderer(tensors: Mapping[str, torch.Tensor], space: Space, config: NerfConfig, doing: str) -> NerfRenderer:
    """Returns the renderer of a field by its tensors.

    Raises:
        ReconError: a tensor that is missing, of another shape or not finite.
    """
    wanted = [*FieldParameters.names(), _OCCUPANCY, "occupancy.bits"]
    missing = [name for name in wanted if name not in tensors]
    if missing or not math.isfinite(space.half_size):
        raise ReconError(doing, f"it lacks {', '.join(missing) or 'a place'}", "what recon wrote")
    stage = Stage.of(config, space)
    parameters = FieldParameters(**{name: tensors[name] for name in FieldParameters.names()})
    parameters.require(stage.shape, doing)
    resolution = config.space.grid
    occupancy = OccupancyGrid(resolution, tensors[_OCCUPANCY].contiguous(), tensors["occupancy.bits"].contiguous())
    backend = "auto" if config.backend == "gsplat" else config.backend
    return NerfRenderer(parameters.copied(), stage, occupancy, backend)
