# SPDX-License-Identifier: Apache-2.0
"""The layout of a multiresolution hash table: which vertices a level has and where its rows lie.

Source: Müller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding",
SIGGRAPH 2022, section 3 and appendix A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from recon.errors import ReconError

FEATURES = (1, 2, 4, 8)
"""How many numbers a vertex may have."""

_ROW_ALIGNMENT = 16


@dataclass(frozen=True)
class HashGrid:
    """A table of `levels` grids over the unit cube, from `coarsest` to `finest` cells along an edge.

    Level l has N_l = ⌊coarsest · b^l⌋ cells along an edge, with b so that the last one has `finest` (eq. 2 and 3).  A
    position x lies at x · N_l + 1/2: half a cell aside, so that no two levels have their vertices in one place
    (appendix A).  A level has N_l + 2 vertices along each axis; where they are no more than 2^log2_entries they lie in
    the table one after another, x fastest, else their row is their hash (eq. 4).

    Attributes:
        levels: number of resolutions, 1 to 32.
        features: numbers of a vertex; 1, 2, 4 or 8.
        log2_entries: binary logarithm of the most rows of a level, 4 to 24.
        coarsest: cells along an edge of the first level.
        finest: cells along an edge of the last level, at most 65536.
    """

    levels: int = 8
    features: int = 4
    log2_entries: int = 17
    coarsest: int = 16
    finest: int = 2048

    def __post_init__(self) -> None:
        """Refuses what no table can have."""
        fits = {
            "levels": 1 <= self.levels <= 32,
            "features": self.features in FEATURES,
            "log2_entries": 4 <= self.log2_entries <= 24,
            "coarsest": 1 <= self.coarsest <= self.finest,
            "finest": self.finest <= 65536,
        }
        for name, ok in fits.items():
            if not ok:
                raise ReconError(
                    "laying out a hash grid", f"{name} = {getattr(self, name)}",
                    "levels 1..32, features 1, 2, 4 or 8, log2_entries 4..24, 1 <= coarsest <= finest <= 65536",
                )  # fmt: skip

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells along an edge, by level."""
        if self.levels == 1:
            return (self.coarsest,)
        growth = math.log(self.finest / self.coarsest) / (self.levels - 1)
        # A whole number must not be missed by rounding.
        return tuple(math.floor(self.coarsest * math.exp(growth * level) + 1e-6) for level in range(self.levels))

    @cached_property
    def dense(self) -> tuple[bool, ...]:
        """Which levels have a row for every vertex."""
        return tuple((resolution + 2) ** 3 <= 1 << self.log2_entries for resolution in self.resolutions)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The row at which each level begins, and the number of rows: levels + 1 numbers, multiples of 16."""
        found = [0]
        for resolution, dense in zip(self.resolutions, self.dense):
            count = (resolution + 2) ** 3 if dense else 1 << self.log2_entries
            found.append(found[-1] + -(-count // _ROW_ALIGNMENT) * _ROW_ALIGNMENT)
        return tuple(found)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Numbers of an encoded position."""
        return self.levels * self.features
