# SPDX-License-Identifier: Apache-2.0
"""One door to every splat file that recon reads and writes.

Reading finds the format by the content, and by the suffix only where the content says nothing; writing takes the
suffix.  In memory splats are always in our world (+Z up): readers and writers turn them, each by the axes that are
usual in its format, unless the caller names another.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from recon.cameras import Camera
from recon.errors import ReconError
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import NotFinite, check_up
from recon.progress import SILENT, Progress
from recon.splats import Splats

UpOrAuto = UpAxis | Literal["auto"]

SPLAT_SUFFIXES: tuple[str, ...] = (".ply", ".spz", ".sog", ".splat", ".ksplat", ".glb", ".gltf")
"""Suffixes of the files that `read_splats` takes; a suffix alone does not make a file a splat file (a .ply or .glb
may hold a mesh): ask `is_splat_file`."""

SPLAT_WRITE_SUFFIXES: tuple[str, ...] = (".compressed.ply", ".ply", ".spz", ".sog", ".splat", ".glb", ".gltf", ".usda")
"""How the names of the files end that `write_splats` writes; FOLDER/meta.json writes a SOG as loose files."""

_HEAD_BYTES = 4096
_READABLE = "a 3DGS or compressed PLY, SPZ, SOG (file or folder), .splat, .ksplat, or glTF with KHR_gaussian_splatting"


class _Reader(Protocol):
    def __call__(self, path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats: ...


@dataclass(frozen=True)
class WrittenFormat:
    """A format that recon writes.

    Attributes:
        name: for people.
        up: the axis that usually points up in it.
        exact: whether every number comes back as it was, but for the turn of the axes.
        losses: what the format cannot keep, for people; which of them matter depends on the splats.
    """

    name: str
    up: UpAxis
    exact: bool
    losses: Callable[[Splats], list[str]]


def read_splats(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpOrAuto = "auto",
) -> Splats:
    """Reads a splat file of any format.

    Args:
        path: the file; for a SOG also its folder or its meta.json.
        not_finite: whether splats with NaN or infinite values are an error or are left out and counted.
        progress: hears what was mended or left out.
        up: the axis that points up in the file; "auto" takes what the file says, else what its format usually has.

    Returns:
        The splats in our world (+Z up), float32 on the CPU.

    Raises:
        ReconError: no such file, not a splat file, or broken.
    """
    path = Path(path)
    doing = f"reading the splats of {path}"
    check_up(up, doing, auto=True)
    reader = _reader(path, doing)
    if reader is None:
        raise ReconError(doing, "it is no splat file that recon knows", _READABLE)
    return reader(path, not_finite, progress, up)


def is_splat_file(path: Path) -> bool:
    """Returns whether `path` is a file (or an unzipped SOG) that holds splats, as far as its beginning tells."""
    path = Path(path)
    try:
        reader = _reader(path, f"looking at {path}")
    except ReconError:
        return False
    if reader is _read_ply:
        return _ply_holds_splats(path)
    if reader is _read_gltf:
        from recon.formats.splat_gltf_reading import holds_splats

        return holds_splats(path)
    return reader is not None


def _reader(path: Path, doing: str) -> _Reader | None:
    """Returns what reads the file, by its first bytes."""
    if path.is_dir() or path.name == "meta.json":
        return _read_sog if (path / "meta.json" if path.is_dir() else path).is_file() else None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            size = path.stat().st_size
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except OSError as error:
        raise ReconError(doing, f"it cannot be read ({error.strerror})", "a readable file") from error
    suffix = path.suffix.lower()
    if head[:3] == b"ply" and head[3:4] in (b"\n", b"\r"):
        return _read_ply
    if head[:4] == b"NGSP" or (head[:2] == b"\x1f\x8b" and (suffix == ".spz" or _unpacks_to_spz(head))):
        return _read_spz
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _read_sog
    if head[:4] == b"glTF" or (suffix == ".gltf" and head.lstrip()[:1] == b"{"):
        return _read_gltf
    return _reader_without_magic(suffix, head, size)


def _reader_without_magic(suffix: str, head: bytes, size: int) -> _Reader | None:
    """The two formats that begin with nothing certain, and broken files, which their own reader explains best."""
    from recon.formats.ksplat import looks_like_ksplat

    if suffix == ".ksplat" or (suffix != ".splat" and looks_like_ksplat(head, size)):
        return _read_ksplat
    named: dict[str, _Reader] = {".splat": _read_dot_splat, ".ply": _read_ply, ".spz": _read_spz, ".sog": _read_sog}
    return named.get(suffix)


def _unpacks_to_spz(head: bytes) -> bool:
    import zlib

    try:
        return zlib.decompressobj(31).decompress(head, 4) == b"NGSP"
    except (zlib.error, struct.error):
        return False


def _ply_holds_splats(path: Path) -> bool:
    from recon.formats.ply_header import read_ply_header

    try:
        with path.open("rb") as file:
            element = read_ply_header(file, f"looking at {path}").element("vertex")
    except (OSError, ReconError):
        return False
    return element is not None and bool({"f_dc_0", "scale_0", "packed_position"} & element.property_names)


def _read_ply(path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats:
    from recon.formats.compressed_ply import is_compressed_ply, read_compressed_ply
    from recon.formats.ply_header import read_ply_header
    from recon.formats.splat_ply import read_splat_ply

    with path.open("rb") as file:
        packed = is_compressed_ply(read_ply_header(file, f"reading the splats of {path}"))
    if packed:
        return read_compressed_ply(path, not_finite, progress, up)
    return read_splat_ply(path, up, not_finite, progress)


def _read_spz(path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats:
    from recon.formats.spz import read_spz

    return read_spz(path, not_finite, progress, up)


def _read_sog(path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats:
    from recon.formats.sog import read_sog

    return read_sog(path, not_finite, progress, up)


def _read_dot_splat(path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats:
    from recon.formats.dot_splat import read_dot_splat

    return read_dot_splat(path, not_finite, progress, up)


def _read_ksplat(path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats:
    from recon.formats.ksplat import read_ksplat

    return read_ksplat(path, not_finite, progress, up)


def _read_gltf(path: Path, not_finite: NotFinite, progress: Progress, up: UpOrAuto) -> Splats:
    from recon.formats.splat_gltf_reading import read_splat_gltf

    return read_splat_gltf(path, not_finite, progress, up)


def written_format(path: Path) -> WrittenFormat | None:
    """Returns the format that a path's name asks for; None for a name that asks for none."""
    suffix = _write_suffix(path)
    return None if suffix is None else _written()[suffix]


def _write_suffix(path: Path) -> str | None:
    name = Path(path).name.lower()
    if name == "meta.json":
        return "meta.json"
    return next((suffix for suffix in SPLAT_WRITE_SUFFIXES if name.endswith(suffix)), None)


def _written() -> dict[str, WrittenFormat]:
    def features(splats: Splats) -> list[str]:
        return [] if splats.features is None else ["the feature channels"]

    def numbers(splats: Splats) -> list[str]:
        return ["some precision: numbers are rounded", *features(splats)]

    def mode(splats: Splats) -> list[str]:
        return ["the anti-aliased mode: say so where you open it"] if splats.antialiased else []

    def flat_colors(splats: Splats) -> list[str]:
        shine = ["view-dependent colour (spherical harmonics)"] if splats.sh_degree else []
        return [*shine, *mode(splats), *numbers(splats)]

    def palette(splats: Splats) -> list[str]:
        shared = ["some view-dependent colour: splats share a palette of it"] if splats.sh_degree else []
        return [*shared, *numbers(splats)]

    sog = WrittenFormat("SOG version 2", "-y", False, palette)
    gltf = WrittenFormat("glTF with KHR_gaussian_splatting", "+y", False, features)
    return {
        ".ply": WrittenFormat("3DGS PLY", "-y", True, features),
        ".compressed.ply": WrittenFormat("compressed PLY", "-y", False, numbers),
        ".spz": WrittenFormat("SPZ version 4", "+y", False, numbers),
        ".sog": sog,
        "meta.json": sog,
        ".splat": WrittenFormat(".splat", "-y", False, flat_colors),
        ".glb": gltf,
        ".gltf": gltf,
        ".usda": WrittenFormat("OpenUSD text", "+z", False, features),
    }


def write_splats(
    splats: Splats,
    path: Path,
    up: UpOrAuto = "auto",
    progress: Progress = SILENT,
    cameras: Sequence[Camera] = (),
) -> None:
    """Writes splats of our world in the format of the path's name, whole or not at all.

    Args:
        splats: N splats.
        path: the file, its name ending as in `SPLAT_WRITE_SUFFIXES`; `FOLDER/meta.json` writes a SOG as a folder.
        up: the axis that points up in the file; "auto" takes what is usual in the format.
        progress: hears how far the writing is.
        cameras: from where the splats are looked at, where that is known; a SOG's palette then spares what is seen.

    Raises:
        ReconError: an unknown suffix, a value that is not finite, or the file cannot be written.
    """
    path = Path(path)
    suffix = _write_suffix(path)
    doing = f"writing {path}"
    if suffix is None:
        raise ReconError(
            doing,
            f"its suffix is {path.suffix or 'missing'}",
            f"a name that ends in one of {', '.join(SPLAT_WRITE_SUFFIXES)}, or FOLDER/meta.json",
        )
    check_up(up, doing, auto=True)
    axis = _written()[suffix].up if up == "auto" else up
    if suffix == ".ply":
        from recon.formats.splat_ply import write_splat_ply

        write_splat_ply(splats, path, axis)
    elif suffix == ".compressed.ply":
        from recon.formats.compressed_ply import write_compressed_ply

        write_compressed_ply(splats, path, axis)
    elif suffix == ".spz":
        from recon.formats.spz import write_spz

        write_spz(splats, path, axis)
    elif suffix == ".splat":
        from recon.formats.dot_splat import write_dot_splat

        write_dot_splat(splats, path, axis)
    elif suffix in (".sog", "meta.json"):
        from recon.formats.sog_writing import write_sog

        write_sog(splats, path, axis, progress, cameras)
    elif suffix == ".usda":
        from recon.formats.splat_usd import write_splat_usd

        write_splat_usd(splats, path, axis)
    else:
        from recon.formats.splat_gltf import write_splat_gltf

        write_splat_gltf(splats, path, axis)
