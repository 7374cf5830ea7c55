# SPDX-License-Identifier: Apache-2.0
"""The parameters of the splats under training, their Adam moments, and where they start.

Sources: Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", SIGGRAPH 2023 (initialisation
from sparse points, learning rates).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.errors import ReconError
from recon.kernels.rearrange.op import move_rows
from recon.kernels.update.op import Moment, Moments
from recon.methods.parameter import Parameter
from recon.scene import Scene
from recon.splats import SH_C0, Splats

if TYPE_CHECKING:
    from recon.kernels.density.cuda import SplitChoice
    from recon.kernels.workspace import Workspace
    from recon.methods.splat.config import SplatConfig

FEWEST_POINTS = 100
"""With fewer sparse points than this, Gaussians start at random."""

INITIAL_OPACITY = 0.1
_NEIGHBOURS = 3
_SMALLEST_SCALE = 1e-4
_LARGEST_SCALE = 0.1
PARAMETER_NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh")


class SplatParameters:
    """The five tensors of N Gaussians, in place and in step; density control changes N.

    Values and moments stand in storage with room for the most Gaussians that there will be, of which the system only
    hands out what is used.  So a change of N moves rows within the storage and never holds a second copy.
    """

    def __init__(self, splats: Splats, capacity: int = 0) -> None:
        """Starts with `splats` and without history; `capacity` is the most rows that are expected."""
        self._antialiased = splats.antialiased
        self._storage: dict[str, tuple[torch.Tensor, ...]] = {}
        self._parameters: dict[str, Parameter] = {}
        self._make_room(splats, max(capacity, len(splats)))
        self._resize(len(splats))
        for name in PARAMETER_NAMES:
            self[name].value.data.copy_(getattr(splats, name).detach())
        self.forget(torch.arange(len(splats), device=splats.device))

    def _make_room(self, like: Splats, rows: int) -> None:
        for name in PARAMETER_NAMES:
            tensor = getattr(like, name)
            self._storage[name] = tuple(tensor.new_empty((rows, *tensor.shape[1:])).detach() for _ in range(3))

    def _resize(self, count: int) -> None:
        """Lets the tensors show the first `count` rows of the storage."""
        for name, (value, first, second) in self._storage.items():
            assert count <= len(value), f"{count} Gaussians do not fit into {len(value)} rows"
            self._parameters[name] = Parameter(value[:count].requires_grad_(True), first[:count], second[:count])

    def __len__(self) -> int:
        return int(self.means.shape[0])

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(PARAMETER_NAMES)

    @property
    def means(self) -> torch.Tensor:
        return self._parameters["means"].value

    @property
    def quats(self) -> torch.Tensor:
        return self._parameters["quats"].value

    @property
    def log_scales(self) -> torch.Tensor:
        return self._parameters["log_scales"].value

    @property
    def opacity_logits(self) -> torch.Tensor:
        return self._parameters["opacity_logits"].value

    @property
    def sh(self) -> torch.Tensor:
        return self._parameters["sh"].value

    @property
    def splats(self) -> Splats:
        """The trained tensors themselves, which gradients flow to."""
        return Splats(
            self.means, self.quats, self.log_scales, self.opacity_logits, self.sh, antialiased=self._antialiased
        )

    def values(self) -> Splats:
        """The values without gradients; they share memory with the parameters."""
        return self.splats.detach()

    def moments(self) -> Moments:
        """The moments; they share memory with the parameters."""
        return Moments(**{n: Moment(p.first_moment, p.second_moment) for n, p in self._parameters.items()})

    def copied(self) -> Splats:
        """A copy that later steps leave alone."""
        values = self.values()
        return values.select(torch.arange(len(self), device=values.device))

    @torch.no_grad()
    def rearrange(self, keep: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
        """Keeps some rows and multiplies some of them; copies stand beside each other and have the same moments.

        Neighbours in memory so stay neighbours in space, as far as they were.

        Args:
            keep: [M] rows, ascending.
            copies: [M], how often each shall stand, at least once.

        Returns:
            [M] where the first copy of each is now.
        """
        ends = copies.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        if total > len(self._storage["means"][0]):
            self._enlarge(total)
        storage = [tensor for tensors in self._storage.values() for tensor in tensors]
        move_rows(storage, torch.repeat_interleave(keep, copies))
        self._resize(total)
        return ends - copies

    @torch.no_grad()
    def split(self, choice: SplitChoice, workspace: Workspace) -> None:
        """Removes and splits rows as chosen, on an NVIDIA GPU; halves stand side by side."""
        from recon.kernels.density.cuda import split_rows_cuda

        if choice.total > len(self._storage["means"][0]):
            self._enlarge(choice.total)
        split_rows_cuda(self._storage, choice, workspace)  # type: ignore[arg-type]
        self._resize(choice.total)

    def _enlarge(self, rows: int) -> None:
        old, self._storage = self._storage, {}
        for name, tensors in old.items():
            self._storage[name] = tuple(tensor.new_empty((rows, *tensor.shape[1:])) for tensor in tensors)
            for new, tensor in zip(self._storage[name], tensors):
                new[: len(tensor)] = tensor

    @torch.no_grad()
    def assign(self, rows: torch.Tensor, splats: Splats) -> None:
        """Gives rows new values and clears their moments."""
        for name, parameter in self._parameters.items():
            parameter.value.data[rows] = getattr(splats, name)
        self.forget(rows)

    @torch.no_grad()
    def forget(self, rows: torch.Tensor, names: tuple[str, ...] = PARAMETER_NAMES) -> None:
        """Clears the moments of some rows, after their values were set."""
        for name in names:
            self._parameters[name].first_moment[rows] = 0
            self._parameters[name].second_moment[rows] = 0

    def state(self) -> dict[str, torch.Tensor]:
        """Returns values and moments by name; they share memory with the parameters."""
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[name] = parameter.value.detach()
            tensors[f"{name}.first_moment"] = parameter.first_moment
            tensors[f"{name}.second_moment"] = parameter.second_moment
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor], device: torch.device) -> None:
        """Takes over what `state` gave.

        Raises:
            ReconError: a tensor is missing or of another shape.
        """
        count = tensors["means"].shape[0] if "means" in tensors else 0
        state: dict[str, list[torch.Tensor]] = {}
        for name, parameter in self._parameters.items():
            found = []
            for key in (name, f"{name}.first_moment", f"{name}.second_moment"):
                tensor = tensors.get(key)
                if tensor is None or tuple(tensor.shape) != (count, *parameter.value.shape[1:]):
                    raise ReconError(
                        "resuming the splats",
                        f"{key} is {'missing' if tensor is None else f'of shape {tuple(tensor.shape)}'}",
                        f"{count}×{'×'.join(map(str, parameter.value.shape[1:]))}",
                    )
                found.append(tensor.to(device))
            state[name] = found
        if count > len(self._storage["means"][0]):
            self._enlarge(count)
        self._resize(count)
        with torch.no_grad():
            for name, found in state.items():
                for tensor, saved in zip(self._storage[name], found):
                    tensor[:count] = saved


def initial_splats(scene: Scene, config: SplatConfig, random: np.random.Generator) -> Splats:
    """Returns one isotropic Gaussian for each sparse point, at most `max_gaussians`, or random ones.

    A Gaussian's standard deviation is the root mean square distance to its three nearest neighbours, so that they
    overlap; its colour is the point's, its opacity 0.1.

    Raises:
        ReconError: the scene's points are not finite.
    """
    positions, colors = scene.points.positions, scene.points.colors
    if not np.isfinite(positions).all():
        raise ReconError("starting the splats", "the scene's sparse points hold NaN or infinity", "finite positions")
    if len(positions) < FEWEST_POINTS:
        extra, extra_colors = _random_points(scene, config, random)
        positions, colors = np.concatenate([positions, extra]), np.concatenate([colors, extra_colors])
    if len(positions) > config.max_gaussians:
        chosen = np.sort(random.choice(len(positions), config.max_gaussians, replace=False))
        positions, colors = positions[chosen], colors[chosen]
    order = _morton_order(positions)
    positions, colors = positions[order], colors[order]
    scales = neighbour_distances(positions).clip(_SMALLEST_SCALE * scene.extent, _LARGEST_SCALE * scene.extent)
    count = len(positions)
    sh = torch.zeros(count, (config.sh_degree + 1) ** 2, 3)
    sh[:, 0] = torch.from_numpy((colors.astype(np.float32) / 255 - 0.5) / SH_C0)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    return Splats(
        means=torch.from_numpy(positions.astype(np.float32)),
        quats=quats,
        log_scales=torch.from_numpy(np.log(scales).astype(np.float32))[:, None].repeat(1, 3),
        opacity_logits=torch.full((count,), float(np.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY)))),
        sh=sh,
        antialiased=config.antialiased,
    )


def neighbour_distances(positions: np.ndarray) -> np.ndarray:
    """Returns the root mean square distance of each point [N, 3] to its three nearest others, [N]; 1 for a lone one."""
    from scipy.spatial import cKDTree

    others = min(_NEIGHBOURS, len(positions) - 1)
    if others < 1:
        return np.ones(len(positions))
    distances, _ = cKDTree(positions).query(positions, k=others + 1)
    return np.sqrt(np.square(distances[:, 1:]).mean(1))


def _random_points(scene: Scene, config: SplatConfig, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points along random rays of random cameras, at depths spread evenly in inverse depth; in grey.

    The cameras see what is trained, so that is where Gaussians can be of use; how far away things are is unknown
    without sparse points, hence the depths reach from a fifth of the cameras' extent to 5 times it.
    """
    count = config.random_points
    frames = random.integers(0, len(scene.frames), count)
    near, far = 0.2 * scene.extent, 5.0 * scene.extent
    depths = 1.0 / (1.0 / far + random.random(count) * (1.0 / near - 1.0 / far))
    points = np.empty((count, 3))
    for index in np.unique(frames):
        rows = np.flatnonzero(frames == index)
        camera = scene.frames[index].camera
        pixels = random.random((len(rows), 2)) * [camera.width, camera.height]
        directions = camera.ray_directions_in_cam(pixels)
        in_cam = directions * depths[rows, None]
        pose = camera.world_from_cam
        points[rows] = in_cam @ pose[:3, :3].T + pose[:3, 3]
    points = points[np.isfinite(points).all(1)]
    return points, np.full((len(points), 3), 128, np.uint8)


def _morton_order(positions: np.ndarray) -> np.ndarray:
    """Order along a Z-curve, so that Gaussians close in space are close in memory."""
    if len(positions) == 0:
        return np.zeros(0, np.int64)
    low, high = np.percentile(positions, [1, 99], axis=0)
    cells = ((positions - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    cells = (cells * 1023).astype(np.uint64)
    code = np.zeros(len(positions), np.uint64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")
