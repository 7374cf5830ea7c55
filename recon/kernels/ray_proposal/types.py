# SPDX-License-Identifier: Apache-2.0
"""How the samples of rays are drawn from an occupancy grid's densities."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon.errors import ReconError
from recon.kernels.ray_march.types import Space

MOST_PLACES = 512
MOST_INTERVALS = 512
LEAST_PLACE_WEIGHT = 1e-6
LEAST_TOTAL = 1e-3
LEAST_MEASURE = 1e-3
_PLACES_MULTIPLE = 16
_INNER_HALF_SIZES = 2.0
_FARTHEST_HALF_SIZES = 1e6
_FARTHEST = 1e20


@dataclass(frozen=True)
class ProposalOptions:
    """How intervals are drawn.

    Attributes:
        intervals: of each ray, 2 to 512.
        near, far: rays begin and end at these distances, in world units; far may be infinite, which here is a million
            half sizes beyond near.
        places: how many places along each ray are looked up in the grid, a multiple of 16 up to 512.
        even: part of the intervals, 0 to 1, that is spread evenly over the places, whatever the grid says.
        unknown_depth: optical depth along a side of a cell that nobody has looked at.
        whole: whether the intervals cover the ray from its very beginning to its very end.  Otherwise one more interval
            is left out, of which the first of `jitter` is missing at the beginning and the rest at the end.
    """

    intervals: int
    near: float
    far: float
    places: int = 256
    even: float = 0.1
    unknown_depth: float = 0.05
    whole: bool = False

    def __post_init__(self) -> None:
        doing = "choosing how intervals of rays are drawn"
        if not 2 <= self.intervals <= MOST_INTERVALS:
            raise ReconError(doing, f"there are {self.intervals} intervals a ray", f"2 to {MOST_INTERVALS}")
        if not (0 < self.places <= MOST_PLACES and self.places % _PLACES_MULTIPLE == 0):
            wanted = f"a multiple of {_PLACES_MULTIPLE} up to {MOST_PLACES}"
            raise ReconError(doing, f"there are {self.places} places", wanted)
        if not (0 <= self.near < self.far and self.near <= _FARTHEST):
            raise ReconError(doing, f"near is {self.near} and far {self.far}", "0 <= near < far, near at most 1e20")
        if not (0 <= self.even <= 1 and 0 <= self.unknown_depth <= _FARTHEST and math.isfinite(self.unknown_depth)):
            found = f"the even part is {self.even} and the unknown depth {self.unknown_depth}"
            raise ReconError(doing, found, "0 to 1, and a number from 0 on")

    @property
    def share_scale(self) -> float:
        """Of the weights, between neighbouring edges."""
        return 1 / (self.intervals - 1 if self.whole else self.intervals + 1)

    @property
    def share_first(self) -> float:
        """Edge k lies at the share (k + share_first + jitter) · share_scale, limited to 0..1."""
        return -1.0 if self.whole else 0.0

    def farthest(self, space: Space) -> float:
        """Where rays end, in world units; finite."""
        return min(self.far, self.near + _FARTHEST_HALF_SIZES * space.half_size, 10 * _FARTHEST)

    def table(self, space: Space) -> list[float]:
        """Returns P + 1 ascending numbers, between which the places lie.

        In a contracted space distances, half of them even over the first two half sizes, which hold the inner region as
        its cameras see it, and from there on even in inverse distance; all even where rays end before.  In a bounded
        space parts, 0 to 1, of the way through it.
        """
        shares = [place / self.places for place in range(self.places + 1)]
        if not space.contracted:
            return shares
        far = self.farthest(space)
        turn = self.near + _INNER_HALF_SIZES * space.half_size
        if far <= turn:
            return [self.near + (far - self.near) * share for share in shares]
        inner = [self.near + (turn - self.near) * 2 * share for share in shares if share <= 0.5]
        return inner + [turn / (1 - (2 * share - 1) * (1 - turn / far)) for share in shares if share > 0.5]
