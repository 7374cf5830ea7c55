# SPDX-License-Identifier: Apache-2.0
"""Which triangle each pixel of a picture sees: a z-buffer without OpenGL.

Source: Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native


@dataclass(frozen=True, eq=False)
class Fragments:
    """What the pixels see.

    Attributes:
        face_ids: [H, W] int32; -1 where nothing is seen.
        depth: [H, W] float32 along z; 0 where nothing is seen.
        barycentric: [H, W, 2] float32, perspective-correct weights of the face's second and third vertex.
    """

    face_ids: torch.Tensor
    depth: torch.Tensor
    barycentric: torch.Tensor

    def weights(self) -> torch.Tensor:
        """[H, W, 3] weights of the three vertices."""
        return torch.cat([1 - self.barycentric.sum(-1, keepdim=True), self.barycentric], -1)


def draw_triangles(
    vertices_in_world: torch.Tensor,
    faces: torch.Tensor,
    camera: Camera,
    near: float = 1e-3,
    cull: bool = False,
    backend: Backend = "auto",
) -> Fragments:
    """Rasterizes triangles at the pixel centres; the nearest wins, of equals the first.

    Args:
        vertices_in_world: [V, 3] float64.
        faces: [T, 3] int32, counter-clockwise as seen from outside.
        camera: PINHOLE.
        near: depth along z below which nothing is seen, in world units.
        cull: leave out triangles that are seen from behind.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: wrong shapes or types, faces that name vertices that do not exist, or a camera with a lens.
    """
    from recon.kernels.triangles.reference import draw_triangles_reference

    doing = "calling draw_triangles"
    vertices = check_tensor("draw_triangles", "vertices_in_world", vertices_in_world, (None, 3), torch.float64)
    faces = check_tensor("draw_triangles", "faces", faces, (None, 3), torch.int32)
    if not camera.is_pinhole:
        raise ReconError(doing, f"the camera is {camera.model.value}", "PINHOLE (undistort first)")
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= len(vertices)):
        raise ReconError(doing, f"faces name vertices up to {int(faces.max())}", f"0 to {len(vertices) - 1}")
    pose = torch.tensor(camera.cam_from_world)
    in_camera = (vertices @ pose[:3, :3].T + pose[:3, 3]).contiguous()
    if resolve_backend(backend, vertices.device, ("cpu", "reference")) == "reference":
        return draw_triangles_reference(in_camera, faces, camera, near, cull)
    bounds = torch.empty(len(faces), 4, dtype=torch.int32)
    fragments = Fragments(
        torch.empty(camera.height, camera.width, dtype=torch.int32),
        torch.empty(camera.height, camera.width),
        torch.empty(camera.height, camera.width, 2),
    )
    module = native()
    params = module.TrianglesParams()
    params.vertices, params.faces, params.face_count = in_camera.data_ptr(), faces.data_ptr(), len(faces)
    params.width, params.height = camera.width, camera.height
    params.fx, params.fy, params.cx, params.cy = camera.fx, camera.fy, camera.cx, camera.cy
    params.near, params.cull = near, int(cull)
    params.bounds, params.face_ids = bounds.data_ptr(), fragments.face_ids.data_ptr()
    params.depth, params.barycentric = fragments.depth.data_ptr(), fragments.barycentric.data_ptr()
    module.triangles_draw(params)
    return fragments
