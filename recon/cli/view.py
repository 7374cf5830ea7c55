# SPDX-License-Identifier: Apache-2.0
"""Look at a run, a scene, splats of any format or a mesh in the browser.

The viewer listens on this machine alone (127.0.0.1).  From another machine: ssh -L 8080:127.0.0.1:8080 HOST
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.progress import Progress


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

    from recon.viewers import load_content, open_viewer

    path = options.path
    with open_viewer(load_content(path, progress), options.host, options.port, progress) as viewer:
        progress.log(f"Open {viewer.url} in a browser.  Ctrl-C closes the viewer.")
        try:
            if options.seconds is None:
                viewer.wait()
            else:
                time.sleep(options.seconds)
        except KeyboardInterrupt:
            progress.log("Closed.")
        return Outcome(report={"url": viewer.url, "path": path})
