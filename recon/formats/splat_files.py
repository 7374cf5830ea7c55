# SPDX-License-Identifier: Apache-2.0
"""One door to every splat file that recon reads and writes.

Reading finds the format by the content, and by the suffix only where the content says nothing; writing takes the
suffix.  In memory splats are always in our world (+Z up): readers and writers turn them, each by the axes that are
usual in its format, unless the caller names another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recon.errors import ReconError
from recon.formats.splat_axes import UpAxis
from recon.progress import SILENT, Progress
from recon.splats import Splats

SPLAT_SUFFIXES: tuple[str, ...] = (".ply",)
"""Suffixes of the files that `read_splats` takes; a suffix alone does not make a file a splat file (a .ply may hold
a mesh): ask `is_splat_file`."""

SPLAT_WRITE_SUFFIXES: tuple[str, ...] = (".ply",)
"""Suffixes of the files that `write_splats` writes."""


def read_splats(
    path: Path,
    not_finite: Literal["refuse", "drop"] = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads a splat file of any format.

    Args:
        path: the file, or the folder of an unzipped SOG.
        not_finite: whether splats with NaN or infinite values are an error or are left out and counted.
        progress: hears what was mended or left out.
        up: the axis that points up in the file; "auto" takes what the file says, else what its format usually has.

    Returns:
        The splats in our world (+Z up), float32 on the CPU.

    Raises:
        ReconError: no such file, not a splat file, or broken.
    """
    from recon.formats.splat_ply import read_splat_ply

    return read_splat_ply(Path(path), up, not_finite, progress)


def write_splats(
    splats: Splats, path: Path, up: UpAxis | Literal["auto"] = "auto", progress: Progress = SILENT
) -> None:
    """Writes splats of our world in the format of the path's suffix, whole or not at all.

    Args:
        splats: N splats.
        path: the file.
        up: the axis that points up in the file; "auto" takes what is usual in the format.
        progress: hears how far the writing is.

    Raises:
        ReconError: an unknown suffix, a value that is not finite, or the file cannot be written.
    """
    from recon.formats.splat_ply import write_splat_ply

    path = Path(path)
    if path.suffix.lower() not in SPLAT_WRITE_SUFFIXES:
        raise ReconError(
            f"writing {path}",
            f"its suffix is {path.suffix or 'missing'}",
            f"one of {', '.join(SPLAT_WRITE_SUFFIXES)}",
        )
    write_splat_ply(splats, path, "-y" if up == "auto" else up)


def is_splat_file(path: Path) -> bool:
    """Returns whether `path` is a file (or an unzipped SOG) that holds splats, as far as its beginning tells."""
    from recon.formats.ply_header import read_ply_header

    path = Path(path)
    try:
        with path.open("rb") as file:
            element = read_ply_header(file, f"looking at {path}").element("vertex")
    except (OSError, ReconError):
        return False
    return element is not None and bool({"f_dc_0", "packed_position"} & element.property_names)
