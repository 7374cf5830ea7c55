# SPDX-License-Identifier: Apache-2.0
"""The triangle rasterizer in plain torch, every pixel against every triangle: what the kernel must equal."""

from __future__ import annotations

import torch

from recon.cameras import Camera
from recon.kernels.triangles.op import Fragments


def draw_triangles_reference(
    vertices_in_cam: torch.Tensor, faces: torch.Tensor, camera: Camera, near: float, cull: bool
) -> Fragments:
    """See `recon.kernels.triangles.op.draw_triangles`; the depth and the weights are differentiable to the vertices."""
    rays = torch.from_numpy(camera.ray_directions_in_cam(camera.pixel_grid())).to(vertices_in_cam.dtype)
    shape = rays.shape[:2]
    ids = torch.full(shape, -1, dtype=torch.int32)
    depth = torch.zeros(shape, dtype=vertices_in_cam.dtype)
    barycentric = torch.zeros(*shape, 2, dtype=vertices_in_cam.dtype)
    for face, (a, b, c) in enumerate(vertices_in_cam[faces.long()].unbind(0) if len(faces) else ()):
        edges = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)])
        determinant = a @ edges[0]
        if not torch.isfinite(determinant) or determinant == 0 or (cull and determinant > 0):
            continue
        weights = rays @ edges.T * determinant.sign()
        total = weights.sum(-1)
        hit = determinant.abs() / torch.where(total > 0, total, torch.ones_like(total))
        seen = (weights >= 0).all(-1) & (total > 0) & (hit >= near) & ((ids < 0) | (hit < depth))
        ids = torch.where(seen, face, ids)
        depth = torch.where(seen, hit, depth)
        share = weights[..., 1:] / torch.where(total > 0, total, torch.ones_like(total))[..., None]
        barycentric = torch.where(seen[..., None], share, barycentric)
    return Fragments(ids, depth.float(), barycentric.float())
