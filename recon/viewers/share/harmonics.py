# SPDX-License-Identifier: Apache-2.0
"""The higher spherical harmonics of all splats as sums of entries of a few small palettes.

Vector quantisation in stages (Juang and Gray, "Multiple stage vector quantization for speech coding", 1982): each
stage's palette holds what the stages before left over, so four labels of 10 bits choose among 2^40 sums, at the size
of 4096 entries.  Two things make the error that is seen smaller than the error of the coefficients:

- distances are measured in the metric of the directions that the cameras have: colours, not coefficients, must agree;
- what is lost on average over the directions that see a splat is put into its constant colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera
from recon.formats.palette import build_palette
from recon.splats import SH_C0, Splats
from recon.viewers.share.importance import viewing_directions

STAGES = 4
LABEL_BITS = 10
COEFFICIENTS = 45
"""15 basis functions of three channels each, basis by basis; lower degrees leave the rest zero."""

_ROUNDS = 10
_ROWS_AT_ONCE = 16_384
_LEAST_VARIANCE = 0.05
"""Share of the mean variance that every direction keeps, because people look from elsewhere than the cameras did."""


@dataclass(frozen=True, eq=False)
class PackedHarmonics:
    """The higher harmonics of N splats.

    Attributes:
        labels: [N, STAGES] uint16, an entry of each stage's palette.
        entries: [STAGES, size, 45] int8; one unit is `units` of the stage.
        units: [STAGES] float32.
        base: [N, 3] float32, the constant coefficients with what was lost on average.
    """

    labels: npt.NDArray[np.uint16]
    entries: npt.NDArray[np.int8]
    units: npt.NDArray[np.float32]
    base: npt.NDArray[np.float32]

    def unpacked(self) -> npt.NDArray[np.float32]:
        """Returns the coefficients, [N, 15, 3]."""
        rest = np.zeros((len(self.labels), COEFFICIENTS), np.float32)
        for stage in range(STAGES):
            rest += self.entries[stage][self.labels[:, stage]] * self.units[stage]
        return rest.reshape(-1, 15, 3)


@torch.no_grad()
def pack_harmonics(splats: Splats, cameras: Sequence[Camera], weights: torch.Tensor, seed: int = 0) -> PackedHarmonics:
    """Returns the palettes and labels of splats of any degree.

    Args:
        splats: N Gaussians.
        cameras: from where they are seen; none means from everywhere.
        weights: [N], how much each splat matters.
        seed: of the palettes' start; the same splats and seed give the same palettes.
    """
    count, bases = len(splats), splats.sh.shape[1] - 1
    base = splats.sh[:, 0].float()
    if bases == 0 or count == 0:
        empty = np.zeros((STAGES, 1, COEFFICIENTS), np.int8)
        units = np.zeros(STAGES, np.float32)
        return PackedHarmonics(np.zeros((count, STAGES), np.uint16), empty, units, base.numpy())
    # The square root tames the few that fill pictures; the floor keeps those that no camera sees from being anything.
    importance = weights.clamp_min(0).sqrt()
    importance = importance + 1e-4 * importance.max().clamp_min(1e-30)
    directions = viewing_directions(splats, cameras, importance)
    metric = _metric(directions.covariance)
    back = torch.linalg.inv(metric)
    left = torch.einsum("nkc,kj->njc", splats.sh[:, 1:].float(), metric).reshape(count, -1)
    size = int(min(1 << LABEL_BITS, max(16, 2 ** np.floor(np.log2(max(count, 1) / 16)))))
    labels = np.zeros((count, STAGES), np.uint16)
    entries = np.zeros((STAGES, size, COEFFICIENTS), np.int8)
    units = np.zeros(STAGES, np.float32)
    for stage in range(STAGES):
        palette = build_palette(left, size, seed + stage, importance, _ROUNDS).codebook
        coefficients = torch.einsum("njc,jk->nkc", palette.reshape(size, bases, 3), back).reshape(size, -1)
        units[stage] = max(float(coefficients.abs().max()) / 127, 1e-12)
        whole = (coefficients / float(units[stage])).round().clamp(-127, 127)
        entries[stage, :, : 3 * bases] = whole.to(torch.int8).numpy()
        rounded = torch.einsum("nkc,kj->njc", (whole * float(units[stage])).reshape(size, bases, 3), metric)
        rounded = rounded.reshape(size, -1)
        nearest = _nearest(left, rounded)
        labels[:, stage] = nearest.numpy().astype(np.uint16)
        left -= rounded[nearest]
    lost = torch.einsum("njc,jk->nkc", left.reshape(count, bases, 3), back)
    base = base + torch.einsum("nk,nkc->nc", directions.mean, lost) / SH_C0
    return PackedHarmonics(labels, entries, units, base.numpy())


def _metric(covariance: torch.Tensor) -> torch.Tensor:
    """Returns L with L Lᵀ = the covariance, kept away from zero in every direction."""
    bases = covariance.shape[0]
    mean = covariance.trace() / bases
    return torch.linalg.cholesky(covariance + (_LEAST_VARIANCE * mean + 1e-8) * torch.eye(bases))


def _nearest(rows: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Returns [N] which of `means` is nearest to each of the rows."""
    half_norms = 0.5 * (means * means).sum(1)
    parts = [(half_norms - part @ means.T).argmin(1) for part in rows.split(_ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
