# SPDX-License-Identifier: Apache-2.0
"""The command `recon`.

Only the module of the command that was asked for is imported, so `recon --help` answers at once.  Exit codes: 0 done,
2 bad input, 3 done but with a result that the user must look at, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from recon.cli.command import BAD_INPUT, DONE, INTERRUPTED, Outcome
from recon.errors import ReconError
from recon.kernels.environment import tune

if TYPE_CHECKING:
    from recon.cli.console import TerminalProgress

COMMANDS = {
    "run": ("recon.cli.run", "photos or a video in; poses, splats, scores, a mesh and a page out"),
    "demo": ("recon.cli.demo", "make a synthetic capture and run it; needs no files"),
    "process": ("recon.cli.process", "find the cameras of photos or a video"),
    "train": ("recon.cli.train", "train a scene"),
    "eval": ("recon.cli.eval", "score a trained run on the photos it never saw"),
    "render": ("recon.cli.render", "render a film or frames from a trained run"),
    "mesh": ("recon.cli.mesh", "extract a mesh from a trained run"),
    "export": ("recon.cli.export", "write the splats of a run for other programs"),
    "edit": ("recon.cli.edit", "crop, clean, turn or scale the splats of a run, and take it back"),
    "share": ("recon.cli.share", "write a page that anybody can open: the splats in one HTML file"),
    "view": ("recon.cli.view", "look at a run, a scene, splats or a mesh in the browser"),
    "bench": ("recon.cli.bench", "measure kernels, training, scaling and rendering on this machine"),
    "doctor": ("recon.cli.doctor", "tell what is installed, what is missing and how to mend it"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return DONE if words else BAD_INPUT
    if words[0] == "--version":
        from recon import __version__

        print(f"recon {__version__}")
        return DONE
    if words[0] not in COMMANDS:
        print(f"recon: there is no command {words[0]!r}\n\n{_overview()}", file=sys.stderr)
        return BAD_INPUT
    tune()
    return _run(words[0], words[1:])


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: recon COMMAND [options]      (recon COMMAND --help tells a command's options)",
            "",
            "Photos and video into Gaussian splats, radiance fields and meshes, on any machine.",
            "",
            *lines,
            "",
            "Start with:  recon demo --out demo      or:  recon run PHOTOS --out result",
        ]
    )


def _run(name: str, words: list[str]) -> int:
    import tyro

    from recon.cli.console import TerminalProgress

    module = import_module(COMMANDS[name][0])
    try:
        options = tyro.cli(
            module.options_type(words) if hasattr(module, "options_type") else module.Options,
            args=words,
            prog=f"recon {name}",
            description=module.__doc__,
        )
    except ReconError as error:
        return _refuse(error, "--json" in words, TerminalProgress())
    return execute(module.execute, options)


def execute(command: object, options: object) -> int:
    """Runs `command(options, progress) -> Outcome`, prints what it says, and returns the exit code."""
    from recon.cli.console import TerminalProgress

    as_json = bool(getattr(options, "json", False))
    progress = TerminalProgress()
    try:
        outcome = command(options, progress)  # type: ignore[operator]
    except ReconError as error:
        return _refuse(error, as_json, progress)
    except KeyboardInterrupt:
        progress.console.print("Stopped.  What was finished is kept; run the same command again to continue.")
        return INTERRUPTED
    _present(outcome, as_json, progress)
    return outcome.exit_code


def _refuse(error: ReconError, as_json: bool, progress: TerminalProgress) -> int:
    if as_json:
        print(json.dumps({"error": error.to_json()}))
    progress.console.print(f"[bold red]recon:[/] {_escape(str(error))}")
    return BAD_INPUT


def _present(outcome: Outcome, as_json: bool, progress: object) -> None:
    from rich.console import Console

    from recon.cli.console import TerminalProgress, print_grid, print_table
    from recon.files import to_json_text

    assert isinstance(progress, TerminalProgress)
    for reason in outcome.attention:
        progress.console.print(f"[bold yellow]Look at this:[/] {_escape(reason)}")
    if as_json:
        sys.stdout.write(to_json_text({**outcome.report, "attention": list(outcome.attention)}) + "\n")
        return
    console = Console(highlight=False)
    if outcome.rows:
        print_table(console, outcome.title, outcome.rows)
    for grid in outcome.grids:
        print_grid(console, grid)
    for line in outcome.lines:
        console.print(line, markup=False, soft_wrap=True)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    sys.exit(main())
