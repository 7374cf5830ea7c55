# SPDX-License-Identifier: Apache-2.0
"""Renders a radiance field; implements `recon.render.Renderer`.

In a contracted space each ray has a number of intervals that are proposed by the occupancy grid, as in training.  In a
bounded space, where most rays pass through nothing, rays are marched from one occupied cell to the next, in portions
that grow: most end at the first surface, after some samples, and the few that go on are marched further.  Colour is
never evaluated behind a surface.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from recon.kernels.composite.op import RayState, accumulate_into, truncate_into
from recon.kernels.hash_encoding.op import hash_encode_into
from recon.kernels.mlp.op import RowBias, mlp_forward_into
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import RaySamples, march_into
from recon.kernels.ray_proposal.op import propose_into
from recon.kernels.workspace import Workspace
from recon.methods.nerf.field import COLORS, FieldParameters, field_color, field_latent, ray_bias
from recon.methods.nerf.occupied import density_at
from recon.methods.nerf.step import Stage
from recon.render import RenderOptions, RenderOutput

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.kernels.backend import Backend

_RAYS_AT_ONCE = 4096
_INTERVALS = 48
_POINTS_AT_ONCE = 1 << 16
_FIRST_PORTION = 8
_LARGEST_PORTION = 64
_OPAQUE = 2e-3


class NerfRenderer:
    """A radiance field that can be looked at.

    Attributes:
        parameters: of the field; nobody may change them while the renderer lives.
        stage: its shape and space.
        occupancy: where there is something.
    """

    def __init__(
        self, parameters: FieldParameters, stage: Stage, occupancy: OccupancyGrid, backend: Backend = "auto"
    ) -> None:
        self.parameters, self.stage, self.occupancy = parameters, stage, occupancy
        self._backend = backend
        self._workspace = Workspace(parameters.table.device)
        self._turns = threading.Lock()

    def to(self, device: torch.device) -> NerfRenderer:
        """Returns the renderer on a device."""
        grid = self.occupancy
        moved = OccupancyGrid(grid.resolution, grid.densities.to(device), grid.bits.to(device))
        return NerfRenderer(self.parameters.to(device), self.stage, moved, self._backend)

    @torch.no_grad()
    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        """Renders the view of a PINHOLE camera.

        Raises:
            ReconError: another camera model.
        """
        with self._turns:
            return self._render(camera, options)

    def _render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        device = self.parameters.table.device
        origin, directions, cosines = pinhole_rays(camera, device)
        count = camera.width * camera.height
        state = RayState.start(count, COLORS, device)
        for first in range(0, count, _RAYS_AT_ONCE):
            part = slice(first, first + _RAYS_AT_ONCE)
            self._render_rays(origin, directions[part], _rows(state, part))
        size = (camera.height, camera.width)
        background = torch.tensor(options.background, device=device)
        rgb = state.color + (1 - state.alpha)[:, None] * background
        depth = median = normal = None
        if options.depth:
            depth = (state.depth / state.alpha.clamp_min(1e-10) * cosines).reshape(size)
            median = (state.median_distance * cosines).reshape(size)
        if options.normal:
            normal = self._normals(origin, directions, state).reshape(*size, 3)
        return RenderOutput(rgb.reshape(*size, COLORS), state.alpha.reshape(size), depth, median, normal)

    def _render_rays(self, origin: torch.Tensor, directions: torch.Tensor, state: RayState) -> None:
        """Renders the rays from `origin` [3] in `directions` [R, 3] into their state."""
        origins = origin.expand(len(directions), 3).contiguous()
        bias = ray_bias(self.stage.shape, self.parameters, directions, None)
        if self.stage.space.contracted:
            options = self.stage.proposal(_INTERVALS)
            samples = propose_into(origins, directions, self.stage.space, self.occupancy, options, self._workspace)
            self._add(samples, torch.arange(len(directions), dtype=torch.int32, device=directions.device), bias, state)
            return
        alive = torch.arange(len(directions), dtype=torch.int32, device=directions.device)
        starts: torch.Tensor | None = None
        portion = _FIRST_PORTION
        while len(alive):
            rows = alive.long()
            options_now = replace(self.stage.march, max_samples=portion, max_total=portion * len(rows))
            samples = march_into(
                origins[rows], directions[rows], self.stage.space, self.occupancy, options_now, self._workspace,
                starts=starts,
            )  # fmt: skip
            ends = samples.ends
            kept = self._add(samples, alive, bias[rows], state)
            alive, starts = alive[kept], ends[kept]
            portion = min(2 * portion, _LARGEST_PORTION)

    def _add(self, samples: RaySamples, rays: torch.Tensor, bias: torch.Tensor, state: RayState) -> torch.Tensor:
        """Adds samples of some rays [r] to the state; returns which of those rays, 0 to r - 1, go on."""
        stage, workspace = self.stage, self._workspace
        latent = self._latent(samples.positions)
        left = 1 - state.alpha[rays.long()]
        samples, (latent,) = truncate_into(
            latent, samples, _OPAQUE, [latent], stage.composite, workspace, transmittance=left
        )
        raw = self._color(latent, RowBias(bias, samples.ray_of))
        return accumulate_into(state, latent, raw, samples, rays, stage.composite, workspace, _OPAQUE)

    @property
    def density_bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Low and high corner of the inner region, in the world."""
        x, y, z = self.stage.space.center
        size = self.stage.space.half_size
        return (x - size, y - size, z - size), (x + size, y + size, z + size)

    @torch.no_grad()
    def density(self, points: torch.Tensor) -> torch.Tensor:
        """As `recon.render.DensitySource.density`; 0 where the occupancy grid knows of nothing."""
        stage = self.stage
        unit = stage.space.to_unit(points.to(self.parameters.table.device))
        found = []
        with self._turns:
            for part in unit.clamp(0, 1).split(_POINTS_AT_ONCE):
                found.append(
                    density_at(stage.shape, self.parameters, part, stage.composite, self._workspace, self._backend)
                )
        density = torch.cat([torch.zeros(0, device=unit.device), *found])
        return (density * self.occupancy.contains(unit) * stage.composite.length_scale).cpu()

    def _latent(self, positions: torch.Tensor) -> torch.Tensor:
        """The density network's outputs [S, 16] at positions of the unit cube."""
        shape, values = self.stage.shape, self.parameters
        if not self._is_native():
            return field_latent(shape, values, positions, self._backend)
        encoded = hash_encode_into(positions, values.table, shape.grid, self._workspace)
        return mlp_forward_into(encoded, values.density, shape.density, self._workspace, "density")

    def _color(self, latent: torch.Tensor, bias: RowBias) -> torch.Tensor:
        """The colour network's outputs [S, 16]."""
        shape, values = self.stage.shape, self.parameters
        if not self._is_native():
            return field_color(shape, values, latent, bias, self._backend)
        return mlp_forward_into(latent, values.color, shape.color, self._workspace, "color", bias)

    def _is_native(self) -> bool:
        return self.parameters.table.device.type == "cpu" and self._backend in ("auto", "cpu")

    def _normals(self, origin: torch.Tensor, directions: torch.Tensor, state: RayState) -> torch.Tensor:
        """Returns unit normals [R, 3] in the world: against the density's gradient where half of the light is stopped;
        0 where that is nowhere."""
        hit = state.median_distance > 0
        points = origin + directions[hit] * state.median_distance[hit, None]
        with torch.enable_grad():
            points.requires_grad_()
            positions = self.stage.space.to_unit(points)
            latent = field_latent(self.stage.shape, self.parameters, positions, self._backend)
            (slope,) = torch.autograd.grad(latent[:, 0].sum(), points)
        normals = torch.zeros_like(directions)
        normals[hit] = torch.nn.functional.normalize(-slope, dim=1)
        facing = (normals * directions).sum(1, keepdim=True) < 0
        return torch.where(facing, normals, -normals)


def _rows(state: RayState, part: slice) -> RayState:
    """Returns some rows of a state, which share its memory."""
    return RayState(state.color[part], state.alpha[part], state.depth[part], state.median_distance[part])


def pinhole_rays(camera: Camera, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the origin [3], the unit directions [H W, 3] in the world, and depth along z per distance [H W].

    Raises:
        ReconError: the camera is no pinhole.
    """
    from recon.errors import ReconError

    if not camera.is_pinhole:
        raise ReconError(
            "rendering a radiance field", f"the camera is {camera.model.value}", "PINHOLE", "undistort it first"
        )
    x = (torch.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (torch.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    plane = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x)), torch.ones(len(y), len(x))], -1)
    in_cam = plane.reshape(-1, 3).float()
    cosines = in_cam.norm(dim=1).reciprocal()
    world_from_cam = torch.from_numpy(camera.world_from_cam).float()
    directions = in_cam * cosines[:, None] @ world_from_cam[:3, :3].T
    return world_from_cam[:3, 3].to(device), directions.to(device).contiguous(), cosines.to(device)
