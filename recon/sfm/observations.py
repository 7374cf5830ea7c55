# SPDX-License-Identifier: Apache-2.0
"""A COLMAP model as numpy arrays, and conversions of its cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera, CameraModel
from recon.errors import ReconError
from recon.sfm.contracts import Features, PairGeometry

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Observations:
    """Every observation of a 3D point by a posed photo, and the points.

    Attributes:
        photo: [O] photo index.
        feature: [O] feature index within the photo.
        point: [O] row of `positions`.
        errors_px: [O] reprojection errors; infinite behind the camera.
        positions: [N, 3].
        point_ids: [N] COLMAP's numbers, ascending.
    """

    photo: IntArray
    feature: IntArray
    point: IntArray
    errors_px: FloatArray
    positions: FloatArray
    point_ids: IntArray

    def track_lengths(self) -> IntArray:
        """Returns for each point how many observations it has, [N]."""
        return np.bincount(self.point, minlength=len(self.positions))

    def point_errors(self) -> FloatArray:
        """Returns the mean error of each point, [N]."""
        total = np.bincount(self.point, weights=self.errors_px, minlength=len(self.positions))
        return total / np.maximum(self.track_lengths(), 1)


def read_observations(model: Any, features: Sequence[Features]) -> Observations:
    """Returns the observations of a `pycolmap.Reconstruction` whose images are numbered photo index + 1."""
    ids = np.array(sorted(model.point3D_ids()), np.int64)
    positions = np.zeros((len(ids), 3))
    photo: list[int] = []
    feature: list[int] = []
    lengths = np.zeros(len(ids), np.int64)
    for row, point_id in enumerate(ids):
        point = model.point3D(int(point_id))
        positions[row] = point.xyz
        elements = point.track.elements
        lengths[row] = len(elements)
        for element in elements:
            photo.append(element.image_id - 1)
            feature.append(element.point2D_idx)
    photos, rows = np.array(photo, np.int64), np.repeat(np.arange(len(ids)), lengths)
    indices = np.array(feature, np.int64)
    errors = np.full(len(photos), np.inf)
    for image_id in posed_image_ids(model):
        mine = np.nonzero(photos == image_id - 1)[0]
        camera = core_camera(model, image_id)
        pixels, _ = camera.project(positions[rows[mine]])
        offsets = pixels - features[image_id - 1].keypoints[indices[mine], :2]
        errors[mine] = np.nan_to_num(np.linalg.norm(offsets, axis=1), nan=np.inf)
    return Observations(photos, indices, rows, errors, positions, ids)


def posed_image_ids(model: Any) -> list[int]:
    """Returns COLMAP's numbers of the posed photos, ascending."""
    return sorted(model.reg_image_ids())


def core_camera(model: Any, image_id: int) -> Camera:
    """Returns the posed camera of one photo."""
    image = model.image(image_id)
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().matrix()
    return lens_of(model.camera(image.camera_id)).with_pose(pose)


def lens_of(camera: Any) -> Camera:
    """Returns a `pycolmap.Camera` as ours, unposed; its simpler models become the general ones.

    Raises:
        ReconError: a model that ours cannot express.
    """
    name, p = camera.model_name, [float(value) for value in camera.params]
    width, height = int(camera.width), int(camera.height)
    perspective, fisheye = CameraModel.OPENCV, CameraModel.OPENCV_FISHEYE
    table: dict[str, tuple[CameraModel, Any]] = {
        "SIMPLE_PINHOLE": (CameraModel.PINHOLE, lambda: (p[0], p[0], p[1], p[2], ())),
        "PINHOLE": (CameraModel.PINHOLE, lambda: (*p, ())),
        "SIMPLE_RADIAL": (perspective, lambda: (p[0], p[0], p[1], p[2], (p[3], 0, 0, 0))),
        "RADIAL": (perspective, lambda: (p[0], p[0], p[1], p[2], (p[3], p[4], 0, 0))),
        "OPENCV": (perspective, lambda: (*p[:4], tuple(p[4:]))),
        "FULL_OPENCV": (CameraModel.FULL_OPENCV, lambda: (*p[:4], tuple(p[4:]))),
        "OPENCV_FISHEYE": (fisheye, lambda: (*p[:4], tuple(p[4:]))),
        "SIMPLE_RADIAL_FISHEYE": (fisheye, lambda: (p[0], p[0], p[1], p[2], (p[3], 0, 0, 0))),
        "RADIAL_FISHEYE": (fisheye, lambda: (p[0], p[0], p[1], p[2], (p[3], p[4], 0, 0))),
        "SIMPLE_FISHEYE": (fisheye, lambda: (p[0], p[0], p[1], p[2], (0, 0, 0, 0))),
        "FISHEYE": (fisheye, lambda: (*p[:4], (0, 0, 0, 0))),
    }
    if name == "EQUIRECTANGULAR":
        focal = (width / (2 * np.pi), height / np.pi)
        return Camera(width, height, *focal, width / 2, height / 2, CameraModel.EQUIRECTANGULAR)
    if name not in table:
        raise ReconError("reading a camera", f"the model {name}", f"one of {', '.join(sorted(table))}")
    kind, values = table[name]
    fx, fy, cx, cy, distortion = values()
    return Camera(width, height, fx, fy, cx, cy, kind, distortion)


def pair_agreement(
    model: Any, features: Sequence[Features], geometries: Sequence[PairGeometry], limit_px: float
) -> FloatArray:
    """Returns for each verified pair the share of its matches whose epipolar error under the model's poses is small.

    NaN where one of the two photos is not posed.  The error is Sampson's, taken between unit-depth coordinates and
    scaled by the mean focal length.
    """
    cameras = {image_id - 1: core_camera(model, image_id) for image_id in posed_image_ids(model)}
    rays: dict[int, FloatArray] = {
        index: camera.ray_directions_in_cam(features[index].keypoints[:, :2].astype(np.float64))
        for index, camera in cameras.items()
    }
    shares = np.full(len(geometries), np.nan)
    for row, geometry in enumerate(geometries):
        if geometry.first not in cameras or geometry.second not in cameras:
            continue
        one, two = cameras[geometry.first], cameras[geometry.second]
        relative = two.cam_from_world @ one.world_from_cam
        tx, ty, tz = relative[:3, 3] / max(float(np.linalg.norm(relative[:3, 3])), 1e-12)
        essential = np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]]) @ relative[:3, :3]
        a, b = rays[geometry.first][geometry.matches[:, 0]], rays[geometry.second][geometry.matches[:, 1]]
        line_b, line_a = a @ essential.T, b @ essential
        residual = (b * line_b).sum(1)
        slope = (line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1)
        error = np.abs(residual) / np.sqrt(np.maximum(slope, 1e-24))
        focal = 0.25 * (one.fx + one.fy + two.fx + two.fy)
        shares[row] = float((error * focal <= limit_px).mean())
    return shares
