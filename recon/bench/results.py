# SPDX-License-Identifier: Apache-2.0
"""What measurements come as: entries with a median and a spread, in a report that says where they are from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from recon.bench.machine import Machine
from recon.errors import ReconError
from recon.files import read_json, write_json

SCHEMA = 1
Kind = Literal["kernels", "train", "scaling", "render", "ablation", "formats"]
KINDS: tuple[Kind, ...] = ("kernels", "train", "scaling", "render", "ablation", "formats")
_KEYS = ("kind", "command", "settings", "machine", "entries", "more")


@dataclass(frozen=True)
class Entry:
    """One measured quantity.

    Attributes:
        name: tells it from the others of its report, and pairs it with that of another report.
        median, low, high: of the samples; `low` and `high` are the least and the most.
        lower_quartile, upper_quartile: half of the samples lie between them.
        samples: how many there are.
        unit: "s", "dB", "B", "pictures/s" ...
        how: how it was measured ("wall", "CPU", "memory").
        better: which direction is better.
        facts: numbers and words that belong to it.
    """

    name: str
    median: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float
    samples: int
    unit: str = "s"
    how: str = "wall"
    better: Literal["lower", "higher"] = "lower"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(name: str, samples: Sequence[float], **more: Any) -> Entry:
        """Returns the entry of some samples, at least one."""
        assert samples
        ordered = sorted(samples)
        quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else [ordered[0]] * 3
        return Entry(
            name=name,
            median=statistics.median(ordered),
            low=ordered[0],
            high=ordered[-1],
            lower_quartile=quartiles[0],
            upper_quartile=quartiles[2],
            samples=len(ordered),
            **more,
        )


@dataclass(frozen=True)
class Report:
    """The result of one benchmark.

    Attributes:
        kind: which one.
        command: what was typed, without folders.
        settings: what it was told.
        machine: where it ran.
        entries: what was measured.
        more: what belongs to this kind alone, such as a curve.
    """

    kind: Kind
    command: str
    settings: Mapping[str, Any]
    machine: Machine
    entries: tuple[Entry, ...]
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Writes the report as a JSON file."""
        write_json(path, self.to_json(), SCHEMA)


def read_report(path: Path) -> Report:
    """Reads what `Report.write` wrote, or what a benchmark's `--json` printed.

    Raises:
        ReconError: no such file, not a report, or one of another schema.
    """
    doing = f"reading {path}"
    document = read_json(path, SCHEMA, [*_KEYS, "attention"])
    try:
        assert document["kind"] in KINDS
        return Report(
            kind=document["kind"],
            command=_text(document["command"]),
            settings=dict(document["settings"]),
            machine=_machine(document["machine"]),
            entries=tuple(_entry(entry) for entry in _list(document["entries"])),
            more=dict(document["more"]),
        )
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ReconError(doing, f"it is no benchmark's report ({reason})", "what `recon bench` wrote") from error


def _machine(document: Any) -> Machine:
    machine = Machine(**document)
    for name in ("cpu", "isa", "system", "gpu", "commit", "date"):
        _text(getattr(machine, name))
    assert isinstance(machine.cores, int)
    assert isinstance(machine.versions, dict)
    return machine


def _entry(document: Any) -> Entry:
    entry = Entry(**document)
    for name in ("name", "unit", "how", "better"):
        _text(getattr(entry, name))
    for name in ("median", "low", "high", "lower_quartile", "upper_quartile", "samples"):
        value = getattr(entry, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} of the entry {entry.name!r} is {value!r}")
    assert entry.better in ("lower", "higher")
    assert isinstance(entry.facts, dict)
    return entry


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


@dataclass
class Samples:
    """Wall and processor seconds of repeated work."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], Any], parts: int = 1) -> Any:
        """Runs the work once and notes how long one of its equal parts took; returns its result."""
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        self.wall.append((time.perf_counter() - wall) / parts)
        self.cpu.append((time.process_time() - cpu) / parts)
        return result


def parse_counts(text: str, doing: str) -> list[int]:
    """Returns the whole numbers of a list such as "10k,1.5m,300".

    Raises:
        ReconError: something else stands there, or a number below 1.
    """
    counts = []
    for word in text.split(","):
        number, factor = word.strip().lower(), 1
        if number[-1:] in ("k", "m"):
            number, factor = number[:-1], {"k": 1000, "m": 1_000_000}[number[-1]]
        try:
            value = round(float(number) * factor)
        except (ValueError, OverflowError):
            value = 0
        if value < 1:
            raise ReconError(doing, f"{word.strip()!r} is no count", "whole numbers from 1, as in 500,10k,1.5m")
        counts.append(value)
    return counts


def parse_numbers(text: str, doing: str) -> list[float]:
    """Returns the positive numbers of a list such as "0.1,1,8".

    Raises:
        ReconError: something else stands there.
    """
    numbers = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 0.0 < value < float("inf"):
            raise ReconError(doing, f"{word.strip()!r} is no positive number", "numbers as in 0.1,1,8")
        numbers.append(value)
    return numbers


def parse_size(text: str, doing: str) -> tuple[int, int]:
    """Returns width and height of a text such as "1920x1080".

    Raises:
        ReconError: something else stands there.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) <= 1 << 16 for part in parts):
        raise ReconError(doing, f"{text!r} is no size", "width x height in pixels, as in 1920x1080")
    return int(parts[0]), int(parts[1])


def short_count(count: float) -> str:
    """Returns a count as people say it: 950, 50k, 1.5M."""
    for factor, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= factor:
            return f"{count / factor:.3g}{letter}"
    return f"{count:.3g}"


def short_seconds(seconds: float) -> str:
    """Returns a time with three figures: 850 ns, 12.3 ms, 1.50 s."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor:
            value = seconds / factor
            return (
                f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
            )
    return f"{seconds * 1e9:.0f} ns"
