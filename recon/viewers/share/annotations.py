# SPDX-License-Identifier: Apache-2.0
"""Annotations of a scene, points with text, from a JSON file.

```json
{
  "schema": 1,
  "annotations": [
    {"title": "The bell", "text": "Cast in 1923.", "position": [0.2, 0.1, 1.4]},
    {"title": "The door", "position": [1, 0, 0.5],
     "view": {"position": [3, 0, 1.5], "look_at": [1, 0, 0.5], "fov_deg": 40}}
  ]
}
```

Positions are in the +Z up world, as edited.  Without a `view` the page flies nearer from wherever one is; `text` may
have several lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.cameras import look_at
from recon.errors import ReconError
from recon.files import read_json

SCHEMA = 1
MOST_ANNOTATIONS = 200
LONGEST_TITLE, LONGEST_TEXT = 200, 5000
DEFAULT_FOV_DEG = 45.0

_KEYS = ("title", "text", "position", "view")
_VIEW_KEYS = ("position", "look_at", "fov_deg")

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Annotation:
    """A point with text.

    Attributes:
        title, text: plain text.
        position: [3], world.
        cam_from_world: 4×4 pose to look at it from; None for nearer from anywhere.
        fov_rad: vertical field of view of that pose.
    """

    title: str
    text: str
    position: FloatArray
    cam_from_world: FloatArray | None = None
    fov_rad: float = math.radians(DEFAULT_FOV_DEG)


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Reads a file of annotations.

    Raises:
        ReconError: not such a file; the message names the annotation.
    """
    doing = f"reading the annotations of {path}"
    entries = read_json(path, SCHEMA, ("annotations",)).get("annotations")
    if not isinstance(entries, list) or len(entries) > MOST_ANNOTATIONS:
        raise ReconError(doing, "it has no list of annotations", f"a list of at most {MOST_ANNOTATIONS}")
    return tuple(_annotation(entry, f"{doing}, number {index + 1}") for index, entry in enumerate(entries))


def _annotation(entry: Any, doing: str) -> Annotation:
    _check_keys(entry, _KEYS, doing)
    position = _vector(entry.get("position"), "position", doing)
    title = _text(entry.get("title"), "title", LONGEST_TITLE, doing)
    text = _text(entry.get("text", ""), "text", LONGEST_TEXT, doing)
    if not title.strip():
        raise ReconError(doing, "its title is empty", "a word or two")
    if "view" not in entry:
        return Annotation(title, text, position)
    view = entry["view"]
    _check_keys(view, _VIEW_KEYS, doing)
    eye = _vector(view.get("position"), "view's position", doing)
    target = _vector(view["look_at"], "view's look_at", doing) if "look_at" in view else position
    if np.linalg.norm(target - eye) < 1e-9:
        raise ReconError(doing, "its view looks at its own position", "another point")
    fov_deg = view.get("fov_deg", DEFAULT_FOV_DEG)
    if isinstance(fov_deg, bool) or not isinstance(fov_deg, (int, float)) or not 1 <= fov_deg <= 170:
        raise ReconError(doing, f"its fov_deg is {str(fov_deg)[:60]}", "a number from 1 to 170")
    return Annotation(title, text, position, look_at(eye, target, np.array([0.0, 0.0, 1.0])), math.radians(fov_deg))


def _check_keys(entry: Any, keys: tuple[str, ...], doing: str) -> None:
    if not isinstance(entry, dict):
        raise ReconError(doing, f"it is a {type(entry).__name__}", f"an object with {', '.join(keys)}")
    unknown = sorted(set(entry) - set(keys))
    if unknown:
        raise ReconError(doing, f"unknown keys {', '.join(unknown)[:200]}", f"only {', '.join(keys)}")


def _text(value: Any, name: str, longest: int, doing: str) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ReconError(doing, f"its {name} is no text of at most {longest} letters", "text")
    return value


def _vector(value: Any, name: str, doing: str) -> FloatArray:
    numbers = isinstance(value, list) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
    if not numbers or len(value) != 3 or not all(math.isfinite(x) and abs(x) < 1e9 for x in value):
        raise ReconError(doing, f"its {name} is {str(value)[:60]}", "three numbers [x, y, z]")
    return np.array(value, dtype=np.float64)
