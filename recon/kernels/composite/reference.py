# SPDX-License-Identifier: Apache-2.0
"""Volume compositing in plain torch: what the kernels must equal.

Samples of a ray become a row of a matrix as wide as the longest ray, [R, L], padded with zeros.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from recon.kernels.composite.types import MOST_EXPONENT, Composited, CompositeOptions, RayState

if TYPE_CHECKING:
    from recon.kernels.ray_march.types import RaySamples


class Rows:
    """Where samples stand in the matrix of rays."""

    def __init__(self, samples: RaySamples) -> None:
        offsets, self._ray_of = samples.offsets.long(), samples.ray_of.long()
        self.rays = len(offsets) - 1
        self.longest = int(offsets.diff().max()) if self.rays else 0
        index = torch.arange(len(self._ray_of), device=offsets.device)
        self._at = self._ray_of * self.longest + index - offsets[self._ray_of]

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Returns [S, ...] as [R, L, ...]."""
        padded = values.new_zeros((self.rays * self.longest, *values.shape[1:]))
        return padded.index_copy(0, self._at, values).view(self.rays, self.longest, *values.shape[1:])

    def back(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns [R, L] as [S]."""
        return rows.reshape(-1)[self._at]

    def of_rays(self, values: torch.Tensor) -> torch.Tensor:
        """Returns [R, ...] as [S, ...]: each sample's ray's."""
        return values[self._ray_of]


def optical_depths(raw_density: torch.Tensor, samples: RaySamples, options: CompositeOptions) -> torch.Tensor:
    """Returns the optical depth [S] of each sample: exp(clamped raw density) · length."""
    exponent = (raw_density[:, 0] + options.density_shift).clamp(-MOST_EXPONENT, MOST_EXPONENT)
    return exponent.exp() * samples.lengths.to(exponent.dtype) * options.length_scale


def damped(tensor: torch.Tensor, samples: RaySamples, near_scale: float) -> torch.Tensor:
    """Returns [S, ...] unchanged, with a gradient that fades towards the camera."""
    if near_scale == 0:
        return tensor
    factor = (samples.distances.to(tensor.dtype) / near_scale).square().clamp(max=1)[:, None]
    return tensor * factor + (tensor * (1 - factor)).detach()


def sum_before(rows: torch.Tensor) -> torch.Tensor:
    """Returns the sums [R, L] over the earlier columns of each row."""
    return torch.nn.functional.pad(rows.cumsum(1), (1, -1)) if rows.shape[1] else rows


def distortion_of(weights: torch.Tensor, middles: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """Returns the distortion [R] of rows [R, L], in O(L) (Sun et al., "Improved Direct Voxel Grid Optimization", 2022).

    For ascending middles Σ_ij w_i w_j |s_i − s_j| = 2 Σ_i w_i Σ_{j<i} w_j (s_i − s_j).
    """
    before, moment_before = sum_before(weights), sum_before(weights * middles)
    return (2 * weights * (middles * before - moment_before) + weights.square() * widths / 3).sum(1)


def composite_reference(
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    channels: int,
    options: CompositeOptions,
) -> Composited:
    """As `recon.kernels.composite.op.composite`."""
    rows, scale = Rows(samples), options.length_scale
    depths = optical_depths(damped(raw_density, samples, options.near_scale), samples, options)
    color = damped(raw_color, samples, options.near_scale)[:, :channels].sigmoid()
    distances, lengths = samples.distances.to(depths.dtype), samples.lengths.to(depths.dtype)
    depth_rows = rows.of(depths)
    before = sum_before(depth_rows)
    weights = torch.exp(-before) * -torch.expm1(-depth_rows)

    middles = distances * scale / (1 + distances * scale)
    first, last = (distances - lengths / 2).clamp_min(0), distances + lengths / 2
    widths = (last - first) * scale / ((1 + first * scale) * (1 + last * scale))
    return Composited(
        color=torch.einsum("rl,rld->rd", weights, rows.of(color)),
        alpha=weights.sum(1),
        depth=(weights * rows.of(distances)).sum(1),
        median_distance=_median(rows, before, depth_rows, distances, lengths).detach(),
        distortion=distortion_of(weights, rows.of(middles), rows.of(widths)),
        weights=rows.back(weights).detach(),
    )


def _median(
    rows: Rows, before: torch.Tensor, depth: torch.Tensor, distances: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    half = math.log(2)
    crossing = (before < half) & (before + depth >= half)
    part = (half - before) / torch.where(crossing, depth, 1)
    distance = rows.of(distances) + (part - 0.5) * rows.of(lengths)
    return torch.where(crossing, distance, 0).sum(1)


def truncate_reference(
    raw_density: torch.Tensor,
    samples: RaySamples,
    min_transmittance: float,
    arrays: list[torch.Tensor],
    options: CompositeOptions,
    transmittance: torch.Tensor | None = None,
) -> tuple[RaySamples, list[torch.Tensor]]:
    """As `recon.kernels.composite.op.truncate`."""
    rows = Rows(samples)
    depths = rows.of(optical_depths(raw_density, samples, options))
    reaching = torch.exp(-sum_before(depths))
    if transmittance is not None:
        reaching = reaching * transmittance[:, None]
    keep = rows.back(reaching) >= min_transmittance
    counts = torch.zeros(rows.rays, dtype=torch.int64, device=keep.device)
    counts.index_add_(0, samples.ray_of.long(), keep.long())
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    kept = replace(
        samples, positions=samples.positions[keep], distances=samples.distances[keep], lengths=samples.lengths[keep],
        ray_of=samples.ray_of[keep], offsets=offsets,
    )  # fmt: skip
    return kept, [array[keep] for array in arrays]


def accumulate_reference(
    state: RayState,
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    rays: torch.Tensor,
    options: CompositeOptions,
    min_transmittance: float,
) -> torch.Tensor:
    """As `recon.kernels.composite.op.accumulate_into`."""
    rows, channels, rays = Rows(samples), state.color.shape[1], rays.long()
    portion = composite_reference(raw_density, raw_color, samples, channels, options)
    left = 1 - state.alpha[rays]
    depths = rows.of(optical_depths(raw_density, samples, options))
    before = sum_before(depths) - left.log()[:, None]
    median = _median(rows, before, depths, samples.distances, samples.lengths)
    state.color[rays] += left[:, None] * portion.color
    state.alpha[rays] += left * portion.alpha
    state.depth[rays] += left * portion.depth
    state.median_distance[rays] += median
    alive = (1 - state.alpha[rays] >= min_transmittance) & samples.ends.isfinite()
    return alive.nonzero()[:, 0]
