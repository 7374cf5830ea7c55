# SPDX-License-Identifier: Apache-2.0
"""What a synthetic capture can be asked to be."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from recon.errors import ReconError

Kind = Literal["room", "object"]
PhotoFormat = Literal["jpg", "png"]


@dataclass(frozen=True)
class CaptureConfig:
    """How a synthetic capture is made; the same values give the same files."""

    views: int = 48
    """Number of photographs, at least 1."""
    width: int = 640
    """Width of a photograph in pixels."""
    height: int = 480
    """Height of a photograph in pixels."""
    seed: int = 0
    """Seed of everything random: textures, books, leaves, the walk, noise."""
    field_of_view_deg: float | None = None
    """Horizontal field of view in degrees; by default 74 in the room and 50 around the object."""
    distortion: tuple[float, float, float, float] = (-0.055, 0.012, 0.0004, -0.0003)
    """Lens distortion k1 k2 p1 p2 of the OPENCV model; four zeros make the camera a pinhole."""
    principal_point_px: tuple[float, float] = (0.0, 0.0)
    """Offset of the principal point from the middle of the picture, in pixels."""
    supersampling: int = 2
    """Samples per pixel and axis, 1 to 4."""
    detail: float = 1.0
    """Resolution of textures, light maps and the statue, 0.1 to 2; textures also follow the photographs' width."""
    light_samples: int = 32
    """Directions in which each point gathers light from other surfaces."""
    gloss: float = 0.6
    """Strength of highlights, which make colours depend on the viewer; 0 for none."""
    exposure_stops: float = 0.0
    """Standard deviation of the exposure between photographs, in stops."""
    vignetting: float = 0.0
    """Part of the light that is lost in the corners, 0 to 0.9."""
    noise: float = 0.004
    """Standard deviation of the sensor's noise at mid grey, relative to white."""
    distractors: int = 0
    """Moving things (a ball, a passer-by) in each photograph."""
    photo_format: PhotoFormat = "jpg"
    """File format of the photographs."""
    jpeg_quality: int = 95
    """Quality of JPEG files, 1 to 100."""
    exif: bool = True
    """Write the focal length into JPEG files, as cameras do."""
    maps: bool = True
    """Write depth and normals for each photograph."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES:
                low, high = _RANGES[field.name]
                if value is not None and not (_is_number(value) and low <= value <= high):
                    _refuse(field.name, value, f"a number from {low} to {high}")
        for name in ("views", "width", "height", "seed", "supersampling", "light_samples", "distractors"):
            if getattr(self, name) != int(getattr(self, name)):
                _refuse(name, getattr(self, name), "a whole number")
        for name, count, limit in (("distortion", 4, 1.0), ("principal_point_px", 2, 1e4)):
            values = getattr(self, name)
            if len(values) != count or not all(_is_number(v) and abs(v) <= limit for v in values):
                _refuse(name, values, f"{count} numbers between -{limit:g} and {limit:g}")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        if self.photo_format not in get_args(PhotoFormat):
            _refuse("photo_format", self.photo_format, " or ".join(get_args(PhotoFormat)))


_RANGES: dict[str, tuple[float, float]] = {
    "views": (1, 100_000),
    "width": (16, 16_384),
    "height": (16, 16_384),
    "seed": (0, 2**63 - 1),
    "field_of_view_deg": (10, 130),
    "supersampling": (1, 4),
    "detail": (0.1, 2),
    "light_samples": (1, 4096),
    "gloss": (0, 4),
    "exposure_stops": (0, 4),
    "vignetting": (0, 0.9),
    "noise": (0, 0.5),
    "distractors": (0, 20),
    "jpeg_quality": (1, 100),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(name: str, value: object, expected: str) -> None:
    raise ReconError("configuring a synthetic capture", f"{name} is {value!r}", expected)
