# SPDX-License-Identifier: Apache-2.0
"""The ray caster in plain torch: every ray against every triangle."""

from __future__ import annotations

import torch

from recon.kernels.raycast.op import RayHits, TriangleBvh

RAYS_AT_ONCE = 1 << 21


def cast_rays_reference(
    bvh: TriangleBvh,
    origins: torch.Tensor,
    directions: torch.Tensor,
    min_distance: float = 0.0,
    max_distance: float = float("inf"),
) -> RayHits:
    """As `recon.kernels.raycast.op.cast_rays`, in the rays' own precision; always gives the nearest hit."""
    count, triangle_count = origins.shape[0], max(len(bvh.triangles), 1)
    chunk = max(1, RAYS_AT_ONCE // triangle_count)
    parts = [
        _nearest(bvh, origins[i : i + chunk], directions[i : i + chunk], min_distance, max_distance)
        for i in range(0, max(count, 1), chunk)
    ]
    return RayHits(
        torch.cat([part.distances for part in parts]),
        torch.cat([part.triangles for part in parts]),
        torch.cat([part.barycentrics for part in parts]),
    )


def _nearest(
    bvh: TriangleBvh, origins: torch.Tensor, directions: torch.Tensor, min_distance: float, max_distance: float
) -> RayHits:
    count = origins.shape[0]
    if len(bvh.triangles) == 0 or count == 0:
        nothing = torch.full((count,), -1, dtype=torch.int32)
        return RayHits(origins.new_full((count,), torch.inf), nothing, origins.new_zeros((count, 2)))
    corners = bvh.vertices.to(origins.dtype)[bvh.triangles.long()]  # [T, 3 corners, 3]
    first = corners[:, 0]
    edge1, edge2 = corners[:, 1] - first, corners[:, 2] - first
    p = torch.linalg.cross(directions[:, None], edge2[None])  # [R, T, 3]
    determinant = (edge1 * p).sum(-1)
    s = origins[:, None] - first
    q = torch.linalg.cross(s, edge1[None].expand_as(s))
    u = (s * p).sum(-1) / determinant
    v = (directions[:, None] * q).sum(-1) / determinant
    distance = (edge2 * q).sum(-1) / determinant
    slack = 2e-6
    hit = (u >= -slack) & (v >= -slack) & (u + v <= 1 + slack)
    hit &= (distance > min_distance) & (distance < max_distance)
    distance = torch.where(hit, distance, torch.inf)
    nearest, triangle = distance.min(1)
    found = torch.isfinite(nearest)
    row = torch.arange(count)
    barycentrics = torch.stack([u[row, triangle], v[row, triangle]], -1)
    return RayHits(
        nearest,
        torch.where(found, triangle, -1).to(torch.int32),
        torch.where(found[:, None], barycentrics, torch.zeros_like(barycentrics)),
    )
