# SPDX-License-Identifier: Apache-2.0
"""transforms.json of nerfstudio and instant-ngp: posed photos with camera-to-world matrices in OpenGL axes.

Facts: https://docs.nerf.studio/quickstart/data_conventions.html and instant-ngp's docs/nerf_dataset_tips.md.  The
camera looks along -z with +y up (here it is turned into x right, y down, z forward), the world has +z up, and
intrinsics stand either at the top or in each frame, as `fl_x` in pixels or as `camera_angle_x` in radians.  Image paths
are relative to the file and may lack their suffix (synthetic NeRF scenes).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recon.cameras import Camera, CameraModel
from recon.capture.pictures import picture_size
from recon.errors import ReconError
from recon.files import write_text
from recon.scene import Frame, Scene, Similarity, SparsePoints, WorldFrame
from recon.world import turned_upright

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".JPG", ".PNG")
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
LENS_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True, eq=False)
class TransformsImport:
    """What a transforms.json gave.

    Attributes:
        scene: the frames whose photos exist.
        missing: the listed paths that do not exist, as written in the file.
    """

    scene: Scene
    missing: tuple[str, ...]


def read_transforms(path: Path) -> TransformsImport:
    """Reads a transforms.json.

    Frames whose photo does not exist are left out and listed.  Photos that are not of the stated size (downscaled
    copies) get intrinsics scaled to theirs.

    Raises:
        ReconError: not such a file, impossible intrinsics or poses, or not one photo exists.
    """
    path = Path(path)
    doing = f"reading {path}"
    document = _document(path, doing)
    frames: list[Frame] = []
    missing: list[str] = []
    lenses: dict[tuple, int] = {}
    names: set[str] = set()
    for number, entry in enumerate(document["frames"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise ReconError(doing, f"frame {number} has no file_path", "an object with file_path, transform_matrix")
        listed = entry["file_path"]
        image_path = _existing(path.parent, listed)
        if image_path is None:
            missing.append(listed)
            continue
        camera = _camera(f"{doing}, frame {listed}", {**document, **entry}, image_path)
        lens = (
            camera.model,
            camera.width,
            camera.height,
            camera.fx,
            camera.fy,
            camera.cx,
            camera.cy,
            camera.distortion,
        )
        camera_id = lenses.setdefault(lens, len(lenses) + 1)
        name = _name(path.parent, image_path, names)
        mask = _existing(path.parent, entry["mask_path"]) if isinstance(entry.get("mask_path"), str) else None
        time_s = entry.get("time")
        frames.append(
            Frame(
                name=name,
                image_path=image_path,
                camera=camera,
                camera_id=camera_id,
                mask_path=mask,
                time_s=float(time_s) if isinstance(time_s, (int, float)) and math.isfinite(time_s) else None,
            )
        )
    if not frames:
        raise ReconError(
            doing,
            f"none of its {len(document['frames'])} photos exists (the first is {missing[0] if missing else '-'})",
            "photos at the paths that it lists, relative to it",
            "put the photos where the file expects them",
        )
    world = WorldFrame(_applied_transform(document), source="transforms.json", up_is_known=True)
    scene = Scene(tuple(frames), _points(path.parent, document), world, root=None)
    # The convention says +z is up, but phone apps also write worlds with +y up, which their cameras betray.
    return TransformsImport(turned_upright(scene, tolerance_deg=60.0), tuple(missing))


def write_transforms(scene: Scene, path: Path) -> None:
    """Writes a transforms.json that nerfstudio and instant-ngp open; image paths are relative to its folder.

    Raises:
        ReconError: an equirectangular camera with others, or a folder that cannot be written.
    """
    path = Path(path)
    lenses = [_lens_keys(frame.camera) for frame in scene.frames]
    shared = lenses[0] if lenses and all(lens == lenses[0] for lens in lenses) else {}
    entries = []
    for frame, lens in zip(scene.frames, lenses, strict=True):
        entry: dict[str, Any] = {"file_path": _relative(frame.image_path, path.parent)}
        if frame.mask_path is not None:
            entry["mask_path"] = _relative(frame.mask_path, path.parent)
        if frame.time_s is not None:
            entry["time"] = frame.time_s
        entry["transform_matrix"] = (frame.camera.world_from_cam @ OPENCV_FROM_OPENGL).tolist()
        entries.append(entry if shared else {**lens, **entry})
    document = {**shared, "aabb_scale": 16, "frames": entries}
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def _document(path: Path, doing: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ReconError(doing, f"it is not readable JSON ({error})", "a transforms.json") from error
    if not isinstance(document, dict) or not isinstance(document.get("frames"), list):
        raise ReconError(doing, "it has no list of frames", "an object with a list named frames")
    return document


def _existing(folder: Path, listed: str) -> Path | None:
    """Returns the file that a path in the document means: relative to it, and perhaps without its suffix."""
    if not listed or "\0" in listed:
        return None
    base = folder / listed.replace("\\", "/")
    try:
        for candidate in (base, *(base.with_name(base.name + suffix) for suffix in SUFFIXES)):
            if candidate.is_file():
                return candidate
    except (OSError, ValueError):
        pass
    return None


def _name(folder: Path, image_path: Path, taken: set[str]) -> str:
    """Returns a unique frame name: the path below images/ where the photo lies there, otherwise below the document."""
    try:
        parts = Path(os.path.normpath(image_path)).relative_to(os.path.normpath(folder)).parts
    except ValueError:
        parts = (image_path.name,)
    if len(parts) > 1 and parts[0] == "images":
        parts = parts[1:]
    name = "/".join(parts)
    while name in taken:
        name = "again/" + name
    taken.add(name)
    return name


def _number(doing: str, values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ReconError(doing, f"{key} is {value!r}", "a finite number")
    return float(value)


def _camera(doing: str, values: Mapping[str, Any], image_path: Path) -> Camera:
    actual = picture_size(image_path)
    width = round(_number(doing, values, "w") or actual[0])
    height = round(_number(doing, values, "h") or actual[1])
    focals = []
    for axis, size in (("x", width), ("y", height)):
        focal, angle = _number(doing, values, f"fl_{axis}"), _number(doing, values, f"camera_angle_{axis}")
        if focal is None and angle is not None and 0 < angle < math.pi:
            focal = size / (2 * math.tan(angle / 2))
        focals.append(focal)
    fx = focals[0] if focals[0] is not None else focals[1]
    if fx is None:
        raise ReconError(doing, "neither a focal length nor an opening angle is given", "fl_x or camera_angle_x")
    # One axis given serves both; an angle in y is only taken where it stands beside no focal in x.
    fy = focals[1] if focals[1] is not None else fx
    cx, cy = _number(doing, values, "cx"), _number(doing, values, "cy")
    model, distortion = _lens(doing, values)
    try:
        camera = Camera(
            width=width,
            height=height,
            fx=fx,
            fy=fy,
            cx=width / 2 if cx is None else cx,
            cy=height / 2 if cy is None else cy,
            model=model,
            distortion=distortion,
            cam_from_world=_pose(doing, values.get("transform_matrix")),
        )
    except ReconError as error:
        raise ReconError(doing, error.found, error.expected) from error
    if (width, height) == actual:
        return camera
    if abs(width * actual[1] - height * actual[0]) > 0.02 * width * actual[1]:
        raise ReconError(doing, f"the photo has {actual[0]}×{actual[1]} pixels", f"{width}×{height}, or the same shape")
    return camera.resized(*actual)


def _lens(doing: str, values: Mapping[str, Any]) -> tuple[CameraModel, tuple[float, ...]]:
    k1, k2, k3, k4, p1, p2 = (_number(doing, values, key) or 0.0 for key in LENS_KEYS)
    name = str(values.get("camera_model", "OPENCV"))
    if name == "EQUIRECTANGULAR":
        return CameraModel.EQUIRECTANGULAR, ()
    if name in ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE") or values.get("is_fisheye") is True:
        return CameraModel.OPENCV_FISHEYE, (k1, k2, k3, k4)
    if name not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV"):
        raise ReconError(doing, f"the camera model is {name!r}", "PINHOLE, OPENCV, OPENCV_FISHEYE or EQUIRECTANGULAR")
    if k3 or k4:
        # nerfstudio hands k3 and k4 to OpenCV as the fifth and sixth coefficient, so k4 is in the denominator.
        return CameraModel.FULL_OPENCV, (k1, k2, p1, p2, k3, k4, 0.0, 0.0)
    if k1 or k2 or p1 or p2:
        return CameraModel.OPENCV, (k1, k2, p1, p2)
    return CameraModel.PINHOLE, ()


def _pose(doing: str, matrix: Any) -> np.ndarray:
    """Returns cam_from_world (OpenCV axes) of a camera-to-world matrix (OpenGL axes), with any scale taken out."""
    try:
        world_from_gl = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ReconError(doing, f"transform_matrix cannot be read ({error})", "4×4 numbers") from error
    if world_from_gl.shape not in ((3, 4), (4, 4)) or not np.isfinite(world_from_gl).all():
        raise ReconError(doing, f"transform_matrix has shape {world_from_gl.shape}", "4×4 finite numbers")
    u, singular, vt = np.linalg.svd(world_from_gl[:3, :3])
    if singular[-1] < 1e-9 or singular[0] > 1.05 * singular[-1] or np.linalg.det(world_from_gl[:3, :3]) < 0:
        raise ReconError(doing, f"transform_matrix is {world_from_gl.tolist()}", "a rotation, perhaps scaled")
    rotation = (u @ vt @ OPENCV_FROM_OPENGL[:3, :3]).T
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ world_from_gl[:3, 3]
    return pose


def _applied_transform(document: Mapping[str, Any]) -> Similarity:
    """Returns what nerfstudio says it did to the original poses, where that is a proper similarity."""
    try:
        matrix = np.array(document.get("applied_transform", np.eye(4)), dtype=np.float64)[:3, :4]
        scale = float(document.get("applied_scale", 1.0))
        rotation = matrix[:, :3]
        proper = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-4 and np.linalg.det(rotation) > 0
        if matrix.shape == (3, 4) and proper and np.isfinite(matrix).all() and 0 < scale < math.inf:
            return Similarity(scale, rotation, scale * matrix[:, 3])
    except (TypeError, ValueError, IndexError):
        pass
    return Similarity()


def _points(folder: Path, document: Mapping[str, Any]) -> SparsePoints:
    """Reads the point cloud that nerfstudio names in `ply_file_path`; without one, or with a bad one, none."""
    listed = document.get("ply_file_path")
    if not isinstance(listed, str) or not (folder / listed).is_file():
        return SparsePoints.empty()
    import trimesh

    try:
        cloud: Any = trimesh.load(folder / listed)
        positions = np.asarray(cloud.vertices, dtype=np.float64).reshape(-1, 3)
        colors = np.asarray(getattr(cloud, "colors", np.zeros((0, 4))), dtype=np.uint8)
    except Exception as error:  # trimesh raises anything on damaged files
        raise ReconError(f"reading the points {folder / listed}", f"it is damaged ({error})", "a PLY file") from error
    if len(colors) != len(positions) or colors.ndim != 2:
        colors = np.full((len(positions), 3), 128, np.uint8)
    keep = np.isfinite(positions).all(1)
    count = int(keep.sum())
    return SparsePoints(positions[keep], colors[keep, :3], np.zeros(count, np.float32), np.zeros(count, np.int32))


def _lens_keys(camera: Camera) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "camera_model": camera.model.value,
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
    }
    if camera.model is CameraModel.PINHOLE:
        return {**keys, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    if camera.model is CameraModel.OPENCV_FISHEYE:
        return {**keys, "is_fisheye": True, **dict(zip(("k1", "k2", "k3", "k4"), camera.distortion))}
    if camera.model is CameraModel.OPENCV:
        return {**keys, **dict(zip(("k1", "k2", "p1", "p2"), camera.distortion))}
    if camera.model is CameraModel.FULL_OPENCV:
        if any(camera.distortion[6:]):
            raise ReconError("writing a transforms.json", "the lens has k5 or k6", "at most k1..k4, p1, p2")
        return {**keys, "camera_model": "OPENCV", **dict(zip(("k1", "k2", "p1", "p2", "k3", "k4"), camera.distortion))}
    return keys


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
