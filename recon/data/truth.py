# SPDX-License-Identifier: Apache-2.0
"""The truth in forms that tests and benchmarks need: meshes, visibility, and sparse points without SfM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import atomic_path
from recon.scene import SparsePoints

if TYPE_CHECKING:
    from recon.data.capture import SyntheticCapture
    from recon.data.stage import Stage

FloatArray = npt.NDArray[np.floating]


def write_ply(path: Path, vertices: FloatArray, triangles: npt.NDArray[np.int64]) -> None:
    """Writes a binary PLY (float64 vertices, so that the truth loses nothing) of the vertices that triangles use."""
    used, index = np.unique(triangles.ravel(), return_inverse=True)
    faces = np.empty(len(triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = index.reshape(-1, 3)
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment metres, +Z up\n"
        f"element vertex {len(used)}\nproperty double x\nproperty double y\nproperty double z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(header.encode() + vertices[used].astype("<f8").tobytes() + faces.tobytes())


def seen_triangles(stage: Stage, triangles: npt.NDArray[np.int64], cameras: list[Camera]) -> npt.NDArray[np.int64]:
    """Returns for each of the triangles in how many photographs its middle is seen."""
    import torch

    from recon.kernels.raycast.op import cast_rays

    corners = stage.vertices[stage.triangles[triangles]]
    middles = corners.mean(1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    counts = np.zeros(len(triangles), np.int64)
    for camera in cameras:
        pixels, depths = camera.project(middles)
        inside = (depths > 0) & (pixels >= 0).all(1) & (pixels < (camera.width, camera.height)).all(1)
        towards = camera.center_in_world - middles
        candidates = np.flatnonzero(inside & ((towards * normals).sum(1) > 0))
        rays = -towards[candidates]
        origins = np.broadcast_to(camera.center_in_world, rays.shape)
        hits = cast_rays(
            stage.bvh,
            torch.from_numpy(origins.astype(np.float32)),
            torch.from_numpy(rays.astype(np.float32)),
            0.0,
            0.9995,
            any_hit=True,
        )
        counts[candidates[hits.triangles.numpy() < 0]] += 1
    return counts


def sparse_points(capture: SyntheticCapture, count: int, seed: int = 0) -> SparsePoints:
    """Draws points on what the photographs show, as SfM would find them, but exact.

    Args:
        capture: made with `maps`.
        count: how many points to draw.
        seed: which ones.

    Returns:
        `count` points with the colours of a photograph that sees them, 0 error, and the number of photographs in
        which they are seen (found by comparing depths).

    Raises:
        ReconError: the capture has no depth maps, or `count` is negative.
    """
    from PIL import Image

    frames = capture.scene.frames
    doing = f"drawing points on the surfaces of {capture.root}"
    if count < 0:
        raise ReconError(doing, f"{count} points were asked for", "0 or more")
    if not capture.config.maps:
        raise ReconError(doing, "it was made without depth maps", "maps", "make it with maps=True")
    rng = np.random.default_rng(seed)
    shares = np.bincount(rng.integers(0, len(frames), count), minlength=len(frames))
    positions, colors = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    depths = [np.load(frame.depth_path) for frame in frames if frame.depth_path is not None]
    for frame, depth, share in zip(frames, depths, shares):
        keep = depth > 0
        if frame.mask_path is not None:
            keep &= np.asarray(Image.open(frame.mask_path)) > 0
        rows, columns = np.nonzero(keep)
        chosen = rng.integers(0, len(rows), share) if len(rows) else np.zeros(0, int)
        row, column = rows[chosen], columns[chosen]
        rays = frame.camera.ray_directions_in_cam(np.stack([column + 0.5, row + 0.5], -1).reshape(-1, 2))
        pose = frame.camera.world_from_cam
        positions.append((rays * depth[row, column, None]) @ pose[:3, :3].T + pose[:3, 3])
        with Image.open(frame.image_path) as photo:
            colors.append(np.asarray(photo.convert("RGB"))[row, column])
    points = np.concatenate(positions).astype(np.float64)
    tracks = sum((_sees(f.camera, d, points) for f, d in zip(frames, depths)), np.zeros(len(points), np.int32))
    return SparsePoints(points, np.concatenate(colors), np.zeros(len(points), np.float32), tracks.astype(np.int32))


def _sees(camera: Camera, depth: npt.NDArray[np.float32], points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    pixels, z = camera.project(points)
    inside = (z > 0) & (pixels >= 0).all(1) & (pixels < (camera.width, camera.height)).all(1)
    column, row = np.where(inside[:, None], pixels, 0).astype(int).T
    return (inside & (np.abs(depth[row, column] - z) < 0.01 * z + 1e-3)).astype(np.int32)
