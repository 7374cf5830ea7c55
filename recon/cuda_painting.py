# SPDX-License-Identifier: Apache-2.0
"""Colours on the CUDA kernels for somebody who asks for one picture after another."""

from __future__ import annotations

from threading import Lock

import torch

from recon.cameras import Camera
from recon.kernels.binning.cuda import CudaTileBinner
from recon.kernels.blend.cuda import blend_forward_into_cuda
from recon.kernels.projection.cuda import project_into_cuda
from recon.kernels.projection.op import ProjectionOptions
from recon.kernels.workspace import Workspace
from recon.render import RenderOutput
from recon.splats import Splats


class CudaPainter:
    """Renders colours on memory that stays; several threads take turns."""

    def __init__(self, device: torch.device) -> None:
        self._lock = Lock()
        self._workspace = Workspace(device)
        self._binner = CudaTileBinner(device)

    def paint(self, splats: Splats, camera: Camera, background: tuple[float, float, float]) -> RenderOutput:
        """Returns rgb and alpha of a PINHOLE camera's view, which belong to the caller."""
        device, size = splats.device, (camera.width, camera.height)
        cam_from_world = torch.tensor(camera.cam_from_world, dtype=torch.float32).to(device)
        behind = torch.tensor(background, dtype=torch.float32).to(device)
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=splats.sh_degree)
        with self._lock:
            projected = project_into_cuda(splats, cam_from_world, camera, options, self._workspace)
            tiles = self._binner.queue_fitting(projected, *size, options.alpha_cutoff)
            blended, _ = blend_forward_into_cuda(projected, tiles, size, options.alpha_cutoff, self._workspace, behind)
            return RenderOutput(rgb=blended.channels.clone(), alpha=blended.alpha.clone())
