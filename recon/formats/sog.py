# SPDX-License-Identifier: Apache-2.0
"""Reading SOG version 2 (Spatially Ordered Gaussians), as a folder with meta.json or zipped as .sog.

Each attribute is a picture whose pixels, row by row, belong to the splats:
- means_l and means_u: low and high bytes of 16 bits between bounds, of sign(x) ln(|x| + 1);
- quats: three components times √2 as bytes about ½, and 252 + the index of the largest of wxyz;
- scales: indices into 256 log scales;  sh0: indices into 256 coefficients, and the opacity;
- shN_labels: 16-bit index into a palette;  shN_centroids: 64 palette entries a row, a pixel for each coefficient
  above the constant, each byte an index into 256 numbers.
Axes are those of the PLY it was made from, y down as a rule.  `antialias` says whether the screen filter is on.
Source: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog, the format's specification.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.formats.splat_axes import UP_AXES, UpAxis
from recon.formats.splat_parts import (
    ByteArray,
    FloatArray,
    NotFinite,
    SplatParts,
    check_budget,
    file_bytes,
    logits_of_bytes,
    quats_from_three,
    refusing,
)
from recon.formats.webp_images import picture_pixels
from recon.progress import SILENT, Progress
from recon.splats import Splats

META = "meta.json"
MOST_META_BYTES = 4 << 20
MOST_MEMBERS = 256
MOST_PICTURE_BYTES = 1 << 30
PALETTE_COLUMNS = 64
SPARE_PIXELS = 1 << 18
"""A picture may have so many pixels more than splats, for writers that round sizes up."""

BYTES_PER_SPLAT = 64
"""Of what the pictures stand for, to tell how many splats a file of some size may claim."""

COEFFICIENTS = {1: 3, 2: 8, 3: 15}


def read_sog(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads a SOG: a .sog file, a folder, or its meta.json.

    The other arguments and the errors are those of `recon.formats.splat_files.read_splats`.
    """
    path = Path(path)
    doing = f"reading the splats of {path}"
    if path.is_dir() or path.name == META:
        folder = path if path.is_dir() else path.parent
        with refusing(doing, "its folder cannot be read"):
            packed = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
        return _read(lambda name: _folder_member(folder, name, doing), packed, doing, not_finite, progress, up)
    with refusing(doing, "it is not a readable zip archive"), zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > MOST_MEMBERS:
            raise ReconError(doing, f"it has {len(archive.infolist())} members", f"at most {MOST_MEMBERS}")
        packed = path.stat().st_size
        return _read(lambda name: _zip_member(archive, name, doing), packed, doing, not_finite, progress, up)


def _folder_member(folder: Path, name: str, doing: str) -> bytes:
    path = folder / name
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder), name):
        raise ReconError(doing, f"its {name} is a link to elsewhere", "a file in its folder")
    return file_bytes(path, doing, MOST_META_BYTES if name == META else MOST_PICTURE_BYTES)


def _zip_member(archive: zipfile.ZipFile, name: str, doing: str) -> bytes:
    """Returns a member's bytes; nothing is ever written to the disk."""
    most = MOST_META_BYTES if name == META else max(1 << 16, os.fstat(archive.fp.fileno()).st_size)  # type: ignore[union-attr]
    with archive.open(archive.getinfo(name)) as member:
        # Pictures are packed already, so a member is never larger than the archive; what it claims is not asked.
        data = member.read(most + 1)
    if len(data) > most:
        raise ReconError(doing, f"its {name} unpacks to more than {most} bytes", "pictures, not a bomb")
    return data


def _read(
    member: Callable[[str], bytes],
    packed: int,
    doing: str,
    not_finite: NotFinite,
    progress: Progress,
    up: UpAxis | Literal["auto"],
) -> Splats:
    with refusing(doing, "its meta.json is broken"):
        meta = json.loads(member(META))
    if not isinstance(meta, dict) or meta.get("version") != 2:
        version = meta.get("version", "missing") if isinstance(meta, dict) else "missing"
        raise ReconError(doing, f"the version of its meta.json is {str(version)[:40]}", "SOG version 2")
    count = _whole(meta, "count", 1, 1 << 28, doing)
    check_budget(count * BYTES_PER_SPLAT, packed, doing)
    pictures = _Pictures(member, count, doing)
    scales, sh0 = _section(meta, "scales", doing), _section(meta, "sh0", doing)
    scale_bytes = pictures.read(scales, "scales", 0)
    color_bytes = pictures.read(sh0, "sh0", 0)
    parts = SplatParts(
        means=_means(meta, pictures, doing),
        quats=_quats(pictures.read(_section(meta, "quats", doing), "quats", 0)),
        log_scales=_numbers(scales, "codebook", 256, doing)[scale_bytes[:, :3]],
        opacity_logits=logits_of_bytes(color_bytes[:, 3]),
        base=_numbers(sh0, "codebook", 256, doing)[color_bytes[:, :3]],
        rest=_rest(_section(meta, "shN", doing), pictures, doing) if meta.get("shN") is not None else None,
        antialiased=meta.get("antialias") is True,
        up=_up(meta),
    )
    return parts.splats(doing, not_finite, progress, up)


class _Pictures:
    """Reads the pictures of a SOG whose names meta.json gives."""

    def __init__(self, member: Callable[[str], bytes], count: int, doing: str) -> None:
        self._member, self._count, self._doing = member, count, doing

    def read(self, section: dict[str, Any], what: str, index: int) -> ByteArray:
        """Returns the first pixels of a picture, [N, 4]."""
        pixels = self.whole(section, what, index, 2 * self._count + SPARE_PIXELS).reshape(-1, 4)
        if len(pixels) < self._count:
            raise ReconError(
                self._doing, f"its picture of {what} has {len(pixels)} pixels", f"at least {self._count}, one a splat"
            )
        return pixels[: self._count]

    def whole(self, section: dict[str, Any], what: str, index: int, most_pixels: int) -> ByteArray:
        """Returns a picture, [H, W, 4]."""
        names = section.get("files")
        name = names[index] if isinstance(names, list) and len(names) > index else None
        plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")
        if not plain:
            raise ReconError(self._doing, f"the name of its picture of {what} is {str(name)[:80]!r}", "a plain name")
        with refusing(self._doing, f"its picture {name} cannot be read"):
            data = self._member(str(name))
        return picture_pixels(data, most_pixels, self._doing)


def _section(meta: dict[str, Any], name: str, doing: str) -> dict[str, Any]:
    section = meta.get(name)
    if not isinstance(section, dict):
        raise ReconError(doing, f"its meta.json has no section {name}", "SOG version 2")
    return section


def _whole(section: dict[str, Any], name: str, low: int, high: int, doing: str) -> int:
    value = section.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ReconError(doing, f"{name} in its meta.json is {str(value)[:40]}", f"a whole number from {low} to {high}")
    return value


def _numbers(section: dict[str, Any], name: str, most: int, doing: str) -> FloatArray:
    """Returns a list of numbers; a codebook that is shorter than its bytes could ask for is filled up with zeros."""
    values = section.get(name)
    good = isinstance(values, list) and 1 <= len(values) <= most
    if not good or not all(isinstance(value, int | float) for value in values):  # type: ignore[union-attr]
        raise ReconError(doing, f"{name} in its meta.json is no list of at most {most} numbers", "SOG version 2")
    numbers = np.zeros(most, np.float32)
    with np.errstate(over="ignore"), refusing(doing, f"{name} in its meta.json is broken"):
        numbers[: len(values)] = np.array(values, np.float64).astype(np.float32)  # type: ignore[arg-type]
    return numbers


def _up(meta: dict[str, Any]) -> UpAxis:
    """Returns the axis that points up: what our own writer noted, else that of PLY files."""
    extras = meta.get("extras")
    noted = extras.get("up") if isinstance(extras, dict) else None
    return noted if noted in UP_AXES else "-y"  # type: ignore[return-value]


def _means(meta: dict[str, Any], pictures: _Pictures, doing: str) -> FloatArray:
    section = _section(meta, "means", doing)
    low, high = (_numbers(section, name, 3, doing) for name in ("mins", "maxs"))
    lower, upper = (pictures.read(section, "means", index)[:, :3] for index in (0, 1))
    steps = lower.astype(np.float32) + 256 * upper.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        bent = low + steps * ((high - low) / np.float32(65535))
        return (np.sign(bent) * np.expm1(np.abs(bent))).astype(np.float32)


def _quats(pixels: ByteArray) -> FloatArray:
    others = (pixels[:, :3].astype(np.float32) / 127.5 - 1) * np.float32(0.5**0.5)
    quats = quats_from_three(pixels[:, 3].astype(np.int16) - 252, others)
    # A mark that is none of 252..255 stands for no rotation.
    quats[pixels[:, 3] < 252] = (1, 0, 0, 0)
    return quats


def _rest(section: dict[str, Any], pictures: _Pictures, doing: str) -> FloatArray | None:
    bands = _whole(section, "bands", 0, 3, doing)
    if bands == 0:
        return None
    size, width = _whole(section, "count", 1, 65536, doing), COEFFICIENTS[bands]
    numbers = _numbers(section, "codebook", 256, doing)
    rows = -(-size // PALETTE_COLUMNS)
    image = pictures.whole(section, "the palette", 0, PALETTE_COLUMNS * width * (rows + 64))
    if image.shape[0] < rows or image.shape[1] != PALETTE_COLUMNS * width:
        raise ReconError(
            doing, f"its palette is {image.shape[1]}×{image.shape[0]} pixels", f"{PALETTE_COLUMNS * width}×{rows}"
        )
    labels = pictures.read(section, "palette labels", 1)
    index = labels[:, 0].astype(np.int32) | labels[:, 1].astype(np.int32) << 8
    if int(index.max()) >= size:
        raise ReconError(doing, f"a splat has number {int(index.max())} of its palette", f"numbers below {size}")
    palette: npt.NDArray[np.uint8] = image[:rows].reshape(-1, width, 4)[:size, :, :3]
    return numbers[palette][index]
