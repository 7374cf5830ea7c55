# SPDX-License-Identifier: Apache-2.0
"""Stages of a longer job that are done once and redone only when something that shapes them changed.

`stages.json` in the output folder says of every finished stage by which key it was made and what it reported.  A key is
a fingerprint of the stage's options and of the stages that it builds on, so changing one option redoes exactly what
comes after it.  The file is written after a stage's outputs are whole; a kill in between redoes that stage.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recon.errors import ReconError
from recon.files import read_json, to_json_text, write_json

SCHEMA = 1
FILE_NAME = "stages.json"


class StageBook:
    """The finished stages of one output folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._folder = folder
        self._stages: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            try:
                self._stages = dict(read_json(self._path, SCHEMA, ["stages"])["stages"])
            except (ReconError, KeyError, TypeError, ValueError):
                # Without the book every stage is looked at afresh; their own files are still reused.
                self._stages = {}

    def is_done(self, name: str, key: str, outputs: Sequence[str]) -> bool:
        """Whether the stage was finished with this key and its outputs (relative to the folder) are all there."""
        entry = self._stages.get(name)
        return bool(entry and entry.get("key") == key and all((self._folder / output).exists() for output in outputs))

    def key_of(self, name: str) -> str | None:
        """Returns the key of the last attempt at a stage, finished or begun; None if there was none."""
        entry = self._stages.get(name)
        return entry.get("key") or entry.get("begun") if entry else None

    def begin(self, name: str, key: str) -> None:
        """Notes that a stage is under way with this key, so that an interrupted one can be continued."""
        self._stages[name] = {"begun": key}
        self._save()

    def finish(self, name: str, key: str, report: dict[str, Any]) -> None:
        """Notes that a stage is done and what it reported."""
        self._stages[name] = {"key": key, "report": report}
        self._save()

    def run(self, name: str, key: str, outputs: Sequence[str], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the stage's report: the stored one where it is done, else that of `work()`."""
        if self.is_done(name, key, outputs):
            return dict(self._stages[name]["report"])
        self.begin(name, key)
        report = work()
        self.finish(name, key, report)
        # What a later call reads back, so that both calls report the same types.
        return dict(self._stages[name]["report"])

    def _save(self) -> None:
        import json

        self._stages = json.loads(to_json_text(self._stages))
        write_json(self._path, {"stages": self._stages}, SCHEMA)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of an output folder; the lock goes with the process, however it ends.

    Raises:
        ReconError: another process works there.
    """
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReconError(
                f"opening the output folder {folder}",
                "another recon is working there",
                "one at a time",
                "wait for it, or choose another --out",
            ) from error
        yield
    finally:
        os.close(descriptor)
