# SPDX-License-Identifier: Apache-2.0
"""How long operations tell what they are doing, without knowing who listens.

The core takes a `Progress`; the command line passes one that draws bars on standard error, Python users may
pass their own, and the default is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LOG_NAMES = ("step", "seconds", "loss", "held_out_psnr_db")
"""Numbers of a training's log that every method has; the others are of the method's own."""


def label_of(name: str) -> str:
    """Returns what people read for the name of a number: "occupied_cells" is "Occupied cells"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def shown_number(value: float) -> str:
    """Returns a number of any kind as people read it: counts with commas, others to four digits."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


class Stage(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Tells that `amount` more of the stage's total is done; `note` replaces the text beside the bar."""

    def set_total(self, total: float) -> None:
        """Sets the total once it is known."""


class Progress(Protocol):
    """Receives what a long operation reports."""

    def stage(self, name: str, total: float | None = None, unit: str = "") -> StageContext:
        """Opens a stage; `total` counts in `unit` ("photos", "pairs", "steps") and None means unknown."""

    def log(self, message: str) -> None:
        """Reports one line that should stay readable after the operation."""


StageContext = AbstractContextManager[Stage]
"""What `Progress.stage` returns: a context manager that yields the `Stage`."""


class _SilentStage:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        pass

    def set_total(self, total: float) -> None:
        pass


class SilentProgress:
    """Reports nothing; the default of every function that takes a `Progress`."""

    @contextmanager
    def stage(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Stage]:
        yield _SilentStage()

    def log(self, message: str) -> None:
        pass


SILENT = SilentProgress()
