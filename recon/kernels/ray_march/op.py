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

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.types import MarchOptions, RaySamples, Space
from recon.kernels.workspace import Workspace

__all__ = ["MarchOptions", "RaySamples", "Space", "march", "march_backward", "march_into"]


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
    for name, given in (("jitter", jitter), ("starts", starts)):
        if given is not None:
            check_tensor("march", name, given, (rays,))
    resolve_backend(backend, origins.device, ("reference",))
    return march_reference(origins, directions, space, occupancy, options, jitter, starts)


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
    resolve_backend(backend, origins.device, ("reference",))
    return march_backward_reference(samples, origins, directions, space, position_gradient)


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
