# SPDX-License-Identifier: Apache-2.0
"""The splat preview within the summary page: its data, and the elements that `assets/splat_preview.js` looks for."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.viewers.browser_splats import BrowserSplats, browser_splats
from recon.viewers.stage import Stage

if TYPE_CHECKING:
    from recon.splats import Splats

MOST_SPLATS = 60_000
"""28 bytes each, a third more as text: about 2.2 MB of page."""

BACKGROUND = (20 / 255, 20 / 255, 20 / 255)


def preview_elements(splats: Splats, cameras: Sequence[Camera], stage: Stage) -> str:
    """Returns the canvas and its data; the script is added by the page, which must allow it by its hash."""
    prepared = browser_splats(splats, cameras, MOST_SPLATS)
    scene = {
        "count": len(prepared.centers),
        "variance": prepared.node_scale**2,
        "antialiased": splats.antialiased,
        "eye": stage.eye.tolist(),
        "focus": stage.focus.tolist(),
        "fov": stage.fov_rad,
        "near": 0.01 * stage.extent,
        "background": BACKGROUND,
    }
    data = base64.b64encode(packed(prepared)).decode("ascii")
    hidden = f"; the {prepared.left_out:,} least visible splats are left out" if prepared.left_out else ""
    return (
        '<canvas id="preview"></canvas>'
        f'<p class="soft" id="preview-note">Drag to turn, wheel to zoom, right drag to move, double click to begin '
        f"again. A preview without view-dependent colour{hidden}.</p>"
        f'<script type="application/json" id="splat-scene">{json.dumps(scene)}</script>'
        f'<script type="text/plain" id="splat-data">{data}</script>'
    )


def packed(prepared: BrowserSplats) -> bytes:
    """Returns positions (float32), upper triangles of the covariances (float16) and RGBA (bytes), block by block."""
    triangle: npt.NDArray[np.floating] = prepared.covariances.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
    rgba = np.concatenate([prepared.colors, prepared.opacities], 1)
    return b"".join(
        [
            (prepared.centers.astype(np.float64) * prepared.node_scale).astype("<f4").tobytes(),
            triangle.astype("<f2").tobytes(),
            (np.clip(rgba, 0, 1) * 255).round().astype(np.uint8).tobytes(),
        ]
    )
