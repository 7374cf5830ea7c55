# SPDX-License-Identifier: Apache-2.0
"""Poisson reconstruction through open3d: closes what no depth map covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recon.errors import ReconError
from recon.surface.clean import transfer_colors
from recon.surface.mesh import Mesh

TRIMMED_SHARE = 0.02
"""Share of the vertices with the least support that are cut off: Poisson closes a surface far beyond its points."""


def require_open3d() -> None:
    """Checks that open3d can be imported, before any long work is done.

    Raises:
        ReconError: it is not installed.
    """
    try:
        import open3d  # noqa: F401
    except ImportError as error:
        raise ReconError(
            "making a mesh by Poisson reconstruction",
            f"open3d cannot be imported ({error})",
            "the extra `mesh`",
            "pip install recon[mesh]  (or use the method tsdf)",
        ) from error


def poisson_mesh(fused: Mesh, depth: int) -> Mesh:
    """Returns a closed surface through a fused mesh's vertices (Kazhdan and Hoppe 2013), with its colours.

    Args:
        fused: dense mesh with normals.
        depth: of the octree.

    Raises:
        ReconError: open3d is missing.
    """
    require_open3d()
    import open3d

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(fused.vertices))
    cloud.normals = open3d.utility.Vector3dVector(fused.vertex_normals().astype(np.float64))
    # One thread, because open3d's result depends on their number.
    found, support = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=1)
    support = np.asarray(support)
    found.remove_vertices_by_mask(support < np.quantile(support, TRIMMED_SHARE))
    mesh = Mesh(np.asarray(found.vertices, np.float64), np.asarray(found.triangles, np.int32))
    inside = ((mesh.vertices >= fused.vertices.min(0)) & (mesh.vertices <= fused.vertices.max(0))).all(1)
    mesh = mesh.keep_faces(inside[mesh.faces].all(1))
    if fused.colors is not None and len(mesh.vertices):
        mesh = replace(mesh, colors=transfer_colors(fused, mesh.vertices))
    return replace(mesh, normals=mesh.vertex_normals())
