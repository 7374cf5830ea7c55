# SPDX-License-Identifier: Apache-2.0
"""What a photo's EXIF block says about its camera (CIPA DC-008 / Exif 2.3), read with suspicion.

Focal lengths become pixels in one of two ways, both facts of the standard: the 35 mm equivalent compares the diagonal
with that of a 36 by 24 mm frame, and the focal plane resolution says how many pixels lie on a millimetre of sensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)

MAKE, MODEL, ORIENTATION, DATE_TIME = 0x010F, 0x0110, 0x0112, 0x0132
EXIF_IFD = 0x8769
EXPOSURE_TIME, F_NUMBER, ISO, DATE_ORIGINAL, SUBSECOND = 0x829A, 0x829D, 0x8827, 0x9003, 0x9291
FOCAL_MM, FOCAL_35MM, PIXEL_WIDTH, LENS_MODEL = 0x920A, 0xA405, 0xA002, 0xA434
PLANE_X_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA210

MILLIMETRES_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""EXIF's resolution units: inch, centimetre and, as some cameras write, millimetre and micrometre."""


@dataclass(frozen=True)
class PhotoFacts:
    """What EXIF says; None for what it does not.

    Attributes:
        orientation: 1 to 8; 1 is upright.
        camera: make, model and lens, for telling cameras apart.
        focal_mm: true focal length.
        focal_px: focal length in pixels of the stored picture.
        taken_s: when, in seconds on the camera's clock.
        exposure_log2: log2 of time × ISO / f²; only differences mean something.
    """

    orientation: int = 1
    camera: tuple[str, str, str] = ("", "", "")
    focal_mm: float | None = None
    focal_px: float | None = None
    taken_s: float | None = None
    exposure_log2: float | None = None


def read_facts(image: Image.Image) -> PhotoFacts:
    """Returns the facts of an open picture; broken EXIF counts as none."""
    try:
        exif = image.getexif()
        tags: dict[int, Any] = {**exif, **exif.get_ifd(EXIF_IFD)}
    except Exception:  # Pillow raises whatever its parsers trip over.
        return PhotoFacts()
    orientation = tags.get(ORIENTATION)
    return PhotoFacts(
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        camera=(_text(tags.get(MAKE)), _text(tags.get(MODEL)), _text(tags.get(LENS_MODEL))),
        focal_mm=_positive(tags.get(FOCAL_MM)),
        focal_px=_focal_px(tags, image.width, image.height),
        taken_s=_seconds(tags),
        exposure_log2=_exposure(tags),
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.replace("\0", " ").strip()[:100] if isinstance(value, str) else ""


def _positive(value: Any) -> float | None:
    if isinstance(value, tuple) and value:
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _focal_px(tags: dict[int, Any], width: int, height: int) -> float | None:
    candidates = []
    equivalent = _positive(tags.get(FOCAL_35MM))
    if equivalent is not None:
        candidates.append(equivalent / FULL_FRAME_DIAGONAL_MM * math.hypot(width, height))
    focal, resolution = _positive(tags.get(FOCAL_MM)), _positive(tags.get(PLANE_X_RESOLUTION))
    unit = MILLIMETRES_PER_UNIT.get(tags.get(PLANE_UNIT, 2))
    if focal is not None and resolution is not None and unit is not None:
        # The resolution is that of the picture as it was taken; a smaller copy has fewer pixels on a millimetre.
        original = _positive(tags.get(PIXEL_WIDTH)) or width
        shrunk = max(width, height) / max(original, 1.0) if original >= max(width, height) else 1.0
        candidates.append(focal * resolution / unit * shrunk)
    # Beyond these a lens is a fisheye or a telescope, and the numbers are more often wrong than true.
    longer = max(width, height)
    return next((focal_px for focal_px in candidates if 0.25 * longer < focal_px < 15 * longer), None)


def _seconds(tags: dict[int, Any]) -> float | None:
    written = _text(tags.get(DATE_ORIGINAL)) or _text(tags.get(DATE_TIME))
    try:
        seconds = (datetime.strptime(written[:19], "%Y:%m:%d %H:%M:%S") - datetime(2000, 1, 1)).total_seconds()
    except ValueError:
        return None
    fraction = _text(tags.get(SUBSECOND))
    return seconds + (float(f"0.{fraction}") if fraction.isdecimal() and fraction.isascii() else 0.0)


def _exposure(tags: dict[int, Any]) -> float | None:
    duration, sensitivity = _positive(tags.get(EXPOSURE_TIME)), _positive(tags.get(ISO))
    aperture = _positive(tags.get(F_NUMBER)) or 1.0
    if duration is None or sensitivity is None:
        return None
    return math.log2(duration * sensitivity / aperture**2)
