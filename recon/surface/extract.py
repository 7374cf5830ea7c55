# SPDX-License-Identifier: Apache-2.0
"""From anything that renders depth to a mesh: render, compare the views, fuse (or sample a density), extract, clean.

Anything that implements `recon.render.Renderer` goes the same way; one that knows better where its surface is brings
a renderer for that (`recon.render.SurfaceSource`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.backend import Backend
from recon.kernels.cuda.program import can_run_on
from recon.kernels.marching_cubes.op import IsoSurface, marching_cubes
from recon.kernels.tsdf.op import BYTES_PER_BLOCK, DepthView, GridFrame, TsdfGrid, allocate_blocks, integrate
from recon.progress import SILENT, Progress
from recon.render import DensitySource, Renderer, SurfaceSource
from recon.surface.clean import drop_small_components, drop_unseen, simplify, smooth
from recon.surface.config import MeshConfig
from recon.surface.density import colors_of_views, density_surface
from recon.surface.depth_maps import BYTES_PER_PIXEL, DepthMap, confirm, render_depth_maps
from recon.surface.mesh import Mesh
from recon.surface.poisson import poisson_mesh, require_open3d
from recon.surface.region import Region, find_region

GIB = 1 << 30
COARSENING = 1.2
"""Factor by which voxels grow until the field fits into memory."""

PIXELS_PER_VOXEL = 1.5
"""Voxels a little larger than pixels: what trained scenes know of a surface is not finer."""

DISAGREEMENTS_PER_TRUNCATION = 4.0
"""The influence of a depth map must reach beyond the views' disagreement, or each view makes a wall of its own."""

TRUNCATION_VOXELS = (4.0, 12.0)

MIN_WEIGHT_SHARE = 0.02
"""Voxels with less than this share of the median weight near the surface count as unobserved."""


def extract_mesh(
    renderer: Renderer, cameras: Sequence[Camera], config: MeshConfig | None = None, progress: Progress = SILENT
) -> Mesh:
    """Makes a mesh of what a renderer shows to the cameras.

    Args:
        renderer: gives depth, alpha and colour.
        cameras: PINHOLE, usually those that the scene was trained on.
        config: see `MeshConfig`; None takes the defaults.
        progress: hears of the stages and of what was chosen.

    Returns:
        The mesh in the world of the cameras, with colours and normals.

    Raises:
        ReconError: no cameras, no surface that the views agree on, a voxel size that memory does not hold, or a
            missing extra.
    """
    config = config or MeshConfig()
    if config.method == "poisson":
        require_open3d()
    if len(cameras) == 0:
        raise ReconError("making a mesh", "there are no cameras", "at least one, better twenty or more")
    if config.method == "density" and not isinstance(renderer, DensitySource):
        raise ReconError(
            "making a mesh",
            "what was trained has no density",
            "a method that has one, such as nerf, for --method density",
            "leave --method out: its depth is fused",
        )
    source = renderer
    if config.depth == "surface" and isinstance(renderer, SurfaceSource):
        renderer = renderer.surface_renderer() or renderer
    maps = render_depth_maps(renderer, plan_cameras(cameras, config, progress), config, progress)
    maps = confirm(maps, config, progress)
    region = find_region(maps, config)
    raw = _raw_surface(source, maps, region, config, progress)
    mesh = drop_unseen(raw.mesh, [m.camera for m in maps], 2 * raw.voxel_size)
    mesh = smooth(drop_small_components(mesh, config.min_component), config.smoothing)
    if len(mesh.faces) == 0:
        raise ReconError(
            "making a mesh",
            f"no surface came out of {len(maps)} views",
            "views that agree on a surface",
            "train longer, or lower confirmations or min_alpha",
        )
    if config.method == "poisson":
        mesh = drop_small_components(poisson_mesh(mesh, config.poisson_depth), config.min_component)
    dense = len(mesh.faces)
    if config.max_faces and dense > config.max_faces:
        with progress.stage("Simplifying", None, "triangles"):
            mesh = simplify(mesh, config.max_faces)
    progress.log(
        f"Mesh: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} triangles (of {dense:,}), "
        f"voxel {raw.voxel_size:.3g}, {raw.words}, region {region.kind}"
    )
    return mesh


@dataclass(frozen=True, eq=False)
class _RawSurface:
    """A mesh as it comes from the voxels, their size, and what was chosen, in words."""

    mesh: Mesh
    voxel_size: float
    words: str


def _raw_surface(
    renderer: Renderer, maps: Sequence[DepthMap], region: Region, config: MeshConfig, progress: Progress
) -> _RawSurface:
    if config.method != "density":
        field = fuse(maps, region, config, progress)
        frame = field.grid.frame
        mesh = as_mesh(marching_cubes(field.grid, min_weight=field.min_weight))
        return _RawSurface(mesh, frame.voxel_size, f"truncation {frame.truncation:.3g}")
    assert isinstance(renderer, DensitySource), "checked before anything was rendered"
    found = density_surface(renderer, maps, region, config, progress)
    mesh = as_mesh(found.surface)
    mesh = replace(mesh, colors=colors_of_views(mesh.vertices, maps))
    return _RawSurface(mesh, found.voxel_size, f"density {found.level:.3g}")


def plan_cameras(cameras: Sequence[Camera], config: MeshConfig, progress: Progress = SILENT) -> list[Camera]:
    """Returns the cameras to render: resized, with those in between, and small enough for half of the memory."""
    planned = list(cameras)
    if config.extra_views:
        planned += in_between_cameras(cameras, config.extra_views)
    if config.long_side is not None:
        planned = [camera.fitted(config.long_side) for camera in planned]
    needed = sum(camera.width * camera.height for camera in planned) * BYTES_PER_PIXEL
    allowed = config.max_memory_gib * GIB / 2
    if needed > allowed:
        factor = (allowed / needed) ** 0.5
        planned = [camera.fitted(max(16, int(factor * max(camera.width, camera.height)))) for camera in planned]
        progress.log(
            f"Depth maps at {factor:.0%} of their size, so that {len(planned)} of them fit into "
            f"{allowed / GIB:.1f} GiB (max_memory_gib)"
        )
    return planned


def in_between_cameras(cameras: Sequence[Camera], count: int) -> list[Camera]:
    """Returns `count` cameras between each camera and the nearest one that looks the same way (within 60°)."""
    from scipy.spatial.transform import Rotation, Slerp

    centers = np.array([camera.center_in_world for camera in cameras])
    forward = np.array([camera.forward_in_world for camera in cameras])
    added = []
    for i, camera in enumerate(cameras):
        apart = np.linalg.norm(centers - centers[i], axis=1)
        apart[(forward @ forward[i] < 0.5) | (np.arange(len(cameras)) == i)] = np.inf
        if not np.isfinite(apart.min(initial=np.inf)):
            continue
        other = cameras[int(apart.argmin())]
        turns = Slerp([0, 1], Rotation.from_matrix([c.cam_from_world[:3, :3] for c in (camera, other)]))
        for share in np.arange(1, count + 1) / (count + 1):
            pose = np.eye(4)
            pose[:3, :3] = turns(share).as_matrix()
            center = (1 - share) * camera.center_in_world + share * other.center_in_world
            pose[:3, 3] = -pose[:3, :3] @ center
            added.append(camera.with_pose(pose))
    return added


@dataclass(frozen=True, eq=False)
class FusedField:
    """A distance field and the weight below which its voxels count as unobserved."""

    grid: TsdfGrid
    min_weight: float


def fuse(
    maps: Sequence[DepthMap],
    region: Region,
    config: MeshConfig,
    progress: Progress = SILENT,
    backend: Backend = "auto",
) -> FusedField:
    """Fuses depth maps over a region at the given or at a fitting voxel size, on the GPU that rendered them or on the
    CPU.

    Raises:
        ReconError: the voxel size that was given needs more memory than `max_memory_gib`.
    """
    device = _fusion_device(maps, progress)
    max_blocks = int(min(config.max_memory_gib * GIB, _free_bytes(device)) / 2 / BYTES_PER_BLOCK)
    finest = config.voxel_size or PIXELS_PER_VOXEL * region.pixel_size
    voxel = finest
    while True:
        frame = GridFrame.covering(region.low, region.high, voxel, _truncation(maps, region, config, voxel))
        surfaces = (_moved(_surface_only(m), device) for m in maps)
        found = allocate_blocks(surfaces, frame, max_blocks, backend, device)
        if found.complete:
            break
        if config.voxel_size is not None:
            raise ReconError(
                f"making a mesh with voxels of {voxel:g}",
                f"they need more than {config.max_memory_gib:g} GiB",
                "a field that fits into max_memory_gib",
                "use larger voxels, smaller bounds or a larger max_memory_gib",
            )
        voxel *= COARSENING
    if voxel > finest:
        progress.log(
            f"Voxels of {voxel:.3g} instead of {finest:.3g}, so that the field fits into "
            f"{config.max_memory_gib / 2:.2g} GiB (max_memory_gib)"
        )
    grid = TsdfGrid.empty(frame, found.blocks)
    with progress.stage("Fusing depth", len(maps), "views") as stage:
        for seen in maps:
            integrate(grid, _moved(seen.view(), device), backend)
            stage.advance()
    near = (grid.weight_sum > 0) & (grid.color_sum[:, 3] > 0)
    typical = float(grid.weight_sum[near].median()) if bool(near.any()) else 0.0
    return FusedField(grid, MIN_WEIGHT_SHARE * typical)


def _fusion_device(maps: Sequence[DepthMap], progress: Progress) -> torch.device:
    """Where the maps were rendered, if that is a GPU that our kernels run on."""
    device = maps[0].rendered_on if maps else torch.device("cpu")
    if device.type == "cpu" or can_run_on(device):
        return device
    progress.log("Depth is fused on the CPU: the packages of the extra `cuda` are missing (pip install 'recon[cuda]')")
    return torch.device("cpu")


def _free_bytes(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def _moved(view: DepthView, device: torch.device) -> DepthView:
    if device.type == "cpu":
        return view
    names = ("inverse_depth", "slant", "confidence", "color")
    maps = {name: tensor.to(device) for name in names if (tensor := getattr(view, name)) is not None}
    return replace(view, **maps)


def _truncation(maps: Sequence[DepthMap], region: Region, config: MeshConfig, voxel: float) -> float:
    """The truncation in world units."""
    if config.truncation_voxels is not None:
        return config.truncation_voxels * voxel
    typical_depth = region.pixel_size * float(np.median([np.sqrt(m.camera.fx * m.camera.fy) for m in maps]))
    apart = float(np.median([m.disagreement for m in maps])) * typical_depth
    low, high = TRUNCATION_VOXELS
    return float(np.clip(DISAGREEMENTS_PER_TRUNCATION * apart, low * voxel, high * voxel))


def _surface_only(seen: DepthMap) -> DepthView:
    """The view without its empty pixels, which need no voxels."""
    view = seen.view()
    return replace(view, confidence=view.confidence * (seen.depth > 0))


def as_mesh(surface: IsoSurface) -> Mesh:
    """Returns the surface as a mesh with 8-bit colours."""
    colors = None
    if surface.colors is not None:
        colors = (surface.colors.cpu().numpy().clip(0, 1) * 255 + 0.5).astype(np.uint8)
    vertices, faces, normals = (t.cpu().numpy() for t in (surface.vertices, surface.faces, surface.normals))
    return Mesh(vertices, faces, colors, normals)
