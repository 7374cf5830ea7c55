# SPDX-License-Identifier: Apache-2.0
"""Samples along rays, drawn from where an occupancy grid says that light ends.

Each ray has the same number K of intervals.  The grid's densities, one lookup for each of P places along the ray, give
a first estimate of where the light of the ray comes from: the weight of place i is

    w_i = T_i − T_{i+1},   T_i = exp(−Σ_{j<i} density_j · length_j),

lengths in cells, and then the greatest of itself and its two neighbours', since a cell's density says little of where
in it, or beside it, the surface is.  Weights are normalised and an even part is added.  The intervals' edges are drawn
from them by the inverse of their distribution, at evenly spaced shares that are shifted by the ray's jitter, so that
intervals are short at surfaces and long in fog and in what is behind a surface.  What is believed to be empty is
covered too, by long intervals; only cells that can never be occupied (`mark_unseen`) get next to nothing.

Densities stored in the grid are optical depths along a side of a cell.

Source: importance sampling of Mildenhall et al., "NeRF", 2020, section 5.2, with the resampling of Barron et al.,
"Mip-NeRF 360", 2022, section 3 and its widening after "Mip-NeRF", 2021, equation 18; a grid takes the place of the
coarse network.
"""

from __future__ import annotations

import functools

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.types import RaySamples, Space
from recon.kernels.ray_proposal.types import ProposalOptions
from recon.kernels.workspace import Workspace

__all__ = ["ProposalOptions", "propose", "propose_into"]

_MOST_SAMPLES = 1 << 30


def propose(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    grid: OccupancyGrid,
    options: ProposalOptions,
    jitter: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> RaySamples:
    """Returns the samples of R rays: the middles of K intervals each.

    Args:
        origins: [R, 3] float32 in the world.
        directions: [R, 3] float32, of unit length.  The samples of rays with numbers that are not finite, no direction,
            an origin further than `MOST_DISTANT` half sizes from the centre, or that miss a bounded space stand at
            `near` and in the middle of the unit cube, and their lengths are 0.
        space: what the unit cube is.
        grid: its densities are optical depths along a side of each cell.
        options: how intervals are drawn.
        jitter: [R] float32 in 0..1, which of the possible sets of intervals a ray gets; None for 1/2.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes, types or devices differ, or more than 2^30 samples.
    """
    return propose_into(origins, directions, space, grid, options, Workspace(origins.device), jitter, backend)


def propose_into(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    grid: OccupancyGrid,
    options: ProposalOptions,
    workspace: Workspace,
    jitter: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> RaySamples:
    """As `propose`; the samples are in buffers of the workspace whose names begin with "propose"."""
    rays = origins.shape[0] if origins.ndim else 0
    origins = check_tensor("propose", "origins", origins.detach(), (rays, 3))
    directions = check_tensor("propose", "directions", directions.detach(), (rays, 3))
    if jitter is not None:
        jitter = check_tensor("propose", "jitter", jitter.detach(), (rays,))
    devices = {tensor.device for tensor in (origins, directions, grid.densities, jitter) if tensor is not None}
    if len(devices) > 1:
        found = " and ".join(sorted(map(str, devices)))
        raise ReconError("calling propose", f"rays and grid are on {found}", "one device")
    total = rays * options.intervals
    if total > _MOST_SAMPLES:
        raise ReconError("calling propose", f"{rays} rays have {total} samples", "at most 2^30", "propose in portions")
    resolved = resolve_backend(backend, origins.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        from recon.kernels.ray_proposal.reference import propose_reference

        return propose_reference(origins, directions, space, grid, options, jitter)
    take = workspace.take
    samples = RaySamples(
        take("propose.positions", (total, 3)),
        take("propose.distances", (total,)),
        take("propose.lengths", (total,)),
        take("propose.offsets", (rays + 1,), torch.int32),
        take("propose.ray of", (total,), torch.int32),
        take("propose.ends", (rays,)),
    )
    fields = {
        "origins": origins, "directions": directions, "jitter": jitter, "densities": grid.densities,
        "table": _table(options, space, origins.device), "rays": rays, "places": options.places,
        "intervals": options.intervals, "resolution": grid.resolution, "contracted": int(space.contracted),
        "center_x": space.center[0], "center_y": space.center[1], "center_z": space.center[2],
        "half_size": space.half_size, "near": options.near, "far": options.farthest(space), "even": options.even,
        "unknown_depth": options.unknown_depth, "first": options.share_first, "scale": options.share_scale,
        "positions": samples.positions, "distances": samples.distances, "lengths": samples.lengths,
        "offsets": samples.offsets, "ray_of": samples.ray_of, "ends": samples.ends,
    }  # fmt: skip
    if resolved == "cuda":
        from recon.kernels.ray_proposal.cuda import propose_cuda

        propose_cuda(origins.device, fields)
        return samples
    module = native()
    params = module.ProposalParams()
    for name, value in fields.items():
        if value is not None:
            setattr(params, name, value.data_ptr() if isinstance(value, torch.Tensor) else value)
    module.propose(params)
    return samples


@functools.lru_cache(maxsize=64)
def _table(options: ProposalOptions, space: Space, device: torch.device) -> torch.Tensor:
    return torch.tensor(options.table(space), dtype=torch.float32, device=device)
