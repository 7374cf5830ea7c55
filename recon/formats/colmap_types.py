# SPDX-License-Identifier: Apache-2.0
"""What a COLMAP model holds, independent of whether it came from binary or text files.

Conventions are those of COLMAP (https://colmap.github.io/format.html): cam_from_world with OpenCV axes, quaternions
wxyz, the centre of the top left pixel at (0.5, 0.5).  They equal recon's, so nothing is converted but the lens models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera, CameraModel
from recon.errors import ReconError
from recon.scene import SparsePoints

FloatArray = npt.NDArray[np.float64]

MODEL_NAMES = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE",
    "SIMPLE_DIVISION", "DIVISION", "SIMPLE_FISHEYE", "FISHEYE", "EUCM", "EQUIRECTANGULAR",
)  # fmt: skip
"""COLMAP's models; the place in the tuple is the number in a binary file."""

PARAMETER_COUNT = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "SIMPLE_FISHEYE": 3,
    "FISHEYE": 4,
    "EQUIRECTANGULAR": 2,
}
"""Number of parameters of the models that recon understands."""

NO_POINT = -1
"""In `ColmapImage.point_ids`: a keypoint that belongs to no triangulated point."""

LARGEST_SIDE_PX = 1_000_000


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One registered image.

    Attributes:
        image_id: its number, unique.
        name: path relative to the images folder, with forward slashes.
        camera_id: key into `ColmapModel.cameras`.
        cam_from_world: 4×4.
        keypoints_px: [K, 2] float64.
        point_ids: [K] int64, the triangulated point of each keypoint or `NO_POINT`.
    """

    image_id: int
    name: str
    camera_id: int
    cam_from_world: FloatArray
    keypoints_px: FloatArray
    point_ids: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """A reconstruction as COLMAP stores it.

    Attributes:
        cameras: lenses by number; their poses mean nothing.
        images: the registered images, in the file's order.
        points: N triangulated points.
        point_ids: [N] int64.
        track_offsets: [N + 1] int64; the track of point n is `tracks[track_offsets[n]:track_offsets[n + 1]]`.
        tracks: [M, 2] int32, image number and keypoint index of each observation.
    """

    cameras: dict[int, Camera]
    images: tuple[ColmapImage, ...]
    points: SparsePoints
    point_ids: npt.NDArray[np.int64]
    track_offsets: npt.NDArray[np.int64]
    tracks: npt.NDArray[np.int32]


def camera_from_parameters(name: str, width: int, height: int, parameters: Sequence[float]) -> Camera:
    """Returns recon's camera for a COLMAP model name and its parameters.

    Raises:
        ReconError: a model that recon does not understand, or parameters that no lens has.
    """
    doing = f"reading a COLMAP camera of the model {name}"
    if name not in PARAMETER_COUNT:
        raise ReconError(
            doing,
            f"recon does not know the lens model {name}",
            f"one of {', '.join(PARAMETER_COUNT)}",
            "calibrate again with OPENCV or OPENCV_FISHEYE, or undistort with `colmap image_undistorter`",
        )
    if len(parameters) != PARAMETER_COUNT[name]:
        raise ReconError(doing, f"it has {len(parameters)} parameters", f"{PARAMETER_COUNT[name]}")
    if not 1 <= width <= LARGEST_SIDE_PX or not 1 <= height <= LARGEST_SIDE_PX:
        raise ReconError(doing, f"its size is {width}×{height}", f"between 1 and {LARGEST_SIDE_PX} pixels a side")
    if name == "EQUIRECTANGULAR":
        focal = width / (2 * np.pi)
        return Camera(width, height, focal, focal, width / 2, height / 2, CameraModel.EQUIRECTANGULAR)
    numbers = [float(value) for value in parameters]
    if PARAMETER_COUNT[name] in (3, 5) or name in ("SIMPLE_RADIAL", "SIMPLE_RADIAL_FISHEYE"):
        numbers.insert(0, numbers[0])  # One focal length serves both axes.
    fx, fy, cx, cy, *lens = numbers
    if name == "FULL_OPENCV":
        model = CameraModel.FULL_OPENCV
    elif "FISHEYE" in name:
        model, lens = CameraModel.OPENCV_FISHEYE, lens + [0.0] * (4 - len(lens))
    elif any(lens):
        model, lens = CameraModel.OPENCV, lens + [0.0] * (4 - len(lens))
    else:
        model, lens = CameraModel.PINHOLE, []
    return Camera(width, height, fx, fy, cx, cy, model, tuple(lens))


def parameters_of(camera: Camera) -> tuple[str, list[float]]:
    """Returns COLMAP's model name and parameters of a camera."""
    if camera.model is CameraModel.EQUIRECTANGULAR:
        return "EQUIRECTANGULAR", [float(camera.width), float(camera.height)]
    return camera.model.value, [camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion]


def pose_from_quaternion(doing: str, quat_wxyz: Sequence[float], translation: Sequence[float]) -> FloatArray:
    """Returns the 4×4 transform of a quaternion of any length and a translation.

    Raises:
        ReconError: a number that is not finite, or a quaternion of length zero.
    """
    numbers = np.array([*quat_wxyz, *translation], dtype=np.float64)
    norm = float(np.linalg.norm(numbers[:4]))
    if not np.isfinite(numbers).all() or norm < 1e-12:
        raise ReconError(doing, f"its pose is {numbers.tolist()}", "finite numbers and a quaternion that is not zero")
    w, x, y, z = numbers[:4] / norm
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = numbers[4:]
    return pose


def quaternion_of(rotation: FloatArray) -> FloatArray:
    """Returns the unit quaternion wxyz of a 3×3 rotation, with w >= 0.

    The eigenvector method of Bar-Itzhack (2000) has no special cases and takes the nearest rotation of a noisy matrix.
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation
    symmetric = np.array(
        [
            [a + e + i, 0.0, 0.0, 0.0],
            [h - f, a - e - i, 0.0, 0.0],
            [c - g, b + d, e - a - i, 0.0],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    quaternion = np.linalg.eigh(symmetric, UPLO="L")[1][:, -1]
    return -quaternion if quaternion[0] < 0 else quaternion


def checked_image_name(doing: str, name: str) -> str:
    """Returns the name with forward slashes, or refuses one that points outside of the images folder."""
    name = name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    bad = not parts or name.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in name or "\n" in name
    if bad:
        raise ReconError(doing, f"an image is named {name[:200]!r}", "a path inside of the images folder")
    return name


def check_model(doing: str, model: ColmapModel) -> None:
    """Checks that the parts of a model fit together.

    Raises:
        ReconError: an image without its camera, numbers or names given twice, points that are not finite.
    """
    ids = [image.image_id for image in model.images]
    names = [image.name for image in model.images]
    if len(set(ids)) != len(ids) or len(set(names)) != len(names):
        raise ReconError(doing, "two images have the same number or name", "each number and name once")
    for image in model.images:
        if image.camera_id not in model.cameras:
            raise ReconError(
                doing,
                f"the image {image.name} refers to camera {image.camera_id}",
                f"one of the cameras {sorted(model.cameras)[:10]}",
                "write the model again with the program that made it",
            )
    if not np.isfinite(model.points.positions).all():
        count = int((~np.isfinite(model.points.positions)).any(1).sum())
        raise ReconError(doing, f"{count} points have positions that are not finite", "finite coordinates")
