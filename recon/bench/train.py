# SPDX-License-Identifier: Apache-2.0
"""How long training takes to reach a quality: whole runs, from the start of the program to the written result.

A run that is stopped on the way shows a state that its schedules did not mean to be shown, so each point is a finished
run on a budget of steps, in a fresh process, timed from its start to its end: the interpreter, the imports, loading and
undistorting the photographs, training and writing are all in it.  What a run scores is measured afterwards, out of the
clock, on the held-out photographs by the protocol of `recon eval`.  The time to a quality is the median time of the
smallest budget whose median score reaches it.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recon.bench.plot import Level, Plot, Series
from recon.bench.results import Entry
from recon.errors import ReconError
from recon.progress import SILENT, Progress

BUDGETS = (150, 250, 350, 500, 700, 1000, 1400, 2000, 2800, 4000, 5600, 8000, 11_000, 15_000)
"""Steps that are tried, in order, until all targets are reached."""

_LOG_EVERY = 10


@dataclass(frozen=True)
class TrainSettings:
    """What to train.

    Attributes:
        scene: the scene's folder.
        targets: PSNR in dB that are to be reached.
        seeds: how many runs for each budget.
        preset: of the method.
        budgets: steps to try, in increasing order.
        options: further options of `recon train`, as typed.
        cached: whether undistorted photographs of earlier runs may be used.
        most_seconds: no larger budget is tried after a run that took longer.
        method: what is trained.
    """

    scene: Path
    targets: tuple[float, ...]
    seeds: int = 3
    preset: str = "normal"
    budgets: tuple[int, ...] = BUDGETS
    options: str = ""
    cached: bool = False
    most_seconds: float = 900.0
    method: str = "splat"


@dataclass(frozen=True)
class FinishedRun:
    """One run: its budget and seed, wall and processor seconds of the whole process, scores.

    Attributes:
        gaussians: how many there are in the end; 0 where the method makes none.
        training_s: seconds of the steps alone, of `seconds`.
        step_ms: mean milliseconds a step of each window of steps, in order.
        peak_bytes: the most memory that the process held.
    """

    steps: int
    seed: int
    seconds: float
    cpu_s: float
    training_s: float
    psnr_db: float
    ssim: float
    gaussians: int
    peak_bytes: int
    step_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """All runs, entries for the report, and for each target the budget that reached it (None for none)."""

    runs: tuple[FinishedRun, ...]
    entries: tuple[Entry, ...]
    reached: dict[float, int | None] = field(default_factory=dict)


def measure_training(settings: TrainSettings, progress: Progress = SILENT) -> Outcome:
    """Trains on larger and larger budgets until all targets are reached.

    Raises:
        ReconError: the scene or an option cannot be used.
    """
    runs: list[FinishedRun] = []
    reached: dict[float, int | None] = dict.fromkeys(settings.targets)
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as folder:
        scene = settings.scene if settings.cached else without_cache(settings.scene, Path(folder))
        with progress.stage("training", len(settings.budgets) * settings.seeds, "runs") as bar:
            for steps in settings.budgets:
                for seed in range(settings.seeds):
                    if not settings.cached:
                        remove_cache(scene)
                    runs.append(train_once(scene, Path(folder) / "run", steps, seed, settings))
                    bar.advance(1, f"{steps} steps: {runs[-1].psnr_db:.2f} dB in {runs[-1].seconds:.1f} s")
                here = runs[-settings.seeds :]
                score = statistics.median(run.psnr_db for run in here)
                progress.log(_line(steps, here))
                for target in settings.targets:
                    if reached[target] is None and score >= target:
                        reached[target] = steps
                slowest = max(run.seconds for run in here)
                if (all(reached.values()) and settings.targets) or slowest > settings.most_seconds:
                    break
    return Outcome(tuple(runs), tuple(_entries(runs, reached)), reached)


def train_once(scene: Path, out: Path, steps: int, seed: int, settings: TrainSettings) -> FinishedRun:
    """Trains once in a fresh process and scores the result.

    Raises:
        ReconError: the training failed; says what it said.
    """
    # -P: the same recon as in this process, not one whose sources lie in the working directory.
    command = [sys.executable, "-P", "-m", "recon.cli.main", "train", str(scene), "--out", str(out)]
    command += ["--replace", "--json"]
    command += ["--method", settings.method, "--preset", settings.preset, "--steps", str(steps), "--seed", str(seed)]
    # Scoring on the way would be timed; windows of the log become the statistics of steps.
    command += ["--evaluate-every", "0", "--log-every", str(_LOG_EVERY), *shlex.split(settings.options)]
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as told:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=told)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        told.seek(0)
        _check(process.returncode, printed.read(), told.read())
    return _score(out, steps, seed, seconds, usage)


def _check(code: int, printed: str, told: str) -> None:
    if code == 0:
        return
    try:
        error = json.loads(printed)["error"]
        raise ReconError(**error)
    except (ValueError, KeyError, TypeError):
        last = (told.strip().splitlines() or ["it said nothing"])[-1]
        raise ReconError("training for a benchmark", f"it ended with {code}: {last}") from None


def _score(out: Path, steps: int, seed: int, seconds: float, usage: Any) -> FinishedRun:
    from recon.methods import evaluate

    document = json.loads((out / "train.json").read_text(encoding="utf-8"))
    scores = evaluate(out, worst_count=0)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    marks = [(0, 0.0), *((line["step"], line["seconds"]) for line in lines)]
    windows = [
        1e3 * (after - before) / (last - first)
        for (first, before), (last, after) in itertools.pairwise(marks)
        if last > first
    ]
    return FinishedRun(
        steps=steps,
        seed=seed,
        seconds=seconds,
        cpu_s=usage.ru_utime + usage.ru_stime,
        training_s=document["seconds"],
        psnr_db=scores.psnr_db,
        ssim=scores.ssim,
        gaussians=int(document["numbers"].get("gaussians") or 0),
        peak_bytes=usage.ru_maxrss * 1024,
        step_ms=tuple(round(window, 4) for window in windows),
    )


def without_cache(scene: Path, folder: Path) -> Path:
    """Returns a folder that shows the scene's files by links, except for finished pictures of earlier runs."""
    scene = scene.resolve()
    if not scene.is_dir():
        raise ReconError(f"reading {scene}", "there is no such folder", "a scene's folder")
    links = folder / "scene"
    links.mkdir()
    for entry in scene.iterdir():
        if entry.name != "cache":
            (links / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    return links


def remove_cache(links: Path) -> None:
    """Deletes the finished pictures of a folder that `without_cache` made."""
    import shutil

    shutil.rmtree(links / "cache", ignore_errors=True)


def _line(steps: int, runs: Sequence[FinishedRun]) -> str:
    scores = sorted(run.psnr_db for run in runs)
    seconds = statistics.median(run.seconds for run in runs)
    return f"{steps} steps: {statistics.median(scores):.2f} dB ({scores[0]:.2f} to {scores[-1]:.2f}) in {seconds:.1f} s"


def _entries(runs: Sequence[FinishedRun], reached: dict[float, int | None]) -> list[Entry]:
    by_steps: dict[int, list[FinishedRun]] = {}
    for run in runs:
        by_steps.setdefault(run.steps, []).append(run)
    entries = []
    for steps, group in by_steps.items():
        facts = {
            "steps": steps,
            "psnr_db": statistics.median(run.psnr_db for run in group),
            "ssim": statistics.median(run.ssim for run in group),
            "gaussians": round(statistics.median(run.gaussians for run in group)),
            "cpu_s": statistics.median(run.cpu_s for run in group),
            "training_s": statistics.median(run.training_s for run in group),
            "peak_bytes": max(run.peak_bytes for run in group),
        }
        entries.append(Entry.of(f"{steps} steps", [run.seconds for run in group], facts=facts))
        entries.append(
            Entry.of(f"{steps} steps, held-out PSNR", [run.psnr_db for run in group], unit="dB", how="score",
                     better="higher", facts={"steps": steps})
        )  # fmt: skip
        windows = [window / 1e3 for run in group for window in run.step_ms]
        if windows:
            facts = {"steps": steps, "windows_of_steps": _LOG_EVERY}
            entries.append(Entry.of(f"{steps} steps, one step", windows, facts=facts))
    for target, budget in reached.items():
        if budget is not None:
            group = by_steps[budget]
            facts = {"steps": budget, "target_db": target, "cpu_s": statistics.median(run.cpu_s for run in group)}
            entries.append(Entry.of(f"to {target:g} dB", [run.seconds for run in group], facts=facts))
    return entries


def training_plot(name: str, outcome: Outcome) -> Plot:
    """Returns held-out PSNR over seconds: a point for each finished run, the medians joined."""
    groups: dict[int, list[FinishedRun]] = {}
    for run in outcome.runs:
        groups.setdefault(run.steps, []).append(run)
    medians = [
        (statistics.median(run.seconds for run in group), statistics.median(run.psnr_db for run in group))
        for group in groups.values()
    ]
    return Plot(
        title=f"{name}: quality over time, finished runs",
        x_label="wall time with start and loading, seconds",
        y_label="held-out PSNR, dB",
        series=[
            Series("median", medians, color=0),
            Series("single runs", [(run.seconds, run.psnr_db) for run in outcome.runs], color=1, line=False),
        ],
        levels=[Level(f"{target:g} dB", target) for target in outcome.reached],
        log_y=False,
    )
