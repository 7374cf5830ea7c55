# SPDX-License-Identifier: Apache-2.0
"""What the stages of a training step have to move and compute, for `recon train --profile`.

Bytes are those that a stage must at least read and write once, whatever stays in a cache: its floor, not its traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

from recon.kernels.binning.op import TileLists
from recon.kernels.blend.op import count_pairs
from recon.kernels.projection.op import Projected
from recon.methods.profile import FLOPS_PER_LOSS_VALUE, Profile

_GEOMETRY_FLOATS = 3 + 4 + 3 + 1
_PROJECTED_BYTES = 4 * (2 + 3 + 1 + 3 + 1) + 1
_SCREEN_GRADIENT_BYTES = 4 * (2 + 3 + 1 + 3)
_RECORD_BYTES = 64
_ENTRY_BYTES = 8
_COLOR_BYTES = 12


@dataclass(frozen=True)
class StepCosts:
    """Bytes and operations of each stage of one step."""

    project_bytes: float = 0.0
    bin_bytes: float = 0.0
    forward_bytes: float = 0.0
    loss_bytes: float = 0.0
    loss_flops: float = 0.0
    backward_bytes: float = 0.0
    update_bytes: float = 0.0

    @staticmethod
    def of(projected: Projected, tiles: TileLists, width: int, height: int, sh_floats: tuple[int, int]) -> StepCosts:
        """Counts what one step moves; `sh_floats` are those read, and those updated, of each Gaussian in view."""
        count, pairs, pixels = len(projected.depths), len(tiles.entries), width * height
        shown, seen = int(projected.visible.sum()), int(tiles.touched.sum())
        return StepCosts(
            project_bytes=count * (4.0 * _GEOMETRY_FLOATS + 1) + shown * (_PROJECTED_BYTES + 4.0 * sh_floats[0]),
            bin_bytes=count * 5.0 + shown * 32.0 + pairs * _ENTRY_BYTES,
            forward_bytes=seen * (_PROJECTED_BYTES + _RECORD_BYTES) + pairs * _ENTRY_BYTES + pixels * 16.0,
            loss_bytes=pixels * (2.0 * _COLOR_BYTES + 3),
            loss_flops=3.0 * FLOPS_PER_LOSS_VALUE * pixels,
            backward_bytes=seen * (_RECORD_BYTES + _SCREEN_GRADIENT_BYTES) + pairs * _ENTRY_BYTES + pixels * 28.0,
            update_bytes=seen * (_SCREEN_GRADIENT_BYTES + 24.0 * (_GEOMETRY_FLOATS + sh_floats[1])),
        )

    @staticmethod
    def note_pairs(profile: Profile, projected: Projected, tiles: TileLists, width: int, height: int) -> None:
        """Counts the pairs of this step, where it is one of those that count."""
        if not profile.counts_now():
            return
        with profile.aside():
            pairs = count_pairs(projected, projected.colors, tiles, width, height)
        for stage in ("blend forward", "blend backward"):
            profile.pairs(stage, pairs.evaluated, pairs.blended)
