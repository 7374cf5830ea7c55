# SPDX-License-Identifier: Apache-2.0
"""Marching on CUDA."""

from __future__ import annotations

import torch

from recon.kernels.cuda.program import params_of, program_for
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.types import MarchOptions, RaySamples, Space
from recon.kernels.workspace import Workspace

_FARTHEST = 1e20


def march_cuda(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    occupancy: OccupancyGrid,
    options: MarchOptions,
    workspace: Workspace,
    jitter: torch.Tensor | None,
    starts: torch.Tensor | None,
) -> RaySamples:
    """As `recon.kernels.ray_march.op.march_into`, for arguments that were checked; waits for the number of samples."""
    rays, take, program = len(origins), workspace.take, program_for(origins.device)
    offsets, ends = take("march.offsets", (rays + 1,), torch.int32), take("march.ends", (rays,))
    params = params_of(
        "MarchParams",
        origins=origins, directions=directions, jitter=jitter, starts=starts, bits=occupancy.aligned_bits(),
        resolution=occupancy.resolution, rays=rays, max_samples=options.max_samples, step=options.step,
        near=options.near, far=min(options.far, _FARTHEST), offsets=offsets, ends=ends, **space_fields(space),
    )  # fmt: skip
    program.launch("march_count", rays, params)
    offsets[:1] = 0
    sums = offsets.cumsum(0)
    fitting = sums <= options.max_total
    served, total = torch.stack([fitting.sum() - 1, torch.where(fitting, sums, 0).amax()]).tolist()
    offsets.copy_(sums.clamp_max(total))
    positions = take("march.positions", (total, 3))
    distances, lengths = take("march.distances", (total,)), take("march.lengths", (total,))
    ray_of = take("march.ray of", (total,), torch.int32)
    params.served, params.positions, params.distances = served, positions.data_ptr(), distances.data_ptr()
    params.lengths, params.ray_of = lengths.data_ptr(), ray_of.data_ptr()
    program.launch("march_place", rays, params)
    return RaySamples(positions, distances, lengths, offsets, ray_of, ends, None if served == rays else served)


def march_backward_cuda(
    samples: RaySamples,
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    position_gradient: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `recon.kernels.ray_march.op.march_backward`, for arguments that were checked."""
    gradients = torch.empty_like(origins), torch.empty_like(origins)
    params = params_of(
        "MarchBackwardParams",
        origins=origins, directions=directions, distances=samples.distances, offsets=samples.offsets,
        position_gradient=position_gradient, origin_gradient=gradients[0], direction_gradient=gradients[1],
        rays=len(origins), **space_fields(space),
    )  # fmt: skip
    program_for(origins.device).launch("march_backward", len(origins), params)
    return gradients


def space_fields(space: Space) -> dict[str, float]:
    """Returns what the structs call the numbers of a space."""
    x, y, z = space.center
    return {
        "center_x": x, "center_y": y, "center_z": z, "half_size": space.half_size, "contracted": int(space.contracted)
    }  # fmt: skip
