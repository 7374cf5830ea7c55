# SPDX-License-Identifier: Apache-2.0
"""What was changed while a training ran: `changes.jsonl`, one JSON object a line.

config.json says with what a run was started; this says what became of it, so that a result can be explained and a
resumed run goes on with the same options.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon.files import write_text
from recon.methods.config import LiveOption, TrainConfig, changed, live_options

FILE_NAME = "changes.jsonl"


def read_changes(path: Path, last_step: float = math.inf) -> list[tuple[int, Mapping[str, Any]]]:
    """Returns the changes up to a step, as steps and options; none where there is no file.  Broken lines are passed."""
    if not path.is_file():
        return []
    found: list[tuple[int, Mapping[str, Any]]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            step, options = int(entry["step"]), dict(entry["options"])
        except (ValueError, KeyError, TypeError):
            continue
        if 0 < step <= last_step:
            found.append((step, options))
    return found


class ChangeLog:
    """The changes of a run, in the order in which they were made.

    Attributes:
        kept: those up to the step that the run goes on from.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        """Reads what stands there, and forgets what a resumed run has not come to yet."""
        self._path = path
        self.kept = [options for _, options in read_changes(path, first_step)]
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(line + "\n" for line in lines if _is_before(line, first_step)))

    def write(self, step: int, options: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """Appends a change: after which step, to what, and from what."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "options": dict(options), "before": dict(before)}) + "\n")


def _is_before(line: str, step: int) -> bool:
    try:
        return 0 < int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


class LiveConfig:
    """The options of a training that runs, as whoever looks at it may see and change them."""

    def __init__(self, config: TrainConfig, run: Path) -> None:
        """Takes the options that the run is started with, and its folder."""
        self._config, self._path = config, run / FILE_NAME

    def options(self) -> list[LiveOption]:
        """Returns the options that may change, with the values that they have now."""
        return live_options(self._present())

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuses what the training would refuse.

        Raises:
            ReconError: an option that may not change, or a value of the wrong type or out of range.
        """
        changed(self._present(), values)

    def _present(self) -> TrainConfig:
        config = self._config
        for _, options in read_changes(self._path):
            config = changed(config, options)
        return config
