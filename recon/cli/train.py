# SPDX-License-Identifier: Apache-2.0
"""Train a scene.  `recon train --method NAME --help` tells a method's options.

Ctrl-C leaves a whole checkpoint; --resume goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from recon.cli.command import CommonOptions, Grid, Outcome, given_option
from recon.cli.console import duration
from recon.errors import ReconError
from recon.methods import get_method, train
from recon.methods.changes import LiveConfig
from recon.methods.profile import OFF, Profile
from recon.progress import LOG_NAMES, Progress, label_of, shown_number

if TYPE_CHECKING:
    from recon.methods import TrainReport


@dataclass(frozen=True)
class TrainOptions(CommonOptions):
    """Options of `recon train` that do not depend on the method."""

    scene: tyro.conf.Positional[Path]
    """The scene folder that `recon process` wrote, a COLMAP project, or a folder with transforms.json."""
    out: Path
    """Folder of the run: configuration, checkpoints, metrics and the trained result."""
    method: str = "splat"
    """What to train."""
    init: str | None = None
    """Start from the surface of a trained run of the same scene instead of the scene's sparse points: its folder, or
    METHOD:FOLDER as in nerf:run.  Useful where there are few points."""
    resume: bool = False
    """Go on with the run in --out (start it where there is none yet)."""
    replace: bool = False
    """Throw away the run in --out and start anew."""
    viewer: bool = False
    """Show the training live in the browser, where it can be paused, stopped and changed."""
    host: str = "127.0.0.1"
    """Address of the viewer.  Other than loopback's it lets other machines in that know the token in the printed
    address; it is not encrypted, so only in a network that you trust."""
    port: int = 8080
    """Port of the viewer; the next free one is taken where it is in use."""
    profile: bool = False
    """Time each stage of a step against what the machine allows: a table, and profile.json in the run."""


def options_type(words: Sequence[str]) -> type:
    """Returns the options of the method that the words name, so that each method's options have help.

    The preset among them chooses the defaults.
    """
    config_type: Any = get_method(given_option(words, "--method") or "splat").config_type
    defaults = config_type.preset(given_option(words, "--preset") or "normal")
    return make_dataclass(
        "Options",
        [
            ("preset", Annotated[str, tyro.conf.arg(help=config_type.presets_help())], field(default="normal")),
            # An empty name leaves out this level's prefix only: --steps, but --rates.position.
            ("config", Annotated[config_type, tyro.conf.arg(name="")], field(default=defaults)),
        ],
        bases=(TrainOptions,),
        frozen=True,
        kw_only=True,
    )


def execute(options: Any, progress: Progress) -> Outcome:
    """Trains and reports."""
    if options.resume and options.replace:
        raise ReconError("reading the options", "both --resume and --replace are given", "one of them")
    existing: Any = "resume" if options.resume else "replace" if options.replace else "refuse"
    profile = Profile.measured() if options.profile else OFF
    with ExitStack() as opened:
        hooks = []
        if options.viewer:
            from recon.viewers import LiveViewer

            makes_splats = "splats.ply" in get_method(options.method).exports
            viewer = opened.enter_context(
                LiveViewer.for_scene(options.scene, options.host, options.port, progress, options.out, makes_splats)
            )
            progress.log(f"Live view: {viewer.url}")
            hooks.append(viewer.hook(options.config.steps, options.out, LiveConfig(options.config, options.out)))
        report = train(options.scene, options.out, options.config, progress, hooks, existing, profile, options.init)
    table = profile.table()
    return Outcome(
        report={**asdict(report), "method": options.method, **({"profile": profile.to_json()} if table else {})},
        title="Training",
        rows=training_rows(report),
        grids=[Grid(f"Profile: per step, means of {profile.steps:,} steps", table[0], table[1:])] if table else [],
        lines=[
            *([profile.limits_line()] if table else []),
            "",
            f"Score it:   recon eval {options.out}",
            f"View it:    recon view {options.out}",
        ],
    )


def training_rows(report: TrainReport) -> list[tuple[str, str]]:
    """Returns what a person wants to know of a training."""
    numbers = report.numbers
    rows = [("Run", str(report.path)), ("Status", f"{report.status} at step {report.step}")]
    rows.append(("Training time", duration(report.seconds)))
    rows += [(label_of(name), shown_number(value)) for name, value in method_numbers(numbers).items()]
    if numbers.get("loss") is not None:
        rows.append(("Loss", f"{numbers['loss']:.5f}"))
    return rows


def method_numbers(numbers: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the numbers of a training's log that are of the method's own, such as how many Gaussians there are."""
    return {name: value for name, value in numbers.items() if name not in LOG_NAMES and value is not None}
