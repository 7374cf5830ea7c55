# SPDX-License-Identifier: Apache-2.0
"""COLMAP models: cameras, images and points3D, read from binary or text files and written as binary ones.

The layout is that of https://colmap.github.io/format.html.  Files are mapped into memory and every count is checked
against the bytes that remain, so that a lying header costs neither time nor memory.  The rigs and frames that COLMAP 4
writes beside them repeat the poses of the images and are not needed.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.colmap_text import read_text_model
from recon.formats.colmap_types import (
    MODEL_NAMES,
    PARAMETER_COUNT,
    ColmapImage,
    ColmapModel,
    camera_from_parameters,
    check_model,
    checked_image_name,
    parameters_of,
    pose_from_quaternion,
    quaternion_of,
)
from recon.scene import SparsePoints

__all__ = ["ColmapImage", "ColmapModel", "find_model", "read_model", "write_model"]

LONGEST_NAME = 4096

_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")])
_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point_id", "<i8")])
_COUNT = struct.Struct("<Q")

# Files that describe the same model in another way; beside newly written binary files they would be out of date.
STALE_COMPANIONS = ("rigs.bin", "frames.bin", "rigs.txt", "frames.txt", "cameras.txt", "images.txt", "points3D.txt")


def find_model(folder: Path) -> Path | None:
    """Returns the folder with a COLMAP model in or under `folder` (itself, sparse/0, sparse), or None.

    Of several numbered models under sparse/ the one with the largest images file is taken, since the mapper also
    writes small fragments.
    """
    numbered = [path for path in sorted(Path(folder).glob("sparse/*")) if path.name.isdigit() and _holds_model(path)]
    numbered.sort(key=lambda path: -max(_size(path / "images.bin"), _size(path / "images.txt")))
    candidates = [Path(folder), *numbered, Path(folder) / "sparse"]
    return next((path for path in candidates if _holds_model(path)), None)


def read_model(folder: Path) -> ColmapModel:
    """Reads the model in `folder`, binary where it stands there, text otherwise.

    Raises:
        ReconError: no model, an unknown lens, or files that are cut short or hold impossible values.
    """
    folder = Path(folder)
    doing = f"reading the COLMAP model {folder}"
    if not _holds_model(folder):
        raise ReconError(doing, "there is no model", "cameras and images, as .bin or .txt")
    if not (folder / "cameras.bin").is_file() or not (folder / "images.bin").is_file():
        model = read_text_model(folder)
    else:
        cameras = _read_cameras(folder / "cameras.bin")
        images = _read_images(folder / "images.bin")
        model = ColmapModel(cameras, images, *_read_points(folder / "points3D.bin"))
    check_model(doing, model)
    return model


def write_model(model: ColmapModel, folder: Path) -> None:
    """Writes cameras.bin, images.bin and points3D.bin into `folder` and removes companions that contradict them.

    Raises:
        ReconError: the folder cannot be written.
    """
    folder = Path(folder)
    with atomic_path(folder / "cameras.bin") as path:
        path.write_bytes(_camera_bytes(model.cameras))
    with atomic_path(folder / "images.bin") as path, path.open("wb") as file:
        file.write(_COUNT.pack(len(model.images)))
        for image in model.images:
            file.write(_image_bytes(image))
    with atomic_path(folder / "points3D.bin") as path:
        path.write_bytes(_point_bytes(model))
    for name in STALE_COMPANIONS:
        (folder / name).unlink(missing_ok=True)


def _holds_model(folder: Path) -> bool:
    return any(all((folder / f"{part}.{kind}").is_file() for part in ("cameras", "images")) for kind in ("bin", "txt"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class _Bytes:
    """A file in memory with a position, which never reads past its end."""

    def __init__(self, path: Path) -> None:
        self.doing = f"reading {path}"
        self.position = 0
        try:
            with path.open("rb") as file:
                self.data: mmap.mmap | bytes = b""
                if path.stat().st_size:  # An empty file cannot be mapped.
                    self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ReconError(self.doing, f"the file cannot be read ({error})") from error

    def need(self, size: int, what: str) -> int:
        """Moves past `size` bytes and returns where they begin."""
        start = self.position
        if size > len(self.data) - start:
            raise ReconError(
                self.doing,
                f"the file ends after {len(self.data)} bytes, inside of {what}",
                "a whole file",
                "copy it again from where it was made, or run the reconstruction again",
            )
        self.position = start + size
        return start

    def unpack(self, layout: struct.Struct, what: str) -> tuple:
        return layout.unpack_from(self.data, self.need(layout.size, what))

    def count(self, least_bytes: int, what: str) -> int:
        """Reads a number of records, each of at least `least_bytes`, and checks that they can be there."""
        (count,) = self.unpack(_COUNT, f"the number of {what}")
        if count > (len(self.data) - self.position) // least_bytes:
            raise ReconError(
                self.doing,
                f"it promises {count} {what}, and only {len(self.data) - self.position} bytes follow",
                f"at least {least_bytes} bytes for each",
                "copy it again from where it was made, or run the reconstruction again",
            )
        return count

    def array(self, kind: np.dtype, count: int, what: str) -> np.ndarray:
        start = self.need(kind.itemsize * count, what)
        return np.frombuffer(self.data, kind, count, start)


def _read_cameras(path: Path) -> dict[int, Camera]:
    source = _Bytes(path)
    cameras: dict[int, Camera] = {}
    for _ in range(source.count(_CAMERA.size, "cameras")):
        camera_id, number, width, height = source.unpack(_CAMERA, "a camera")
        if not 0 <= number < len(MODEL_NAMES):
            raise ReconError(source.doing, f"camera {camera_id} has the model number {number}", "0 to 17")
        name = MODEL_NAMES[number]
        # An unknown model has no known size either, so it is refused before its parameters are read.
        values = source.array(np.dtype("<f8"), PARAMETER_COUNT.get(name, 0), "a camera's parameters")
        try:
            cameras[camera_id] = camera_from_parameters(name, width, height, values.tolist())
        except ReconError as error:
            raise ReconError(f"{source.doing}, camera {camera_id}", error.found, error.expected, error.fix) from error
    return cameras


def _read_images(path: Path) -> tuple[ColmapImage, ...]:
    source = _Bytes(path)
    images = []
    for _ in range(source.count(_IMAGE.size + 1 + _COUNT.size, "images")):
        image_id, *pose, camera_id = source.unpack(_IMAGE, "an image")
        end = source.data.find(b"\0", source.position, source.position + LONGEST_NAME)
        if end < 0:
            raise ReconError(source.doing, f"the name of image {image_id} never ends", "a name that ends with a zero")
        start = source.need(end + 1 - source.position, "an image's name")
        name = checked_image_name(source.doing, source.data[start:end].decode("utf-8", "surrogateescape"))
        keypoints = source.array(_KEYPOINT, source.count(_KEYPOINT.itemsize, "keypoints"), "an image's keypoints")
        cam_from_world = pose_from_quaternion(f"{source.doing}, image {name}", pose[:4], pose[4:])
        images.append(
            ColmapImage(image_id, name, camera_id, cam_from_world, keypoints["xy"].copy(), keypoints["point_id"].copy())
        )
    return tuple(images)


def _read_points(path: Path) -> tuple[SparsePoints, np.ndarray, np.ndarray, np.ndarray]:
    if not path.is_file():
        return SparsePoints.empty(), np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((0, 2), np.int32)
    source = _Bytes(path)
    count = source.count(_POINT.itemsize, "points")
    # Where a record starts depends on all track lengths before it, so only those are read one by one.
    lengths = np.zeros(count, np.int64)
    data, size, position = source.data, len(source.data), source.position
    length_at, read_length = _POINT.fields["length"][1], _COUNT.unpack_from  # type: ignore[index]
    for index in range(count):
        if position + _POINT.itemsize > size:
            position = size + 1
            break
        (length,) = read_length(data, position + length_at)
        lengths[index] = min(length, size)
        position += _POINT.itemsize + 8 * length
    if position > size:
        source.need(size + 1, f"the tracks of {count} points")
    raw = np.frombuffer(data, np.uint8, position - source.position, source.position)
    is_fixed = _fixed_bytes(lengths)
    fixed = raw[is_fixed].view(_POINT)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tracks = raw[~is_fixed].view("<i4").reshape(-1, 2).astype(np.int32)
    points = SparsePoints(
        fixed["xyz"].astype(np.float64),
        fixed["rgb"].copy(),
        np.clip(fixed["error"], 0, 1e9).astype(np.float32),
        lengths.astype(np.int32),
    )
    return points, fixed["id"].astype(np.int64), offsets, tracks


def _fixed_bytes(track_lengths: np.ndarray) -> np.ndarray:
    """Returns which bytes of a file's point records are headers, as opposed to tracks."""
    segments = np.empty(2 * len(track_lengths), np.int64)
    segments[0::2], segments[1::2] = _POINT.itemsize, 8 * track_lengths
    return np.repeat(np.tile([True, False], len(track_lengths)), segments)


def _camera_bytes(cameras: dict[int, Camera]) -> bytes:
    parts = [_COUNT.pack(len(cameras))]
    for camera_id, camera in sorted(cameras.items()):
        name, values = parameters_of(camera)
        parts.append(_CAMERA.pack(camera_id, MODEL_NAMES.index(name), camera.width, camera.height))
        parts.append(np.array(values, "<f8").tobytes())
    return b"".join(parts)


def _image_bytes(image: ColmapImage) -> bytes:
    pose = image.cam_from_world
    numbers = [*quaternion_of(pose[:3, :3]), *pose[:3, 3]]
    keypoints = np.zeros(len(image.keypoints_px), _KEYPOINT)
    keypoints["xy"], keypoints["point_id"] = image.keypoints_px, image.point_ids
    return (
        _IMAGE.pack(image.image_id, *numbers, image.camera_id)
        + image.name.encode("utf-8", "surrogateescape")
        + b"\0"
        + _COUNT.pack(len(keypoints))
        + keypoints.tobytes()
    )


def _point_bytes(model: ColmapModel) -> bytes:
    count = len(model.points)
    lengths = np.diff(model.track_offsets)
    fixed = np.zeros(count, _POINT)
    fixed["id"], fixed["xyz"], fixed["rgb"] = model.point_ids, model.points.positions, model.points.colors
    fixed["error"], fixed["length"] = model.points.errors_px, lengths
    tracks = np.ascontiguousarray(model.tracks, dtype="<i4").reshape(-1, 2)
    raw = np.zeros(fixed.nbytes + tracks.nbytes, np.uint8)
    is_fixed = _fixed_bytes(lengths)
    raw[is_fixed] = fixed.view(np.uint8)
    raw[~is_fixed] = tracks.view(np.uint8).reshape(-1)
    return _COUNT.pack(count) + raw.tobytes()
