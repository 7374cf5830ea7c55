# SPDX-License-Identifier: Apache-2.0
"""SPZ, the splat format of Niantic: versions 1 to 4 are read, version 4 is written.

Versions 1 to 3 are one gzip stream: a header of 16 bytes, then each attribute of all splats.  Version 4 begins with
32 bytes of plain text (`NGSP`, version, count, degree, fractional bits, flags, number of streams, where the table of
contents begins), then perhaps extension records, a table of (packed, unpacked) sizes, and a Zstandard frame for each
attribute: positions, opacities, colours, scales, rotations, harmonics.

Positions are signed fixed point of 24 bits (half floats in version 1); opacities and colours 8 bits, a colour's
coefficient times 0.15 about ½; scales 16 (10 + ln s); rotations xyz in 8 bits each (versions 1 and 2) or the index of
the largest of xyzw and three times sign and 9 bits; harmonics 128 + 128 c, coefficient by coefficient, up to degree 4.
Axes are right, up, back: y up.  Bit 0 of the flags says that the splats were trained with the screen filter.
Source: https://github.com/nianticlabs/spz, README.md, extensions/README.md and the layout of its reader.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import (
    REST_NUMBERS,
    ByteArray,
    FloatArray,
    NotFinite,
    SplatParts,
    bytes_of_logits,
    check_budget,
    curve_order,
    file_bytes,
    logits_of_bytes,
    quats_from_three,
    refusing,
    rounded_bytes,
    smallest_three,
    splats_to_write,
    typical_scale,
)
from recon.progress import SILENT, Progress
from recon.splats import Splats

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"
COLOR_SCALE = 0.15
ANTIALIASED, EXTENSIONS = 1, 2
HEADER_BYTES, HEADER_BYTES_V4 = 16, 32
MOST_STREAMS = 6
HARMONICS_STEP = 6
"""Harmonics are rounded to so many 128ths, which Zstandard packs into a third.  It is finer than the 8 and 16 of the
format's own writer, and leaves 48 dB on a real scene with 120,000 splats, where those leave less than 45."""

POSITION_SHARE = 1 / 16

COORDINATES_RECORD = 0xADBE0003
"""The record that says that the numbers have other axes than right, up, back."""

_UP_OF_COORDINATES: dict[int, UpAxis] = {4: "+y", 6: "-y", 12: "+z", 14: "-z"}
_ROOT_HALF = 0.5**0.5


@dataclass(frozen=True)
class _Header:
    version: int
    count: int
    degree: int
    fractional_bits: int
    antialiased: bool
    has_records: bool
    up: UpAxis = "+y"

    def stream_sizes(self) -> list[int]:
        """Returns the unpacked size of positions, opacities, colours, scales, rotations and harmonics."""
        position = 6 if self.version == 1 else 9
        rotation = 3 if self.version < 3 else 4
        return [self.count * size for size in (position, 1, 3, 3, rotation, REST_NUMBERS[self.degree])]


def read_spz(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads an SPZ file; the arguments and errors are those of `recon.formats.splat_files.read_splats`."""
    doing = f"reading the splats of {path}"
    data = file_bytes(Path(path), doing)
    if data[:4] == MAGIC and len(data) >= 8 and struct.unpack_from("<I", data, 4)[0] >= 4:
        header, streams = _streams_of_version_4(data, doing)
    else:
        header, streams = _streams_of_older(data, doing)
    positions, alphas, colors, scales, rotations, harmonics = (np.frombuffer(stream, np.uint8) for stream in streams)
    rest = None
    if header.degree:
        numbers = ((np.arange(256) - 128) / 128).astype(np.float32)
        rest = numbers[harmonics.reshape(header.count, -1, 3)[:, :15]]
        if header.degree > 3:
            progress.log("harmonics above degree 3 were left out")
    parts = SplatParts(
        means=_positions(positions, header),
        quats=_quats(rotations, header.version),
        log_scales=(scales.reshape(-1, 3) / np.float32(16) - 10).astype(np.float32),
        opacity_logits=logits_of_bytes(alphas),
        base=((colors.reshape(-1, 3) / np.float32(255) - 0.5) / COLOR_SCALE).astype(np.float32),
        rest=rest,
        antialiased=header.antialiased,
        up=header.up,
    )
    return parts.splats(doing, not_finite, progress, up)


def _streams_of_version_4(data: bytes, doing: str) -> tuple[_Header, list[bytes]]:
    import zstandard

    if len(data) < HEADER_BYTES_V4:
        raise ReconError(doing, f"it has {len(data)} bytes", f"a header of {HEADER_BYTES_V4} bytes")
    header = _header(data, doing)
    count, table = data[15], struct.unpack_from("<I", data, 16)[0]
    wanted = [size for size in header.stream_sizes() if size]
    if count != len(wanted) or not HEADER_BYTES_V4 <= table <= len(data) - 16 * count:
        raise ReconError(doing, f"it has {count} streams, listed at byte {table}", f"{len(wanted)} streams")
    if header.has_records:
        header = _with_records(header, data[HEADER_BYTES_V4:table], doing)
    sizes = [struct.unpack_from("<QQ", data, table + 16 * index) for index in range(count)]
    start = table + 16 * count
    if [unpacked for _, unpacked in sizes] != wanted or start + sum(packed for packed, _ in sizes) > len(data):
        raise ReconError(doing, "its table of contents does not fit its header or its size", "a whole file")
    check_budget(sum(wanted), len(data), doing)
    streams: list[bytes] = []
    for packed, unpacked in sizes:
        with refusing(doing, "a stream is broken"):
            try:
                reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data[start : start + packed])
                stream = reader.read(unpacked + 1)
            except zstandard.ZstdError as error:
                raise ReconError(doing, f"a stream is broken ({error})", "an unbroken file") from error
        if len(stream) != unpacked:
            raise ReconError(doing, f"a stream holds another number of bytes than {unpacked}", "a whole file")
        streams.append(stream)
        start += packed
    return header, streams + [b""] * (MOST_STREAMS - len(streams))


def _streams_of_older(data: bytes, doing: str) -> tuple[_Header, list[bytes]]:
    """Returns the header and the attributes of versions 1 to 3; a file that is not packed at all is read as well."""
    unpacked = data
    if data[:2] == GZIP_MAGIC:
        with refusing(doing, "its gzip stream is broken"):
            # The header first, since only it says how much there may be.
            head = zlib.decompressobj(31).decompress(data, HEADER_BYTES)
            header = _header(head, doing)
            wanted = HEADER_BYTES + sum(header.stream_sizes())
            check_budget(wanted, len(data), doing)
            # What follows the attributes are extension records, a few bytes.
            unpacked = zlib.decompressobj(31).decompress(data, wanted + 65536)
    header = _header(unpacked, doing)
    sizes = header.stream_sizes()
    if HEADER_BYTES + sum(sizes) > len(unpacked):
        raise ReconError(
            doing,
            f"its header promises {header.count} splats ({sum(sizes)} bytes); it holds {len(unpacked)} bytes",
            "a whole file",
        )
    ends = np.cumsum([HEADER_BYTES, *sizes]).tolist()
    if header.has_records:
        header = _with_records(header, unpacked[ends[-1] :], doing)
    return header, [unpacked[start:end] for start, end in pairwise(ends)]


def _header(data: bytes, doing: str) -> _Header:
    if data[:4] != MAGIC or len(data) < HEADER_BYTES:
        raise ReconError(doing, "it does not begin with NGSP" if data else "it is empty", "an SPZ file")
    version, count, degree, bits, flags = struct.unpack_from("<IIBBB", data, 4)
    if not 1 <= version <= 4:
        raise ReconError(doing, f"its version is {version}", "1 to 4")
    if degree > 4 or bits > 24:
        raise ReconError(doing, f"its degree is {degree}, its fractional bits {bits}", "at most 4 and 24")
    if count == 0:
        raise ReconError(doing, "it has no splats", "at least one")
    return _Header(version, count, degree, bits, bool(flags & ANTIALIASED), bool(flags & EXTENSIONS))


def _with_records(header: _Header, records: bytes, doing: str) -> _Header:
    """Returns the header with what known extension records say; unknown ones are skipped."""
    place = 0
    while place + 8 <= len(records):
        kind, size = struct.unpack_from("<II", records, place)
        place += 8
        if place + size > len(records):
            break
        if kind == COORDINATES_RECORD and size == 4:
            code = struct.unpack_from("<I", records, place)[0]
            if code not in (0, *_UP_OF_COORDINATES):
                raise ReconError(doing, f"its axes are mirrored or turned about the vertical (code {code})", "x right")
            header = replace(header, up=_UP_OF_COORDINATES.get(code, "+y"))
        place += size
    return header


def _positions(raw: ByteArray, header: _Header) -> FloatArray:
    if header.version == 1:
        return raw.view("<f2").reshape(-1, 3).astype(np.float32)
    triples = raw.reshape(-1, 3)
    words = np.zeros((len(triples), 4), np.uint8)
    # In the upper three bytes of a word the sign is where it belongs.
    words[:, 1:] = triples
    fixed = words.view("<i4")[:, 0] >> 8
    return (fixed / np.float32(1 << header.fractional_bits)).astype(np.float32).reshape(-1, 3)


def _quats(raw: ByteArray, version: int) -> FloatArray:
    """Returns [N, 4] wxyz."""
    if version < 3:
        xyz = raw.reshape(-1, 3) / np.float32(127.5) - 1
        w = np.sqrt(np.maximum(0, 1 - np.square(xyz).sum(1)))
        return np.concatenate([w[:, None], xyz], 1).astype(np.float32)
    words = raw.view("<u4")
    fields = words[:, None] >> np.array([20, 10, 0], np.uint32) & 1023
    sizes = (fields & 511).astype(np.float32) * np.float32(_ROOT_HALF / 511)
    xyzw = quats_from_three(words >> 30, np.where(fields & 512, -sizes, sizes))
    return xyzw[:, [3, 0, 1, 2]]


def write_spz(splats: Splats, path: Path, up: UpAxis = "+y", level: int = 5) -> None:
    """Writes SPZ version 4, neighbours together.

    Args:
        splats: N splats of our world.
        path: the file.
        up: the axis that points up in the file; readers expect "+y".
        level: of Zstandard; 12 packs 4% smaller and takes six times as long.

    Raises:
        ReconError: a value is not finite, a position does not fit into the format, or the file cannot be written.
    """

    splats = splats_to_write(splats, path, up)
    if len(splats) == 0:
        raise ReconError(f"writing {path}", "there are no splats", "at least one")
    splats = splats.select(curve_order(splats.means))
    bits = _fractional_bits(splats, path)
    streams = [
        _packed_positions(splats.means, bits),
        bytes_of_logits(splats.opacity_logits),
        rounded_bytes(splats.sh[:, 0], COLOR_SCALE * 255, 127.5),
        rounded_bytes(splats.log_scales, 16, 160),
        _packed_quats(splats.quats),
    ]
    if splats.sh_degree:
        streams.append(rounded_bytes(splats.sh[:, 1:], 128, 128, HARMONICS_STEP))
    packed = _compressed(streams, level)
    head = MAGIC + struct.pack("<IIBBBBI12x", 4, len(splats), splats.sh_degree, bits, int(splats.antialiased),
                               len(streams), HEADER_BYTES_V4)  # fmt: skip
    table = b"".join(struct.pack("<QQ", len(small), raw.nbytes) for small, raw in zip(packed, streams))
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(b"".join([head, table, *packed]))


def _compressed(streams: Sequence[ByteArray], level: int) -> list[bytes]:
    import zstandard

    # One large stream, the harmonics, is most of the work: threads share it, not the streams.
    compressor = zstandard.ZstdCompressor(level, threads=2)
    return [compressor.compress(raw.tobytes()) for raw in streams]


def _fractional_bits(splats: Splats, path: Path) -> int:
    """Returns how many of 24 bits are behind the point: a step is at most a sixteenth of the median splat's middle
    deviation, or what the farthest splat leaves room for."""
    farthest = float(splats.means.abs().max())
    step = POSITION_SHARE * typical_scale(splats)
    wanted = int(np.clip(np.ceil(-np.log2(step)), 0, 20))
    for bits in range(wanted, -1, -1):
        if farthest * (1 << bits) < (1 << 23) - 1:
            return bits
    raise ReconError(f"writing {path}", f"a splat is {farthest:.3g} from the origin", "at most 8 million units")


def _packed_positions(means: torch.Tensor, bits: int) -> ByteArray:
    fixed = (means.double() * (1 << bits)).round().to(torch.int32).contiguous().numpy().astype("<i4")
    return np.ascontiguousarray(fixed.view(np.uint8).reshape(-1, 4)[:, :3])


def _packed_quats(quats: torch.Tensor) -> ByteArray:
    largest, others = smallest_three(quats[:, [1, 2, 3, 0]])
    fields = (others.abs() * (511 / _ROOT_HALF)).round().clamp(max=511).to(torch.int64) | (others < 0).long() << 9
    words = largest << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return words.numpy().astype("<u4").view(np.uint8)
