# SPDX-License-Identifier: Apache-2.0
"""Rays against a triangle mesh: the nearest hit, or whether anything is in the way.

Sources: Möller and Trumbore, "Fast, Minimum Storage Ray/Triangle Intersection", JGT 1997; Wald, "On fast Construction
of SAH-based Bounding Volume Hierarchies", RT 2007.  Both sides of a triangle are hit.  Without gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native


@dataclass(frozen=True, eq=False)
class TriangleBvh:
    """A mesh and the bounding volume hierarchy over it; made by `build_bvh`.

    Attributes:
        vertices: [V, 3] float32.
        triangles: [T, 3] int32.
        nodes: [M, 8] the hierarchy as the kernel lays it out (`BvhNode` in params.h).
        corners: [T, 9] float32, a corner and two edges of each triangle in leaf order.
        order: [T] int32, the triangle at each leaf place.
    """

    vertices: torch.Tensor
    triangles: torch.Tensor
    nodes: torch.Tensor
    corners: torch.Tensor
    order: torch.Tensor


@dataclass(frozen=True, eq=False)
class RayHits:
    """What rays met.

    Attributes:
        distances: [R] float32 in lengths of the direction (so depth along z for directions with z = 1); infinity
            where nothing was met.
        triangles: [R] int32, -1 where nothing was met.
        barycentrics: [R, 2] float32, weights of the triangle's second and third corner; 0 where nothing was met.
    """

    distances: torch.Tensor
    triangles: torch.Tensor
    barycentrics: torch.Tensor


def build_bvh(vertices: torch.Tensor, triangles: torch.Tensor) -> TriangleBvh:
    """Builds the hierarchy over a mesh; the same mesh gives the same hierarchy.

    Args:
        vertices: [V, 3] float32, finite.
        triangles: [T, 3] int32 indices of vertices; T may be 0.

    Raises:
        ReconError: a shape or type is wrong, a vertex is not finite or an index points to no vertex.
    """
    operation = "build_bvh"
    vertices = check_tensor(operation, "vertices", vertices, (None, 3))
    triangles = check_tensor(operation, "triangles", triangles, (None, 3), torch.int32)
    if not bool(torch.isfinite(vertices).all()):
        raise ReconError(f"calling {operation}", "some vertices are not finite", "finite coordinates")
    if triangles.numel() and (int(triangles.min()) < 0 or int(triangles.max()) >= len(vertices)):
        raise ReconError(
            f"calling {operation}",
            f"triangles use the vertices {int(triangles.min())} to {int(triangles.max())}",
            f"indices from 0 to {len(vertices) - 1}",
        )
    count = len(triangles)
    nodes = torch.zeros((max(2 * count, 1), 8), dtype=torch.float32)
    corners = torch.zeros((count, 9), dtype=torch.float32)
    order = torch.zeros(count, dtype=torch.int32)
    module = native()
    params = module.BvhParams()
    params.vertices, params.triangles = vertices.data_ptr(), triangles.data_ptr()
    params.nodes, params.corners, params.order = nodes.data_ptr(), corners.data_ptr(), order.data_ptr()
    params.triangle_count = count
    module.raycast_build(params)
    return TriangleBvh(vertices, triangles, nodes[: max(params.node_count, 1)].clone(), corners, order)


def cast_rays(
    bvh: TriangleBvh,
    origins: torch.Tensor,
    directions: torch.Tensor,
    min_distance: float = 0.0,
    max_distance: float = float("inf"),
    any_hit: bool = False,
    backend: Backend = "auto",
) -> RayHits:
    """Finds what each ray meets first.  Neighbouring rays should be neighbours in space: they are walked together.

    Args:
        bvh: the mesh.
        origins, directions: [R, 3] float32; a direction may have any length but zero.
        min_distance, max_distance: hits strictly between them count, in lengths of the direction.
        any_hit: take any hit in place of the nearest, which is faster and enough for shadows.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: a shape or type is wrong.
    """
    from recon.kernels.raycast.reference import cast_rays_reference

    if resolve_backend(backend, origins.device, ("cpu", "reference")) == "reference":
        return cast_rays_reference(bvh, origins, directions, min_distance, max_distance)
    origins = check_tensor("cast_rays", "origins", origins, (None, 3))
    directions = check_tensor("cast_rays", "directions", directions, (origins.shape[0], 3))
    count = origins.shape[0]
    hits = RayHits(torch.empty(count), torch.empty(count, dtype=torch.int32), torch.empty((count, 2)))
    module = native()
    params = module.RaycastParams()
    params.nodes, params.corners, params.order = bvh.nodes.data_ptr(), bvh.corners.data_ptr(), bvh.order.data_ptr()
    params.origins, params.directions = origins.data_ptr(), directions.data_ptr()
    params.distances, params.hits = hits.distances.data_ptr(), hits.triangles.data_ptr()
    params.barycentrics = hits.barycentrics.data_ptr()
    params.ray_count, params.triangle_count = count, len(bvh.triangles)
    params.min_distance, params.max_distance = min_distance, max_distance
    params.any_hit = int(any_hit)
    module.raycast(params)
    return hits
