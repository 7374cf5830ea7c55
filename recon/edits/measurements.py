# SPDX-License-Identifier: Apache-2.0
"""Measurements of a scene: distances, angles and areas between points, kept beside the edits.

Points are stored in the world of the untouched run, so that they stay where they are on the surface whatever the scene
is moved by; values are those of the world as edited, in metres where its scale is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from recon.edits import checks
from recon.edits.checks import Vector3
from recon.errors import ReconError
from recon.files import read_json, write_json
from recon.scene import Similarity

FloatArray = npt.NDArray[np.float64]
Kind = Literal["distance", "angle", "area"]

KINDS: tuple[str, ...] = get_args(Kind)
POINTS_NEEDED: dict[str, int] = {"distance": 2, "angle": 3, "area": 3}
SCHEMA = 1
MOST_MEASUREMENTS = 10_000
MOST_POINTS = 1000
MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        kind: the length of the way through the points (two or more), the angle at the second of three points, or the
            area of the polygon of three or more.
        points: in the world of the untouched run.
    """

    kind: Kind
    points: tuple[Vector3, ...]

    def __post_init__(self) -> None:
        doing = "making a measurement"
        kind = checks.choice(doing, "kind", self.kind, KINDS)
        points, needed = self.points, POINTS_NEEDED[kind]
        most = 3 if kind == "angle" else MOST_POINTS
        if not isinstance(points, (list, tuple)) or not needed <= len(points) <= most:
            raise ReconError(doing, f"points is {checks.shortened(points)}", f"{needed} to {most} points")
        object.__setattr__(self, "points", tuple(checks.vector(doing, "a point", point) for point in points))

    @staticmethod
    def of(kind: Kind, points: FloatArray, world: Similarity) -> Measurement:
        """Returns the measurement of points [P, 3] in the world as edited, which `world` has moved the run to."""
        in_run = world.inverse().apply(np.asarray(points, np.float64))
        return Measurement(kind, tuple((float(x), float(y), float(z)) for x, y, z in in_run))

    def placed(self, world: Similarity) -> FloatArray:
        """Returns the points [P, 3] in the world as edited."""
        return world.apply(np.array(self.points))

    def value(self, world: Similarity) -> float:
        """Returns the length or area in units of the world as edited, or the angle in degrees."""
        points = self.placed(world)
        if self.kind == "distance":
            return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        if self.kind == "angle":
            one, other = points[0] - points[1], points[2] - points[1]
            return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, other)), one @ other)))
        return polygon_area(points)

    def text(self, world: Similarity, meters_per_unit: float | None) -> str:
        """Returns the value as it is shown: in metres or centimetres, or in units where the scale is unknown."""
        value = self.value(world)
        if self.kind == "angle":
            return f"{value:.1f}°"
        power = 1 if self.kind == "distance" else 2
        square = "" if power == 1 else "²"
        if meters_per_unit is None:
            return f"{value:.4g} {'units' if power == 1 else 'square units'}"
        meters = value * meters_per_unit**power
        if meters < (1.0 if power == 1 else 0.1):
            return f"{meters * 100**power:.4g} cm{square}"
        return f"{meters:.4g} m{square}"


def polygon_area(points: FloatArray) -> float:
    """Returns the area of a polygon [P, 3], by Newell's vector: that of its projection along its mean normal."""
    relative = points - points[0]
    return 0.5 * float(np.linalg.norm(np.cross(relative, np.roll(relative, -1, axis=0)).sum(0)))


def measurements_path(edits_path: Path) -> Path:
    """Returns where the measurements lie whose edits lie at `edits_path`."""
    return edits_path.with_name(edits_path.name.removesuffix("edits.json") + "measurements.json")


def read_measurements(file: Path) -> tuple[Measurement, ...]:
    """Reads what `write_measurements` wrote; none where there is no file.

    Raises:
        ReconError: it is not such a file.
    """
    doing = f"reading {file}"
    if not file.exists():
        return ()
    if file.stat().st_size > MOST_BYTES:
        raise ReconError(doing, f"it has {file.stat().st_size} bytes", f"at most {MOST_BYTES}")
    entries = read_json(file, SCHEMA, ["measurements"]).get("measurements")
    if not isinstance(entries, list) or len(entries) > MOST_MEASUREMENTS:
        raise ReconError(doing, "it lacks measurements", f"a list of at most {MOST_MEASUREMENTS}")
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"kind", "points"}:
            raise ReconError(doing, f"a measurement is {checks.shortened(entry)}", "kind and points")
    return tuple(Measurement(entry["kind"], entry["points"]) for entry in entries)


def write_measurements(file: Path, measurements: tuple[Measurement, ...]) -> None:
    """Writes measurements, whole or not at all.

    Raises:
        ReconError: the file cannot be written.
    """
    entries = [{"kind": entry.kind, "points": entry.points} for entry in measurements]
    write_json(file, {"measurements": entries}, SCHEMA)
