# SPDX-License-Identifier: Apache-2.0
"""Measure this machine: `recon bench kernels`, `train`, `ablate`, `scaling`, `render`, `formats`, and `compare`.

Each takes --json; what it prints then, or writes with --out, is what `recon bench compare` reads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from recon.cli.command import CommonOptions, Grid, Outcome
from recon.errors import ReconError
from recon.progress import Progress

if TYPE_CHECKING:
    from recon.bench.results import Kind, Report


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(CommonOptions):
    """Options of every measurement."""

    out: Path | None = None
    """Also write the result to this JSON file; plots go beside it."""
    record: bool = False
    """Also write the result into the record of this machine's kind, recon/bench/records."""


@dataclass(frozen=True)
class Kernels(MeasureOptions):
    """How fast each kernel of a training step is, the renderer, and the whole step."""

    only: str = ""
    """Stages to measure: project, bin, blend forward, loss, blend backward, update, render, step; and of a NeRF march,
    encode, density network, truncate, color network, composite, composite backward, color network backward, density
    network backward, encode backward, table adam, field; by default all."""
    sizes: str = "10k,50k,1m"
    """Numbers of Gaussians of the random scenes, as in 10k,1.5m; "" measures no splats."""
    samples: str = "65536"
    """Numbers of samples of a NeRF's batches, as in 64k,200k; "" measures no NeRF."""
    threads: str = "1,2"
    """Numbers of threads."""
    isa: str = ""
    """Instruction sets to compare, as in avx512,avx2,baseline, or all; by default the one in use."""
    repeats: int = 0
    """Samples of each time, twice that for several instruction sets; 0 takes as many as fit into a few seconds."""
    picture: str = ""
    """Size of the pictures, as in 960x540; by default what suits the number of Gaussians."""
    sh_degree: Literal[0, 1, 2, 3] = 3
    """Degree of the spherical harmonics of the random scenes."""
    run: Path | None = None
    """A trained run or a splat PLY to measure as well."""
    reference: bool = True
    """Whether to compare with plain torch on a small scene."""


@dataclass(frozen=True)
class Train(MeasureOptions):
    """How long training takes to reach a quality on held-out photographs, from the start of the program."""

    scene: tyro.conf.Positional[Path]
    """The scene's folder, as for `recon train`."""
    target_psnr: str = ""
    """Held-out PSNR in dB to reach, as in 26.0,29.0; by default all budgets are tried."""
    seeds: int = 3
    """Runs of each budget; the figures are medians."""
    method: str = "splat"
    """What to train."""
    preset: str = "normal"
    """Preset of the method."""
    budgets: str = ""
    """Steps to try, as in 500,1k,2k; by default from 150 to 15k, each 1.4 times the one before."""
    options: str = ""
    """Further options of `recon train`, as in --options="--sh-degree 2 --max-gaussians 30000"."""
    cached: bool = False
    """Whether undistorted photographs of an earlier training may be used; by default they are made anew each time."""
    most_seconds: float = 900.0
    """No larger budget is tried after a run that took longer."""
    name: str = ""
    """What to call the scene in the results; by default its folder's name."""


@dataclass(frozen=True)
class Ablate(MeasureOptions):
    """What each trick of training is worth: the same run with one option changed."""

    scenes: tyro.conf.Positional[tuple[Path, ...]]
    """The scenes' folders, as for `recon train`."""
    steps: int = 1000
    """Steps of every run."""
    seeds: int = 1
    """Runs of each variant; the figures are medians."""
    preset: str = "normal"
    """Preset that the variants change."""
    only: str = ""
    """Names of the variants to try, separated by commas; by default all."""
    names: str = ""
    """What to call the scenes in the results, as in fox,room; by default their folders' names."""


@dataclass(frozen=True)
class Scaling(MeasureOptions):
    """How time and memory grow with Gaussians, pixels and threads."""

    gaussians: str = "10k,30k,100k,300k,1m,2m,4m"
    """Numbers of Gaussians; empty leaves this axis out."""
    megapixels: str = "0.1,0.25,0.5,1,2,4,8"
    """Sizes of the picture in 10⁶ pixels; empty leaves this axis out."""
    fixed_gaussians: int = 200_000
    """How many Gaussians there are along the axis of pixels."""
    fixed_megapixels: float = 1.0
    """How large the picture is along the axis of Gaussians."""
    threads: str = "1,2"
    """Numbers of threads."""
    repeats: int = 0
    """Samples of each time; 0 takes as many as fit into about three seconds."""


@dataclass(frozen=True)
class Render(MeasureOptions):
    """Pictures a second of rendering alone."""

    source: tyro.conf.Positional[str]
    """A trained run, a splat PLY, or a number of random Gaussians such as 1m."""
    size: str = "1920x1080"
    """Size of the pictures."""
    threads: str = "1,2"
    """Numbers of threads."""
    views: int = 8
    """Cameras of a run that are rendered in turn."""
    repeats: int = 5
    """Pictures of each view."""


@dataclass(frozen=True)
class Formats(MeasureOptions):
    """Size, picture and speed of every splat format that recon writes."""

    source: tyro.conf.Positional[Path]
    """A trained run, or a splat file."""
    long_side: int = 480
    """Longer side of the pictures that are compared, in pixels."""
    repeats: int = 3
    """How often each file is written and read; the times are medians."""
    copies: int = 1
    """Repeat the splats so many times, each copy changed a little, to measure speed at size."""


@dataclass(frozen=True)
class Compare(CommonOptions):
    """Set two results side by side; exit code 3 when something became slower beyond the noise."""

    before: tyro.conf.Positional[Path]
    """The earlier result."""
    after: tyro.conf.Positional[Path]
    """The later result."""


_SUBCOMMANDS = {
    "kernels": Kernels,
    "train": Train,
    "ablate": Ablate,
    "scaling": Scaling,
    "render": Render,
    "formats": Formats,
    "compare": Compare,
}


def options_type(words: Sequence[str]) -> Any:
    """Returns the options of all subcommands."""
    parts = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in _SUBCOMMANDS.items()]
    return functools.reduce(lambda first, second: first | second, parts)


def execute(options: Any, progress: Progress) -> Outcome:
    """Measures and reports."""
    if isinstance(options, Compare):
        return _compare(options)
    if isinstance(options, Kernels):
        return _kernels(options, progress)
    if isinstance(options, Train):
        return _train(options, progress)
    if isinstance(options, Ablate):
        return _ablate(options, progress)
    if isinstance(options, Formats):
        return _formats(options, progress)
    return _scaling(options, progress) if isinstance(options, Scaling) else _render(options, progress)


def _kernels(options: Kernels, progress: Progress) -> Outcome:
    from recon.bench.kernels import KernelSettings, measure_kernels
    from recon.bench.results import parse_counts, parse_size

    doing = "reading the options of bench kernels"
    settings = KernelSettings(
        stages=_stages(options.only),
        sizes=tuple(parse_counts(options.sizes, doing)) if options.sizes else (),
        field_sizes=tuple(parse_counts(options.samples, doing)) if options.samples else (),
        picture=parse_size(options.picture, doing) if options.picture else None,
        threads=_threads(options.threads, doing),
        isas=_isas(options.isa),
        repeats=options.repeats,
        sh_degree=options.sh_degree,
        run=options.run,
        reference=options.reference,
    )
    entries, notes = measure_kernels(settings, progress)
    kept = {**asdict(settings), "run": options.run.resolve().name if options.run else None}
    return _finish(_report("kernels", options, kept, entries, {"notes": notes}), options, {}, notes)


def _train(options: Train, progress: Progress) -> Outcome:
    from recon.bench.record import stem
    from recon.bench.results import parse_counts, parse_numbers
    from recon.bench.train import BUDGETS, TrainSettings, measure_training, training_plot

    doing = "reading the options of bench train"
    if options.seeds < 1:
        raise ReconError(doing, f"--seeds is {options.seeds}", "at least 1")
    name = options.name or _scene_name(options.scene)
    settings = TrainSettings(
        scene=options.scene,
        targets=tuple(parse_numbers(options.target_psnr, doing)) if options.target_psnr else (),
        seeds=options.seeds,
        method=options.method,
        preset=options.preset,
        budgets=tuple(sorted(parse_counts(options.budgets, doing))) if options.budgets else BUDGETS,
        options=options.options,
        cached=options.cached,
        most_seconds=options.most_seconds,
    )
    outcome = measure_training(settings, progress)
    kept = {**asdict(settings), "scene": None, "name": name}
    more = {"curve": [asdict(run) for run in outcome.runs]}
    missed = [f"No budget reached {target:g} dB." for target, steps in outcome.reached.items() if steps is None]
    report = _report("train", options, kept, outcome.entries, more)
    return _finish(report, options, {stem(report): training_plot(name, outcome).to_svg()}, [], missed)


def _scene_name(path: Path) -> str:
    folder = path.resolve()
    return folder.parent.name if folder.name == "scene" else folder.name


def _ablate(options: Ablate, progress: Progress) -> Outcome:
    from recon.bench.ablation import AblationSettings, measure_ablation

    doing = "reading the options of bench ablate"
    names = [name.strip() for name in options.names.split(",")] if options.names else []
    names = names or [_scene_name(path) for path in options.scenes]
    if not options.scenes or len(set(names)) != len(options.scenes):
        raise ReconError(doing, f"{len(options.scenes)} scenes are called {names}", "scenes, and a name for each")
    if min(options.seeds, options.steps) < 1:
        raise ReconError(doing, f"--seeds {options.seeds}, --steps {options.steps}", "at least 1")
    variants = tuple(name.strip() for name in options.only.split(",") if name.strip())
    scenes = dict(zip(names, options.scenes))
    settings = AblationSettings(scenes, options.steps, options.seeds, options.preset, variants)
    entries = measure_ablation(settings, progress)
    kept = {**asdict(settings), "scenes": names}
    return _finish(_report("ablation", options, kept, entries), options)


def _scaling(options: Scaling, progress: Progress) -> Outcome:
    from recon.bench.plot import stacked_svg
    from recon.bench.results import parse_counts, parse_numbers
    from recon.bench.scaling import ScalingSettings, measure_scaling, scaling_plots

    doing = "reading the options of bench scaling"
    settings = ScalingSettings(
        gaussians=tuple(parse_counts(options.gaussians, doing)) if options.gaussians else (),
        megapixels=tuple(parse_numbers(options.megapixels, doing)) if options.megapixels else (),
        threads=_threads(options.threads, doing),
        fixed_gaussians=options.fixed_gaussians,
        fixed_megapixels=options.fixed_megapixels,
        repeats=options.repeats,
    )
    if min(settings.fixed_gaussians, settings.fixed_megapixels) <= 0:
        raise ReconError(doing, "a fixed size is not above 0", "positive numbers")
    if not settings.gaussians and not settings.megapixels:
        raise ReconError(doing, "both axes are left out", "--gaussians or --megapixels")
    outcome = measure_scaling(settings, progress)
    more = {"fits": {name: asdict(fit) for name, fit in outcome.fits.items()}}
    report = _report("scaling", options, asdict(settings), outcome.entries, more)
    return _finish(report, options, {"scaling": stacked_svg(scaling_plots(outcome))})


def _render(options: Render, progress: Progress) -> Outcome:
    from recon.bench.render import RenderSettings, measure_rendering
    from recon.bench.results import parse_size

    doing = "reading the options of bench render"
    settings = RenderSettings(
        options.source,
        parse_size(options.size, doing),
        _threads(options.threads, doing),
        max(options.views, 1),
        max(options.repeats, 1),
    )
    entries = measure_rendering(settings, progress)
    kept = {**asdict(settings), "source": Path(options.source).name}
    return _finish(_report("render", options, kept, entries), options)


def _formats(options: Formats, progress: Progress) -> Outcome:
    from recon.bench.formats import FormatSettings, measure_formats

    settings = FormatSettings(
        options.source, max(options.long_side, 16), max(options.repeats, 1), max(options.copies, 1)
    )
    entries = measure_formats(settings, progress)
    kept = {**asdict(settings), "source": options.source.resolve().name}
    return _finish(_report("formats", options, kept, entries), options)


def _compare(options: Compare) -> Outcome:
    from recon.bench.compare import compare, table_rows
    from recon.bench.results import read_report

    found = compare(read_report(options.before), read_report(options.after))
    attention = list(found.warnings)
    if found.worse:
        attention.append(f"{len(found.worse)} of {len(found.changes)} entries became worse beyond the noise.")
    better = sum(change.verdict == "better" for change in found.changes)
    lines = [f"{better} better, {len(found.worse)} worse, of {len(found.changes)} in both."]
    for names, word in ((found.only_before, "first"), (found.only_after, "second")):
        if names:
            lines.append(f"{len(names)} in the {word} one only.")
    return Outcome(
        report={"changes": [asdict(change) for change in found.changes], "only_before": list(found.only_before),
                "only_after": list(found.only_after), "warnings": list(found.warnings)},
        grids=[Grid("A ratio above 1 is better", *table_rows(found.changes))],
        lines=lines,
        attention=attention,
    )  # fmt: skip


def _report(
    kind: Kind, options: Any, settings: Mapping[str, Any], entries: Sequence[Any], more: Mapping[str, Any] = {}
) -> Report:
    from recon.bench.machine import this_machine
    from recon.bench.results import Report

    return Report(kind, _command(kind, options), settings, this_machine(), tuple(entries), more)


def _command(kind: str, options: Any) -> str:
    """Returns what was typed, without the folders of paths and without where results go."""
    words = ["recon bench", "ablate" if kind == "ablation" else kind]
    for spec in fields(options):
        value = getattr(options, spec.name)
        if spec.name in ("json", "out", "record", "name", "names") or value == spec.default:
            continue
        if spec.name == "scenes":
            words.append("SCENE" + " SCENE" * (len(value) - 1))
            continue
        text = value.name if isinstance(value, Path) else str(value)
        if spec.name in ("scene", "source"):
            words.append(Path(text).name if spec.name == "source" else "SCENE")
            continue
        flag = f"--{spec.name.replace('_', '-')}"
        words += (
            [flag if value is True else flag.replace("--", "--no-", 1)]
            if isinstance(value, bool)
            else [flag, f"'{text}'" if " " in text else text]
        )
    return " ".join(words)


def _finish(
    report: Report,
    options: MeasureOptions,
    plots: Mapping[str, str] = {},
    notes: Sequence[str] = (),
    attention: Sequence[str] = (),
) -> Outcome:
    """Writes what is to be written, and returns what to print."""
    from recon.bench.record import record, tables
    from recon.bench.results import SCHEMA
    from recon.files import write_text

    lines = list(notes)
    if options.out is not None:
        report.write(options.out)
        lines.append(f"Written: {options.out}")
        for svg in plots.values():
            path = options.out.with_suffix(".svg")
            write_text(path, svg)
            lines.append(f"Written: {path}")
    if options.record:
        lines.append(f"Recorded: {record(report, plots)}")
    machine = report.machine
    lines.append(f"{machine.cpu}, {machine.cores} cores, {machine.isa}; wall times are medians of all samples.")
    grids = [Grid(f"recon bench {report.kind}", header, rows) for header, rows in tables(report)]
    return Outcome({"schema": SCHEMA, **report.to_json()}, grids=grids, lines=lines, attention=attention)


def _stages(only: str) -> tuple[str, ...]:
    from recon.bench.kernels import FIELD_STAGES, STAGES

    known = (*STAGES, *FIELD_STAGES)
    wanted = [name.strip().replace("-", " ").replace("_", " ") for name in only.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ReconError("choosing what to measure", f"there is no stage {unknown[0]!r}", f"of {', '.join(known)}")
    return tuple(name for name in known if name in wanted) or known


def _threads(text: str, doing: str) -> tuple[int, ...]:
    from recon.bench.results import parse_counts

    return tuple(sorted(set(parse_counts(text, doing))))


def _isas(text: str) -> tuple[str, ...]:
    from recon.kernels.native import supported_isas

    supported = supported_isas()[::-1]
    wanted = supported if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in wanted if name not in supported]
    if unknown:
        raise ReconError(
            "choosing instruction sets", f"this processor has no {unknown[0]!r}", f"of {', '.join(supported)}, or all"
        )
    return tuple(wanted)
