# SPDX-License-Identifier: Apache-2.0
"""What the person at the terminal sees: bars and lines on standard error, reports on standard output.

Standard output carries the report alone, so that `--json` can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars

    from recon.cli.command import Grid
    from recon.progress import Stage

SHOW_AFTER_S = 2.0
"""Stages shorter than this leave no line behind."""


class TerminalStage:
    """One bar."""

    def __init__(self, bars: RichBars, task: Any, name: str, unit: str) -> None:
        self._bars, self._task, self._name, self._unit = bars, task, name, unit
        self._begun = time.monotonic()
        self._done = 0.0

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        elapsed = max(time.monotonic() - self._begun, 1e-6)
        rate = f"{self._done / elapsed:.1f} {self._unit}/s" if self._unit and elapsed > 1 else ""
        if note:
            self._bars.update(self._task, note=note)
        self._bars.update(self._task, advance=amount, rate=rate)

    def set_total(self, total: float) -> None:
        self._bars.update(self._task, total=total)


class TerminalProgress:
    """Implements `recon.progress.Progress` with rich, on standard error."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bars: RichBars | None = None
        self._depth = 0

    @contextmanager
    def stage(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Stage]:
        """Shows a bar while the block runs; nested stages share the display."""
        bars = self._open()
        task = bars.add_task(name, total=total, rate="", note="")
        begun = time.monotonic()
        try:
            yield TerminalStage(bars, task, name, unit)
        finally:
            bars.remove_task(task)
            seconds = time.monotonic() - begun
            if seconds > SHOW_AFTER_S and not sys.exc_info()[0]:
                self.console.print(f"[green]✓[/] {name} [dim]({duration(seconds)})[/]")
            self._close()

    def log(self, message: str) -> None:
        self.console.print(message, markup=False)

    def _open(self) -> RichBars:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TextColumn("[cyan]{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("[dim]{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        self._depth += 1
        return self._bars

    def _close(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None


def duration(seconds: float) -> str:
    """Returns seconds as people say them: "4.2 s", "3 min 05 s", "1 h 02 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int) -> str:
    """Returns a number of bytes as people say it."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def print_table(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Prints a two-column table; the cells are taken literally."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    console.print(table)


def print_grid(console: Console, grid: Grid) -> None:
    """Prints a table with a header; the cells are taken literally and numbers stand to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(grid.title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    needed = 1
    for index, name in enumerate(grid.header):
        # Headers break between words, so that a wide table fits; a number that is broken up cannot be read.
        widest = max(map(len, [*name.split(), *(row[index] for row in grid.rows)]))
        table.add_column(Text(name), justify="right" if index else "left", min_width=widest)
        needed += widest + 1
    for row in grid.rows:
        table.add_row(*(Text(cell, no_wrap=True) for cell in row))
    # Where the terminal is narrower still, it wraps the lines by itself.
    console.print(table, width=max(console.width, needed), crop=False, soft_wrap=True)
