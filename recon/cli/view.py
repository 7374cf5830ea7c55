# SPDX-License-Identifier: Apache-2.0
"""Look at a run, a scene, splats of any format or a mesh in the browser.

The viewer listens on this machine alone (127.0.0.1).  From another machine: ssh -L 8080:127.0.0.1:8080 HOST
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    from recon.render import Renderer
    from recon.viewers import Content


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon view`."""

    path: tyro.conf.Positional[Path]
    """A run, a scene folder, the output folder of `recon run`, a file of splats, or a mesh."""
    host: str = "127.0.0.1"
    """Address to listen on.  Other than loopback's (0.0.0.0 for every one) it lets other machines in that know the
    token in the printed address; it is not encrypted, so only in a network that you trust."""
    port: int = 8080
    """Port; the next free one is taken where it is in use."""
    seconds: float | None = None
    """Close after so many seconds; by default at Ctrl-C."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Serves until Ctrl-C."""
    import time

    from recon.viewers import open_viewer

    path = options.path
    with open_viewer(load_any(path, progress), options.host, options.port, progress) as viewer:
        progress.log(f"Open {viewer.url} in a browser.  Ctrl-C closes the viewer.")
        try:
            if options.seconds is None:
                viewer.wait()
            else:
                time.sleep(options.seconds)
        except KeyboardInterrupt:
            progress.log("Closed.")
        return Outcome(report={"url": viewer.url, "path": path})


def load_any(path: Path, progress: Progress = SILENT) -> Content:
    """Opens what the viewer shows, runs of any method included.

    Raises:
        ReconError: there is nothing to see at `path`.
    """
    from recon.viewers import load_content

    return load_content(path, progress, _open_run)


def _open_run(folder: Path) -> Renderer | None:
    from recon.methods import load_run
    from recon.methods.run import holds_result

    return load_run(folder).renderer if holds_result(folder) else None


def view(content: Content | Path | str, host: str = "127.0.0.1", port: int = 8080, progress: Progress = SILENT) -> None:
    """Opens the viewer of a path or of loaded content, tells `progress` its address, and blocks until Ctrl-C.

    Raises:
        ReconError: there is nothing to see, the host is no address of this machine, or no port is free.
    """
    from recon.viewers import Content
    from recon.viewers import view as view_content

    view_content(content if isinstance(content, Content) else load_any(Path(content), progress), host, port, progress)
