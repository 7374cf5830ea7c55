# SPDX-License-Identifier: Apache-2.0
"""Values of edits, checked: they come from people, from programs and from files that anybody may have written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from recon.errors import ReconError

LARGEST_COORDINATE = 1e9
SMALLEST_SCALE, LARGEST_SCALE = 1e-6, 1e6

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


def number(doing: str, name: str, value: Any, low: float, high: float) -> float:
    """Returns a finite number within its range.

    Raises:
        ReconError: it is none, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ReconError(doing, f"{name} is {shortened(value)}", f"a number from {low:g} to {high:g}")
    return float(value)


def whole(doing: str, name: str, value: Any, low: int, high: int) -> int:
    """Returns an integer within its range.

    Raises:
        ReconError: it is none, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ReconError(doing, f"{name} is {shortened(value)}", f"a whole number from {low} to {high}")
    return value


def flag(doing: str, name: str, value: Any) -> bool:
    """Returns a truth value.

    Raises:
        ReconError: it is none.
    """
    if not isinstance(value, bool):
        raise ReconError(doing, f"{name} is {shortened(value)}", "true or false")
    return value


def choice(doing: str, name: str, value: Any, choices: Sequence[str]) -> str:
    """Returns one of the words that may stand there.

    Raises:
        ReconError: it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ReconError(doing, f"{name} is {shortened(value)}", f"one of {', '.join(choices)}")
    return value


def numbers(
    doing: str, name: str, value: Any, count: int, low: float = -LARGEST_COORDINATE, high: float = LARGEST_COORDINATE
) -> tuple[float, ...]:
    """Returns `count` finite numbers within their range.

    Raises:
        ReconError: another number of them, or one that is none or outside.
    """
    tolist = getattr(value, "tolist", None)
    values = tolist() if tolist is not None else value
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise ReconError(doing, f"{name} is {shortened(value)}", f"{count} numbers")
    return tuple(number(doing, name, entry, low, high) for entry in values)


def vector(doing: str, name: str, value: Any) -> Vector3:
    """Returns a point or direction.

    Raises:
        ReconError: it is not three finite numbers.
    """
    x, y, z = numbers(doing, name, value, 3)
    return x, y, z


def quaternion(doing: str, name: str, value: Any) -> Quaternion:
    """Returns a rotation as a unit quaternion wxyz.

    Raises:
        ReconError: it is not four finite numbers, or too short to tell a direction.
    """
    values = numbers(doing, name, value, 4, -1e3, 1e3)
    length = math.sqrt(sum(entry * entry for entry in values))
    if length < 1e-3:
        raise ReconError(doing, f"{name} is {shortened(value)}", "a quaternion that is not zero")
    # What has unit length already keeps its bits, so that a file that is read and written stays the same.
    if abs(length - 1) > 1e-12:
        values = tuple(entry / length for entry in values)
    w, x, y, z = values
    return w, x, y, z


def shortened(value: Any) -> str:
    """Returns a value as it may stand in a message; a hostile file may hold any."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
