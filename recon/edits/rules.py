# SPDX-License-Identifier: Apache-2.0
"""Rules: which splats an edit is about, said so that it holds for any set of splats.

A rule is plain numbers (a box, a lasso with the camera that it was drawn in, a range of opacities); `recon.edits.masks`
finds the splats that match.  Where nothing but a list of splats will do, `Indices` packs one, guarded by a fingerprint
of the splats that it was made for.  Coordinates are those of the world as edited so far.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.edits import checks
from recon.edits.checks import Quaternion, Vector3
from recon.errors import ReconError
from recon.splats import Splats

Attribute = Literal["opacity", "size", "elongation", "floater"]
"""opacity 0..1; size, the largest standard deviation in world units; elongation, the largest over the middle standard
deviation; floater, 0..1, see `recon.edits.floaters`."""

ATTRIBUTES: tuple[str, ...] = get_args(Attribute)

MOST_VERTICES = 10_000
MOST_SPLATS = 1_000_000_000
LARGEST_PX = 100_000
_IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Everything:
    """Every splat that is not deleted or hidden."""


@dataclass(frozen=True)
class Box:
    """Splats whose centre is in an oriented box.

    Attributes:
        center: its middle.
        size: its edges, in full.
        wxyz: how the box is turned.
    """

    center: Vector3
    size: Vector3
    wxyz: Quaternion = _IDENTITY

    def __post_init__(self) -> None:
        doing = "making a box"
        _set(self, center=checks.vector(doing, "center", self.center))
        _set(self, size=checks.numbers(doing, "size", self.size, 3, 0.0))
        _set(self, wxyz=checks.quaternion(doing, "wxyz", self.wxyz))


@dataclass(frozen=True)
class Sphere:
    """Splats whose centre is in a sphere."""

    center: Vector3
    radius: float

    def __post_init__(self) -> None:
        doing = "making a sphere"
        _set(self, center=checks.vector(doing, "center", self.center))
        _set(self, radius=checks.number(doing, "radius", self.radius, 0.0, checks.LARGEST_COORDINATE))


@dataclass(frozen=True)
class PinholeView:
    """The camera that a lasso was drawn in; see `recon.cameras.Camera`.

    Attributes:
        width, height: size of the picture in pixels.
        fx, fy, cx, cy: focal lengths and principal point in pixels.
        wxyz, translation: cam_from_world.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    wxyz: Quaternion
    translation: Vector3

    def __post_init__(self) -> None:
        doing = "making the camera of a lasso"
        for name in ("width", "height"):
            _set(self, **{name: checks.whole(doing, name, getattr(self, name), 1, LARGEST_PX)})
        for name in ("fx", "fy"):
            _set(self, **{name: checks.number(doing, name, getattr(self, name), 1e-3, 1e9)})
        for name in ("cx", "cy"):
            _set(self, **{name: checks.number(doing, name, getattr(self, name), -1e9, 1e9)})
        _set(self, wxyz=checks.quaternion(doing, "wxyz", self.wxyz))
        _set(self, translation=checks.vector(doing, "translation", self.translation))

    @staticmethod
    def of(camera: Camera) -> PinholeView:
        """Returns the numbers of a PINHOLE camera.

        Raises:
            ReconError: it has a distortion.
        """
        from recon.splat_transform import quaternion_of

        if not camera.is_pinhole:
            raise ReconError("making the camera of a lasso", f"its model is {camera.model.value}", "PINHOLE")
        w, x, y, z = (float(value) for value in quaternion_of(camera.cam_from_world[:3, :3]))
        tx, ty, tz = (float(value) for value in camera.cam_from_world[:3, 3])
        return PinholeView(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, (w, x, y, z), (tx, ty, tz)
        )

    def to_camera(self) -> Camera:
        """Returns the camera."""
        from recon.splat_transform import rotation_of

        pose = np.eye(4)
        pose[:3, :3] = rotation_of(np.array(self.wxyz))
        pose[:3, 3] = self.translation
        return Camera(self.width, self.height, self.fx, self.fy, self.cx, self.cy, cam_from_world=pose)


@dataclass(frozen=True)
class Lasso:
    """Splats whose centre is seen inside a polygon.

    Attributes:
        polygon_px: corners (x, y) in pixels of the view; the last is joined to the first, and where edges cross the
            even-odd rule decides.
        view: the camera that it was drawn in.
        visible_only: leave out what lies behind the surface that the camera sees.
    """

    polygon_px: tuple[tuple[float, float], ...]
    view: PinholeView
    visible_only: bool = False

    def __post_init__(self) -> None:
        doing = "making a lasso"
        polygon = self.polygon_px
        if not isinstance(polygon, (list, tuple)) or not 3 <= len(polygon) <= MOST_VERTICES:
            raise ReconError(doing, f"polygon_px is {checks.shortened(polygon)}", f"3 to {MOST_VERTICES} corners")
        corners = tuple(checks.numbers(doing, "a corner", corner, 2) for corner in polygon)
        _set(self, polygon_px=corners)
        if not isinstance(self.view, PinholeView):
            raise ReconError(doing, f"view is {checks.shortened(self.view)}", "a PinholeView")
        _set(self, visible_only=checks.flag(doing, "visible_only", self.visible_only))


@dataclass(frozen=True)
class Range:
    """Splats of which a number lies within low .. high, both included."""

    attribute: Attribute
    low: float
    high: float

    def __post_init__(self) -> None:
        doing = "making a range"
        _set(self, attribute=checks.choice(doing, "attribute", self.attribute, ATTRIBUTES))
        for name in ("low", "high"):
            value = checks.number(doing, name, getattr(self, name), 0.0, checks.LARGEST_COORDINATE)
            _set(self, **{name: value})


@dataclass(frozen=True)
class ColorNear:
    """Splats whose base colour is within `tolerance` of a colour.

    Attributes:
        color: RGB in 0..1.
        tolerance: Euclidean distance in RGB; the farthest colours are √3 apart.
    """

    color: Vector3
    tolerance: float

    def __post_init__(self) -> None:
        doing = "making a range of colours"
        _set(self, color=checks.numbers(doing, "color", self.color, 3, 0.0, 1.0))
        _set(self, tolerance=checks.number(doing, "tolerance", self.tolerance, 0.0, 2.0))


@dataclass(frozen=True)
class Indices:
    """A list of splats.

    Attributes:
        count: how many splats there are.
        splats: `fingerprint_of` those.
        packed: one bit per splat in file order, compressed by zlib, in base64.
    """

    count: int
    splats: str
    packed: str

    def __post_init__(self) -> None:
        doing = "making a list of splats"
        _set(self, count=checks.whole(doing, "count", self.count, 0, MOST_SPLATS))
        for name in ("splats", "packed"):
            if not isinstance(getattr(self, name), str):
                raise ReconError(doing, f"{name} is {checks.shortened(getattr(self, name))}", "text")

    @staticmethod
    def of(mask: npt.NDArray[np.bool_], fingerprint: str) -> Indices:
        """Returns the list of the splats that an [N] mask marks, of splats with that fingerprint."""
        packed = zlib.compress(np.packbits(np.asarray(mask, bool)).tobytes(), 6)
        return Indices(len(mask), fingerprint, base64.b64encode(packed).decode("ascii"))

    def mask(self, doing: str) -> npt.NDArray[np.bool_]:
        """Returns the [count] mask; memory is bounded by the count, whatever the text unpacks to.

        Raises:
            ReconError: the text is not what `of` made.
        """
        size = (self.count + 7) // 8
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(self.packed, validate=True), size + 1)
        except (zlib.error, binascii.Error, ValueError) as error:
            raise ReconError(doing, f"a list of splats cannot be unpacked ({error})", "what recon wrote") from error
        if len(data) != size:
            raise ReconError(
                doing, f"a list of {self.count} splats does not unpack to {size} bytes", "what recon wrote"
            )
        return np.unpackbits(np.frombuffer(data, np.uint8), count=self.count).astype(bool)


Rule = Everything | Box | Sphere | Lasso | Range | ColorNear | Indices

RULES: dict[str, type] = {
    "everything": Everything,
    "box": Box,
    "sphere": Sphere,
    "lasso": Lasso,
    "range": Range,
    "color": ColorNear,
    "indices": Indices,
}
"""The rules by their name in files."""


def fingerprint_of(splats: Splats) -> str:
    """Returns a hash of which splats these are and in which order: their centres and opacities, as float32."""
    digest = hashlib.sha256(str(len(splats)).encode())
    for tensor in (splats.means, splats.opacity_logits):
        # Adding zero makes the zeros of both signs, which change when axes are turned, the same.
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy() + np.float32(0)).tobytes())
    return digest.hexdigest()[:16]


def _set(target: object, **values: Any) -> None:
    """Sets checked values on a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(target, name, value)
