# SPDX-License-Identifier: Apache-2.0
"""Reading the .ksplat format of the three.js viewer of M. Kellogg, all compression levels.

A header of 4096 bytes, a header of 1024 bytes for each section, then the sections: the counts of buckets that are
not full, the buckets' centres, and the splats.  Level 0 stores float32; levels 1 and 2 store positions as 16-bit
steps about the centre of the splat's bucket and everything else but the colour as half floats; level 2 stores
harmonics as bytes between two bounds.  Harmonics are channel-major within each degree, at most of degree 2 in
practice.  Axes as in the PLY that it was made from, y down as a rule.
Source: the layout of https://github.com/mkkellogg/GaussianSplats3D (SplatBuffer), described in its words and code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import (
    REST_NUMBERS,
    FloatArray,
    NotFinite,
    SplatParts,
    base_of_colors,
    file_bytes,
    log_scales_of,
    logits_of_bytes,
)
from recon.progress import SILENT, Progress
from recon.splats import Splats

HEADER_BYTES = 4096
SECTION_HEADER_BYTES = 1024
STEPS = 32767
HARMONICS_BOUND = 1.5


@dataclass(frozen=True)
class _Header:
    level: int
    sections: int
    splats: int
    harmonics_low: float
    harmonics_high: float


@dataclass(frozen=True)
class _Section:
    """A section's header; byte offsets are in the file."""

    splats: int
    bucket_size: int
    buckets: int
    full_buckets: int
    partial_buckets: int
    bucket_bytes: int
    block_size: float
    steps: int
    degree: int
    capacity: int
    start: int

    @property
    def buckets_start(self) -> int:
        return self.start + 4 * self.partial_buckets

    @property
    def splats_start(self) -> int:
        return self.buckets_start + self.bucket_bytes * self.buckets


def read_ksplat(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads a .ksplat file; the arguments and errors are those of `recon.formats.splat_files.read_splats`."""
    doing = f"reading the splats of {path}"
    data = file_bytes(Path(path), doing)
    header = _header(data, doing)
    sections: list[SplatParts] = []
    start = HEADER_BYTES + header.sections * SECTION_HEADER_BYTES
    for index in range(header.sections):
        section = _section(data, header, index, start, doing)
        row = _row_type(header.level, section.degree)
        start = section.splats_start + section.capacity * row.itemsize
        if section.splats_start + section.splats * row.itemsize > len(data):
            raise ReconError(
                doing,
                f"its section {index} of {section.splats} splats ends beyond its {len(data)} bytes",
                "a whole file",
            )
        if section.splats:
            sections.append(_section_parts(data, header, section, row, doing))
    found = sum(len(part.means) for part in sections)
    if found == 0:
        raise ReconError(doing, "its sections hold no splats", "at least one")
    if found < header.splats:
        progress.log(f"its header promises {header.splats} splats; its sections hold {found}")
    return _join(sections).splats(doing, not_finite, progress, up)


def looks_like_ksplat(head: bytes, size: int) -> bool:
    """Returns whether a file may be a .ksplat: a known version and level, sections that fit."""
    if len(head) < 44 or size < HEADER_BYTES + SECTION_HEADER_BYTES:
        return False
    major, minor, sections, level = head[0], head[1], *struct.unpack_from("<I12xH", head, 4)
    return major == 0 and minor == 1 and level <= 2 and HEADER_BYTES + sections * SECTION_HEADER_BYTES <= size


def _header(data: bytes, doing: str) -> _Header:
    if len(data) < HEADER_BYTES:
        raise ReconError(doing, f"it has {len(data)} bytes", f"a header of {HEADER_BYTES} bytes")
    if data[0] != 0 or data[1] < 1:
        raise ReconError(doing, f"its version is {data[0]}.{data[1]}", "version 0.1")
    sections, _, _, splats, level = struct.unpack_from("<IIIIH", data, 4)
    low, high = struct.unpack_from("<ff", data, 36)
    if level > 2:
        raise ReconError(doing, f"its compression level is {level}", "0, 1 or 2")
    if HEADER_BYTES + sections * SECTION_HEADER_BYTES > len(data):
        raise ReconError(doing, f"its header promises {sections} sections", "as many as fit into the file")
    # Both bounds of nothing mean that the writer left them out.
    return _Header(level, sections, splats, low or -HARMONICS_BOUND, high or HARMONICS_BOUND)


def _section(data: bytes, header: _Header, index: int, start: int, doing: str) -> _Section:
    words = struct.unpack_from("<IIIIfHxxIIIIH", data, HEADER_BYTES + index * SECTION_HEADER_BYTES)
    splats, capacity, bucket_size, buckets, block_size, bucket_bytes, steps, _, full, partial, degree = words
    if degree not in (0, 1, 2, 3):
        raise ReconError(doing, f"its section {index} has harmonics of degree {degree}", "degree 0 to 3")
    section = _Section(
        splats, bucket_size, buckets, full, partial, bucket_bytes, block_size, steps or STEPS, degree, capacity, start
    )
    if section.splats_start > len(data) or splats > capacity:
        raise ReconError(doing, f"its section {index} does not fit into the file", "a whole file")
    if header.level > 0 and splats and (bucket_bytes < 12 or full + partial > buckets or not buckets):
        raise ReconError(
            doing, f"its section {index} has {buckets} buckets of {bucket_bytes} bytes", "a bucket for each splat"
        )
    return section


def _row_type(level: int, degree: int) -> np.dtype[Any]:
    center, number = ("<f4", "<f4") if level == 0 else ("<u2", "<f2")
    fields: list[Any] = [("mean", center, 3), ("scale", number, 3), ("quat", number, 4), ("color", "u1", 4)]
    if degree:
        fields.append(("rest", ("<f4", "<f2", "u1")[level], REST_NUMBERS[degree]))
    return np.dtype(fields)


def _section_parts(data: bytes, header: _Header, section: _Section, row: np.dtype[Any], doing: str) -> SplatParts:
    rows = np.frombuffer(data, row, section.splats, section.splats_start)
    means: FloatArray = rows["mean"].astype(np.float32)
    if header.level > 0:
        centers = np.ndarray((section.buckets, 3), "<f4", data, section.buckets_start, (section.bucket_bytes, 4))
        step = section.block_size / 2 / section.steps
        with np.errstate(over="ignore", invalid="ignore"):
            means = (means - section.steps) * np.float32(step) + centers[_bucket_of(data, section, doing)]
    rest = None
    if section.degree:
        numbers: FloatArray = rows["rest"].astype(np.float32)
        if header.level == 2:
            numbers = header.harmonics_low + numbers / 255 * (header.harmonics_high - header.harmonics_low)
        rest = _rest_of(numbers.astype(np.float32, copy=False), section.degree)
    return SplatParts(
        means=means,
        quats=rows["quat"].astype(np.float32),
        log_scales=log_scales_of(rows["scale"].astype(np.float32)),
        opacity_logits=logits_of_bytes(rows["color"][:, 3]),
        base=base_of_colors(rows["color"][:, :3].astype(np.float32) / 255),
        rest=rest,
    )


def _bucket_of(data: bytes, section: _Section, doing: str) -> npt.NDArray[np.int64]:
    """Returns each splat's bucket: full ones first, then those whose counts are listed."""
    lengths = np.frombuffer(data, "<u4", section.partial_buckets, section.start).astype(np.int64)
    in_full = section.full_buckets * section.bucket_size
    if in_full + int(lengths.sum()) < section.splats:
        raise ReconError(
            doing, f"its buckets hold {in_full + int(lengths.sum())} of {section.splats} splats", "a bucket for each"
        )
    numbers = np.arange(section.splats)
    ends = in_full + np.cumsum(lengths)
    partial = section.full_buckets + np.searchsorted(ends, numbers, side="right")
    return np.where(numbers < in_full, numbers // max(section.bucket_size, 1), partial)


def _rest_of(numbers: FloatArray, degree: int) -> FloatArray:
    """Returns [N, K - 1, 3] from rows that are channel-major within each degree."""
    bands, start = [], 0
    for band in range(1, degree + 1):
        width = 3 * (2 * band + 1)
        bands.append(numbers[:, start : start + width].reshape(len(numbers), 3, -1).transpose(0, 2, 1))
        start += width
    return np.concatenate(bands, 1)


def _join(sections: list[SplatParts]) -> SplatParts:
    """Returns all sections in one; those of a lower degree get zeros."""
    most = max(0 if part.rest is None else part.rest.shape[1] for part in sections)
    rest = None
    if most:
        rest = np.zeros((sum(len(part.means) for part in sections), most, 3), np.float32)
        start = 0
        for part in sections:
            if part.rest is not None:
                rest[start : start + len(part.means), : part.rest.shape[1]] = part.rest
            start += len(part.means)
    means, quats, log_scales, logits, base = (
        np.concatenate([getattr(part, name) for part in sections])
        for name in ("means", "quats", "log_scales", "opacity_logits", "base")
    )
    return SplatParts(means, quats, log_scales, logits, base, rest)
