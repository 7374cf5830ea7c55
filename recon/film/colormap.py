# SPDX-License-Identifier: Apache-2.0
"""Numbers as colours: a rainbow that runs from dark blue over green to dark red and gets brighter towards its middle.

Unlike the classic rainbow its lightness has a single peak and its hue no hard steps, so that neither bands nor false
edges appear in smooth depth.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

# Hue goes around in even steps of what the eye can tell; the ends are darkened to keep near and far apart in print.
_ANCHORS = np.array(
    [
        [42, 20, 72],
        [62, 66, 168],
        [64, 118, 236],
        [36, 176, 228],
        [38, 220, 168],
        [112, 244, 98],
        [190, 238, 58],
        [240, 204, 54],
        [252, 146, 42],
        [226, 82, 18],
        [174, 30, 8],
        [112, 4, 6],
    ],
    dtype=np.float64,
)


@cache
def _table() -> npt.NDArray[np.uint8]:
    from scipy.interpolate import PchipInterpolator

    knots = np.linspace(0, 255, len(_ANCHORS))
    return np.clip(np.round(PchipInterpolator(knots, _ANCHORS)(np.arange(256))), 0, 255).astype(np.uint8)


def colorize(values: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.uint8]:
    """Returns colours [..., 3] for values [...] in 0..1 (clamped); what is not valid or not a number is black."""
    known = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    index = (np.clip(np.where(known, values, 0.0), 0, 1) * 255).round().astype(np.uint8)
    return np.where(known[..., None], _table()[index], np.uint8(0))
