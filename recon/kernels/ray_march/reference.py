# SPDX-License-Identifier: Apache-2.0
"""Marching rays in plain torch: every lattice point of every ray is looked up; in the rays' own precision.

The lattice of a ray is numbered by s, which grows with ds = dt / (step · half_size · M²), M = max(1, m) in a contracted
space and 1 in a bounded one.  M is the greatest of seven linear functions of t (1 and ±y_i), so that between two
neighbouring crossings of them it is linear, and there

    s₁ − s₀ = (t₁ − t₀) / (step · half_size · M₀ M₁).
"""

from __future__ import annotations

import torch

from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.types import MOST_DISTANT, MarchOptions, RaySamples, Space

_LOOKUPS_AT_ONCE = 1 << 21


class Lattice:
    """Distances along R rays by lattice number, and the numbers of distances."""

    def __init__(self, origins: torch.Tensor, directions: torch.Tensor, space: Space, options: MarchOptions) -> None:
        self._unit = options.step * space.half_size
        origins = (origins - origins.new_tensor(space.center)) / space.half_size
        directions = directions / space.half_size
        self._y = (origins, directions)
        sizes = [(directions * space.half_size).norm(dim=-1), origins.abs().amax(-1)]
        self.valid = (sizes[0] > 1e-6) & (sizes[0] < 1e6) & (sizes[1] < MOST_DISTANT)
        near = torch.full_like(sizes[0], options.near)
        far = torch.full_like(near, options.far)
        if not space.contracted:
            enters, leaves = _cube(origins, directions)
            near, far = near.maximum(enters), far.minimum(leaves)
            self.valid &= near < far
        near = torch.where(self.valid, near, 0)
        self._starts = self._crossings(near) if space.contracted else near[:, None]
        self._contracted = space.contracted
        widths = self._starts.diff(dim=-1)
        m = self._measure(self._starts)
        after = self._measure(self._starts[:, -1:] + space.half_size)
        slopes = torch.where(widths > 0, m.diff(dim=-1) / widths, 0)
        self._slopes = torch.cat([slopes, (after - m[:, -1:]) / space.half_size], -1)
        self._m = m
        numbers = widths / (self._unit * m[:, :-1] * m[:, 1:])
        self._numbers = torch.cat([torch.zeros_like(near[:, None]), numbers.cumsum(-1)], -1)
        last = (1 / (self._unit * self._m[:, -1] * self._slopes[:, -1])) + self._numbers[:, -1] - 0.5
        # Half a step beyond the last sample must lie at some distance.
        self.last = self.number(far).minimum(torch.where(last > self._numbers[:, -1], last.nextafter(near), last))

    def _measure(self, t: torch.Tensor) -> torch.Tensor:
        """M at distances [R, B]."""
        origins, directions = self._y
        y = origins[:, None] + t[..., None] * directions[:, None]
        return y.abs().amax(-1).clamp_min(1) if self._contracted else torch.ones_like(t)

    def _crossings(self, near: torch.Tensor) -> torch.Tensor:
        """Where M bends, ascending from `near` on; some more points besides."""
        (x, y, z), (dx, dy, dz) = (tensor.unbind(-1) for tensor in self._y)
        found = [near]
        for a, b in ((x, dx), (y, dy), (z, dz)):
            found += [(1 - a) / b, (-1 - a) / b]
        for a, b, c, d in ((x, dx, y, dy), (y, dy, z, dz), (z, dz, x, dx)):
            found += [(a - c) / (d - b), -(a + c) / (d + b)]
        points = torch.stack(found, -1)
        usable = points.isfinite() & (points > near[:, None])
        return torch.where(usable, points, near[:, None]).sort(-1).values

    def distance(self, s: torch.Tensor) -> torch.Tensor:
        """Distances [R, K] of lattice numbers [R, K]."""
        piece = (torch.searchsorted(self._numbers, s.contiguous(), right=True) - 1).clamp_min(0)
        start, number, m, slope = (
            tensor.gather(-1, piece) for tensor in (self._starts, self._numbers, self._m, self._slopes)
        )
        ahead = (s - number) * self._unit * m
        return start + ahead * m / (1 - ahead * slope)

    def number(self, t: torch.Tensor) -> torch.Tensor:
        """Lattice numbers [R] of distances [R]; those before the lattice have the number 0 or one below."""
        piece = (torch.searchsorted(self._starts, t[:, None].contiguous(), right=True) - 1).clamp_min(0)
        start, number, m, slope = (
            tensor.gather(-1, piece)[:, 0] for tensor in (self._starts, self._numbers, self._m, self._slopes)
        )
        ahead = (t - start).clamp_max(1e30)
        return number + ahead / (self._unit * m * (m + ahead * slope))

    def spacing(self, t: torch.Tensor) -> torch.Tensor:
        """dt/ds at distances [R, K]."""
        return self._unit * self._measure(t).square()


def _cube(origins: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays enter and leave the cube |y| <= 1."""
    first, second = (-1 - origins) / directions, (1 - origins) / directions
    inside = (directions != 0) | (origins.abs() <= 1)
    lower = torch.where(directions != 0, first.minimum(second), -torch.inf)
    upper = torch.where(directions != 0, first.maximum(second), torch.inf)
    lower = torch.where(inside, lower, torch.inf)
    return lower.amax(-1), upper.amin(-1)


def march_reference(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    occupancy: OccupancyGrid,
    options: MarchOptions,
    jitter: torch.Tensor | None = None,
    starts: torch.Tensor | None = None,
) -> RaySamples:
    """See `recon.kernels.ray_march.op.march`."""
    rays = len(origins)
    jitter = torch.full_like(origins[:, 0], 0.5) if jitter is None else jitter.to(origins)
    starts = torch.full_like(jitter, options.near) if starts is None else starts.to(origins)
    lattice = Lattice(origins, directions, space, options)
    first = (lattice.number(starts.clamp_min(options.near)) - jitter).ceil().clamp_min(0)
    steps = (lattice.last - jitter).floor() - first + 1
    usable = lattice.valid & starts.isfinite() & (jitter >= 0) & (jitter <= 1)
    steps = torch.where(usable & steps.isfinite(), steps, 0).clamp_min(0).long()
    first = torch.where(steps > 0, first, 0)
    chosen = _occupied_points(lattice, first, steps, (origins, directions, space, occupancy, jitter))
    counts, last = _capped(chosen, rays, options.max_samples)
    served = int((counts.cumsum(0) <= options.max_total).sum())
    keep = _rank_in_ray(chosen[0], rays) < options.max_samples
    ray_of, numbers = (part[keep & (chosen[0] < served)] for part in chosen)
    distances, lengths = _placed(lattice, ray_of, numbers, jitter)
    more = (counts == options.max_samples) & (last < first + steps - 1)
    here = lattice.distance((last + 0.5 + jitter)[:, None])[:, 0]
    ends = torch.where(more, here, torch.inf)
    if served < rays:
        ends[served:] = torch.where(starts.isfinite(), starts.clamp_min(options.near), torch.inf)[served:]
        counts = torch.where(torch.arange(rays, device=counts.device) < served, counts, 0)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    positions = space.to_unit(origins[ray_of] + distances[:, None] * directions[ray_of]).clamp(0, 1)
    return RaySamples(positions, distances, lengths, offsets, ray_of.int(), ends, None if served == rays else served)


def _occupied_points(
    lattice: Lattice,
    first: torch.Tensor,
    steps: torch.Tensor,
    world: tuple[torch.Tensor, torch.Tensor, Space, OccupancyGrid, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rays and lattice numbers (whole ones, as floats) of all lattice points in occupied cells."""
    origins, directions, space, occupancy, jitter = world
    rows, numbers = [torch.zeros(0, dtype=torch.int64, device=origins.device)], [origins.new_zeros(0)]
    longest = int(steps.max()) if len(steps) else 0
    portion = max(_LOOKUPS_AT_ONCE // max(len(steps), 1), 1)
    for begin in range(0, longest, portion):
        k = first[:, None] + torch.arange(begin, min(begin + portion, longest), device=first.device)
        t = lattice.distance(k + jitter[:, None])
        points = space.to_unit(origins[:, None] + t[..., None] * directions[:, None])
        if space.contracted:  # nothing is outside, were it not for rounding
            points = points.clamp(0, 1 - torch.finfo(points.dtype).eps)
        occupied = occupancy.contains(points) & (k < (first + steps)[:, None])
        row, column = occupied.nonzero(as_tuple=True)
        rows.append(row)
        numbers.append(k[row, column])
    row, number = torch.cat(rows), torch.cat(numbers)
    order = row.argsort(stable=True)
    return row[order], number[order]


def _rank_in_ray(ray_of: torch.Tensor, rays: int) -> torch.Tensor:
    """How many samples of the same ray come before each."""
    counts = torch.bincount(ray_of, minlength=rays)
    return torch.arange(len(ray_of), device=ray_of.device) - (counts.cumsum(0) - counts)[ray_of]


def _capped(chosen: tuple[torch.Tensor, torch.Tensor], rays: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns each ray's count, at most `most`, and the number of the last that counts."""
    ray_of, numbers = chosen
    counts = torch.bincount(ray_of, minlength=rays)
    begins = counts.cumsum(0) - counts
    counts = counts.clamp_max(most)
    last = torch.zeros(rays, dtype=numbers.dtype, device=numbers.device)
    some = counts > 0
    last[some] = numbers[(begins + counts - 1)[some]]
    return counts, last


def _placed(
    lattice: Lattice, ray_of: torch.Tensor, numbers: torch.Tensor, jitter: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns distances and lengths of samples."""
    table, counts = _by_ray(ray_of, numbers, len(jitter))
    t = lattice.distance(table + jitter[:, None])
    some = torch.arange(table.shape[1], device=t.device) < counts[:, None]
    return t[some], lattice.spacing(t)[some]


def _by_ray(ray_of: torch.Tensor, numbers: torch.Tensor, rays: int) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.bincount(ray_of, minlength=rays)
    table = numbers.new_zeros((rays, int(counts.max()) if rays else 0))
    table[ray_of, _rank_in_ray(ray_of, rays)] = numbers
    return table, counts


def march_backward_reference(
    samples: RaySamples,
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    position_gradient: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `recon.kernels.ray_march.op.march_backward`."""
    with torch.enable_grad():
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (origins, directions)]
        positions = sample_positions(samples, leaves[0], leaves[1], space)
        gradients = torch.autograd.grad(positions, leaves, position_gradient)
    return gradients[0], gradients[1]


def sample_positions(
    samples: RaySamples, origins: torch.Tensor, directions: torch.Tensor, space: Space
) -> torch.Tensor:
    """Returns the samples' positions [S, 3] in the unit cube as differentiable functions of the rays."""
    ray_of = samples.ray_of.long()
    return space.to_unit(origins[ray_of] + samples.distances[:, None] * directions[ray_of])
