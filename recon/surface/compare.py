# SPDX-License-Identifier: Apache-2.0
"""How far a mesh is from the truth.

Definitions as in Knapitsch et al., "Tanks and Temples", 2017: accuracy is the distance from points of the mesh to the
true surface, completeness from points of the true surface to the mesh; precision and recall are the shares of each
below a threshold, and the F-score is their harmonic mean.  Points are sampled evenly by area; distances are to the
nearest point of a dense sampling of the other surface, refined to the nearest of the triangles found there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.surface.mesh import Mesh

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeshDistance:
    """Distances between a mesh and the truth, in world units.

    Attributes:
        accuracy_median, accuracy_mean: from the mesh to the truth.
        completeness_median, completeness_mean: from the truth to the mesh.
        thresholds: the distances that the shares below belong to.
        precision: share of the mesh within each threshold of the truth.
        recall: share of the truth within each threshold of the mesh (the completeness "at" a threshold).
        f_score: harmonic mean of the two.
    """

    accuracy_median: float
    accuracy_mean: float
    completeness_median: float
    completeness_mean: float
    thresholds: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f_score: tuple[float, ...]


def mesh_distance(
    mesh: Mesh,
    truth: Mesh,
    thresholds: tuple[float, ...],
    samples: int = 100_000,
    seed: int = 0,
    bounds: tuple[FloatArray, FloatArray] | None = None,
) -> MeshDistance:
    """Measures a mesh against the true surface.

    Args:
        mesh, truth: in one frame.
        thresholds: distances in world units for precision and recall.
        samples: points per surface.
        seed: of the sampling.
        bounds: low and high corner of a box; points outside are not counted on either side.

    Raises:
        ReconError: a mesh without area (inside the box).
    """
    generator = np.random.default_rng(seed)
    points, true_points = (
        _inside(sample_surface(surface, samples, generator).points, bounds) for surface in (mesh, truth)
    )
    for name, found in (("mesh", points), ("truth", true_points)):
        if len(found) == 0:
            raise ReconError("comparing two meshes", f"the {name} has no surface there", "surfaces that overlap")
    accuracy = distance_to_surface(points, truth, samples, seed + 1)
    completeness = distance_to_surface(true_points, mesh, samples, seed + 2)
    precision = [float((accuracy <= t).mean()) for t in thresholds]
    recall = [float((completeness <= t).mean()) for t in thresholds]
    return MeshDistance(
        float(np.median(accuracy)),
        float(accuracy.mean()),
        float(np.median(completeness)),
        float(completeness.mean()),
        tuple(thresholds),
        tuple(precision),
        tuple(recall),
        tuple(2 * p * r / (p + r) if p + r > 0 else 0.0 for p, r in zip(precision, recall)),
    )


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """Points [S, 3] on a mesh and the face [S] of each."""

    points: FloatArray
    face_ids: npt.NDArray[np.int64]


def sample_surface(mesh: Mesh, count: int, generator: np.random.Generator) -> SurfaceSamples:
    """Returns points spread evenly by area: stratified over the faces' running area, uniform within each face."""
    running = np.cumsum(mesh.face_areas)
    if len(running) == 0 or not running[-1] > 0:
        return SurfaceSamples(np.zeros((0, 3)), np.zeros(0, np.int64))
    targets = (np.arange(count) + generator.random(count)) / count * running[-1]
    faces = np.searchsorted(running, targets, side="right").clip(max=len(running) - 1)
    first, second = generator.random((2, count))
    root = np.sqrt(first)  # Osada et al. 2002: uniform in a triangle
    weights = np.stack([1 - root, root * (1 - second), root * second], 1)
    return SurfaceSamples(np.einsum("sk,skd->sd", weights, mesh.triangles[faces]), faces)


def distance_to_surface(points: FloatArray, mesh: Mesh, samples: int = 100_000, seed: int = 0) -> FloatArray:
    """Returns the distance [P] of points [P, 3] to a mesh.

    The candidates are the faces of the eight nearest among `samples` even points and all faces' centres; with
    samples denser than the distances that matter this is the exact distance.
    """
    from scipy.spatial import cKDTree

    even = sample_surface(mesh, samples, np.random.default_rng(seed))
    # Each face also offers its centre, so that small faces between the even points are found.
    candidates = np.concatenate([even.points, mesh.triangles.mean(1)])
    owners = np.concatenate([even.face_ids, np.arange(len(mesh.faces))])
    count = min(8, len(candidates))
    _, nearest = cKDTree(candidates).query(points, k=[*range(1, count + 1)])
    best = np.full(len(points), np.inf)
    triangles = mesh.triangles
    for column in range(count):
        best = np.minimum(best, _distance_to_triangles(points, triangles[owners[nearest[:, column]]]))
    return best


def _distance_to_triangles(points: FloatArray, triangles: FloatArray) -> FloatArray:
    """Distance of each point [P, 3] to its triangle [P, 3, 3]."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    normal = np.cross(b - a, c - a)
    length2 = (normal**2).sum(1)
    offset = ((points - a) * normal).sum(1)
    flat = points - normal * (offset / np.where(length2 > 0, length2, 1))[:, None]
    inside = length2 > 0
    best = np.full(len(points), np.inf)
    for start, stop in ((a, b), (b, c), (c, a)):
        side = stop - start
        inside &= (np.cross(side, flat - start) * normal).sum(1) >= 0
        side2 = (side**2).sum(1)
        along = (((points - start) * side).sum(1) / np.where(side2 > 0, side2, 1)).clip(0, 1)
        best = np.minimum(best, np.linalg.norm(points - start - along[:, None] * side, axis=1))
    return np.where(inside, np.abs(offset) / np.sqrt(np.where(length2 > 0, length2, 1)), best)


def _inside(points: FloatArray, bounds: tuple[FloatArray, FloatArray] | None) -> FloatArray:
    if bounds is None:
        return points
    return points[((points >= bounds[0]) & (points <= bounds[1])).all(1)]
