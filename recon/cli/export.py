# SPDX-License-Identifier: Apache-2.0
"""Write the splats of a run, or of any splat file, for other programs.

The name of --out says the format: .ply, .compressed.ply, .spz, .sog (or FOLDER/meta.json for a SOG in loose files),
.splat, .glb, .gltf or .usda (OpenUSD).  Edits that were saved beside the run or file are applied.  Each format's usual
axis points up (-Y; +Y for .spz and glTF; +Z for .usda); --up says otherwise.  The palette of a SOG spares what the
cameras of the run see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import size
from recon.errors import ReconError
from recon.progress import Progress

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.splats import Splats


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon export`."""

    run: tyro.conf.Positional[Path]
    """The folder that `recon train` or `recon run` wrote, or a splat file to convert (.ply, compressed .ply, .spz,
    .sog or its folder, .splat, .ksplat, .glb, .gltf)."""
    out: Path
    """The file to write; its name says the format."""
    up: Literal["auto", "-y", "+y", "-z", "+z", "world"] = "auto"
    """Which axis points up in the file that is written; world is recon's own +Z."""
    source_up: Literal["auto", "-y", "+y", "-z", "+z", "world"] = "auto"
    """Which axis points up in the splat file that is read, where it does not say so itself."""
    edits: bool = True
    """Whether to apply the edits that were saved beside the run or file."""
    sh_degree: Literal[0, 1, 2, 3] | None = None
    """Keep spherical harmonics up to this degree only."""
    drop_broken: bool = False
    """Leave out splats with NaN or infinite values instead of refusing the file."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Writes the file and says what is in it and what it could not keep."""
    from recon.formats.splat_files import SPLAT_WRITE_SUFFIXES, write_splats, written_format

    target = written_format(options.out)
    if target is None:
        raise ReconError(
            f"exporting {options.run}",
            f"the output is {options.out.name}",
            f"a name that ends in {', '.join(SPLAT_WRITE_SUFFIXES)}, or FOLDER/meta.json",
        )
    splats, edited = _splats(options, progress)
    losses = target.losses(splats)
    if options.sh_degree is not None and options.sh_degree < splats.sh_degree:
        losses.insert(0, f"spherical harmonics above degree {options.sh_degree}, as asked for")
        splats = _with_degree(splats, options.sh_degree)
    write_splats(splats, options.out, options.up, progress, _cameras(options))
    up = target.up if options.up == "auto" else "+z" if options.up == "world" else options.up
    files = _files(options.out)
    written = sum(file.stat().st_size for file in files)
    report = {
        "path": options.out,
        "format": target.name,
        "splats": len(splats),
        "sh_degree": splats.sh_degree,
        "up": up.upper(),
        "antialiased": splats.antialiased,
        "edits": edited,
        "bytes": written,
        "lost": losses,
    }
    more = f" with {len(files) - 1} more file{'s' if len(files) > 2 else ''}" if len(files) > 1 else ""
    rows = [
        ("File", f"{options.out}{more} ({size(written)})"),
        ("Format", target.name),
        ("Splats", f"{len(splats):,}, spherical harmonics of degree {splats.sh_degree}"),
        ("Up axis", up.upper()),
        ("Mode", "anti-aliased (Mip)" if splats.antialiased else "classic"),
        *([("Edits", f"{edited} applied")] if edited else []),
        ("Not kept", "\n".join(losses) if losses else "nothing: every number is kept"),
    ]
    return Outcome(report=report, title="Export", rows=rows)


def _splats(options: Options, progress: Progress) -> tuple[Splats, int]:
    """Returns the splats as edited, and how many edits there were."""
    from recon.cli.edited import load_edited_splats
    from recon.edits import apply_edits, edits_of
    from recon.formats.splat_files import is_splat_file, read_splats

    path = options.run
    edits = edits_of(path) if options.edits else None
    if path.is_file() or is_splat_file(path):
        splats = read_splats(path, "drop" if options.drop_broken else "refuse", progress, options.source_up)
        splats = apply_edits(splats, edits) if edits else splats
    else:
        splats = load_edited_splats(path, options.edits, progress)
    if edits and len(splats) == 0:
        raise ReconError(
            f"exporting {path}", "its edits leave no splats", "at least one", "undo some, or export with --no-edits"
        )
    return splats, len(edits) if edits else 0


def _cameras(options: Options) -> list[Camera]:
    """Returns the cameras of a run whose scene is at hand, as edited, for the one format that asks; none otherwise."""
    from recon.edits import edits_of
    from recon.formats.splat_files import is_splat_file

    if options.out.name.lower() != "meta.json" and options.out.suffix.lower() != ".sog":
        return []
    run, edits = options.run, options.edits
    if run.is_file() or is_splat_file(run):
        # A run's own file was seen from the run's cameras, unless edits of the file have moved it.
        moved = edits and bool(edits_of(run))
        if run.name != "splats.ply" or moved or not (run.parent / "config.json").is_file():
            return []
        run, edits = run.parent, False
    from recon.cli.edited import load_edited_run
    from recon.views import undistorted_camera

    try:
        scene = load_edited_run(run, edits).scene
    except ReconError:
        return []
    return [undistorted_camera(frame.camera) for frame in scene.frames]


def _with_degree(splats: Splats, degree: int) -> Splats:
    from dataclasses import replace

    return replace(splats, sh=splats.sh[:, : (degree + 1) ** 2].contiguous())


def _files(out: Path) -> list[Path]:
    """Returns what was written: the file first, then those that it refers to."""
    if out.suffix.lower() == ".gltf":
        return [out, out.with_suffix(".bin")]
    if out.name.lower() == "meta.json":
        from recon.formats.sog_writing import PICTURES

        return [out, *(path for name in PICTURES if (path := out.parent / f"{name}.webp").is_file())]
    return [out]
