# SPDX-License-Identifier: Apache-2.0
"""COLMAP models as text: cameras.txt, images.txt, points3D.txt (https://colmap.github.io/format.html)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recon.cameras import Camera
from recon.errors import ReconError
from recon.formats.colmap_types import (
    ColmapImage,
    ColmapModel,
    camera_from_parameters,
    checked_image_name,
    pose_from_quaternion,
)
from recon.scene import SparsePoints


def read_text_model(folder: Path) -> ColmapModel:
    """Reads the three text files in `folder`; points3D.txt may be missing.

    Raises:
        ReconError: a line that is cut short or holds what is no number, with its place.
    """
    cameras = read_text_cameras(folder / "cameras.txt")
    images = _read_images(folder / "images.txt")
    return ColmapModel(cameras, images, *_read_points(folder / "points3D.txt"))


def read_text_cameras(path: Path) -> dict[int, Camera]:
    """Reads a cameras.txt; also what `--calibration` may name."""
    cameras: dict[int, Camera] = {}
    for number, line in _lines(path):
        if not line or line.startswith("#"):
            continue
        with _place(path, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"):
            camera_id, name, width, height, *values = line.split()
            cameras[int(camera_id)] = camera_from_parameters(
                name, int(width), int(height), [float(value) for value in values]
            )
    return cameras


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                yield number, line.strip()
    except OSError as error:
        raise ReconError(f"reading {path}", f"the file cannot be read ({error})") from error


@contextmanager
def _place(path: Path, number: int, expected: str) -> Iterator[None]:
    """Says where in a file a line could not be understood."""
    try:
        yield
    except (ValueError, IndexError, OverflowError) as error:
        raise ReconError(f"reading {path}, line {number}", f"the line cannot be read ({error})", expected) from error


def _read_images(path: Path) -> tuple[ColmapImage, ...]:
    images: list[ColmapImage] = []
    header: tuple[int, str] | None = None
    for number, line in _lines(path):
        if header is None:
            # An image with no keypoints has an empty second line, so blank lines count only where one is due.
            if line and not line.startswith("#"):
                header = (number, line)
            continue
        images.append(_image(path, header, number, line))
        header = None
    if header is not None:
        images.append(_image(path, header, header[0], ""))
    return tuple(images)


def _image(path: Path, header: tuple[int, str], number: int, keypoint_line: str) -> ColmapImage:
    with _place(path, header[0], "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"):
        words = header[1].split(maxsplit=9)
        doing = f"reading {path}, line {header[0]}"
        name = checked_image_name(doing, words[9])
        numbers = [float(word) for word in words[1:8]]
        pose = pose_from_quaternion(doing, numbers[:4], numbers[4:])
        image_id, camera_id = int(words[0]), int(words[8])
    with _place(path, number, "X Y POINT3D_ID, again and again"):
        table = np.array(keypoint_line.split(), dtype=np.float64).reshape(-1, 3)
        if not (np.abs(table[:, 2]) < 2**53).all():
            raise ValueError("a point's number is out of range")
    return ColmapImage(image_id, name, camera_id, pose, table[:, :2].copy(), table[:, 2].astype(np.int64))


def _read_points(path: Path) -> tuple[SparsePoints, np.ndarray, np.ndarray, np.ndarray]:
    ids: list[int] = []
    positions: list[list[float]] = []
    colors: list[list[int]] = []
    errors: list[float] = []
    tracks: list[np.ndarray] = []
    for number, line in _lines(path) if path.is_file() else ():
        if not line or line.startswith("#"):
            continue
        with _place(path, number, "POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID, POINT2D_IDX)"):
            point_id, x, y, z, r, g, b, error, *track = line.split()
            ids.append(int(point_id))
            positions.append([float(x), float(y), float(z)])
            colors.append([int(r), int(g), int(b)])
            if min(colors[-1]) < 0 or max(colors[-1]) > 255:
                raise ValueError(f"its colour is {colors[-1]}")
            errors.append(float(error))
            tracks.append(np.array([int(word) for word in track], dtype=np.int32).reshape(-1, 2))
    lengths = np.array([len(track) for track in tracks], dtype=np.int64)
    points = SparsePoints(
        np.array(positions, dtype=np.float64).reshape(-1, 3),
        np.array(colors, dtype=np.uint8).reshape(-1, 3),
        np.array(errors, dtype=np.float32),
        lengths.astype(np.int32),
    )
    observations = np.concatenate(tracks) if tracks else np.zeros((0, 2), np.int32)
    return points, np.array(ids, dtype=np.int64), np.concatenate([[0], np.cumsum(lengths)]), observations
