# SPDX-License-Identifier: Apache-2.0
"""What the stages of a training step have to move and compute, for `recon train --profile`.

Bytes are those that a stage must at least read and write once beyond the caches: arrays over samples.  The table is
counted by the corners that are read, 8 a level and sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon.methods.nerf.field import FieldShape

_FLOAT = 4.0
_SAMPLE_BYTES = _FLOAT * (3 + 1 + 1 + 1)
_FLOPS_PER_CORNER = 4.0
_CORNERS = 8.0


class StepCosts:
    """Bytes and operations of each stage for a number of samples."""

    def __init__(self, shape: FieldShape, samples: int) -> None:
        grid, density, color = shape.grid, shape.density, shape.color
        corners = _CORNERS * grid.levels
        self.encode_bytes = samples * _FLOAT * (3 + grid.width)
        self.encode_flops = samples * corners * (_FLOPS_PER_CORNER + 2.0 * grid.features)
        self.density_bytes = samples * _FLOAT * (density.inputs + density.outputs)
        self.density_flops = 2.0 * samples * density.parameters
        self.truncate_bytes = samples * (_FLOAT + _SAMPLE_BYTES)
        self.color_bytes = samples * _FLOAT * (color.inputs + color.outputs)
        self.color_flops = 2.0 * samples * color.parameters
        self.composite_bytes = samples * _FLOAT * (1 + 3 + 2 + 1)
        self.composite_backward_bytes = samples * _FLOAT * (1 + 3 + color.outputs + 1)
