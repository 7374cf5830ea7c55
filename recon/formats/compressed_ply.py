# SPDX-License-Identifier: Apache-2.0
"""PlayCanvas's compressed PLY: 16 bytes a splat, and a byte for each number of the harmonics.

The element `chunk` holds bounds of 256 splats each: positions, log scales and (since SuperSplat 1.0) colours.  The
element `vertex` holds four words a splat: position and scale as 11-10-11 bits between the bounds, the rotation as the
index of its largest component and three times 10 bits, colour and opacity as 8 bits each.  The element `sh` holds the
harmonics of degree 1 to 3, channel-major, as bytes q that stand for 8 ((q + ½) / 256 - ½), with 0 and 255 for ±4.
Axes are those of the PLY it was made from, y down as a rule; comments say otherwise as in `recon.formats.splat_ply`.
Source: https://github.com/playcanvas/supersplat and splat-transform, whose writers define the layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.ply_header import PlyHeader, read_ply_header
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import (
    FloatArray,
    NotFinite,
    SplatParts,
    base_of_colors,
    bytes_of_logits,
    curve_order,
    logits_of_bytes,
    quats_from_three,
    refusing,
    rounded_bytes,
    smallest_three,
    splats_to_write,
)
from recon.formats.splat_ply import header_comments, meaning_of_comments
from recon.progress import SILENT, Progress
from recon.splats import SH_C0, Splats

CHUNK = 256
BOUNDS = [f"{end}_{kind}{axis}" for kind in ("", "scale_") for end in ("min", "max") for axis in "xyz"]
COLOR_BOUNDS = [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
WORDS = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
HARMONICS_RANGE = 8.0
ROWS_AT_ONCE = 65536

_EXPECTED = "a compressed PLY of PlayCanvas: the elements chunk, vertex and perhaps sh"


def is_compressed_ply(header: PlyHeader) -> bool:
    """Returns whether a PLY's header is that of a compressed splat file."""
    vertex = header.element("vertex")
    return vertex is not None and "packed_position" in vertex.property_names


def read_compressed_ply(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads a compressed PLY; the arguments and errors are those of `recon.formats.splat_files.read_splats`."""
    doing = f"reading the splats of {path}"
    with refusing(doing, "it cannot be read"), Path(path).open("rb") as file:
        header = read_ply_header(file, doing)
        count, degree = _check(header, doing)
        chunks = _table(file, header, "chunk", doing)
        words = _table(file, header, "vertex", doing)
        rest = _harmonics(_table(file, header, "sh", doing), degree) if degree else None
    meaning = meaning_of_comments(header, doing)
    chunk_of = np.arange(count) // CHUNK
    colors: FloatArray = (words["packed_color"][:, None] >> np.array([24, 16, 8], np.uint32) & 255).astype(
        np.float32
    ) / 255
    if "min_r" in (chunks.dtype.names or ()):
        colors = _between(chunks, chunk_of, "", "rgb", colors)
    parts = SplatParts(
        means=_between(chunks, chunk_of, "", "xyz", _unpack_11_10_11(words["packed_position"])),
        quats=_unpack_rotation(words["packed_rotation"]),
        log_scales=_between(chunks, chunk_of, "scale_", "xyz", _unpack_11_10_11(words["packed_scale"])),
        opacity_logits=logits_of_bytes((words["packed_color"] & 255).astype(np.uint8)),
        base=base_of_colors(colors),
        rest=rest,
        antialiased=meaning.antialiased,
        up=meaning.up,
    )
    return parts.splats(doing, not_finite, progress, up)


def _check(header: PlyHeader, doing: str) -> tuple[int, int]:
    """Returns the number of splats and the degree of the harmonics."""
    chunk, vertex, sh = (header.element(name) for name in ("chunk", "vertex", "sh"))
    if chunk is None or vertex is None or header.format == "ascii":
        raise ReconError(doing, "its header has no chunks, no vertices, or is text", _EXPECTED)
    wanted = [(chunk, BOUNDS, "f4"), (vertex, WORDS, "u4")]
    if COLOR_BOUNDS[0] in chunk.property_names:
        wanted.append((chunk, COLOR_BOUNDS, "f4"))
    degree = 0
    if sh is not None:
        degrees = {9: 1, 24: 2, 45: 3}
        if len(sh.properties) not in degrees or sh.count != vertex.count:
            raise ReconError(doing, f"its harmonics are {sh.count} × {len(sh.properties)} numbers", "9, 24 or 45 each")
        degree = degrees[len(sh.properties)]
        wanted.append((sh, [f"f_rest_{i}" for i in range(len(sh.properties))], "u1"))
    for element, names, kind in wanted:
        types = {entry.name: entry.type for entry in element.properties if entry.list_count_type is None}
        wrong = [name for name in names if types.get(name) != kind]
        if wrong:
            raise ReconError(doing, f"its element {element.name} lacks {wrong[0]} of type {kind}", _EXPECTED)
    if chunk.count != -(-vertex.count // CHUNK):
        raise ReconError(doing, f"it has {chunk.count} chunks for {vertex.count} splats", f"one for every {CHUNK}")
    return vertex.count, degree


def _table(file: BinaryIO, header: PlyHeader, name: str, doing: str) -> npt.NDArray[Any]:
    element = header.element(name)
    assert element is not None
    header.seek_to(file, element, doing)
    pieces = list(header.rows(file, element, max(ROWS_AT_ONCE, element.count), doing))
    return pieces[0] if pieces else np.zeros(0, element.dtype("<"))


def _between(
    chunks: npt.NDArray[Any], chunk_of: npt.NDArray[np.int64], kind: str, axes: str, share: FloatArray
) -> FloatArray:
    """Returns what lies at `share` of the way between the bounds of each splat's chunk, [N, 3]."""
    low, high = (
        np.stack([chunks[f"{end}_{kind}{axis}"] for axis in axes], 1).astype(np.float32)[chunk_of]
        for end in ("min", "max")
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return low * (1 - share) + high * share


def _unpack_11_10_11(words: npt.NDArray[np.uint32]) -> FloatArray:
    x, y, z = words >> 21, words >> 11 & 1023, words & 2047
    return np.stack([x / np.float32(2047), y / np.float32(1023), z / np.float32(2047)], 1).astype(np.float32)


def _unpack_rotation(words: npt.NDArray[np.uint32]) -> FloatArray:
    fields = (words[:, None] >> np.array([20, 10, 0], np.uint32) & 1023).astype(np.float32)
    return quats_from_three(words >> 30, (fields / 1023 - np.float32(0.5)) * np.float32(2**0.5))


def _harmonics(rows: npt.NDArray[Any], degree: int) -> FloatArray:
    """Returns [N, K - 1, 3]."""
    table = (np.arange(256) + 0.5) / 256
    table[0], table[255] = 0, 1
    numbers = ((table - 0.5) * HARMONICS_RANGE).astype(np.float32)
    raw = np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), 3, (degree + 1) ** 2 - 1)
    order = [int(name.removeprefix("f_rest_")) for name in rows.dtype.names or ()]
    if order != list(range(len(order))):
        raw = raw.reshape(len(rows), -1)[:, np.argsort(order)].reshape(raw.shape)
    return numbers[raw.transpose(0, 2, 1)]


def write_compressed_ply(splats: Splats, path: Path, up: UpAxis = "-y") -> None:
    """Writes splats of our world as a compressed PLY, neighbours together.

    Raises:
        ReconError: a value is not finite, or the file cannot be written.
    """
    splats = splats_to_write(splats, path, up)
    splats = splats.select(curve_order(splats.means))
    count, rest = len(splats), 3 * (splats.sh.shape[1] - 1)
    chunks = -(-count // CHUNK)
    colors = 0.5 + SH_C0 * splats.sh[:, 0]
    bounds, words = [], np.empty((count, 4), "<u4")
    for column, values in ((0, splats.means), (2, splats.log_scales.clamp(-20, 20))):
        low, high, share = _shares(values, chunks)
        bounds += [low, high]
        words[:, column] = _pack_11_10_11(share)
    low, high, share = _shares(colors, chunks)
    bounds += [low, high]
    fields = (share * 255).round().to(torch.int64)
    alpha = torch.from_numpy(bytes_of_logits(splats.opacity_logits)).long()
    words[:, 3] = (fields[:, 0] << 24 | fields[:, 1] << 16 | fields[:, 2] << 8 | alpha).numpy()
    words[:, 1] = _pack_rotation(splats.quats)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *header_comments(up, splats.antialiased),
        f"element chunk {chunks}",
        *(f"property float {name}" for name in (*BOUNDS, *COLOR_BOUNDS)),
        f"element vertex {count}",
        *(f"property uint {name}" for name in WORDS),
    ]
    if rest:
        header += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(rest))]
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(torch.cat(bounds, 1).numpy().astype("<f4").tobytes())
        file.write(words.tobytes())
        if rest:
            numbers = rounded_bytes(splats.sh[:, 1:], 256 / HARMONICS_RANGE, 128, down=True)
            file.write(np.ascontiguousarray(numbers.reshape(count, rest // 3, 3).transpose(0, 2, 1)).data)


def _shares(values: torch.Tensor, chunks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the bounds of each chunk, [C, 3] each, and where between them each value lies, [N, 3] in 0..1."""
    padded = torch.cat([values, values[-1:].expand(chunks * CHUNK - len(values), 3)]).reshape(chunks, CHUNK, 3)
    low, high = padded.amin(1), padded.amax(1)
    share = (padded - low[:, None]) / (high - low).clamp(min=1e-20)[:, None]
    return low, high, share.reshape(-1, 3)[: len(values)].clamp(0, 1)


def _pack_11_10_11(share: torch.Tensor) -> npt.NDArray[np.int64]:
    fields = (share * torch.tensor([2047.0, 1023.0, 2047.0])).round().to(torch.int64)
    return (fields[:, 0] << 21 | fields[:, 1] << 11 | fields[:, 2]).numpy()


def _pack_rotation(quats: torch.Tensor) -> npt.NDArray[np.int64]:
    largest, others = smallest_three(quats)
    fields = ((others * 0.5**0.5 + 0.5) * 1023).round().clamp(0, 1023).to(torch.int64)
    return (largest << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]).numpy()
