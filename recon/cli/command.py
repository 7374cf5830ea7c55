# SPDX-License-Identifier: Apache-2.0
"""What every command is made of: a dataclass of options, and a function from those to an `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DONE = 0
BAD_INPUT = 2
NEEDS_A_LOOK = 3
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options that every command takes."""

    json: bool = False
    """Print the report as one JSON object on standard output (progress stays on standard error)."""


def given_option(words: Sequence[str], option: str) -> str:
    """Returns the value of an option among a command's words, before they are parsed; empty where it is not given."""
    value = ""
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            value = words[index + 1]
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


@dataclass(frozen=True)
class Grid:
    """A table with a header: `rows` are as long as it, the first column is text and the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Outcome:
    """What a command has to say when it is done.

    Attributes:
        report: what `--json` prints.
        title, rows: what a person reads instead.
        grids: further tables, after that one.
        attention: reasons to look at the result; any makes the exit code 3.
        lines: text after the tables, such as the next command to type.
    """

    report: Mapping[str, Any]
    title: str = ""
    rows: Sequence[tuple[str, str]] = ()
    attention: Sequence[str] = ()
    lines: Sequence[str] = field(default=())
    grids: Sequence[Grid] = field(default=())

    @property
    def exit_code(self) -> int:
        return NEEDS_A_LOOK if self.attention else DONE
