# SPDX-License-Identifier: Apache-2.0
"""Two reports side by side: what became faster, what slower, and what is only noise.

A difference counts as real where the medians differ by more than the larger of 3 % and half the sum of the two
interquartile ranges (of the whole ranges below four samples), and the best samples differ by more than 3 % the same
way: other programs on the machine make a median slower, but hardly the best of many samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recon.bench.results import Entry, Report, short_seconds
from recon.errors import ReconError

LEAST_CHANGE = 0.03
"""Smaller differences are noise whatever the spread says."""

Verdict = Literal["better", "same", "worse", "unknown"]


@dataclass(frozen=True)
class Change:
    """One entry of both reports.

    Attributes:
        name: the entry's.
        before, after: it in both.
        ratio: how many times better it became; above 1 is better; NaN where a sample is not above 0.
        noise: the relative difference that the spread explains.
        verdict: "unknown" where a sample is not a positive number.
    """

    name: str
    before: Entry
    after: Entry
    ratio: float
    noise: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All entries of two reports: those in both, and the names of those in one alone."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.verdict == "worse")


def compare(before: Report, after: Report) -> Comparison:
    """Compares two reports of one kind.

    Raises:
        ReconError: they are of different kinds, or have nothing in common.
    """
    doing = "comparing two benchmarks"
    if before.kind != after.kind:
        raise ReconError(doing, f"one measures {before.kind}, the other {after.kind}", "two of the same kind")
    first, second = ({entry.name: entry for entry in report.entries} for report in (before, after))
    common = [name for name in first if name in second]
    if not common:
        raise ReconError(doing, "they have no entry in common", "the same stages, sizes and threads in both")
    warnings = [f"The machines differ: {difference}." for difference in before.machine.differences(after.machine)]
    changed = [
        f"{name}: {before.settings.get(name)} there, {after.settings.get(name)} here"
        for name in sorted({*before.settings, *after.settings})
        if before.settings.get(name) != after.settings.get(name)
    ]
    warnings += [f"The settings differ: {difference}." for difference in changed]
    return Comparison(
        changes=tuple(_change(first[name], second[name]) for name in common),
        only_before=tuple(name for name in first if name not in second),
        only_after=tuple(name for name in second if name not in first),
        warnings=tuple(warnings),
    )


def _change(before: Entry, after: Entry) -> Change:
    if (before.unit, before.better) != (after.unit, after.better):
        raise ReconError(
            "comparing two benchmarks",
            f"{before.name!r} is in {before.unit} there and in {after.unit} here",
            "the same unit in both",
        )
    numbers = (value for entry in (before, after) for value in (entry.low, entry.median, entry.high))
    if not all(math.isfinite(value) and value > 0 for value in numbers):
        return Change(before.name, before, after, math.nan, math.nan, "unknown")
    ratio = before.median / after.median if before.better == "lower" else after.median / before.median
    # Decibels are a logarithm already: what counts is their difference.
    if before.unit == "dB":
        gain = after.median - before.median if before.better == "higher" else before.median - after.median
        spread = (_range(before) + _range(after)) / 2
        verdict: Verdict = "same" if abs(gain) <= max(0.1, spread) else "better" if gain > 0 else "worse"
        return Change(before.name, before, after, ratio, spread / before.median, verdict)
    noise = max(LEAST_CHANGE, (_range(before) / before.median + _range(after) / after.median) / 2)
    best = before.low / after.low if before.better == "lower" else after.high / before.high
    if ratio > 1 + noise and best > 1 + LEAST_CHANGE:
        verdict = "better"
    elif ratio < 1 / (1 + noise) and best < 1 / (1 + LEAST_CHANGE):
        verdict = "worse"
    else:
        verdict = "same"
    return Change(before.name, before, after, ratio, noise, verdict)


def _range(entry: Entry) -> float:
    """Returns the spread: between the quartiles, or between the extremes of a few samples."""
    if entry.samples < 4:
        return max(entry.high - entry.low, 0.0)
    return max(entry.upper_quartile - entry.lower_quartile, 0.0)


def table_rows(changes: Sequence[Change]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table for people, the worst first."""
    header = ["entry", "before", "spread", "after", "spread", "ratio", "noise", "verdict"]
    ordered = sorted(changes, key=lambda change: change.ratio if math.isfinite(change.ratio) else -1.0)
    rows = [
        [
            change.name,
            shown(change.before.median, change.before.unit),
            spread(change.before),
            shown(change.after.median, change.after.unit),
            spread(change.after),
            f"{change.ratio:.2f}",
            f"±{100 * change.noise:.0f} %",
            change.verdict,
        ]
        for change in ordered
    ]
    return header, rows


def shown(value: float, unit: str) -> str:
    """Returns a quantity for people."""
    return short_seconds(value) if unit == "s" else f"{value:.4g} {unit}"


def spread(entry: Entry) -> str:
    """Returns the least and the most of an entry's samples."""
    return f"{shown(entry.low, entry.unit)} – {shown(entry.high, entry.unit)}"
