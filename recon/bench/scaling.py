# SPDX-License-Identifier: Apache-2.0
"""How the cost of a training step and of a picture grows with Gaussians, pixels and threads, and what memory they take.

Each point is a random scene of its own (see `recon.bench.scenes`) in a process of its own, because only a fresh process
shows how much memory something takes.  Memory is the peak of the resident set while steps are made, above that before
the scene was made; beside it stands the sum of all tensors alive afterwards.  Along the axis of Gaussians the picture
stays the same, along that of pixels the Gaussians do, and each pixel blends about 50 of them in both, so the sum of
what grows and what stays is fitted as well: cost = a + b · count.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recon.bench.plot import Plot, Series
from recon.bench.results import Entry, Samples, short_count
from recon.bench.worker import call_worker
from recon.errors import ReconError
from recon.progress import SILENT, Progress

WORK = ("step", "render")
_ASPECT = 4 / 3


@dataclass(frozen=True)
class ScalingSettings:
    """What to measure.

    Attributes:
        gaussians: numbers of Gaussians, at `fixed_megapixels`.
        megapixels: sizes of the picture in 10⁶ pixels, at `fixed_gaussians`.
        threads: numbers of threads.
        fixed_gaussians, fixed_megapixels: what stays along the other axis.
        repeats: samples of each time; 0 for as many as fit into about three seconds, 3 to 15.
        sh_degree: of the scenes.
    """

    gaussians: tuple[int, ...]
    megapixels: tuple[float, ...]
    threads: tuple[int, ...] = (1, 2)
    fixed_gaussians: int = 200_000
    fixed_megapixels: float = 1.0
    repeats: int = 0
    sh_degree: int = 3


@dataclass(frozen=True)
class Fit:
    """How a cost grows with a count.

    Attributes:
        slope: of its logarithm by the count's, over all points; 1 is linear, 0 constant.
        slope_end: that over the upper half of the points.
        fixed, each: a and b of cost = a + b · count, least squares of the relative error.
        worst: the largest relative error of that line.
    """

    slope: float
    slope_end: float
    fixed: float
    each: float
    worst: float


@dataclass(frozen=True)
class Outcome:
    """Entries for the report, and the fits by name ("step over Gaussians, 2 threads")."""

    entries: tuple[Entry, ...]
    fits: dict[str, Fit] = field(default_factory=dict)


def measure_scaling(settings: ScalingSettings, progress: Progress = SILENT) -> Outcome:
    """Measures all points of both axes."""
    points = [("Gaussians", count, _size(settings.fixed_megapixels)) for count in settings.gaussians]
    points += [("pixels", settings.fixed_gaussians, _size(size)) for size in settings.megapixels]
    entries: list[Entry] = []
    with progress.stage("measuring scaling", len(points), "points") as bar:
        for axis, count, size in points:
            request = {
                "gaussians": count,
                "size": size,
                "threads": settings.threads,
                "repeats": settings.repeats,
                "sh_degree": settings.sh_degree,
            }
            entries += _entries(axis, count, size, call_worker("scaling", request))
            bar.advance(1, f"{short_count(count)} Gaussians, {size[0]}×{size[1]}")
    return Outcome(tuple(entries), _fits(entries))


def _size(megapixels: float) -> tuple[int, int]:
    height = max(16, round(math.sqrt(megapixels * 1e6 / _ASPECT)))
    return max(16, round(height * _ASPECT)), height


def sample_point(request: Mapping[str, Any]) -> dict[str, Any]:
    """Measures one point in this process, which should be fresh; returns samples in seconds, and bytes."""
    from recon.bench import stages
    from recon.bench.scenes import random_scene

    threads = [int(count) for count in request["threads"]]
    _warm_up(stages, random_scene)
    before = _resident_bytes()
    size = tuple(request["size"])
    scene = random_scene(int(request["gaussians"]), (size[0], size[1]), int(request["sh_degree"]))
    step = stages.StepCase(scene)
    gc.collect()
    reset_peak()
    step.run()
    step_samples = _sample(step, threads, int(request["repeats"]), stages)
    # The scene's splats are there beside the trainer's own, and go off the account.
    scene_bytes = sum(
        getattr(scene.splats, name).nbytes for name in ("means", "quats", "log_scales", "opacity_logits", "sh")
    )
    peak = _peak_bytes() - before - scene_bytes
    buffers = tensor_bytes() - scene_bytes
    del step
    gc.collect()
    render = stages.RenderCase(scene)
    render.run()
    render_samples = _sample(render, threads, int(request["repeats"]), stages)
    return {
        "step": step_samples,
        "render": render_samples,
        "peak_bytes": peak,
        "buffer_bytes": buffers,
        "blended_per_pixel": scene.blended_per_pixel,
        "evaluated_per_blended": scene.pairs.evaluated / max(scene.pairs.blended, 1),
    }


def _warm_up(stages: Any, random_scene: Any) -> None:
    """Loads what is loaded on first use, so that it does not count as memory of the scene."""
    case = stages.StepCase(random_scene(1000, (64, 48), 0))
    case.run()
    del case
    gc.collect()


def _sample(case: Any, threads: Sequence[int], repeats: int, stages: Any) -> dict[str, dict[str, list[float]]]:
    samples = {count: Samples() for count in threads}
    begun = time.perf_counter()
    case.run()  # not kept: caches and buffers settle
    fitting = round(3.0 / (len(threads) * max(time.perf_counter() - begun, 1e-3)))

    def once(count: int, keep: bool) -> None:
        (samples[count] if keep else Samples()).time(case.run, case.parts)

    stages.alternate(threads, repeats or min(max(fitting, 3), 15), once)
    return {str(count): {"wall": found.wall, "cpu": found.cpu} for count, found in samples.items()}


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _peak_bytes() -> int:
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    """Returns a line of the process's status; the peak of the whole life where the system has no such file."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    """Makes the peak of the resident set begin anew; where the system refuses, the peak includes what came before."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def tensor_bytes() -> int:
    """Returns the memory of all tensors alive in this process, each storage once."""
    import torch

    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _entries(axis: str, count: int, size: tuple[int, int], found: Mapping[str, Any]) -> list[Entry]:
    where = f"over {axis} · {short_count(count)} Gaussians · {size[0]}×{size[1]}"
    facts = {
        "axis": axis,
        "gaussians": count,
        "pixels": size[0] * size[1],
        "blended_per_pixel": round(found["blended_per_pixel"], 1),
        "evaluated_per_blended": round(found["evaluated_per_blended"], 2),
    }
    entries = []
    for work in WORK:
        for threads, samples in found[work].items():
            more = {**facts, "work": work, "threads": int(threads), "cpu_s": statistics.median(samples["cpu"])}
            entries.append(Entry.of(f"{work} · {where} · {threads} threads", samples["wall"], facts=more))
    for name, words in (("peak_bytes", "peak memory of steps"), ("buffer_bytes", "buffers of steps")):
        more = {**facts, "work": name, "threads": max(int(count) for count in found["step"])}
        entries.append(Entry.of(f"{words} · {where}", [float(found[name])], unit="B", how="memory", facts=more))
    return entries


def _fits(entries: Sequence[Entry]) -> dict[str, Fit]:
    """Returns a fit for each kind of work along each axis."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        facts = entry.facts
        count = facts["gaussians"] if facts["axis"] == "Gaussians" else facts["pixels"]
        threads = f", {facts['threads']} threads" if facts["work"] in WORK else ""
        groups.setdefault(f"{facts['work']} over {facts['axis']}{threads}", []).append((count, entry.median))
    positive = {name: [point for point in points if point[1] > 0] for name, points in groups.items()}
    return {name: fit(points) for name, points in positive.items() if len({count for count, _ in points}) > 1}


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Returns how a cost grows with a count, from at least two points (count, cost), both above 0."""
    import numpy as np

    kept = sorted(point for point in points if point[0] > 0 and point[1] > 0)
    if len({count for count, _ in kept}) < 2:
        raise ReconError("fitting how a cost grows", f"there are {len(kept)} usable points", "at least two counts")
    counts, costs = np.array(kept, np.float64).T
    upper = slice(max(0, min(len(kept) // 2, len(kept) - 2)), None)
    # Relative errors, or the largest point would decide alone.
    design = np.stack([np.ones_like(counts), counts], 1) / costs[:, None]
    (fixed, each), *_ = np.linalg.lstsq(design, np.ones_like(costs), rcond=None)
    worst = float(np.abs((fixed + each * counts) / costs - 1).max())

    def slope(part: slice) -> float:
        return float(np.polyfit(np.log(counts[part]), np.log(costs[part]), 1)[0])

    return Fit(slope(slice(None)), slope(upper), float(fixed), float(each), worst)


def scaling_plots(outcome: Outcome) -> list[Plot]:
    """Returns time over Gaussians, time over pixels, and memory over Gaussians; axes without points are left out."""
    plots = []
    for axis, label in (("Gaussians", "Gaussians"), ("pixels", "pixels of the picture")):
        own = [entry for entry in outcome.entries if entry.facts["axis"] == axis]
        if not own:
            continue
        other = own[0].facts["pixels" if axis == "Gaussians" else "gaussians"]
        kept = f"{other / 1e6:.1f} megapixels" if axis == "Gaussians" else f"{short_count(other)} Gaussians"
        series = [
            Series(f"{name}, {threads} thread{'s' if threads > 1 else ''}", _points(own, name, threads), index, color)
            for color, name in enumerate(WORK)
            for index, threads in enumerate(sorted({e.facts["threads"] for e in own if e.facts["work"] == name}))
        ]
        plots.append(Plot(f"Time over {label}, {kept}", label, "median wall time, seconds", series))
        memory = [
            Series("peak of the process", _points(own, "peak_bytes", None, 1e-6), 0, 2),
            Series("tensors alive", _points(own, "buffer_bytes", None, 1e-6), 1, 3),
        ]
        plots.append(Plot(f"Memory of training over {label}, {kept}", label, "megabytes above the start", memory))
    return plots


def _points(entries: Sequence[Entry], work: str, threads: int | None, factor: float = 1.0) -> list[tuple[float, float]]:
    points = []
    for entry in entries:
        facts = entry.facts
        if facts["work"] == work and threads in (None, facts["threads"]):
            points.append((facts["gaussians" if facts["axis"] == "Gaussians" else "pixels"], entry.median * factor))
    return sorted(points)


def table_rows(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table for people."""
    header = [
        "work",
        "Gaussians",
        "megapixels",
        "threads",
        "median ms",
        "CPU ms",
        "MB",
        "B/Gaussian",
        "B/pixel",
    ]
    rows = []
    for entry in outcome.entries:
        facts = entry.facts
        memory = entry.unit == "B"
        rows.append(
            [
                str(facts["work"]).replace("_bytes", " memory"),
                short_count(facts["gaussians"]),
                f"{facts['pixels'] / 1e6:.2f}",
                "" if memory else str(facts["threads"]),
                "" if memory else f"{1e3 * entry.median:.2f}",
                "" if memory else f"{1e3 * facts['cpu_s']:.2f}",
                f"{entry.median / 1e6:.1f}" if memory else "",
                f"{entry.median / facts['gaussians']:.0f}" if memory else "",
                f"{entry.median / facts['pixels']:.0f}" if memory else "",
            ]
        )
    return header, rows


def fit_rows(fits: Mapping[str, Fit]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table of fits."""
    header = ["cost", "log-log slope", "upper half", "fixed part", "for each", "worst error"]
    rows = []
    for name, found in fits.items():
        memory = "bytes" in name
        unit, factor = ("MB", 1e-6) if memory else ("ms", 1e3)
        each = f"{found.each:.0f} B" if memory else f"{1e9 * found.each:.3g} ns"
        rows.append(
            [
                name.replace("_bytes", " memory"),
                f"{found.slope:.2f}",
                f"{found.slope_end:.2f}",
                f"{found.fixed * factor:.3g} {unit}",
                each,
                f"{100 * found.worst:.0f} %",
            ]
        )
    return header, rows
