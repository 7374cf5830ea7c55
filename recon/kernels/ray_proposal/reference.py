# SPDX-License-Identifier: Apache-2.0
"""Drawing the samples of rays in plain torch, in the rays' own precision; see `recon.kernels.ray_proposal.op`."""

from __future__ import annotations

import torch

from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.types import MOST_DISTANT, RaySamples, Space
from recon.kernels.ray_proposal.types import LEAST_MEASURE, LEAST_PLACE_WEIGHT, LEAST_TOTAL, ProposalOptions

_RAYS_AT_ONCE = 8192


@torch.no_grad()
def propose_reference(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    grid: OccupancyGrid,
    options: ProposalOptions,
    jitter: torch.Tensor | None = None,
) -> RaySamples:
    """See `recon.kernels.ray_proposal.op.propose`."""
    rays, count = len(origins), options.intervals
    jitter = torch.full_like(origins[:, 0], 0.5) if jitter is None else jitter.to(origins)
    parts = [
        _propose(origins[i], directions[i], space, grid, options, jitter[i])
        for i in (slice(begin, begin + _RAYS_AT_ONCE) for begin in range(0, max(rays, 1), _RAYS_AT_ONCE))
    ]
    positions, distances, lengths = (torch.cat(part) for part in zip(*parts))
    numbers = torch.arange(rays + 1, dtype=torch.int32, device=origins.device)
    return RaySamples(
        positions=positions.reshape(-1, 3),
        distances=distances.flatten(),
        lengths=lengths.flatten(),
        offsets=numbers * count,
        ray_of=numbers[:-1].repeat_interleave(count),
        ends=torch.full_like(origins[:, 0], torch.inf),
    )


def _propose(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    grid: OccupancyGrid,
    options: ProposalOptions,
    jitter: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns positions [R, K, 3], distances [R, K] and lengths [R, K]."""
    edges, usable = place_edges(origins, directions, space, options)
    usable &= (jitter >= 0) & (jitter <= 1)
    weights = place_weights(origins, directions, edges, space, grid, options)
    steps = torch.arange(options.intervals + 1, device=edges.device)
    shares = ((steps + options.share_first + jitter[:, None]) * options.share_scale).clamp(0, 1)
    drawn = draw_edges(edges, weights, shares)
    lengths = (drawn[:, 1:] - drawn[:, :-1]).clamp_min(0)
    middles = (drawn[:, 1:] + drawn[:, :-1]) / 2
    positions = space.to_unit(origins[:, None] + middles[..., None] * directions[:, None]).clamp(0, 1)
    return (
        torch.where(usable[:, None, None], positions, 0.5),
        torch.where(usable[:, None], middles, options.near),
        torch.where(usable[:, None], lengths, 0),
    )


def place_edges(
    origins: torch.Tensor, directions: torch.Tensor, space: Space, options: ProposalOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the distances [R, P + 1] between which each ray is looked up, and which rays can be sampled, [R]."""
    y = (origins - origins.new_tensor(space.center)) / space.half_size
    square = directions.square().sum(-1)
    usable = (y.abs() < MOST_DISTANT).all(-1) & (square > 1e-12) & (square < 1e12)
    table = torch.tensor(options.table(space), dtype=origins.dtype, device=origins.device)
    if space.contracted:
        return table.expand(len(origins), -1), usable
    # A component of nothing: inside all the way or never.
    still = directions.abs() < 1e-12
    first = torch.where(still, -torch.inf, (-1 - y) / directions) * space.half_size
    second = torch.where(still, torch.inf, (1 - y) / directions) * space.half_size
    low = torch.minimum(first, second).amax(-1).clamp_min(options.near)
    high = torch.maximum(first, second).amin(-1).clamp_max(options.farthest(space))
    usable &= (low < high) & ~(still & (y.abs() > 1)).any(-1)
    return low[:, None] + (high - low)[:, None] * table, usable


def place_weights(
    origins: torch.Tensor,
    directions: torch.Tensor,
    edges: torch.Tensor,
    space: Space,
    grid: OccupancyGrid,
    options: ProposalOptions,
) -> torch.Tensor:
    """Returns the weights [R, P] of the places between neighbouring edges."""
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    lengths = (edges[:, 1:] - edges[:, :-1]) / space.half_size
    points = origins[:, None] + middles[..., None] * directions[:, None]
    if space.contracted:
        m = ((points - points.new_tensor(space.center)) / space.half_size).abs().amax(-1).clamp_min(1)
        lengths = lengths * (1 / m).clamp_min(LEAST_MEASURE) ** 2
    side = grid.resolution
    cell = (space.to_unit(points).nan_to_num() * side).clamp(0, side - 1).long()
    stored = grid.densities[(cell[..., 2] * side + cell[..., 1]) * side + cell[..., 0]].to(edges)
    depth = torch.where(stored > 0, stored, 0)
    depth = torch.where(torch.isinf(depth), options.unknown_depth, depth)
    depth = depth * lengths * (side / (4 if space.contracted else 2))
    behind = torch.exp(-torch.cumsum(depth, 1))
    light = torch.nn.functional.pad(behind, (1, 0), value=1.0)
    ends = light[:, :-1] - light[:, 1:]
    wide = torch.nn.functional.max_pool1d(ends[:, None], 3, stride=1, padding=1)[:, 0]
    total = wide.sum(1, keepdim=True).clamp_min(LEAST_TOTAL)
    weights = (1 - options.even) * wide / total + options.even / options.places
    return torch.where(stored < 0, LEAST_PLACE_WEIGHT, weights.clamp_min(LEAST_PLACE_WEIGHT))


def draw_edges(edges: torch.Tensor, weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Returns the distances [R, Q] below which the given shares [R, Q], ascending, of the weights [R, P] lie."""
    sums = torch.cumsum(weights, 1)
    wanted = shares * sums[:, -1:]
    index = torch.searchsorted(sums, wanted.contiguous(), right=True).clamp_max(weights.shape[1] - 1)
    weight = weights.gather(1, index)
    into = (wanted - (sums.gather(1, index) - weight)) / weight
    low, high = edges.gather(1, index), edges.gather(1, index + 1)
    return low + (high - low) * into.clamp(0, 1)
