# SPDX-License-Identifier: Apache-2.0
"""What a training writes down while it runs, as curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from recon.progress import label_of

MOST_CURVE_POINTS = 500

COMMON = {"loss": "Loss", "held_out_psnr_db": "Held-out PSNR, dB"}
"""What the numbers are called that every method writes."""

_MOST_SERIES = 12


def curve_label(name: str) -> str:
    """Returns what a quantity of metrics.jsonl is called."""
    return COMMON.get(name) or label_of(name)


class Metrics:
    """Follows a metrics.jsonl that grows: reads only what is new, and a line once it is whole.

    Attributes:
        series: steps and values of each quantity, the common ones first, then the method's own as they come.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.series: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMON}

    def update(self) -> bool:
        """Reads what has been added; returns whether there was anything."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    # A run that was begun anew has a new file.
                    self.__init__(self._path)  # type: ignore[misc]
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)
        return bool(whole)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            step = float(entry["step"])
        except (ValueError, KeyError, TypeError):
            return
        for name, value in entry.items():
            if name in ("step", "seconds") or not isinstance(value, (int, float)):
                continue
            if name in self.series or len(self.series) < _MOST_SERIES:
                self.series.setdefault(name, []).append((step, float(value)))

    def last(self, name: str) -> float | None:
        """Returns the last value of a quantity; None where there is none yet."""
        points = self.series.get(name)
        return points[-1][1] if points else None

    def curve(self, name: str, most: int = MOST_CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
        """Returns steps and values of a quantity, thinned to at most `most` points; the ends are kept."""
        points = np.array(self.series[name], dtype=np.float64).reshape(-1, 2)
        chosen = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).astype(int))
        return points[chosen, 0], points[chosen, 1]
