# SPDX-License-Identifier: Apache-2.0
"""Known intrinsics for `--calibration`: a JSON file of ours, a 3×3 matrix K as text, or a COLMAP cameras.txt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.cameras import Camera, CameraModel
from recon.errors import ReconError
from recon.formats.colmap_text import read_text_cameras
from recon.formats.colmap_types import parameters_of
from recon.sfm.contracts import CameraPrior

EXPECTED = (
    'JSON with "model", "width", "height", "fx", "fy", "cx", "cy" and "distortion", a text file with the 3×3 matrix K, '
    "or a COLMAP cameras.txt"
)
KEYS = {"schema", "model", "width", "height", "fx", "fy", "cx", "cy", "distortion"}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Known lenses.

    Attributes:
        cameras: what the file gives.
        has_size: False for a bare K, which is taken to be for photos of any size.
        path: the file.
    """

    cameras: tuple[Camera, ...]
    has_size: bool
    path: Path

    def prior_for(self, width: int, height: int) -> CameraPrior | None:
        """Returns the fixed prior for photos of this size, scaled where they have the same shape; None if none fits."""
        for camera in sorted(self.cameras, key=lambda camera: (camera.width, camera.height) != (width, height)):
            if not self.has_size:
                scaled = Camera(width, height, camera.fx, camera.fy, camera.cx, camera.cy)
            elif abs(camera.width * height - camera.height * width) <= 0.005 * camera.width * height:
                scaled = camera.resized(width, height)
            else:
                continue
            if not (0 < scaled.cx < width and 0 < scaled.cy < height):
                raise ReconError(
                    f"applying the calibration {self.path}",
                    f"the principal point ({scaled.cx:.1f}, {scaled.cy:.1f}) is outside of photos of {width}×{height}",
                    "intrinsics in pixels of these photos",
                    "scale K to the photos' size, or give a file that states its size",
                )
            name, values = parameters_of(scaled)
            return CameraPrior(width, height, scaled.fx, name, tuple(values), fixed=True)
        return None


def read_calibration(path: Path) -> Calibration:
    """Reads known intrinsics.

    Raises:
        ReconError: no such file, or none of the three kinds.
    """
    path = Path(path)
    doing = f"reading the calibration {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file", EXPECTED) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ReconError(doing, f"it cannot be read ({error})", EXPECTED) from error
    if text.lstrip().startswith("{"):
        return Calibration((_from_json(doing, text),), True, path)
    matrix = _matrix(text)
    if matrix is not None:
        return Calibration((_from_matrix(doing, matrix),), False, path)
    try:
        cameras = read_text_cameras(path)
    except ReconError as error:
        raise ReconError(doing, error.found, EXPECTED) from error
    if not cameras:
        raise ReconError(doing, "it holds no camera", EXPECTED)
    return Calibration(tuple(cameras.values()), True, path)


def _from_json(doing: str, text: str) -> Camera:
    try:
        values = json.loads(text)
        unknown = sorted(set(values) - KEYS)
        if unknown:
            raise ReconError(doing, f"unknown keys {', '.join(unknown)}", EXPECTED)
        fx = float(values["fx"])
        width, height = int(values["width"]), int(values["height"])
        return Camera(
            width,
            height,
            fx,
            float(values.get("fy", fx)),
            float(values.get("cx", width / 2)),
            float(values.get("cy", height / 2)),
            CameraModel(values.get("model", "PINHOLE")),
            tuple(float(k) for k in values.get("distortion", ())),
        )
    except ReconError as error:
        raise ReconError(doing, error.found, error.expected) from error
    except KeyError as error:
        raise ReconError(doing, f"the key {error} is missing", EXPECTED) from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ReconError(doing, f"it cannot be read ({error})", EXPECTED) from error


def _matrix(text: str) -> np.ndarray | None:
    try:
        values = np.array([float(word) for word in text.replace(",", " ").replace(";", " ").split()])
    except ValueError:
        return None
    return values.reshape(3, 3) if values.size == 9 else None


def _from_matrix(doing: str, matrix: np.ndarray) -> Camera:
    fx, skew, cx = matrix[0]
    zero, fy, cy = matrix[1]
    if not np.isfinite(matrix).all() or not np.allclose(matrix[2], [0, 0, 1]) or abs(zero) > 1e-9 * abs(fx):
        raise ReconError(doing, f"the matrix is {matrix.tolist()}", "fx 0 cx / 0 fy cy / 0 0 1")
    if abs(skew) > 1e-3 * abs(fx):
        raise ReconError(doing, f"K has a skew of {skew}", "pixels at right angles, as every camera has today")
    # The size is unknown here; any that holds the principal point will do until the photos' own is filled in.
    try:
        return Camera(max(1, int(2 * abs(cx))), max(1, int(2 * abs(cy))), fx, fy, cx, cy)
    except ReconError as error:
        raise ReconError(doing, error.found, error.expected) from error
