# SPDX-License-Identifier: Apache-2.0
"""Where the surface of Gaussian splats is: the depth at which a ray meets the Gaussian that stops it.

The median depth of splatting is the depth of a Gaussian's centre, the same for all of its pixels: a slanted disc
becomes a stair.  Here the Gaussian that makes the ray opaque is found in the same way, and the depth is where the ray
comes closest to the Gaussian's centre in its own metric, as in RaDe-GS (Zhang et al. 2024): with the centre μ and the
covariance Σ in the camera and the ray r = (x, y, 1),

    depth = rᵀ Σ⁻¹ μ / rᵀ Σ⁻¹ r.

Splats are somewhat transparent, so half of the light often comes from behind the first layer.  `SHARPENING` turns an
opacity o into 1 - (1 - o)^SHARPENING before the ray is followed, which finds the surface where transmittance falls to
about 0.5^(1 / SHARPENING).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from recon.cameras import Camera
from recon.kernels.binning.op import bin_tiles
from recon.kernels.blend.op import blend
from recon.kernels.projection.op import ProjectionOptions, project
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions, RenderOutput
from recon.splats import Splats

SHARPENING = 3.0

THINNEST = 0.02
"""The least ratio of a Gaussian's axes that counts: thinner discs seen edge-on would give any depth."""

REACH = 2.0
"""A ray meets a Gaussian within so many of its largest standard deviations of its centre's depth."""

MAX_SPLATS = 1 << 24
"""Numbers up to here are exact in float32."""


class SplatSurfaceRenderer:
    """Renders splats with `median_depth` on their surface; a `recon.render.Renderer`."""

    def __init__(self, renderer: SplatRenderer) -> None:
        self._renderer = renderer

    @torch.no_grad()
    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        """Renders the view of a PINHOLE camera."""
        output = self._renderer.render(camera, options)
        if not options.depth:
            return output
        return replace(output, median_depth=splat_surface_depth(self._renderer.splats, camera))


def has_surface_depth(renderer: object) -> bool:
    """Whether `SplatSurfaceRenderer` can serve a renderer: splats on the CPU, few enough to be numbered in float32."""
    if not isinstance(renderer, SplatRenderer):
        return False
    return renderer.splats.device.type == "cpu" and len(renderer.splats) < MAX_SPLATS


def splat_surface_depth(splats: Splats, camera: Camera, sharpening: float = SHARPENING) -> torch.Tensor:
    """Returns depths along z [H, W] float32; 0 where the ray never becomes opaque.

    Args:
        splats: N Gaussians on the CPU.
        camera: PINHOLE.
        sharpening: see the module.
    """
    pose = torch.tensor(camera.cam_from_world)
    options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=0)
    projected = project(splats, pose.float(), camera, options)
    tiles = bin_tiles(projected, camera.width, camera.height)
    # The kernel notes the depth of the Gaussian that stops the ray; with numbers for depths it notes which one.
    numbered = replace(
        projected,
        depths=torch.arange(1, len(splats) + 1, dtype=torch.float32),
        opacities=1 - (1 - projected.opacities) ** sharpening,
    )
    channels = projected.depths[:, None].contiguous()
    blended = blend(numbered, channels, tiles, camera.width, camera.height, median_depth=True)
    assert blended.median_depth is not None
    stopped_by = blended.median_depth.long() - 1
    hit = stopped_by >= 0
    rays = torch.from_numpy(camera.ray_directions_in_cam(camera.pixel_grid()))[hit]
    depth = torch.zeros(hit.shape)
    depth[hit] = _meeting_depth(splats.select(stopped_by[hit]), rays, pose).float()
    return depth


def _meeting_depth(splats: Splats, rays: torch.Tensor, cam_from_world: torch.Tensor) -> torch.Tensor:
    """Depth [P] where each ray [P, 3] (z = 1) is closest to its Gaussian, in float64."""
    centers = splats.means.double() @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    scales = splats.scales.double()
    scales = scales.clamp_min(1e-12).maximum(THINNEST * scales.amax(1, keepdim=True))
    gaussian_from_cam = (cam_from_world[:3, :3] @ _rotations(splats.quats.double())).transpose(1, 2)
    along = (gaussian_from_cam @ rays[..., None])[..., 0] / scales
    toward = (gaussian_from_cam @ centers[..., None])[..., 0] / scales
    depth = (along * toward).sum(1) / (along * along).sum(1)
    reach = REACH * scales.amax(1)
    return depth.maximum(centers[:, 2] - reach).minimum(centers[:, 2] + reach).clamp_min(0)


def _rotations(quats: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [P, 3, 3] of quaternions wxyz [P, 4] of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)
