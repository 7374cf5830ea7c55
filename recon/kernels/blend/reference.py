# SPDX-License-Identifier: Apache-2.0
"""Blending in plain torch, tile by tile: what the kernel must equal.  Differentiable, any float type, small scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recon.kernels.binning.op import TileLists
from recon.kernels.binning.reference import mahalanobis, pixel_centers
from recon.kernels.blend.op import MAX_ALPHA, MIN_TRANSMITTANCE, Blended, BlendStatistics, DepthPlanes

if TYPE_CHECKING:
    from recon.kernels.projection.op import Projected


def blend_reference(
    projected: Projected,
    channels: torch.Tensor,
    tiles: TileLists,
    size: tuple[int, int],
    median_depth: bool = False,
    statistics: BlendStatistics | None = None,
    planes: DepthPlanes | None = None,
) -> Blended:
    """As `recon.kernels.blend.op.blend`."""
    (width, height), d = size, channels.shape[1]
    out = channels.new_zeros((height, width, d))
    alpha = channels.new_zeros((height, width))
    median = channels.new_zeros((height, width)) if median_depth else None
    if statistics is not None:
        _start_statistics(projected, statistics)
    finite = channels.isfinite().all(1)
    offsets = tiles.offsets.tolist()
    for tile in range(tiles.tiles_x * tiles.tiles_y):
        ids = tiles.ids[offsets[tile] : offsets[tile + 1]].long()
        ids = ids[finite[ids]]
        index, centers = pixel_centers(width, height, tile, channels)
        weights, transmittance = _weights(projected, ids, centers, tiles.alpha_cutoff, statistics)
        rows, columns = index.unbind(-1)
        values = weights @ channels[ids]
        if planes is not None:
            tilts = ((centers[:, None] - projected.means_px[ids]) * planes.slopes[ids]).sum(-1)
            values[:, planes.channel] += (weights * tilts).sum(1)
        out = out.index_put((rows, columns), values)
        alpha = alpha.index_put((rows, columns), 1 - transmittance[:, -1])
        if median is not None and len(ids):
            crosses = (transmittance[:, :-1] > 0.5) & (transmittance[:, 1:] <= 0.5)
            median[rows, columns] = (crosses * projected.depths[ids].detach()).sum(1)
    return Blended(out, alpha, median)


def _weights(
    projected: Projected,
    ids: torch.Tensor,
    centers: torch.Tensor,
    alpha_cutoff: float,
    statistics: BlendStatistics | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns T_i alpha_i [P, M] of M Gaussians at P pixels, and the transmittances [P, M + 1] around them."""
    offsets = centers[:, None] - projected.means_px[ids]
    alphas = projected.opacities[ids] * torch.exp(-0.5 * mahalanobis(projected.conics[ids], offsets))
    alphas = alphas.clamp(max=MAX_ALPHA)
    alphas = torch.where(alphas >= alpha_cutoff, alphas, torch.zeros_like(alphas))
    ones = torch.ones_like(alphas[:, :0]).new_ones((len(centers), 1))
    transmittance = torch.cat([ones, torch.cumprod(1 - alphas, 1)], 1)
    # A pixel that has become opaque keeps its transmittance.
    alphas = torch.where(transmittance[:, :-1] >= MIN_TRANSMITTANCE, alphas, torch.zeros_like(alphas))
    transmittance = torch.cat([ones, torch.cumprod(1 - alphas, 1)], 1)
    weights = transmittance[:, :-1] * alphas
    if statistics is not None and len(ids):
        _watch(statistics, ids, offsets, weights.detach())
    return weights, transmittance


def _start_statistics(projected: Projected, statistics: BlendStatistics) -> None:
    like = projected.means_px.detach()
    statistics.mean_gradient_px, statistics.mean_gradient_abs_px = torch.zeros_like(like), torch.zeros_like(like)
    statistics.weight_sum, statistics.weight_max = like.new_zeros(len(like)), like.new_zeros(len(like))


def _watch(statistics: BlendStatistics, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> None:
    """Adds a tile's pixels to the statistics when the gradient passes."""
    total, absolute = statistics.mean_gradient_px, statistics.mean_gradient_abs_px
    weight_sum, weight_max = statistics.weight_sum, statistics.weight_max
    assert total is not None
    assert absolute is not None
    assert weight_sum is not None
    assert weight_max is not None

    def hook(gradient: torch.Tensor | None) -> None:
        if gradient is None:
            return
        # offsets = pixel - mean, so the mean's gradient has the opposite sign.
        total[ids] -= gradient.sum(0)
        absolute[ids] += gradient.abs().sum(0)
        weight_sum[ids] += weights.sum(0)
        weight_max[ids] = torch.maximum(weight_max[ids], weights.amax(0))

    if offsets.requires_grad:
        offsets.register_hook(hook)
