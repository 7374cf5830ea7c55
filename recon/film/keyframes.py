# SPDX-License-Identifier: Apache-2.0
"""Films of keyframes as JSON files.

```json
{
  "schema": 1,
  "fps": 30, "width": 1280, "height": 720, "easing": "smooth", "fov_deg": 50,
  "loop": false, "constant_speed": false,
  "keyframes": [
    {"time_s": 0, "position": [3, 0, 1.5], "look_at": [0, 0, 1]},
    {"time_s": 4, "position": [0, 3, 1.5], "look_at": [0, 0, 1], "fov_deg": 35, "easing": "ease_out"},
    {"time_s": 6, "position": [0, 3, 2.0], "rotation_wxyz": [0.7071, -0.7071, 0, 0]}
  ]
}
```

Positions are in the +Z up world.  `look_at` keeps the horizon level; `rotation_wxyz` is world_from_cam with OpenCV
axes (x right, y down, z forward).  `fov_deg` is the vertical field of view.  Everything but `schema` and the keyframes
may be left out:

| key | meaning |
| --- | --- |
| `easing` of a keyframe | the way to the next one: `smooth` (in passing), `linear` (at an even pace), `ease_in` (starts from rest), `ease_out` (ends at rest), `ease_in_out` (both), `hold` (stays, then jumps) |
| `easing` of the file | the same for keyframes that have none; also `stop`, which is `ease_in_out` |
| `curve` | `smooth` (splines) or `straight`; without it straight if the file's easing is `linear` or `stop` |
| `constant_speed` | true: the camera moves at one speed; only the first and the last time count |
| `loop` | true: from the last keyframe the camera goes on to the first |
| `closing_s` | how long that takes; by default the mean of the other ways |

A player needs nothing of this: `read_film(path).path().cameras` has a pose and a vertical field of view for every
frame, and `recon.film.motion.Motion(film).at(times)` for any time.
"""  # noqa: E501

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.files import read_json, write_json
from recon.film.easing import EASINGS
from recon.film.motion import Keyframe, KeyframedFilm
from recon.film.paths import UP, CameraPath, FloatArray, PathOptions

SCHEMA = 1
DEFAULT_FOV_DEG = 50.0
MAX_KEYFRAMES = 10_000
LARGEST_FILE = 16 << 20

_FILE_KEYS = (
    "fps", "width", "height", "easing", "fov_deg", "curve", "constant_speed", "loop", "closing_s", "keyframes",
)  # fmt: skip
_KEYFRAME_KEYS = ("time_s", "position", "look_at", "rotation_wxyz", "fov_deg", "easing")
_FILE_EASINGS = (*EASINGS, "stop")


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
    return read_film(path, options.long_side, lens).path(options)


def read_film(path: Path, long_side: int = 1280, lens: Camera | None = None) -> KeyframedFilm:
    """Reads a keyframe file.

    Args:
        path: the file.
        long_side: longer side of the picture in pixels, where the file has no size.
        lens: as of `read_keyframes`.

    Raises:
        ReconError: as `read_keyframes`.
    """
    doing = f"reading the keyframes of {path}"
    try:
        too_large = Path(path).stat().st_size > LARGEST_FILE
    except OSError:
        too_large = False
    if too_large:
        raise ReconError(doing, "it is too large", f"at most {LARGEST_FILE >> 20} MiB")
    return film_of(read_json(path, SCHEMA, _FILE_KEYS), doing, long_side, lens)


def film_of(document: dict[str, Any], doing: str, long_side: int = 1280, lens: Camera | None = None) -> KeyframedFilm:
    """Returns the film that a JSON object (without its schema) describes; `doing` begins its error messages.

    Raises:
        ReconError: an unknown key, or a value that cannot be.
    """
    easing = _choice(document.get("easing", "smooth"), "easing", _FILE_EASINGS, doing)
    straight = "straight" if easing in ("linear", "stop") else "smooth"
    shape = _choice(document.get("curve", straight), "curve", ("smooth", "straight"), doing)
    entries = document.get("keyframes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYFRAMES:
        raise ReconError(doing, "it has no list of keyframes", f"1 to {MAX_KEYFRAMES} keyframes")
    width, height = _size(document, long_side, lens, doing)
    if "fov_deg" in document or lens is None:
        fov_deg = _number(document.get("fov_deg", DEFAULT_FOV_DEG), "fov_deg", doing, 1, 170)
    else:
        fov_deg = math.degrees(2 * math.atan(0.5 * lens.height / lens.fy))
    default_easing = "ease_in_out" if easing == "stop" else easing
    frames = tuple(
        _keyframe(entry, f"{doing}, number {index}", fov_deg, default_easing) for index, entry in enumerate(entries)
    )
    times = [frame.time_s for frame in frames]
    if any(later - earlier <= 1e-6 for earlier, later in itertools.pairwise(times)):
        raise ReconError(doing, f"its times are {times[:20]}", "each time_s later than the one before")
    closing_s = document.get("closing_s")
    return KeyframedFilm(
        frames,
        fps=_number(document.get("fps", 30.0), "fps", doing, 1e-3, 1000.0),
        width=width,
        height=height,
        shape=shape,  # type: ignore[arg-type]
        constant_speed=_flag(document.get("constant_speed", False), "constant_speed", doing),
        loop=_flag(document.get("loop", False), "loop", doing),
        closing_s=None if closing_s is None else _number(closing_s, "closing_s", doing, 1e-6, 1e6),
    )


def film_document(film: KeyframedFilm) -> dict[str, Any]:
    """Returns the JSON object (without its schema) of a film."""
    document: dict[str, Any] = {
        "fps": film.fps,
        "width": film.width,
        "height": film.height,
        "curve": film.shape,
        "constant_speed": film.constant_speed,
        "loop": film.loop,
    }
    if film.closing_s is not None:
        document["closing_s"] = film.closing_s
    document["keyframes"] = [
        {
            "time_s": frame.time_s,
            "position": list(frame.position),
            "rotation_wxyz": list(frame.rotation_wxyz),
            "fov_deg": frame.fov_deg,
            "easing": frame.easing,
        }
        for frame in film.keyframes
    ]
    return document


def write_film(path: Path, film: KeyframedFilm) -> None:
    """Writes a film whole or not at all.

    Raises:
        ReconError: it cannot be written there.
    """
    write_json(path, film_document(film), SCHEMA)


def keyframe_of(camera: Camera, time_s: float) -> Keyframe:
    """Returns the keyframe at a camera's view."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(camera.cam_from_world[:3, :3].T).as_quat().tolist()
    px, py, pz = camera.center_in_world.tolist()
    return Keyframe(time_s, (px, py, pz), (w, x, y, z), math.degrees(2 * math.atan(0.5 * camera.height / camera.fy)))


def film_through(path: CameraPath, every: int = 1, loop: bool = False) -> KeyframedFilm:
    """Returns the film with keyframes at every `every`-th camera of a path; a loop comes back to its first one."""
    first = path.cameras[0]
    frames = tuple(keyframe_of(camera, index * every / path.fps) for index, camera in enumerate(path.cameras[::every]))
    return KeyframedFilm(frames, path.fps, first.width, first.height, loop=loop)


def keyframes_document(path: CameraPath, every: int = 1) -> dict[str, Any]:
    """Returns the JSON object (without its schema) of keyframes at every `every`-th camera of a path."""
    return film_document(film_through(path, every))


def _size(document: dict[str, Any], long_side: int, lens: Camera | None, doing: str) -> tuple[int, int]:
    """Returns the film's width and height in pixels."""
    if "width" in document or "height" in document:
        width = round(_number(document.get("width"), "width", doing, 2, 16384))
        return width, round(_number(document.get("height"), "height", doing, 2, 16384))
    width, height = (lens.width, lens.height) if lens else (16, 9)
    scale = long_side / max(width, height)
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _keyframe(entry: Any, doing: str, default_fov_deg: float, default_easing: str) -> Keyframe:
    """Returns the keyframe that an entry describes."""
    if not isinstance(entry, dict):
        raise ReconError(doing, f"it is a {type(entry).__name__}", "an object with time_s and position")
    unknown = sorted(set(entry) - set(_KEYFRAME_KEYS))
    if unknown:
        raise ReconError(doing, f"unknown keys {', '.join(unknown)[:200]}", f"only {', '.join(_KEYFRAME_KEYS)}")
    time_s = _number(entry.get("time_s"), "time_s", doing, -1e6, 1e6)
    position = _numbers(entry.get("position"), "position", 3, doing)
    fov_deg = _number(entry.get("fov_deg", default_fov_deg), "fov_deg", doing, 1, 170)
    easing = _choice(entry.get("easing", default_easing), "easing", EASINGS, doing)
    if ("look_at" in entry) == ("rotation_wxyz" in entry):
        raise ReconError(doing, "it has both or neither of look_at and rotation_wxyz", "one of them")
    if "look_at" in entry:
        target = _numbers(entry["look_at"], "look_at", 3, doing)
        if np.linalg.norm(target - position) < 1e-9:
            raise ReconError(doing, "it looks at its own position", "another point")
        from scipy.spatial.transform import Rotation

        x, y, z, w = Rotation.from_matrix(look_at(position, target, UP)[:3, :3].T).as_quat().tolist()
    else:
        quaternion = _numbers(entry["rotation_wxyz"], "rotation_wxyz", 4, doing)
        length = float(np.linalg.norm(quaternion))
        if length < 1e-6:
            raise ReconError(doing, "its rotation_wxyz is zero", "a quaternion w x y z")
        # What was written comes back to the last bit.
        w, x, y, z = (quaternion if abs(length - 1) < 1e-9 else quaternion / length).tolist()
    px, py, pz = position.tolist()
    return Keyframe(time_s, (px, py, pz), (w, x, y, z), fov_deg, easing)  # type: ignore[arg-type]


def _choice(value: Any, name: str, choices: tuple[str, ...], doing: str) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ReconError(doing, f"its {name} is {str(value)[:60]!r}", " or ".join(choices))
    return value


def _flag(value: Any, name: str, doing: str) -> bool:
    if not isinstance(value, bool):
        raise ReconError(doing, f"its {name} is {str(value)[:60]}", "true or false")
    return value


def _number(value: Any, name: str, doing: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ReconError(doing, f"its {name} is {str(value)[:60]}", f"a number from {least:g} to {most:g}")
    return float(value)


def _numbers(value: Any, name: str, count: int, doing: str) -> FloatArray:
    if not isinstance(value, list) or len(value) != count:
        raise ReconError(doing, f"its {name} is {str(value)[:60]}", f"{count} numbers")
    return np.array([_number(entry, name, doing, -1e9, 1e9) for entry in value])
