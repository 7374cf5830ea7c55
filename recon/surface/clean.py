# SPDX-License-Identifier: Apache-2.0
"""From a raw surface to one that people want: crumbs removed, simplified, colours kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.kernels.triangles.op import draw_triangles
from recon.surface.mesh import Mesh

TAUBIN_SHRINK, TAUBIN_GROW = 0.5, -0.53


def face_components(mesh: Mesh) -> npt.NDArray[np.int32]:
    """Returns the number of the connected piece that each face [F] belongs to; pieces share vertices, not places."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    if len(mesh.faces) == 0:
        return np.zeros(0, np.int32)
    rows = mesh.faces[:, [0, 1]].ravel()
    columns = mesh.faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (count, count))
    _, labels = connected_components(links, directed=False)
    return labels[mesh.faces[:, 0]].astype(np.int32)


def drop_small_components(mesh: Mesh, min_share: float) -> Mesh:
    """Returns the mesh without the pieces that have less than `min_share` of the largest one's area."""
    if len(mesh.faces) == 0 or min_share <= 0:
        return mesh
    labels = face_components(mesh)
    areas = np.bincount(labels, weights=mesh.face_areas)
    return mesh.keep_faces(np.asarray(areas >= min_share * areas.max())[labels])


def drop_unseen(mesh: Mesh, cameras: Sequence[Camera], margin: float) -> Mesh:
    """Returns the mesh without the faces that no camera sees: walls inside walls, and crumbs behind surfaces.

    A vertex is seen where it lies at most `margin` (world units) behind what a camera sees at its pixel; a face is
    seen with one of its vertices.
    """
    import torch

    seen = np.zeros(len(mesh.vertices), bool)
    vertices = torch.from_numpy(np.ascontiguousarray(mesh.vertices))
    faces = torch.from_numpy(np.ascontiguousarray(mesh.faces))
    for camera in cameras:
        hidden_by = draw_triangles(vertices, faces, camera, near=1e-3 * margin).depth.numpy()
        pending = np.flatnonzero(~seen)
        pixels, depth = camera.project(mesh.vertices[pending])
        inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < [camera.width, camera.height]).all(1)
        column, row = np.nan_to_num(pixels[inside]).astype(int).T
        front = hidden_by[row, column]
        seen[pending[inside]] = (front == 0) | (depth[inside] <= front + margin)
    return mesh.keep_faces(np.asarray(seen[mesh.faces].any(1)))


def smooth(mesh: Mesh, iterations: int) -> Mesh:
    """Returns the mesh with its noise smoothed away, without shrinking, and with normals of its own.

    Taubin, "A signal processing approach to fair surface design", 1995: each iteration moves every vertex towards the
    mean of its neighbours and then a little farther back.  Vertices on a border stay where they are.
    """
    if iterations <= 0 or len(mesh.faces) == 0:
        return mesh
    from scipy.sparse import coo_matrix, diags

    count = len(mesh.vertices)
    sides = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    directed = coo_matrix((np.ones(len(sides), np.float32), (sides[:, 0], sides[:, 1])), (count, count)).tocsr()
    links = directed + directed.T
    # A side with a triangle on one side only is walked in one direction only.
    border = np.unique((abs(directed - directed.T)).tocoo().coords[0])
    links.data[:] = 1.0
    neighbors = np.asarray(links.sum(1)).ravel()
    mean = diags(1 / np.maximum(neighbors, 1)) @ links
    free = np.ones((count, 1))
    free[border] = 0
    vertices = mesh.vertices - mesh.vertices.mean(0)
    for _ in range(iterations):
        for factor in (TAUBIN_SHRINK, TAUBIN_GROW):
            vertices = vertices + factor * free * (mean @ vertices - vertices)
    smoothed = replace(mesh, vertices=vertices + mesh.vertices.mean(0), normals=None)
    return replace(smoothed, normals=smoothed.vertex_normals())


def simplify(mesh: Mesh, max_faces: int) -> Mesh:
    """Returns the mesh with at most about `max_faces` triangles, with its colours and with normals of its own.

    Quadric edge collapses (Garland and Heckbert 1997) by fast-simplification, in coordinates of unit size, because
    its thresholds are absolute.
    """
    if max_faces <= 0 or len(mesh.faces) <= max_faces:
        return mesh
    import fast_simplification

    low, size = mesh.vertices.min(0), max(mesh.diagonal, 1e-300)
    points, faces = fast_simplification.simplify(
        (mesh.vertices - low) / size, mesh.faces.astype(np.int32), target_count=max_faces, agg=5.0
    )
    vertices = np.asarray(points, np.float64) * size + low
    slim = _without_degenerate(Mesh(vertices, np.ascontiguousarray(faces, np.int32).reshape(-1, 3)))
    colored = slim if mesh.colors is None else replace(slim, colors=transfer_colors(mesh, slim.vertices))
    return replace(colored, normals=colored.vertex_normals())


def transfer_colors(source: Mesh, points: npt.NDArray[np.float64], neighbors: int = 4) -> npt.NDArray[np.uint8]:
    """Returns the colours [P, 3] of `source` at points [P, 3]: its nearest vertices weighted by inverse distance."""
    from scipy.spatial import cKDTree

    assert source.colors is not None
    count = min(neighbors, len(source.vertices))
    distance, index = cKDTree(source.vertices).query(points, k=[*range(1, count + 1)])
    weight = 1 / np.maximum(distance, 1e-9 * max(source.diagonal, 1e-300))
    mixed = (source.colors[index].astype(np.float64) * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
    return (mixed + 0.5).clip(0, 255).astype(np.uint8)


def _without_degenerate(mesh: Mesh) -> Mesh:
    """Drops triangles without area or with a repeated corner."""
    a, b, c = mesh.faces.T
    return mesh.keep_faces((a != b) & (b != c) & (c != a) & (mesh.face_areas > 0))
