# SPDX-License-Identifier: Apache-2.0
"""Depth maps from a renderer, and how far each of their pixels can be trusted.

Notation: w is inverse depth, (x, y, 1) a pixel's ray in the camera.  A plane n · p = k has w = n · (x, y, 1) / k, so
its normal is along (∂w/∂x, ∂w/∂y, w - x ∂w/∂x - y ∂w/∂y): the slant n · (x, y, 1) is w over that vector's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recon.cameras import Camera
from recon.kernels.tsdf.op import DepthView
from recon.progress import SILENT, Progress
from recon.render import Renderer, RenderOptions
from recon.surface.config import MeshConfig

BYTES_PER_PIXEL = 4 + 4 + 3
"""Memory of one pixel of a kept map: depth, confidence and colour."""

NEIGHBORS = 8
"""How many other views are asked about each view's pixels."""

DIFFERENCE_STEP = 16
"""Every so many-th pixel speaks for how far views disagree."""

EMPTY_ALPHA = 0.05
"""Pixels that are less opaque show that nothing is there, which clears floaters out of the way."""

FAR_INVERSE_DEPTH = 1e-6
"""Stands for "nothing is there": farther than any bounds, relative to a surface's inverse depth."""


_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class DepthMap:
    """What one camera sees.

    Attributes:
        camera: PINHOLE, of the maps' size.
        depth: [H, W] float32 along z in world units; 0 where no surface is seen.
        color: [H, W, 3] uint8.
        empty: [H, W] bool, where the ray meets nothing at all.
        confidence: [H, W] float32, how far each pixel is trusted; 0 not at all.
        disagreement: how far other views' surfaces are from this one's, relative to the depth (upper quartile); 0
            before views are compared.
        rendered_on: the device that the renderer used, where maps are fused too if it has kernels for that.
    """

    camera: Camera
    depth: torch.Tensor
    color: torch.Tensor
    empty: torch.Tensor
    confidence: torch.Tensor
    disagreement: float = 0.0
    rendered_on: torch.device = _CPU

    @property
    def inverse_depth(self) -> torch.Tensor:
        """[H, W]; 0 where no surface is seen."""
        return torch.where(self.depth > 0, 1 / self.depth.clamp_min(1e-30), torch.zeros(()))

    def points(self, step: int = 1) -> np.ndarray:
        """World positions [P, 3] of the trusted pixels of every `step`-th row and column."""
        rays = self.camera.ray_directions_in_cam(self.camera.pixel_grid()[::step, ::step])
        depth = self.depth[::step, ::step].double().numpy()
        seen = (depth > 0) & (self.confidence[::step, ::step].numpy() > 0)
        pose = self.camera.world_from_cam
        return rays[seen] * depth[seen][:, None] @ pose[:3, :3].T + pose[:3, 3]

    def view(self) -> DepthView:
        """Returns the maps as the fusion takes them; empty pixels become a surface beyond everything."""
        inverse = self.inverse_depth
        typical = inverse[inverse > 0].median() if bool((inverse > 0).any()) else torch.ones(())
        inverse_or_far = torch.where(self.empty, typical * FAR_INVERSE_DEPTH, inverse)
        confidence = torch.where(self.empty, torch.full((), 0.1), self.confidence)
        slant = torch.where(self.empty, torch.ones(()), surface_shape(self.camera, self.depth).slant)
        return DepthView(
            self.camera,
            inverse_or_far.contiguous(),
            slant.contiguous(),
            confidence.contiguous(),
            (self.color.permute(2, 0, 1).float() / 255).contiguous(),
        )


@dataclass(frozen=True, eq=False)
class SurfaceShape:
    """Per-pixel shape of a depth map.

    Attributes:
        slant: [H, W] distance from the tangent plane per unit of z along the pixel's ray; 0 where unknown.
        cosine: [H, W] cosine of the angle between the ray and the normal; 0 where unknown.
        roughness: [H, W] largest second difference of inverse depth over inverse depth: large at jumps.
    """

    slant: torch.Tensor
    cosine: torch.Tensor
    roughness: torch.Tensor


def surface_shape(camera: Camera, depth: torch.Tensor) -> SurfaceShape:
    """Derives slants, view angles and jumps from a depth map [H, W]."""
    known = depth > 0
    w = torch.where(known, 1 / depth.clamp_min(1e-30), torch.zeros(()))
    x = (torch.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = ((torch.arange(camera.height) + 0.5 - camera.cy) / camera.fy)[:, None]
    along_x, rough_x = _derivative(w, known, 1)
    along_y, rough_y = _derivative(w, known, 0)
    along_x, along_y = along_x * camera.fx, along_y * camera.fy
    length = torch.sqrt(along_x**2 + along_y**2 + (w - x * along_x - y * along_y) ** 2).clamp_min(1e-30)
    slant = torch.where(known, w / length, torch.zeros(()))
    roughness = torch.maximum(rough_x, rough_y) / w.clamp_min(1e-30)
    return SurfaceShape(slant, slant / torch.sqrt(1 + x * x + y * y), torch.where(known, roughness, torch.zeros(())))


def _derivative(w: torch.Tensor, known: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Change per pixel along an axis and the absolute second difference.

    Central where both neighbours are known and alike; beside a jump the side that changes less, so that an edge does
    not tilt the surface; one-sided beside unknown pixels.
    """
    before, after = torch.roll(w, 1, axis), torch.roll(w, -1, axis)
    has_before, has_after = torch.roll(known, 1, axis), torch.roll(known, -1, axis)
    first, last = (0, w.shape[axis] - 1)
    has_before.select(axis, first).fill_(False)
    has_after.select(axis, last).fill_(False)
    backward = torch.where(has_before, w - before, torch.zeros(()))
    forward = torch.where(has_after, after - w, torch.zeros(()))
    both = has_before & has_after
    second = torch.where(both, (forward - backward).abs(), torch.zeros(()))
    smaller = torch.where(backward.abs() < forward.abs(), backward, forward)
    alike = second < 0.02 * w
    slope = torch.where(both, torch.where(alike, (forward + backward) / 2, smaller), forward + backward)
    return slope, second


def render_depth_maps(
    renderer: Renderer, cameras: Sequence[Camera], config: MeshConfig, progress: Progress = SILENT
) -> list[DepthMap]:
    """Renders every camera; confidence covers opacity, view angle, distance and jumps, not yet the other views."""
    maps = []
    with progress.stage("Rendering depth", len(cameras), "views") as stage:
        for camera in cameras:
            maps.append(_render_one(renderer, camera, config))
            stage.advance()
    reference = np.median([float(m.depth[m.depth > 0].median()) for m in maps if bool((m.depth > 0).any())] or [1.0])
    return [_with_confidence(m, float(reference)) for m in maps]


def _render_one(renderer: Renderer, camera: Camera, config: MeshConfig) -> DepthMap:
    with torch.no_grad():
        output = renderer.render(camera, RenderOptions(depth=True))
    depth = output.depth if config.depth == "expected" or output.median_depth is None else output.median_depth
    assert depth is not None, "a renderer that is asked for depth gives it"
    depth, alpha = depth.detach().float().cpu(), output.alpha.detach().float().cpu()
    # Colours are premultiplied over black: divided by alpha they are those of the surface alone.
    rgb = output.rgb.detach().float().cpu() / alpha.clamp_min(0.05)[..., None]
    trusted = (alpha >= config.min_alpha) & torch.isfinite(depth) & (depth > 0)
    return DepthMap(
        camera,
        torch.where(trusted, depth, torch.zeros(())),
        (rgb.nan_to_num(0.0).clamp(0, 1) * 255 + 0.5).to(torch.uint8),
        alpha < EMPTY_ALPHA,
        torch.where(trusted, alpha.clamp(0, 1), torch.zeros(())),
        rendered_on=output.alpha.device,
    )


def _with_confidence(seen: DepthMap, reference_depth: float) -> DepthMap:
    """Multiplies the confidence by what the map itself tells.

    The cosine counts pixels by the surface they sample; nearer views sample it more finely (1 / z², bounded to a
    factor of 16); beside a jump a pixel may mix two surfaces.
    """
    shape = surface_shape(seen.camera, seen.depth)
    nearness = (reference_depth / seen.depth.clamp_min(1e-30)).clamp(0.25, 4.0) ** 2
    smooth = 1 / (1 + (shape.roughness / 0.01) ** 2)
    confidence = seen.confidence * shape.cosine.clamp_min(0.02) ** 2 * nearness * smooth
    return replace(seen, confidence=torch.where(seen.depth > 0, confidence, torch.zeros(())))


def confirm(maps: Sequence[DepthMap], config: MeshConfig, progress: Progress = SILENT) -> list[DepthMap]:
    """Takes out the pixels that the other views do not see: floaters and holes of the renderer.

    A pixel's point is looked up in its neighbours' maps.  A neighbour that sees a surface there confirms it; one that
    sees through it contradicts; one that sees something nearer, or looks elsewhere, says nothing.  What no other view
    confirms is dropped even where none contradicts: floaters like to sit where a single camera sees them.
    """
    if config.confirmations == 0 or len(maps) < 2:
        return list(maps)
    neighbors = neighbor_views([m.camera for m in maps], _typical_depths(maps))
    checked = []
    with progress.stage("Comparing views", len(maps), "views") as stage:
        for seen, others in zip(maps, neighbors):
            checked.append(_confirm_one(seen, [maps[j] for j in others], config))
            stage.advance()
    return checked


def _confirm_one(seen: DepthMap, others: list[DepthMap], config: MeshConfig) -> DepthMap:
    known = seen.confidence > 0
    rays = torch.from_numpy(seen.camera.ray_directions_in_cam(seen.camera.pixel_grid())).float()[known]
    points = rays * seen.depth[known][:, None]
    agree, against = torch.zeros(len(points)), torch.zeros(len(points))
    differences = []
    for other in others:
        pose = torch.from_numpy(other.camera.cam_from_world @ seen.camera.world_from_cam).float()
        x, y, z = (points @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
        camera = other.camera
        safe = torch.where(z > 0, z, torch.ones(()))
        u, v = camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy
        inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        u, v = (torch.where(inside, a, torch.zeros(())) for a in (u, v))
        there = _depth_at(other, u, v)
        empty = other.empty.reshape(-1)[v.long() * camera.width + u.long()]
        difference = there / safe - 1
        compared = inside & (there > 0)
        differences.append(difference[compared & (difference.abs() < 3 * config.tolerance)][::DIFFERENCE_STEP].abs())
        agree += compared & (difference.abs() <= config.tolerance)
        against += (inside & empty) | (compared & (difference > 3 * config.tolerance))
    wanted = (agree + against).clamp(1, max(config.confirmations, 1))
    keep = (agree >= wanted) & (agree >= against)
    trust = agree / (agree + against).clamp_min(1)
    confidence = seen.confidence.clone()
    confidence[known] *= trust * keep
    apart = torch.cat(differences)
    return replace(seen, confidence=confidence, disagreement=float(apart.quantile(0.75)) if len(apart) else 0.0)


def _depth_at(seen: DepthMap, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Depth at pixel positions [P]: bilinear in inverse depth within one surface, the nearest pixel elsewhere."""
    camera, inverse = seen.camera, seen.inverse_depth
    nearest = inverse.reshape(-1)[v.long() * camera.width + u.long()]
    grid = torch.stack([2 * u / camera.width - 1, 2 * v / camera.height - 1], -1)
    smooth = torch.nn.functional.grid_sample(
        inverse[None, None], grid[None, None], padding_mode="border", align_corners=False
    )[0, 0, 0]
    # Between surfaces, or beside unknown pixels, the mean of the four is none of them.
    chosen = torch.where((smooth - nearest).abs() < 0.02 * nearest, smooth, nearest)
    return torch.where(nearest > 0, 1 / chosen.clamp_min(1e-30), torch.zeros(()))


def neighbor_views(cameras: Sequence[Camera], depths: Sequence[float]) -> list[list[int]]:
    """Returns for each camera the others that look at the same surface: half of them close by, half farther off.

    Nearness is between the cameras' centres and between the points they look at, at their typical depths.
    """
    centers = np.array([camera.center_in_world for camera in cameras])
    targets = centers + np.array([c.forward_in_world * d for c, d in zip(cameras, depths)])
    chosen = []
    for i in range(len(cameras)):
        apart = np.linalg.norm(centers - centers[i], axis=1) + 2 * np.linalg.norm(targets - targets[i], axis=1)
        order = [int(j) for j in np.argsort(apart, kind="stable") if j != i]
        near, farther = order[: NEIGHBORS // 2], order[NEIGHBORS // 2 : 3 * NEIGHBORS]
        step = max(1, len(farther) // (NEIGHBORS - NEIGHBORS // 2))
        chosen.append((near + farther[::step])[:NEIGHBORS])
    return chosen


def _typical_depths(maps: Sequence[DepthMap]) -> list[float]:
    known = [m.depth[m.confidence > 0] for m in maps]
    fallback = float(np.median([float(d.median()) for d in known if len(d)] or [1.0]))
    return [float(d.median()) if len(d) else fallback for d in known]
