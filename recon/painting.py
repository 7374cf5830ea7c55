# SPDX-License-Identifier: Apache-2.0
"""Pictures of splats for somebody who waits for them: by the kernels, on memory that stays, given up when told to.

A picture is projected and binned whole and then blended in bands of tile rows, so that whoever no longer wants it loses
no more than a band's time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

import torch

from recon.cameras import Camera
from recon.kernels.binning.op import TILE_SIZE, TileBinner, TileLists
from recon.kernels.blend.op import DepthPlanes, blend_forward_into, drawn_onto
from recon.kernels.projection.op import Projected, ProjectionOptions, project_into
from recon.kernels.projection.reference import rotation_matrices
from recon.kernels.workspace import Loans, Workspace
from recon.render import RenderOutput
from recon.splats import Splats

BAND_PIXELS = 200_000
"""A band has about so many pixels: some ten milliseconds."""

SOLID_ALPHA = 0.99
"""Alpha of an ellipsoid inside its outline; outside it is not drawn."""

LEAST_SOLID_OPACITY = 0.1
"""Fainter splats have no ellipsoid: they are haze rather than surface."""

_LIGHT = (-0.48, -0.64, -0.6)
"""Where light comes from onto ellipsoids, in the camera's axes: over the left shoulder."""


@dataclass(frozen=True)
class PaintOptions:
    """What to paint.

    Attributes:
        background: colour behind everything, RGB in 0..1.
        depth: also give the expected depth.
        planar_depth: it follows each Gaussian's own plane rather than being its centre's.
        normal: also give normals.
        solid_sigma: show each Gaussian as the solid ellipsoid at so many standard deviations, lit from the upper left;
            None shows what was trained.
    """

    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    depth: bool = False
    planar_depth: bool = False
    normal: bool = False
    solid_sigma: float | None = None


def never() -> bool:
    """Says that nobody gives up."""
    return False


class SplatPainter:
    """Paints picture after picture; several threads take turns."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._workspace = Workspace()
        self._binner = TileBinner()
        self._pictures, self._alphas = Loans(), Loans()
        self._axes: tuple[torch.Tensor, torch.Tensor] | None = None

    def paint(
        self,
        splats: Splats,
        camera: Camera,
        options: PaintOptions,
        cancelled: Callable[[], bool] = never,
    ) -> RenderOutput | None:
        """Returns a picture that belongs to the caller; None where `cancelled`, asked before each band, said True.

        Args:
            splats: N Gaussians on the CPU, float32, contiguous.
            camera: a PINHOLE camera.
            options: see there.
            cancelled: whether the picture is no longer wanted.
        """
        pose = torch.tensor(camera.cam_from_world, dtype=torch.float32)
        projection = ProjectionOptions(antialiased=splats.antialiased, sh_degree=splats.sh_degree)
        with self._lock:
            if cancelled():
                return None
            projected = project_into(splats, pose, camera, projection, self._workspace)
            cutoff = projection.alpha_cutoff
            if options.solid_sigma is not None:
                projected, cutoff = _solid(projected, options.solid_sigma), SOLID_ALPHA
            tiles = self._binner.bin(projected, camera.width, camera.height, cutoff)
            axes = self._axes_of(splats) if options.normal or options.solid_sigma is not None else None
            layers = _layers(splats, projected, camera, pose, options, axes)
            blended = self._blend(projected, layers, tiles, camera, cancelled)
        return None if blended is None else layers.output(*blended, options)

    def _axes_of(self, splats: Splats) -> torch.Tensor:
        """Returns `shortest_axes` of the splats, which are the same from picture to picture."""
        if self._axes is None or self._axes[0] is not splats.quats:
            self._axes = (splats.quats, shortest_axes(splats))
        return self._axes[1]

    def _blend(
        self,
        projected: Projected,
        layers: _Layers,
        tiles: TileLists,
        camera: Camera,
        cancelled: Callable[[], bool],
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Returns the channels [H, W, D] over the background, and alpha [H, W]."""
        width, height = camera.width, camera.height
        rows = height if cancelled is never else max(1, BAND_PIXELS // (width * TILE_SIZE)) * TILE_SIZE
        channels = self._pictures.take((height, width, layers.channels.shape[1]))
        alpha = self._alphas.take((height, width))
        for top in range(0, height, rows):
            if cancelled():
                return None
            bottom = min(top + rows, height)
            first, last = top // TILE_SIZE, -(-bottom // TILE_SIZE)
            part = projected if top == 0 else replace(projected, means_px=projected.means_px - _down(top))
            lists = replace(
                tiles, offsets=tiles.offsets[first * tiles.tiles_x : last * tiles.tiles_x + 1], tiles_y=last - first
            )
            band = drawn_onto(self._workspace, channels[top:bottom], alpha[top:bottom])
            blend_forward_into(
                part, layers.channels, lists, width, bottom - top, band, layers.background, layers.planes
            )
        return channels, alpha


def _down(rows: int) -> torch.Tensor:
    return torch.tensor([0.0, float(rows)])


def _solid(projected: Projected, sigma: float) -> Projected:
    """Returns Gaussians whose alpha falls to `SOLID_ALPHA` at `sigma` and is cut off there; haze is gone."""
    # alpha = opacity exp(-q / 2) may start above one here: it is clamped where it is blended.
    opacity = SOLID_ALPHA * math.exp(0.5 * sigma * sigma)
    solid = torch.where(projected.opacities >= LEAST_SOLID_OPACITY, opacity, 0.0)
    return replace(projected, opacities=solid)


@dataclass(frozen=True, eq=False)
class _Layers:
    """What is blended: colour first, then, where wanted, shade, depth and normal.

    Attributes:
        channels: [N, D].
        background: [D].
        planes: which channel is tilted, and how.
        shade, depth, normal: the first channel of each; None where it is not blended.
    """

    channels: torch.Tensor
    background: torch.Tensor
    planes: DepthPlanes | None
    shade: int | None
    depth: int | None
    normal: int | None

    def output(self, channels: torch.Tensor, alpha: torch.Tensor, options: PaintOptions) -> RenderOutput:
        rgb = channels[..., :3].contiguous() if channels.shape[-1] > 3 else channels
        depth = normal = None
        if self.shade is not None:
            rgb = rgb * channels[..., self.shade : self.shade + 1].clamp_min(0)
            rgb = torch.where((alpha > 0.5)[..., None], rgb, torch.tensor(options.background))
        if self.depth is not None:
            covered = alpha > 0
            depth = torch.where(covered, channels[..., self.depth] / torch.where(covered, alpha, 1.0), 0.0)
        if self.normal is not None:
            normal = torch.nn.functional.normalize(channels[..., self.normal : self.normal + 3], dim=-1, eps=1e-6)
        return RenderOutput(rgb=rgb, alpha=alpha, depth=depth, normal=normal)


def _layers(
    splats: Splats,
    projected: Projected,
    camera: Camera,
    pose: torch.Tensor,
    options: PaintOptions,
    axes: torch.Tensor | None,
) -> _Layers:
    parts, background, planes = [projected.colors], list(options.background), None
    shade = depth = normal = None
    normals = None if axes is None else _turned_to(pose, splats.means, axes)
    if options.solid_sigma is not None:
        assert normals is not None
        shade, planes = 3, DepthPlanes(_shade_slopes(projected.conics, options.solid_sigma), 3)
        facing = (normals @ pose[:3, :3].T @ torch.tensor(_LIGHT)).clamp_min(0)
        parts.append((0.5 + 0.35 * facing)[:, None])
        background.append(1.0)
    if options.depth:
        depth = sum(part.shape[1] for part in parts)
        parts.append(projected.depths[:, None])
        background.append(0.0)
        if options.planar_depth and planes is None:
            planes = DepthPlanes(depth_slopes(splats, pose, camera, projected.conics).contiguous(), depth)
    if options.normal:
        assert normals is not None
        normal = sum(part.shape[1] for part in parts)
        parts.append(normals)
        background += [0.0] * 3
    channels = torch.cat(parts, 1) if len(parts) > 1 else projected.colors
    return _Layers(channels, torch.tensor(background), planes, shade, depth, normal)


def _shade_slopes(conics: torch.Tensor, sigma: float) -> torch.Tensor:
    """Returns how the shade of each ellipsoid changes across the picture, [N, 2] per pixel.

    A sphere lit from the side is brighter in proportion to how far its surface lies towards the light.  What a pixel at
    `d` from the centre is on the sphere is Σ^(-1/2) d / sigma, so the shade lᵀ Σ⁻¹ d / (sigma √(lᵀ Σ⁻¹ l)) runs from -1
    to 1 across the outline.

    Args:
        conics: [N, 3] of Σ⁻¹.
        sigma: where the outline is.
    """
    light_x, light_y = _LIGHT[:2]
    along_x = conics[:, 0] * light_x + conics[:, 1] * light_y
    along_y = conics[:, 1] * light_x + conics[:, 2] * light_y
    length = (along_x * light_x + along_y * light_y).clamp_min(1e-12).sqrt() * sigma / 0.3
    return torch.nan_to_num(torch.stack([along_x / length, along_y / length], 1), 0.0, 0.0, 0.0).contiguous()


def facing_normals(splats: Splats, cam_from_world: torch.Tensor) -> torch.Tensor:
    """Returns each Gaussian's shortest axis, turned towards the camera: unit vectors [N, 3] in the world."""
    return _turned_to(cam_from_world, splats.means, shortest_axes(splats))


def shortest_axes(splats: Splats) -> torch.Tensor:
    """Returns each Gaussian's shortest axis, of either sign: unit vectors [N, 3] in the world."""
    quats = torch.nn.functional.normalize(splats.quats, dim=-1)
    shortest = splats.log_scales.detach().argmin(1)
    return rotation_matrices(quats)[torch.arange(len(splats), device=splats.device), :, shortest]


def _turned_to(cam_from_world: torch.Tensor, means: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        center = -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]
        away = ((means - center) * axes).sum(-1) > 0
    return torch.where(away[:, None], -axes, axes)


def depth_slopes(splats: Splats, cam_from_world: torch.Tensor, camera: Camera, conics: torch.Tensor) -> torch.Tensor:
    """Returns how the depth of each Gaussian changes across the picture, [N, 2] in world units per pixel.

    The expected depth under a pixel `d` away from the centre is that of the centre plus Cov(z, u) Cov(u, u)⁻¹ d, with
    u the position in the picture, as for any normal distribution; a flat Gaussian so follows its plane (compare
    RaDe-GS, Zhang et al. 2024).

    Args:
        splats: N Gaussians.
        cam_from_world: [4, 4].
        camera: intrinsics.
        conics: [N, 3] inverse covariances in the picture.
    """
    rotation, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
    x, y, z = (splats.means @ rotation.T + translation).unbind(-1)
    quats = torch.nn.functional.normalize(splats.quats, dim=-1)
    axes = rotation @ (rotation_matrices(quats) * splats.scales[:, None])
    # The derivative of the picture's position by the point in the camera's frame, times the axes.
    axes_u = (axes[:, 0] - (x / z)[:, None] * axes[:, 2]) * (camera.fx / z)[:, None]
    axes_v = (axes[:, 1] - (y / z)[:, None] * axes[:, 2]) * (camera.fy / z)[:, None]
    cov_zu, cov_zv = (axes[:, 2] * axes_u).sum(-1), (axes[:, 2] * axes_v).sum(-1)
    a, b, c = conics.unbind(-1)
    slopes = torch.stack([cov_zu * a + cov_zv * b, cov_zu * b + cov_zv * c], -1)
    return torch.nan_to_num(slopes, 0.0, 0.0, 0.0)
