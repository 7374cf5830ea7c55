# SPDX-License-Identifier: Apache-2.0
"""Write the splats of a run as a 3DGS PLY for other programs.

The file's up axis is -Y, as the readers of such files expect; --up world keeps recon's own +Z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import size
from recon.errors import ReconError
from recon.progress import Progress


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon export`."""

    run: tyro.conf.Positional[Path]
    """The folder that `recon train` wrote, or a splat PLY to convert."""
    out: Path
    """The file to write (.ply)."""
    up: Literal["-y", "world"] = "-y"
    """Which axis points up in the file."""
    edits: bool = True
    """Whether the edits of the run or the file apply."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Writes the file and says what is in it."""
    from recon.cli.edited import load_edited_splats
    from recon.formats.splat_ply import write_splat_ply

    doing = f"exporting {options.run}"
    if options.out.suffix.lower() != ".ply":
        raise ReconError(doing, f"the output is {options.out.name}", "a name that ends in .ply")
    splats = load_edited_splats(options.run, options.edits, progress)
    write_splat_ply(splats, options.out, options.up)
    up = "-Y" if options.up == "-y" else "+Z"
    written = options.out.stat().st_size
    return Outcome(
        report={"path": options.out, "splats": len(splats), "sh_degree": splats.sh_degree, "up": up, "bytes": written},
        title="Export",
        rows=[
            ("File", f"{options.out} ({size(written)})"),
            ("Splats", f"{len(splats):,}, spherical harmonics of degree {splats.sh_degree}"),
            ("Up axis", up),
            ("Mode", "anti-aliased (Mip)" if splats.antialiased else "classic"),
        ],
    )
