# SPDX-License-Identifier: Apache-2.0
"""Where along its ray each training sample goes: mostly to where the occupancy grid says that light ends.

A training ray has a fixed number of intervals.  The grid's densities, one lookup for each of some hundred places along
the ray, give a first estimate of where the light of the ray comes from; the intervals are drawn from it by the inverse
of its distribution, so that they are short at surfaces and long in fog and in what is behind a surface.  The whole ray
is covered from the first step on, before anything is known to be empty.  This is the importance sampling of NeRF
(Mildenhall et al. 2020, section 5.2) with the resampling of Mip-NeRF 360 (Barron et al. 2022, section 3), in which a
grid takes the place of the coarse network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import RaySamples, Space

if TYPE_CHECKING:
    from recon.kernels.ray_march.op import MarchOptions

_PLACES = 256
_UNKNOWN_DEPTH = 0.05
# Part of the intervals that is spread evenly, whatever the grid says.
_EVEN = 0.1


@dataclass(frozen=True, eq=False)
class ProposalOptions:
    """How intervals are drawn: so many for each ray, and where rays begin and end, in world units."""

    intervals: int
    near: float
    far: float

    @staticmethod
    def of(march: MarchOptions, intervals: int) -> ProposalOptions:
        """Returns the options for rays that begin and end where they are rendered."""
        return ProposalOptions(intervals, march.near, march.far)


@torch.no_grad()
def propose(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    grid: OccupancyGrid,
    options: ProposalOptions,
    jitter: torch.Tensor,
) -> RaySamples:
    """Returns the samples of R rays [R, 3]: the middles of K intervals each.

    Args:
        origins, directions: of the rays, in the world, directions of unit length.
        space: what the unit cube is.
        grid: its densities are optical depths along a side of each cell.
        options: how many intervals.
        jitter: [R] in 0..1, which of the possible sets of intervals a ray gets.
    """
    edges = place_edges(origins, directions, space, options)
    weights = light_ends(origins, directions, edges, space, grid)
    count = options.intervals
    steps = torch.arange(count + 1, device=edges.device)
    drawn = draw_edges(edges, weights, (steps + jitter[:, None]) / (count + 1))
    lengths = (drawn[:, 1:] - drawn[:, :-1]).clamp_min(0)
    middles = (drawn[:, 1:] + drawn[:, :-1]) / 2
    positions = space.to_unit(origins[:, None] + middles[..., None] * directions[:, None])
    rays = len(origins)
    numbers = torch.arange(rays + 1, dtype=torch.int32, device=edges.device)
    return RaySamples(
        positions=positions.reshape(-1, 3).clamp(0, 1).contiguous(),
        distances=middles.reshape(-1).contiguous(),
        lengths=lengths.reshape(-1).contiguous(),
        offsets=numbers * count,
        ray_of=numbers[:-1].repeat_interleave(count),
        ends=torch.full((rays,), torch.inf, device=edges.device),
    )


def place_edges(
    origins: torch.Tensor, directions: torch.Tensor, space: Space, options: ProposalOptions
) -> torch.Tensor:
    """Returns the distances [R, P + 1] between which each ray is looked up.

    In a bounded space they are even from where the ray enters to where it leaves; in a contracted one even over two
    half sizes, which hold the inner region as its cameras see it, and from there on even in inverse distance.
    """
    share = torch.linspace(0, 1, _PLACES + 1, device=origins.device)
    if not space.contracted:
        low, high = box_distances(origins, directions, space)
        low = low.clamp_min(options.near)
        return low[:, None] + (high.clamp_max(options.far) - low).clamp_min(0)[:, None] * share
    turn = min(options.near + 2 * space.half_size, options.far)
    inner = options.near + (turn - options.near) * (2 * share).clamp_max(1)
    outer = turn / (1 - (2 * share - 1).clamp_min(0) * (1 - turn / options.far))
    return torch.where(share <= 0.5, inner, outer).expand(len(origins), -1)


def box_distances(origins: torch.Tensor, directions: torch.Tensor, space: Space) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the distances [R] at which rays enter and leave the cube; the same where they miss it."""
    inverse = 1 / torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    center = origins.new_tensor(space.center)
    first = (center - space.half_size - origins) * inverse
    second = (center + space.half_size - origins) * inverse
    low = torch.minimum(first, second).amax(1).clamp_min(0)
    high = torch.maximum(first, second).amin(1)
    return low, torch.maximum(low, high)


def light_ends(
    origins: torch.Tensor, directions: torch.Tensor, edges: torch.Tensor, space: Space, grid: OccupancyGrid
) -> torch.Tensor:
    """Returns how much of each ray's light ends between neighbouring edges, [R, P], as far as the grid knows."""
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    lengths = (edges[:, 1:] - edges[:, :-1]) / space.half_size
    unit = space.to_unit(origins[:, None] + middles[..., None] * directions[:, None])
    side = grid.resolution
    cell = (unit * side).long().clamp_(0, side - 1)
    stored = grid.densities[(cell[..., 2] * side + cell[..., 1]) * side + cell[..., 0]]
    never = stored < 0
    stored = torch.where(torch.isinf(stored), torch.full_like(stored, _UNKNOWN_DEPTH), stored.clamp_min(0))
    width = (4.0 if space.contracted else 2.0) / side
    if space.contracted:
        inner = (4 * unit - 2).abs().amax(-1).clamp(1.0, 2 - 1e-3)
        lengths = lengths * (2 - inner) ** 2
    depth = stored * lengths / width
    behind = torch.exp(-torch.cumsum(depth, 1))
    before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
    weights = before - behind
    # A cell's density says little of where in it, or beside it, the surface is.
    wide = torch.nn.functional.max_pool1d(weights[:, None], 3, stride=1, padding=1)[:, 0]
    total = wide.sum(1, keepdim=True)
    weights = wide / total.clamp_min(1e-9) + _EVEN / _PLACES
    return torch.where(never, torch.full_like(weights, 1e-6), weights)


def draw_edges(edges: torch.Tensor, weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Returns the distances [R, Q] below which the given shares [R, Q], ascending, of the weights [R, P] lie."""
    sums = torch.cumsum(weights, 1)
    wanted = shares * sums[:, -1:]
    index = torch.searchsorted(sums, wanted, right=True).clamp_max(weights.shape[1] - 1)
    into = (wanted - (torch.gather(sums, 1, index) - torch.gather(weights, 1, index))) / torch.gather(weights, 1, index)
    low, high = torch.gather(edges, 1, index), torch.gather(edges, 1, index + 1)
    return low + (high - low) * into.clamp(0, 1)
