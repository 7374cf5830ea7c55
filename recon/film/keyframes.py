# SPDX-License-Identifier: Apache-2.0
"""Camera paths from a JSON file of keyframes.

```json
{
  "schema": 1,
  "fps": 30, "width": 1280, "height": 720, "easing": "smooth", "fov_deg": 50,
  "keyframes": [
    {"time_s": 0, "position": [3, 0, 1.5], "look_at": [0, 0, 1]},
    {"time_s": 4, "position": [0, 3, 1.5], "look_at": [0, 0, 1], "fov_deg": 35},
    {"time_s": 6, "position": [0, 3, 2.0], "rotation_wxyz": [0.7071, -0.7071, 0, 0]}
  ]
}
```

Positions are in the +Z up world.  `look_at` keeps the horizon level; `rotation_wxyz` is world_from_cam with OpenCV
axes (x right, y down, z forward).  `fov_deg` is the vertical field of view.  `easing` is "smooth" (splines through
the keyframes), "linear" (even pace from one to the next, with corners) or "stop" (as linear, but gently into and out
of a rest at each keyframe).  Everything but `schema` and the keyframes may be left out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.files import read_json
from recon.film.paths import UP, CameraPath, FloatArray, PathOptions, interpolate_poses, with_vertical_fov

SCHEMA = 1
DEFAULT_FOV_DEG = 50.0
MAX_KEYFRAMES = 10_000

_FILE_KEYS = ("fps", "width", "height", "easing", "fov_deg", "keyframes")
_KEYFRAME_KEYS = ("time_s", "position", "look_at", "rotation_wxyz", "fov_deg")
_EASINGS = ("smooth", "linear", "stop")


def read_keyframes(path: Path, options: PathOptions, lens: Camera | None = None) -> CameraPath:
    """Reads a keyframe file and returns the path through it.

    Args:
        path: the file.
        options: rate and length win over the file's (a given length stretches its times); size does where the file
            has none.
        lens: what size and field of view are taken from where the file says nothing; None means 16:9 and 50°.

    Raises:
        ReconError: not such a file, or an impossible keyframe; the message names it.
    """
    doing = f"reading the keyframes of {path}"
    document = read_json(path, SCHEMA, _FILE_KEYS)
    easing = document.get("easing", "smooth")
    if easing not in _EASINGS:
        raise ReconError(doing, f"its easing is {easing!r}", " or ".join(_EASINGS))
    entries = document.get("keyframes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYFRAMES:
        raise ReconError(doing, "it has no list of keyframes", f"1 to {MAX_KEYFRAMES} keyframes")
    lens = _lens(document, options, lens, doing)
    default_fov_rad = 2 * math.atan(0.5 * lens.height / lens.fy)
    frames = [_keyframe(entry, f"{doing}, number {i}", default_fov_rad) for i, entry in enumerate(entries)]
    knots = np.array([frame[0] for frame in frames])
    if (np.diff(knots) <= 0).any():
        raise ReconError(doing, f"its times are {knots.tolist()[:20]}", "each time_s later than the one before")
    fps = options.fps or _number(document.get("fps", 30.0), "fps", doing, 1e-3, 1000.0)
    seconds = options.seconds or float(knots[-1] - knots[0])
    # The last keyframe is shown: n steps have n + 1 ends.
    count = options.frame_count(seconds, fps) + (1 if len(knots) > 1 else 0)
    times = np.linspace(knots[0], knots[-1], count)
    if easing == "stop":
        times = _rest_at(knots, times)
    positions = np.array([frame[1] for frame in frames])
    rotations = np.array([frame[2] for frame in frames])
    poses = interpolate_poses(knots, positions, rotations, times, smooth=easing == "smooth")
    fovs_rad = np.interp(times, knots, [frame[3] for frame in frames])
    return CameraPath(tuple(with_vertical_fov(lens, fov).with_pose(pose) for fov, pose in zip(fovs_rad, poses)), fps)


def _lens(document: dict[str, Any], options: PathOptions, lens: Camera | None, doing: str) -> Camera:
    """Returns a camera of the film's size and default field of view."""
    width, height = (lens.width, lens.height) if lens else (16, 9)
    scale = options.long_side / max(width, height)
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    if "width" in document or "height" in document:
        width = round(_number(document.get("width"), "width", doing, 2, 16384))
        height = round(_number(document.get("height"), "height", doing, 2, 16384))
    if "fov_deg" in document or lens is None:
        fov_deg = _number(document.get("fov_deg", DEFAULT_FOV_DEG), "fov_deg", doing, 1, 170)
    else:
        fov_deg = math.degrees(2 * math.atan(0.5 * lens.height / lens.fy))
    return with_vertical_fov(Camera(width, height, 1.0, 1.0, width / 2, height / 2), math.radians(fov_deg))


def _keyframe(entry: Any, doing: str, default_fov_rad: float) -> tuple[float, FloatArray, FloatArray, float]:
    """Returns time in seconds, position, world_from_cam rotation and vertical field of view in radians."""
    if not isinstance(entry, dict):
        raise ReconError(doing, f"it is a {type(entry).__name__}", "an object with time_s and position")
    unknown = sorted(set(entry) - set(_KEYFRAME_KEYS))
    if unknown:
        raise ReconError(doing, f"unknown keys {', '.join(unknown)[:200]}", f"only {', '.join(_KEYFRAME_KEYS)}")
    time_s = _number(entry.get("time_s"), "time_s", doing, -1e6, 1e6)
    position = _numbers(entry.get("position"), "position", 3, doing)
    fov_rad = default_fov_rad
    if "fov_deg" in entry:
        fov_rad = math.radians(_number(entry["fov_deg"], "fov_deg", doing, 1, 170))
    if ("look_at" in entry) == ("rotation_wxyz" in entry):
        raise ReconError(doing, "it has both or neither of look_at and rotation_wxyz", "one of them")
    if "look_at" in entry:
        target = _numbers(entry["look_at"], "look_at", 3, doing)
        if np.linalg.norm(target - position) < 1e-9:
            raise ReconError(doing, "it looks at its own position", "another point")
        return time_s, position, look_at(position, target, UP)[:3, :3].T, fov_rad
    from scipy.spatial.transform import Rotation

    quaternion = _numbers(entry["rotation_wxyz"], "rotation_wxyz", 4, doing)
    if np.linalg.norm(quaternion) < 1e-6:
        raise ReconError(doing, "its rotation_wxyz is zero", "a quaternion w x y z")
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return time_s, position, Rotation.from_quat([x, y, z, w]).as_matrix(), fov_rad


def _rest_at(knots: FloatArray, times: FloatArray) -> FloatArray:
    """Bends even times so that the pace is zero at every knot (smoothstep within each segment)."""
    if len(knots) < 2:
        return times
    segment = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(knots) - 2)
    start, length = knots[segment], np.diff(knots)[segment]
    share = np.clip((times - start) / length, 0, 1)
    return start + length * share * share * (3 - 2 * share)


def _number(value: Any, name: str, doing: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ReconError(doing, f"its {name} is {str(value)[:60]}", f"a number from {least:g} to {most:g}")
    return float(value)


def _numbers(value: Any, name: str, count: int, doing: str) -> FloatArray:
    if not isinstance(value, list) or len(value) != count:
        raise ReconError(doing, f"its {name} is {str(value)[:60]}", f"{count} numbers")
    return np.array([_number(entry, name, doing, -1e9, 1e9) for entry in value])


def keyframes_document(path: CameraPath, every: int = 1) -> dict[str, Any]:
    """Returns the JSON object (without its schema) of keyframes at every `every`-th camera of a path."""
    from scipy.spatial.transform import Rotation

    cameras = path.cameras[::every]
    entries = []
    for index, camera in enumerate(cameras):
        x, y, z, w = Rotation.from_matrix(camera.cam_from_world[:3, :3].T).as_quat().tolist()
        entries.append(
            {
                "time_s": index * every / path.fps,
                "position": camera.center_in_world.tolist(),
                "rotation_wxyz": [w, x, y, z],
                "fov_deg": math.degrees(2 * math.atan(0.5 * camera.height / camera.fy)),
            }
        )
    return {"fps": path.fps, "width": cameras[0].width, "height": cameras[0].height, "keyframes": entries}
