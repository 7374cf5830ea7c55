# SPDX-License-Identifier: Apache-2.0
"""Comparing recovered poses with true ones: they agree only up to a similarity, so that is fitted first.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.scene import Similarity

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PoseErrors:
    """How far aligned poses are from the true ones.

    Attributes:
        cameras: how many were compared.
        center_rms, center_median, center_max: distances of optical centres, in the true poses' unit.
        extent: largest distance of a true centre from their mean.
        rotation_mean_deg, rotation_max_deg: angles between the orientations, after the similarity of the centres.
        rotation_own_mean_deg: the same after the best rotation for the orientations alone.
    """

    cameras: int
    center_rms: float
    center_median: float
    center_max: float
    extent: float
    rotation_mean_deg: float
    rotation_max_deg: float
    rotation_own_mean_deg: float


def fit_similarity(source: FloatArray, target: FloatArray) -> Similarity:
    """Returns the similarity that maps `source` [N, 3] onto `target` [N, 3] with least squared error.

    Raises:
        ReconError: fewer than three points, or all in one place.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    doing = "fitting a similarity"
    if source.shape != target.shape or source.ndim != 2 or source.shape[1:] != (3,) or len(source) < 3:
        raise ReconError(doing, f"points {source.shape} and {target.shape}", "the same number, at least 3")
    mean_source, mean_target = source.mean(0), target.mean(0)
    centered_source, centered_target = source - mean_source, target - mean_target
    variance = (centered_source**2).sum() / len(source)
    if variance <= 0:
        raise ReconError(doing, "all source points coincide", "points that spread")
    u, singular, vt = np.linalg.svd(centered_target.T @ centered_source / len(source))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = float((singular * signs).sum() / variance)
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def transform_camera(camera: Camera, new_from_old: Similarity) -> Camera:
    """Returns `camera` as it stands in the new world."""
    return camera.with_pose(new_from_old.apply_to_pose(camera.cam_from_world))


def pose_errors(estimated: Mapping[str, Camera], true: Mapping[str, Camera]) -> PoseErrors:
    """Fits `estimated` to `true` by their centres (cameras matched by name) and measures what remains.

    Raises:
        ReconError: fewer than three common names.
    """
    names = sorted(set(estimated) & set(true))
    centers = np.array([estimated[name].center_in_world for name in names]).reshape(-1, 3)
    targets = np.array([true[name].center_in_world for name in names]).reshape(-1, 3)
    similarity = fit_similarity(centers, targets)
    distances = np.linalg.norm(similarity.apply(centers) - targets, axis=1)
    relative = [
        transform_camera(estimated[name], similarity).cam_from_world[:3, :3] @ true[name].cam_from_world[:3, :3].T
        for name in names
    ]
    angles = rotation_angles_deg(relative)
    in_world = sum(true[name].cam_from_world[:3, :3].T @ estimated[name].cam_from_world[:3, :3] for name in names)
    u, _, vt = np.linalg.svd(in_world)
    best = (u * [1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    own = rotation_angles_deg(
        [estimated[n].cam_from_world[:3, :3] @ best.T @ true[n].cam_from_world[:3, :3].T for n in names]
    )
    return PoseErrors(
        cameras=len(names),
        center_rms=float(np.sqrt((distances**2).mean())),
        center_median=float(np.median(distances)),
        center_max=float(distances.max()),
        extent=float(np.linalg.norm(targets - targets.mean(0), axis=1).max()),
        rotation_mean_deg=float(angles.mean()),
        rotation_max_deg=float(angles.max()),
        rotation_own_mean_deg=float(own.mean()),
    )


def rotation_angles_deg(rotations: Sequence[FloatArray]) -> FloatArray:
    """Returns the angles of rotation matrices in degrees, accurate for tiny ones too."""
    stacked = np.asarray(rotations, np.float64).reshape(-1, 3, 3)
    sine = 0.5 * np.linalg.norm(
        np.stack(
            [
                stacked[:, 2, 1] - stacked[:, 1, 2],
                stacked[:, 0, 2] - stacked[:, 2, 0],
                stacked[:, 1, 0] - stacked[:, 0, 1],
            ],
            -1,
        ),
        axis=-1,
    )
    cosine = 0.5 * (np.trace(stacked, axis1=1, axis2=2) - 1)
    return np.degrees(np.arctan2(sine, cosine))
