# SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes: seconds per stage, what it moved and computed, and what the machine allows.

A trainer marks its stages, one after the other, never one inside another:

    with data.profile.stage("blend forward", bytes_moved=...):
        ...

The profile that `TrainingData` carries by default is `OFF`, for which this costs less than a microsecond.

**The floor** of a stage is the larger of two times: the bytes that it has to move over the bandwidth of a copy that is
larger than the caches, and its arithmetic over the rate of a matrix product, both measured on this machine when the
profile is made, with as many threads as torch uses.  The arithmetic of blending is counted per pair of a Gaussian and
a pixel whose exponent is computed: 20 operations and one exponential forward, 45 and one exponential backward, with 14
operations for an exponential (range reduction and a polynomial of degree 5).  The loss is counted with 350 operations
per pixel and channel: five moments through two passes of an 11-tap window, the formula, and the windows of its
gradient.  Stages that bring no numbers have no floor.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from types import TracebackType
from typing import Any

FILE_NAME = "profile.json"
"""Where a run's profile stands in its folder."""

SCHEMA = 1
"""Of that file."""

FLOPS_PER_EXP = 14
FLOPS_PER_PAIR = {"blend forward": 20 + FLOPS_PER_EXP, "blend backward": 45 + FLOPS_PER_EXP}
"""Arithmetic of one evaluated pair of a Gaussian and a pixel, by stage."""

FLOPS_PER_LOSS_VALUE = 350
"""Arithmetic of L1 and SSIM with their gradient, per pixel and channel."""

REST = "everything else"
_COUNT_EVERY = 25
_COPY_BYTES = 96 << 20
_MATRIX_SIDE = 768


@dataclass(frozen=True)
class MachineLimits:
    """What this machine does at best.

    Attributes:
        copy_bytes_per_s: bytes read plus bytes written by a copy that is larger than the caches.
        flops_per_s: float32 operations of a matrix product; a fused multiply-add counts as two.
        threads: how many computed them.
    """

    copy_bytes_per_s: float
    flops_per_s: float
    threads: int


@dataclass
class StageProfile:
    """One stage, summed over all steps.

    Attributes:
        name: what it is called.
        seconds, cpu_seconds: wall time, and processor time of all threads.
        calls: how often it ran.
        bytes_moved: bytes that it has to read and write.
        flops: arithmetic besides that of the pairs.
        pairs_evaluated: pairs of a Gaussian and a pixel whose exponent was computed; an estimate from sampled steps.
        pairs_blended: those that were blended.
    """

    name: str
    seconds: float = 0.0
    calls: int = 0
    bytes_moved: float = 0.0
    pairs_evaluated: float = 0.0
    pairs_blended: float = 0.0
    flops: float = 0.0
    cpu_seconds: float = 0.0

    def floor_seconds(self, limits: MachineLimits) -> float:
        """Returns the time below which the machine cannot do this; 0 where nothing is known of the stage's work."""
        flops = self.flops + self.pairs_evaluated * FLOPS_PER_PAIR.get(self.name, 0)
        return max(self.bytes_moved / limits.copy_bytes_per_s, flops / limits.flops_per_s)


class _Nothing:
    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        return None


_NOTHING = _Nothing()


class _Clock:
    """Adds the time of a block to a stage."""

    __slots__ = ("_cpu", "_stage", "_wall")

    def __init__(self, stage: StageProfile) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stage = self._stage
        stage.seconds += time.perf_counter() - self._wall
        stage.cpu_seconds += time.process_time() - self._cpu
        stage.calls += 1


@dataclass
class _PairSamples:
    evaluated: float = 0.0
    blended: float = 0.0
    count: int = 0


@dataclass(eq=False)
class Profile:
    """The stages of a run, merged by name, in the order of their first call.

    Attributes:
        on: whether anything is recorded.
        steps: steps that were made; `seconds` is their wall time and `cpu_seconds` their processor time.
        limits: the machine's, for the floors; None while they were not measured.
    """

    on: bool = True
    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    limits: MachineLimits | None = None
    _stages: dict[str, StageProfile] = field(default_factory=dict)
    _pairs: dict[str, _PairSamples] = field(default_factory=dict)
    _aside: StageProfile = field(default_factory=lambda: StageProfile("aside"))
    _asked: int = 0

    @staticmethod
    def measured() -> Profile:
        """Returns a profile that records, with the machine's limits measured (a third of a second)."""
        return Profile(limits=measure_limits())

    def stage(self, name: str, bytes_moved: float = 0.0, flops: float = 0.0) -> AbstractContextManager[None]:
        """Returns a context manager that times a stage.

        Args:
            name: calls of one name are summed.
            bytes_moved: bytes that this call has to read and write at least.
            flops: arithmetic of this call besides that of pairs, see `FLOPS_PER_PAIR`.
        """
        if not self.on:
            return _NOTHING
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = StageProfile(name)
        stage.bytes_moved += bytes_moved
        stage.flops += flops
        return _Clock(stage)

    def add_bytes(self, name: str, bytes_moved: float) -> None:
        """Adds to what a stage moved, where that is known only after it ran."""
        if self.on:
            self._stages[name].bytes_moved += bytes_moved

    def aside(self) -> AbstractContextManager[None]:
        """Returns a context manager for what profiling itself costs; it counts to no stage and to no step."""
        return _Clock(self._aside) if self.on else _NOTHING

    def counts_now(self) -> bool:
        """Whether this step should count its pairs, which costs as much as the step: one of 25, and the first."""
        if not self.on:
            return False
        self._asked += 1
        return self._asked % _COUNT_EVERY == 1

    def pairs(self, name: str, evaluated: float, blended: float) -> None:
        """Notes a sample of the pairs that one call of a stage evaluates and blends."""
        if self.on:
            samples = self._pairs.setdefault(name, _PairSamples())
            samples.evaluated += evaluated
            samples.blended += blended
            samples.count += 1

    def add_step(self, seconds: float, cpu_seconds: float = 0.0) -> None:
        """Notes the whole time of a step; the training loop does."""
        self.steps += 1
        self.seconds += seconds
        self.cpu_seconds += cpu_seconds

    def stages(self) -> list[StageProfile]:
        """Returns the stages with their pairs, and what is left of the steps as the last one."""
        stages = []
        for stage in self._stages.values():
            samples = self._pairs.get(stage.name, _PairSamples())
            scale = stage.calls / max(samples.count, 1)
            pairs = {"pairs_evaluated": samples.evaluated * scale, "pairs_blended": samples.blended * scale}
            stages.append(StageProfile(**{**asdict(stage), **pairs}))
        if self.steps:
            seconds, cpu = (
                getattr(self, kind) - getattr(self._aside, kind) - sum(getattr(stage, kind) for stage in stages)
                for kind in ("seconds", "cpu_seconds")
            )
            stages.append(StageProfile(REST, max(seconds, 0.0), self.steps, cpu_seconds=max(cpu, 0.0)))
        return stages

    def table(self) -> list[tuple[str, ...]]:
        """Returns means per step as text, row by row, the header first; empty where nothing was recorded."""
        stages = self.stages()
        steps, seconds = max(self.steps, 1), sum(stage.seconds for stage in stages)
        if not stages:
            return []
        rows: list[tuple[str, ...]] = [_HEADER]
        rows += [_row(stage, steps, seconds, self.limits) for stage in stages]
        whole = StageProfile("whole step")
        for stage in stages:
            for spec in fields(StageProfile):
                if spec.name not in ("name", "calls", "pairs_evaluated", "pairs_blended"):
                    setattr(whole, spec.name, getattr(whole, spec.name) + getattr(stage, spec.name))
        floor = sum(stage.floor_seconds(self.limits) for stage in stages) if self.limits else 0.0
        rows.append(_row(whole, steps, seconds, None, floor))
        # Columns that say nothing of any stage, such as pairs in a method without Gaussians, are left out.
        told = [index for index, texts in enumerate(zip(*rows[1:])) if any(texts)]
        return [tuple(row[index] for index in told) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Returns the profile as JSON values: sums over all steps, wall and processor seconds, and the floors."""
        stages = []
        for stage in self.stages():
            document = asdict(stage)
            if self.limits is not None:
                document["floor_seconds"] = stage.floor_seconds(self.limits)
            stages.append(document)
        return {
            "steps": self.steps,
            "seconds": self.seconds - self._aside.seconds,
            "cpu_seconds": self.cpu_seconds - self._aside.cpu_seconds,
            "seconds_of_counting": self._aside.seconds,
            "limits": asdict(self.limits) if self.limits is not None else None,
            "flops_per_pair": dict(FLOPS_PER_PAIR),
            "stages": stages,
        }

    def limits_line(self) -> str:
        """Returns what the floors stand on, as a sentence."""
        if self.limits is None:
            return "The machine's limits were not measured."
        copy, flops = self.limits.copy_bytes_per_s / 1e9, self.limits.flops_per_s / 1e9
        return (
            f"Floors: bytes over {copy:.1f} GB/s (a copy beyond the caches, read plus written) or arithmetic over "
            f"{flops:.0f} GFLOP/s (a float32 matrix product), whichever takes longer; {self.limits.threads} threads."
        )


OFF = Profile(on=False)
"""Records nothing."""

_HEADER = (
    *("stage", "ms", "CPU ms", "share", "MB", "GB/s"),
    *("Mpairs evaluated", "Mpairs blended", "Gpair/s", "floor ms", "× floor"),
)


def _row(
    stage: StageProfile, steps: int, all_seconds: float, limits: MachineLimits | None, floor: float = 0.0
) -> tuple[str, ...]:
    """Returns a stage as a row of the table; what is not known stays empty."""
    seconds = max(stage.seconds, 1e-12)
    if limits is not None:
        floor = stage.floor_seconds(limits)

    def shown(value: float, digits: int, wanted: float) -> str:
        return f"{value:.{digits}f}" if wanted > 0 else ""

    return (
        stage.name,
        f"{1e3 * stage.seconds / steps:.3f}",
        f"{1e3 * stage.cpu_seconds / steps:.3f}",
        f"{100 * stage.seconds / max(all_seconds, 1e-12):.1f} %",
        shown(stage.bytes_moved / steps / 1e6, 2, stage.bytes_moved),
        shown(stage.bytes_moved / seconds / 1e9, 1, stage.bytes_moved),
        shown(stage.pairs_evaluated / steps / 1e6, 2, stage.pairs_evaluated),
        shown(stage.pairs_blended / steps / 1e6, 2, stage.pairs_blended),
        shown(stage.pairs_evaluated / seconds / 1e9, 2, stage.pairs_evaluated),
        shown(1e3 * floor / steps, 3, floor),
        shown(stage.seconds / max(floor, 1e-12), 1, floor),
    )


def measure_limits() -> MachineLimits:
    """Measures the bandwidth of a copy and the rate of a matrix product on the processor, each the best of several."""
    import torch

    source = torch.ones(_COPY_BYTES // 4)
    target = torch.zeros_like(source)
    matrix = torch.rand(_MATRIX_SIDE, _MATRIX_SIDE)
    product = torch.empty_like(matrix)
    copy = _best_seconds(lambda: target.copy_(source), 6)
    multiply = _best_seconds(lambda: torch.mm(matrix, matrix, out=product), 12)
    return MachineLimits(2 * _COPY_BYTES / copy, 2 * _MATRIX_SIDE**3 / multiply, torch.get_num_threads())


def _best_seconds(work: Any, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best
