# SPDX-License-Identifier: Apache-2.0
"""How fast each stage of a training step is, of splats by number of Gaussians and of a NeRF by number of samples: by
threads and instruction set.

What is compared is measured in turns (three times on one thread, three on two, three on one ...; one instruction set
after the other, in two rounds), so that a machine whose speed drifts slows both alike.  Instruction sets other than the
one in use run in processes of their own, because a process loads one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recon.bench.results import Entry, Samples, short_count
from recon.bench.worker import call_worker
from recon.progress import SILENT, Progress

STAGES = ("project", "bin", "blend forward", "loss", "blend backward", "update", "render", "step")
"""What is measured of splats: the kernels in the order of a step, rendering, and the trainer's whole step."""

FIELD_STAGES = (
    "march", "encode", "density network", "truncate", "color network", "composite", "composite backward",
    "color network backward", "density network backward", "encode backward", "table adam", "field",
)  # fmt: skip
"""What is measured of a NeRF: the kernels in the order of a step, and all of them together."""

REFERENCE_GAUSSIANS, REFERENCE_SIZE = 2000, (160, 90)
"""The scene of the comparison with plain torch, which takes seconds where the kernels take a millisecond."""

REFERENCE_SAMPLES = 16384
"""The same for the kernels of a NeRF."""

_ROUNDS = 2
_FEWEST, _MOST = 6, 45


@dataclass(frozen=True)
class KernelSettings:
    """What to measure.

    Attributes:
        stages: of `STAGES` and `FIELD_STAGES`.
        sizes: numbers of Gaussians of the random scenes.
        field_sizes: numbers of samples of a NeRF's batches.
        picture: size of their picture; None takes what suits the number.
        threads: numbers of threads.
        isas: instruction sets; empty for the one in use.
        repeats: samples of each time; 0 for as many as fit into a few seconds, 6 to 45.
        sh_degree: of the random scenes.
        run: a run or splat file of the user's to measure as well.
        reference: whether to compare with plain torch.
    """

    stages: tuple[str, ...] = (*STAGES, *FIELD_STAGES)
    sizes: tuple[int, ...] = (10_000, 50_000, 1_000_000)
    field_sizes: tuple[int, ...] = (65_536,)
    picture: tuple[int, int] | None = None
    threads: tuple[int, ...] = (1, 2)
    isas: tuple[str, ...] = ()
    repeats: int = 0
    sh_degree: int = 3
    run: Path | None = None
    reference: bool = True


def measure_kernels(settings: KernelSettings, progress: Progress = SILENT) -> tuple[list[Entry], list[str]]:
    """Measures the stages; returns an entry for each stage, scene, number of threads and instruction set, and notes.

    Facts of an entry: `stage`, `scene`, `threads`, `isa`; of splats `gaussians`, `width`, `height`; of a NeRF
    `samples`, `rays`, `reached` (samples that truncation leaves) and `msamples_per_s`; `cpu_s` median processor
    seconds; `gb_per_s` of the bytes that must move; for blending `evaluated_gpair_per_s`, `blended_gpair_per_s` and
    `evaluated_per_blended`; `speedup` over the fewest threads; `ratio_to_best_isa`, the time of the best one over this
    one's.
    """
    from recon.kernels.native import active_isa

    isas = settings.isas or (active_isa(),)
    rounds = _ROUNDS if len(isas) > 1 else 1
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    with progress.stage("measuring kernels", rounds * len(isas), "rounds") as bar:
        for _ in range(rounds):
            for isa in isas:
                for sample in _samples(replace(settings, isas=()), isa, active_isa()):
                    merged = found.setdefault((sample["stage"], sample["scene"], sample["threads"], isa), sample)
                    if merged is not sample:
                        merged["wall"] += sample["wall"]
                        merged["cpu"] += sample["cpu"]
                bar.advance(1, isa)
    entries = [_entry(sample, key[-1]) for key, sample in found.items()]
    notes: list[str] = []
    if settings.reference:
        with progress.stage("measuring plain torch"):
            entries += _reference_entries(settings)
            entries += _field_reference_entries(settings)
    entries += _gsplat_entries(settings, notes)
    return _with_ratios(entries), notes


def _samples(settings: KernelSettings, isa: str, active: str) -> list[dict[str, Any]]:
    """Returns the samples of one round on one instruction set, from this process or from one of its own."""
    if isa == active:
        return sample_kernels(settings)
    return call_worker("kernels", to_document(settings), {"RECON_ISA": isa})


def to_document(settings: KernelSettings) -> dict[str, Any]:
    """Returns settings as JSON values."""
    return {**vars(settings), "run": None if settings.run is None else str(settings.run)}


def from_document(document: Mapping[str, Any]) -> KernelSettings:
    """Returns the settings that `to_document` gave."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    values["run"] = Path(values["run"]) if values["run"] else None
    return KernelSettings(**values)


def sample_kernels(settings: KernelSettings) -> list[dict[str, Any]]:
    """Measures in this process; returns for each stage, scene and number of threads the facts, and samples in seconds
    as `wall` and `cpu`."""
    from recon.bench.scenes import picture_size, random_scene, scene_of_ply, scene_of_run

    results = []
    if any(stage in FIELD_STAGES for stage in settings.stages):
        for count in settings.field_sizes:
            results += _sample_field(count, settings)
    if not any(stage in STAGES for stage in settings.stages):
        return results
    for count in settings.sizes:
        scene = random_scene(count, settings.picture or picture_size(count), settings.sh_degree)
        results += _sample_scene(scene, settings)
    if settings.run is not None:
        path = settings.run
        scene = (
            scene_of_ply(path, settings.picture or (1280, 720))
            if path.is_file()
            else scene_of_run(path, settings.picture)
        )
        results += _sample_scene(scene, settings)
    return results


def _sample_scene(scene: Any, settings: KernelSettings) -> list[dict[str, Any]]:
    from recon.bench import stages

    chain = stages.StepChain(scene)
    cases: dict[str, Any] = {}
    if "render" in settings.stages:
        cases["render"] = stages.RenderCase(scene)
    if "step" in settings.stages:
        cases["step"] = stages.StepCase(scene)
    by_threads = {threads: {name: Samples() for name in STAGES} for threads in settings.threads}
    kernels = any(name in settings.stages for name in stages.KERNELS)

    unkept = {name: Samples() for name in STAGES}

    def once(threads: int, keep: bool) -> None:
        samples = by_threads[threads] if keep else unkept
        if kernels:
            chain.run(samples)
        for name, case in cases.items():
            samples[name].time(case.run, case.parts)

    chain.run(unkept)  # which also tells what was seen
    _alternate(settings, once)
    facts = _facts(scene, chain.bytes_moved())
    return [
        {**facts[name], "threads": threads, "wall": samples[name].wall, "cpu": samples[name].cpu}
        for threads, samples in by_threads.items()
        for name in STAGES
        if name in settings.stages
    ]


def _alternate(settings: KernelSettings, once: Callable[[int, bool], None]) -> None:
    """Calls `once(threads, keep)` for a few seconds in each scene and round, or as often as the settings say."""
    from recon.bench import stages

    begun = time.perf_counter()
    once(settings.threads[0], False)
    fitting = round(5.0 / (len(settings.threads) * max(time.perf_counter() - begun, 1e-3)))
    stages.alternate(settings.threads, settings.repeats or min(max(fitting, _FEWEST), _MOST), once)


def _sample_field(count: int, settings: KernelSettings) -> list[dict[str, Any]]:
    from recon.bench.field import FieldBatch, FieldChain

    batch = FieldBatch(count)
    chain = FieldChain(batch)
    by_threads = {threads: {name: Samples() for name in FIELD_STAGES} for threads in settings.threads}
    unkept = {name: Samples() for name in FIELD_STAGES}

    def once(threads: int, keep: bool) -> None:
        samples = by_threads[threads] if keep else unkept
        chain.run(samples)
        stages = [samples[name] for name in FIELD_STAGES[:-1]]
        samples["field"].wall.append(sum(stage.wall[-1] for stage in stages))
        samples["field"].cpu.append(sum(stage.cpu[-1] for stage in stages))

    once(settings.threads[0], False)
    _alternate(settings, once)
    moved = chain.bytes_moved()
    facts = {
        "scene": f"field {short_count(count)} · {len(batch.origins)} rays",
        "samples": chain.marched,
        "rays": len(batch.origins),
        "reached": chain.kept,
    }
    return [
        {
            **facts, "stage": name, "threads": threads, "bytes_moved": moved.get(name, sum(moved.values())),
            "wall": samples[name].wall, "cpu": samples[name].cpu,
        }
        for threads, samples in by_threads.items()
        for name in FIELD_STAGES
        if name in settings.stages
    ]  # fmt: skip


def _facts(scene: Any, moved: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Returns what is known of each stage on a scene before it is timed."""
    camera = scene.camera
    facts = {}
    for name in STAGES:
        facts[name] = {
            "stage": name,
            "scene": f"{scene.name} · {camera.width}×{camera.height}",
            "gaussians": len(scene.splats),
            "width": camera.width,
            "height": camera.height,
            "blended_per_pixel": round(scene.blended_per_pixel, 2),
            "bytes_moved": moved.get(name),
        }
        if name.startswith("blend"):
            facts[name] |= {"evaluated": scene.pairs.evaluated, "blended": scene.pairs.blended}
    return facts


def _entry(sample: Mapping[str, Any], isa: str) -> Entry:
    """Returns the entry of one stage from its samples and facts."""
    facts = {name: value for name, value in sample.items() if name not in ("wall", "cpu", "evaluated", "blended")}
    facts["isa"] = isa
    seconds = statistics.median(sample["wall"])
    facts["cpu_s"] = statistics.median(sample["cpu"])
    moved = facts.pop("bytes_moved", None)
    if moved:
        facts["gb_per_s"] = moved / seconds / 1e9
    if "samples" in sample:
        facts["msamples_per_s"] = sample["samples"] / seconds / 1e6
    if "evaluated" in sample:
        facts["evaluated_gpair_per_s"] = sample["evaluated"] / seconds / 1e9
        facts["blended_gpair_per_s"] = sample["blended"] / seconds / 1e9
        facts["evaluated_per_blended"] = sample["evaluated"] / max(sample["blended"], 1)
    name = f"{sample['stage']} · {sample['scene']} · {_threads(sample['threads'])} · {isa}"
    return Entry.of(name, sample["wall"], facts=facts)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


def _with_ratios(entries: Sequence[Entry]) -> list[Entry]:
    """Adds the speedup over the fewest threads, and the best instruction set's time over that of each other."""
    from recon.kernels.native import ISAS

    by_key = {
        (e.facts["stage"], e.facts["scene"], e.facts["threads"], e.facts["isa"]): e for e in entries if _is_native(e)
    }
    fewest = min((key[2] for key in by_key), default=1)
    best = max((key[3] for key in by_key), key=ISAS.index, default="")
    completed = []
    for entry in entries:
        facts = dict(entry.facts)
        if _is_native(entry):
            alone = by_key.get((facts["stage"], facts["scene"], fewest, facts["isa"]))
            if alone is not None and facts["threads"] > fewest:
                facts["speedup"] = alone.median / entry.median
            peer = by_key.get((facts["stage"], facts["scene"], facts["threads"], best))
            if peer is not None and facts["isa"] != best:
                facts["ratio_to_best_isa"] = peer.median / entry.median
        completed.append(replace(entry, facts=facts))
    return completed


def _is_native(entry: Entry) -> bool:
    return entry.facts.get("isa") not in (None, "torch", "gsplat")


def _reference_entries(settings: KernelSettings) -> list[Entry]:
    """Returns plain torch's times on a small scene, with the kernels' time on the same one as the fact `kernels_s`."""
    from recon.bench.reference import reference_seconds

    wanted = tuple(stage for stage in settings.stages if stage in STAGES and stage not in ("render", "step"))
    small = replace(
        settings, stages=wanted, sizes=(REFERENCE_GAUSSIANS,), field_sizes=(), picture=REFERENCE_SIZE,
        threads=settings.threads[-1:], repeats=9, run=None,
    )  # fmt: skip
    if not wanted or not (settings.sizes or settings.run):
        return []
    ours = {sample["stage"]: statistics.median(sample["wall"]) for sample in sample_kernels(small)}
    entries = []
    for stage, samples in reference_seconds(REFERENCE_GAUSSIANS, REFERENCE_SIZE, settings.sh_degree).items():
        if stage not in ours:
            continue
        scene = f"random {REFERENCE_GAUSSIANS} · {REFERENCE_SIZE[0]}×{REFERENCE_SIZE[1]}"
        facts = {
            "stage": stage,
            "scene": scene,
            "gaussians": REFERENCE_GAUSSIANS,
            "threads": settings.threads[-1],
            "isa": "torch",
            "kernels_s": ours[stage],
            "times_slower": statistics.median(samples) / ours[stage],
        }
        entries.append(Entry.of(f"{stage} · {scene} · plain torch", samples, facts=facts))
    return entries


def _field_reference_entries(settings: KernelSettings) -> list[Entry]:
    """Returns plain torch's times for the kernels of a NeRF, as `_reference_entries`."""
    from recon.bench.field import reference_field_seconds

    wanted = tuple(stage for stage in settings.stages if stage in FIELD_STAGES)
    if not wanted or not settings.field_sizes:
        return []
    small = replace(
        settings, stages=wanted, field_sizes=(REFERENCE_SAMPLES,), threads=settings.threads[-1:], repeats=9, run=None,
        sizes=(),
    )  # fmt: skip
    ours = {sample["stage"]: sample for sample in sample_kernels(small)}
    found = reference_field_seconds(REFERENCE_SAMPLES)
    found["field"] = [sum(stages) for stages in zip(*found.values())]
    entries = []
    for stage, samples in found.items():
        if stage not in ours:
            continue
        seconds = statistics.median(ours[stage]["wall"])
        facts = {
            **{name: ours[stage][name] for name in ("stage", "scene", "samples", "rays", "reached", "threads")},
            "isa": "torch",
            "kernels_s": seconds,
            "times_slower": statistics.median(samples) / seconds,
        }
        entries.append(Entry.of(f"{stage} · {facts['scene']} · plain torch", samples, facts=facts))
    return entries


def _gsplat_entries(settings: KernelSettings, notes: list[str]) -> list[Entry]:
    """Returns gsplat's times for rendering and for rendering with its backward pass, where it runs: on CUDA."""
    from recon.bench.reference import gsplat_seconds, why_no_gsplat

    reason = why_no_gsplat()
    if reason:
        notes.append(f"gsplat was not measured: {reason}.")
        return []
    entries = []
    for count in settings.sizes:
        for stage, samples, scene in gsplat_seconds(count, settings.picture, settings.sh_degree):
            facts = {"stage": stage, "scene": scene, "gaussians": count, "threads": 0, "isa": "gsplat"}
            entries.append(Entry.of(f"{stage} · {scene} · gsplat", samples, facts=facts))
    return entries


def table_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table for people."""
    header = [
        *("stage", "Gaussians or samples", "picture or rays", "threads", "kernels", "median ms", "least ms", "most ms"),
        *("CPU ms", "GB/s", "Gpair/s eval.", "blended", "eval. per blended", "Msample/s", "speedup", "of best set"),
        "× torch",
    ]
    rows = []
    for entry in entries:
        facts = entry.facts
        size = short_count(facts["gaussians"] if "gaussians" in facts else facts["samples"])

        def shown(name: str, digits: int = 2, facts: Mapping[str, Any] = facts) -> str:
            return f"{facts[name]:.{digits}f}" if facts.get(name) is not None else ""

        cpu = f"{1e3 * facts['cpu_s']:.3f}" if "cpu_s" in facts else ""
        percent = f"{100 * facts['ratio_to_best_isa']:.0f} %" if "ratio_to_best_isa" in facts else ""
        times = [f"{1e3 * seconds:.3f}" for seconds in (entry.median, entry.low, entry.high)]
        rows.append(
            [
                *(facts["stage"], size, str(facts["scene"]).split(" · ")[-1]),
                *(str(facts["threads"] or ""), facts["isa"], *times, cpu, shown("gb_per_s", 1)),
                *(shown("evaluated_gpair_per_s"), shown("blended_gpair_per_s"), shown("evaluated_per_blended")),
                *(shown("msamples_per_s"), shown("speedup"), percent, shown("times_slower", 0)),
            ]
        )
    return header, rows
