# SPDX-License-Identifier: Apache-2.0
"""Tile lists in plain torch: every Gaussian is tried at every pixel.  For small scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recon.kernels.binning.op import TILE_SIZE, TileLists

if TYPE_CHECKING:
    from recon.kernels.projection.op import Projected

MAX_CONIC = 1e12
MAX_VARIANCE = 1e16


def drawable(projected: Projected, alpha_cutoff: float) -> torch.Tensor:
    """Returns [N] bool: visible, opaque enough, finite, and an ellipse of a sane size (1e-6 to 1e8 pixels)."""
    means, conics = projected.means_px.double(), projected.conics.double()
    a, b, c = conics.unbind(-1)
    determinant = a * c - b * b
    finite = torch.cat([means, conics, projected.opacities[:, None], projected.depths[:, None]], 1).isfinite().all(1)
    ellipse = (a > 0) & (c > 0) & (determinant > 0) & (torch.maximum(a, c) <= MAX_CONIC)
    ellipse &= torch.maximum(a, c) <= MAX_VARIANCE * determinant
    return finite & ellipse & projected.visible.bool() & (projected.opacities >= alpha_cutoff)


def alphas_at(projected: Projected, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Returns opacity · exp(-q/2) of the Gaussians `ids` [M] at pixel positions [P, 2], as [P, M]."""
    offsets = pixels[:, None] - projected.means_px[ids]
    return projected.opacities[ids] * torch.exp(-0.5 * mahalanobis(projected.conics[ids], offsets))


def mahalanobis(conics: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Returns q = a dx² + 2b dx dy + c dy² for conics [M, 3] and offsets [P, M, 2]."""
    a, b, c = conics.unbind(-1)
    dx, dy = offsets.unbind(-1)
    return a * dx * dx + 2 * b * dx * dy + c * dy * dy


def pixel_centers(width: int, height: int, tile: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the rows and columns [P] of the tile's pixels inside of the picture, then their centres [P, 2]."""
    tiles_x = -(-width // TILE_SIZE)
    x0, y0 = tile % tiles_x * TILE_SIZE, tile // tiles_x * TILE_SIZE
    ys = torch.arange(y0, min(y0 + TILE_SIZE, height))
    xs = torch.arange(x0, min(x0 + TILE_SIZE, width))
    index = torch.cartesian_prod(ys, xs).reshape(-1, 2).to(like.device)
    return index, index.flip(-1).to(like.dtype) + 0.5


def bin_tiles_reference(projected: Projected, width: int, height: int, alpha_cutoff: float) -> TileLists:
    """As `recon.kernels.binning.op.bin_tiles`; the lists hold exactly the Gaussians that reach a pixel's centre."""
    with torch.no_grad():
        candidates = torch.nonzero(drawable(projected, alpha_cutoff))[:, 0]
        by_depth = candidates[torch.argsort(projected.depths[candidates], stable=True)]
        tiles_x, tiles_y = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
        lists = []
        for tile in range(tiles_x * tiles_y):
            _, centers = pixel_centers(width, height, tile, projected.means_px)
            reaches = (alphas_at(projected, by_depth, centers) >= alpha_cutoff).any(0)
            lists.append(by_depth[reaches])
    return lists_of(lists, projected.means_px.shape[0], tiles_x, tiles_y, alpha_cutoff)


def lists_of(lists: list[torch.Tensor], count: int, tiles_x: int, tiles_y: int, alpha_cutoff: float) -> TileLists:
    """Returns the `TileLists` of given lists, one per tile; pairs are numbered by Gaussian, then by tile."""
    ids = torch.cat(lists)
    lengths = torch.tensor([0, *map(len, lists)], device=ids.device)
    pairs = torch.empty_like(ids)
    pairs[torch.argsort(ids, stable=True)] = torch.arange(len(ids), device=ids.device)
    pair_counts = torch.bincount(ids, minlength=count)
    pair_starts = torch.cat([lengths[:1], pair_counts.cumsum(0)])
    return TileLists(
        offsets=lengths.cumsum(0).int(),
        entries=torch.stack([ids, pairs], -1).int(),
        pair_starts=pair_starts.int(),
        tiles_x=tiles_x,
        tiles_y=tiles_y,
        alpha_cutoff=alpha_cutoff,
    )
