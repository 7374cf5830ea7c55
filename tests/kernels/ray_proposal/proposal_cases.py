# SPDX-License-Identifier: Apache-2.0
"""Grids with densities, and what samples are held to, for the tests of drawing them."""

from __future__ import annotations

import torch
from kernels.ray_march.march_cases import random_rays

from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import RaySamples, Space
from recon.kernels.ray_proposal.op import ProposalOptions
from recon.kernels.ray_proposal.reference import place_edges, place_weights, propose_reference

FIELDS = ("positions", "distances", "lengths", "offsets", "ray_of", "ends")


def mixed_grid(resolution: int = 32) -> OccupancyGrid:
    """Surfaces in thin air, with cells that nobody looked at and cells that can never be occupied."""
    generator = torch.Generator().manual_seed(5)
    grid = OccupancyGrid.full(resolution)
    kind = torch.rand(grid.cells, generator=generator)
    grid.densities.copy_(torch.where(kind < 0.05, 1.0, 0.01 * kind))
    grid.densities[(kind > 0.5) & (kind < 0.6)] = 0.0
    grid.densities[(kind > 0.8) & (kind < 0.85)] = torch.inf
    grid.densities[kind > 0.95] = -1.0
    return grid


def edges_of(samples: RaySamples, intervals: int) -> torch.Tensor:
    """The edges [R, K + 1] of the samples' intervals."""
    middles, lengths = (part.double().view(-1, intervals) for part in (samples.distances, samples.lengths))
    low, high = middles - lengths / 2, middles + lengths / 2
    return torch.cat([low, high[:, -1:]], 1)


def assert_drawn(found: RaySamples, space: Space, grid: OccupancyGrid, options: ProposalOptions, seed: int) -> None:
    """Held to the distribution of the reference in float64: its sums at the found edges are the shares.

    Rays of which a place lies within rounding of a cell's face may be told of another cell, so a few may differ.
    """
    origins, directions, jitter = (tensor.double() for tensor in random_rays(len(found.ends), seed))
    edges, usable = place_edges(origins, directions, space, options)
    weights = place_weights(origins, directions, edges, space, grid, options)
    sums = torch.nn.functional.pad(weights.cumsum(1), (1, 0))
    at = edges_of(found, options.intervals)
    place = (torch.searchsorted(edges.contiguous(), at, right=True) - 1).clamp(0, options.places - 1)
    low, high = edges.gather(1, place), edges.gather(1, place + 1)
    into = ((at - low) / (high - low).clamp_min(1e-30)).clamp(0, 1)
    share = (sums.gather(1, place) + into * weights.gather(1, place)) / sums[:, -1:]
    steps = torch.arange(options.intervals + 1)
    wanted = ((steps + options.share_first + jitter[:, None]) * options.share_scale).clamp(0, 1)
    off = (share - wanted).abs().amax(1)[usable]
    assert int((off > 1e-3).sum()) <= 1 + len(off) // 50, off.sort().values[-20:]
    expected = propose_reference(origins, directions, space, grid, options, jitter)
    for name in ("offsets", "ray_of"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert bool((found.ends == torch.inf).all())
    assert bool((found.lengths >= 0).all())
    rays = found.ray_of.long()
    points = space.to_unit(origins[rays] + found.distances.double()[:, None] * directions[rays]).clamp(0, 1)
    points[~usable[rays]] = 0.5
    torch.testing.assert_close(found.positions.double(), points, rtol=0, atol=2e-5)
    assert bool((found.lengths[~usable[rays]] == 0).all())
