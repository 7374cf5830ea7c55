# SPDX-License-Identifier: Apache-2.0
"""The record of results: one folder for each kind of machine, with the reports, their plots and a page about them.

The folder is named after the processor, its cores and the instruction set; nothing in it names a machine or a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recon.bench import ablation, formats, kernels, render, scaling
from recon.bench.results import Entry, Report, read_report, short_seconds
from recon.errors import ReconError
from recon.files import write_text

RECORDS = Path(__file__).resolve().parent / "records"


def record(report: Report, plots: Mapping[str, str] = {}, folder: Path = RECORDS) -> Path:
    """Writes a report into the record of its machine, and the machine's page anew.

    Args:
        report: what was measured.
        plots: SVG documents by the stem of their file name.
        folder: where records are; by default those of this copy of recon.

    Returns:
        The machine's folder.

    Raises:
        ReconError: this copy of recon is an installed one, and no other folder is given.
    """
    if folder == RECORDS and not (RECORDS.parents[2] / ".git").exists():
        raise ReconError(
            "recording a benchmark", "this copy of recon is no checkout of its repository", "", "keep it with --out"
        )
    place = folder / report.machine.slug
    name = stem(report)
    report.write(place / f"{name}.json")
    for plot, svg in plots.items():
        write_text(place / f"{plot}.svg", svg)
    write_page(place)
    return place


def stem(report: Report) -> str:
    """Returns the file name of a report without its suffix: its kind, and the scene that was trained."""
    if report.kind != "train":
        return report.kind
    return "train-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", str(report.settings.get("name", ""))).strip(".-") or "scene")


def write_page(place: Path) -> None:
    """Writes README.md from the reports in a machine's folder.

    Raises:
        ReconError: there are none, or one cannot be read.
    """
    reports = [read_report(path) for path in sorted(place.glob("*.json"))]
    if not reports:
        raise ReconError(f"writing the page of {place.name}", "there are no reports", "recon bench kernels --record")
    newest = max(reports, key=lambda report: report.machine.date).machine
    parts = [
        f"# {newest.cpu}, {newest.cores} cores, {newest.isa}",
        "Written by `recon bench`; do not edit. Times are wall times and medians, with the least and the most of all "
        "samples as the spread; processor seconds are those of all threads.",
    ]
    for report in reports:
        parts += _section(report, place)
    write_text(place / "README.md", "\n\n".join(parts) + "\n")


def _section(report: Report, place: Path) -> list[str]:
    machine = report.machine
    title = report.kind if report.kind != "train" else f"train: {report.settings.get('name', '')}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    commit = f", commit {machine.commit}" if machine.commit else ""
    parts = [
        f"## {title}",
        f"`{report.command}`",
        f"{machine.date}{commit}; {machine.system}, {machine.memory_gb:g} GB, {versions}.",
    ]
    for header, rows in tables(report):
        parts.append(_markdown(header, rows))
    if (place / f"{stem(report)}.svg").is_file():
        parts.append(f"![{title}]({stem(report)}.svg)")
    return parts


def tables(report: Report) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the tables of a report."""
    if report.kind == "kernels":
        return [kernels.table_rows(report.entries)]
    if report.kind == "ablation":
        return [ablation.table_rows(report.entries)]
    if report.kind == "render":
        return [render.table_rows(report.entries)]
    if report.kind == "formats":
        return [formats.table_rows(report.entries)]
    if report.kind == "scaling":
        outcome = scaling.Outcome(report.entries)
        fits = {name: scaling.Fit(**values) for name, values in report.more.get("fits", {}).items()}
        return [scaling.table_rows(outcome), *([scaling.fit_rows(fits)] if fits else [])]
    return [training_rows(report.entries), target_rows(report.entries, report.settings.get("targets", ()))]


def training_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Returns a table of budgets of steps and what they reach."""
    header = ["steps", "seconds", "spread", "CPU s", "of it steps", "PSNR dB", "spread", "SSIM", "Gaussians", "step ms",
              "peak MB"]  # fmt: skip
    by_name = {entry.name: entry for entry in entries}
    rows = []
    for entry in entries:
        facts = entry.facts
        if "psnr_db" not in facts:
            continue
        score, step = by_name[f"{entry.name}, held-out PSNR"], by_name.get(f"{entry.name}, one step")
        rows.append(
            [
                f"{facts['steps']:,}",
                f"{entry.median:.1f}",
                f"{entry.low:.1f} – {entry.high:.1f}",
                f"{facts['cpu_s']:.1f}",
                f"{facts['training_s']:.1f}",
                f"{score.median:.2f}",
                f"{score.low:.2f} – {score.high:.2f}",
                f"{facts['ssim']:.4f}",
                f"{facts['gaussians']:,}",
                f"{1e3 * step.median:.2f}" if step is not None else "",
                f"{facts['peak_bytes'] / 1e6:.0f}",
            ]
        )
    return header, rows


def target_rows(entries: Sequence[Entry], targets: Sequence[float]) -> tuple[list[str], list[list[str]]]:
    """Returns a table of the qualities that were asked for and the time to each."""
    header = ["held-out PSNR", "wall", "spread", "CPU", "steps"]
    by_target = {entry.facts.get("target_db"): entry for entry in entries}
    rows = []
    for target in targets:
        entry = by_target.get(target)
        if entry is None:
            rows.append([f"{target:g} dB", "not reached", "", "", ""])
            continue
        spread = f"{short_seconds(entry.low)} – {short_seconds(entry.high)}"
        cpu = short_seconds(entry.facts["cpu_s"])
        rows.append([f"{target:g} dB", short_seconds(entry.median), spread, cpu, f"{entry.facts['steps']:,}"])
    return header, rows


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
