# SPDX-License-Identifier: Apache-2.0
"""Samples along rays, where space is occupied.

A ray's samples stand on a lattice of distances that depends on the ray alone: spaced by `step` half sizes in the inner
region, and in a contracted space by m² times that beyond it (see `recon.kernels.ray_march.types`).  It begins at
`near`, in a bounded space where the ray enters if that is later.  A lattice point becomes a sample if its cell of the
occupancy grid is occupied.  So the samples do not depend on how empty space is skipped, on what else is marched, or on
the number of threads, and marching in portions gives the samples of marching at once.

Source: Müller et al., "Instant neural graphics primitives", 2022, appendix E; the spacing follows the contraction of
Barron et al., "Mip-NeRF 360", 2022.
"""

from __future__ import annotations

from typing import Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.types import MarchOptions, RaySamples, Space
from recon.kernels.workspace import Workspace

__all__ = ["MarchOptions", "RaySamples", "Space", "march", "march_backward", "march_into"]

_MOST_LANES = 16
_FARTHEST = 1e20


def march(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    occupancy: OccupancyGrid,
    options: MarchOptions,
    jitter: torch.Tensor | None = None,
    starts: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> RaySamples:
    """Returns the samples of R rays.

    Args:
        origins: [R, 3] float32 in the world.
        directions: [R, 3] float32, of unit length.  Rays with numbers that are not finite, no direction, or an origin
            further than `MOST_DISTANT` half sizes from the centre get no samples.
        space: what the unit cube is.
        occupancy: which of its cells count.
        options: spacing and limits.
        jitter: [R] float32 in 0..1, where in its interval a ray's samples stand; None for the middle.
        starts: [R] float32, the distance where marching begins: what `RaySamples.ends` said before.  None for near;
            a ray whose start is infinite gets no samples.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    workspace = Workspace(origins.device)
    return march_into(origins, directions, space, occupancy, options, workspace, jitter, starts, backend)


def march_into(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    occupancy: OccupancyGrid,
    options: MarchOptions,
    workspace: Workspace,
    jitter: torch.Tensor | None = None,
    starts: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> RaySamples:
    """As `march`; the samples are in buffers of the workspace whose names begin with "march"."""
    from recon.kernels.ray_march.reference import march_reference

    rays = origins.shape[0] if origins.ndim else 0
    origins, directions = _checked_rays("march", origins, directions, rays)
    jitter, starts = (
        None if given is None else check_tensor("march", name, given.detach(), (rays,))
        for name, given in (("jitter", jitter), ("starts", starts))
    )
    resolved = resolve_backend(backend, origins.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        return march_reference(origins, directions, space, occupancy, options, jitter, starts)
    if resolved == "cuda":
        from recon.kernels.ray_march.cuda import march_cuda

        return march_cuda(origins, directions, space, occupancy, options, workspace, jitter, starts)
    return _march_cpu(origins, directions, space, occupancy, options, workspace, jitter, starts)


def _march_cpu(
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    occupancy: OccupancyGrid,
    options: MarchOptions,
    workspace: Workspace,
    jitter: torch.Tensor | None,
    starts: torch.Tensor | None,
) -> RaySamples:
    rays, module = len(origins), native()
    params, take = module.MarchParams(), workspace.take
    params.origins, params.directions = origins.data_ptr(), directions.data_ptr()
    if jitter is not None:
        params.jitter = jitter.data_ptr()
    if starts is not None:
        params.starts = starts.data_ptr()
    bits = occupancy.aligned_bits()
    params.bits, params.resolution = bits.data_ptr(), occupancy.resolution
    params.rays, params.max_total, params.max_samples = rays, options.max_total, options.max_samples
    params.step, params.near, params.far = options.step, options.near, min(options.far, _FARTHEST)
    _assign_space(params, space)
    threads = module.max_threads()
    # Of the rows, which are never cleared, the system provides what is written to.
    row = options.max_total + options.max_samples + _MOST_LANES
    offsets, ends = take("march.offsets", (rays + 1,), torch.int32), take("march.ends", (rays,))
    params.arena = take("march.arena", (threads, row)).data_ptr()
    params.places = take("march.places", (rays,), torch.int64).data_ptr()
    params.offsets, params.ends, params.arena_row, params.threads = offsets.data_ptr(), ends.data_ptr(), row, threads
    module.march_count(params)
    total, served = params.total, params.served
    positions = take("march.positions", (total, 3))
    distances, lengths = take("march.distances", (total,)), take("march.lengths", (total,))
    ray_of = take("march.ray of", (total,), torch.int32)
    params.positions, params.distances = positions.data_ptr(), distances.data_ptr()
    params.lengths, params.ray_of = lengths.data_ptr(), ray_of.data_ptr()
    module.march_place(params)
    return RaySamples(positions, distances, lengths, offsets, ray_of, ends, None if served == rays else served)


def _assign_space(params: Any, space: Space) -> None:
    params.center_x, params.center_y, params.center_z = space.center
    params.half_size, params.contracted = space.half_size, int(space.contracted)


def march_backward(
    samples: RaySamples,
    origins: torch.Tensor,
    directions: torch.Tensor,
    space: Space,
    position_gradient: torch.Tensor,
    backend: Backend = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients [R, 3] by the rays' origins and directions; distances and lengths count as constants.

    Args:
        samples: of these rays.
        origins, directions, space: what they were made of.
        position_gradient: [S, 3] float32 by the positions in the unit cube.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    from recon.kernels.ray_march.reference import march_backward_reference

    origins, directions = _checked_rays("march_backward", origins, directions, len(samples.offsets) - 1)
    shape = (len(samples.distances), 3)
    position_gradient = check_tensor("march_backward", "position_gradient", position_gradient, shape)
    resolved = resolve_backend(backend, origins.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        return march_backward_reference(samples, origins, directions, space, position_gradient)
    if resolved == "cuda":
        from recon.kernels.ray_march.cuda import march_backward_cuda

        return march_backward_cuda(samples, origins, directions, space, position_gradient)
    gradients = torch.empty_like(origins), torch.empty_like(origins)
    module = native()
    params = module.MarchBackwardParams()
    params.origins, params.directions = origins.data_ptr(), directions.data_ptr()
    params.distances, params.offsets = samples.distances.data_ptr(), samples.offsets.data_ptr()
    params.position_gradient, params.rays = position_gradient.data_ptr(), len(origins)
    params.origin_gradient, params.direction_gradient = gradients[0].data_ptr(), gradients[1].data_ptr()
    _assign_space(params, space)
    module.march_backward(params)
    return gradients


def _checked_rays(
    operation: str, origins: torch.Tensor, directions: torch.Tensor, rays: int
) -> tuple[torch.Tensor, torch.Tensor]:
    origins = check_tensor(operation, "origins", origins.detach(), (rays, 3))
    directions = check_tensor(operation, "directions", directions.detach(), (rays, 3))
    if origins.device != directions.device:
        raise ReconError(
            f"calling {operation}", f"origins are on {origins.device}, directions on {directions.device}", "one device"
        )
    return origins, directions
