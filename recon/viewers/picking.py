# SPDX-License-Identifier: Apache-2.0
"""What lies under a pixel of a browser's window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera
from recon.render import Renderer, RenderOptions

HALF_SIZE_PX = 1
"""The depth is the median of so many pixels to each side, so that a hole of a pixel is no hole."""

LEAST_ALPHA = 0.3

AGREEMENT = 0.15
"""The expected depth follows the splats' own planes, and on a floor that is seen at a slant is eight times nearer to
the truth than the median, which is that of some splat's centre.  Where several surfaces are seen through each other it
lies between them; it is taken as long as it differs from the median by no more than this part."""


def surface_at(renderer: Renderer, camera: Camera, x_px: float, y_px: float) -> npt.NDArray[np.float64] | None:
    """Returns the point of the surface under a pixel, [3] in the world; None where the picture is empty there.

    Only the few pixels around it are rendered.

    Args:
        renderer: what is seen.
        camera: a PINHOLE camera.
        x_px, y_px: the place in its picture; (0.5, 0.5) is the middle of the first pixel.
    """
    left, top = int(np.floor(x_px)) - HALF_SIZE_PX, int(np.floor(y_px)) - HALF_SIZE_PX
    side = 2 * HALF_SIZE_PX + 1
    window = replace(camera, width=side, height=side, cx=camera.cx - left, cy=camera.cy - top)
    output = renderer.render(window, RenderOptions(depth=True))
    expected, median = output.depth, output.median_depth
    depths = expected if median is None else median
    if depths is None:
        return None
    if expected is not None and median is not None:
        depths = torch.where((expected - median).abs() <= AGREEMENT * median, expected, median)
    depth = depths.double().cpu().numpy()
    found = (output.alpha.cpu().numpy() > LEAST_ALPHA) & (depth > 0)
    if not found.any():
        return None
    ray = camera.ray_directions_in_cam(np.array([[x_px, y_px]]))[0]
    in_camera = ray / ray[2] * float(np.median(depth[found]))
    return (in_camera - camera.cam_from_world[:3, 3]) @ camera.cam_from_world[:3, :3]
