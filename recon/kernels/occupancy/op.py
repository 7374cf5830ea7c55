# SPDX-License-Identifier: Apache-2.0
"""Which cells of the unit cube hold anything: what lets rays skip empty space.

The cube is cut into G³ cells, numbered (z G + y) G + x.  A cell's density is the optical depth of one step through the
field in it, as it was when it was last looked at, or somewhat earlier:

- infinite: not looked at yet, which counts as occupied;
- -1: it can never be occupied (`mark_unseen`);
- else it is occupied if its density is above a threshold.

Source: Müller et al., "Instant neural graphics primitives", 2022, appendix E.  As in NerfAcc (Li et al. 2023), a cell
decays only when it is looked at, so that nothing is forgotten for want of being asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.ray_march.types import Space

LEVELS = 4
MOST_CELLS_A_SIDE = 256
UNKNOWN = float("inf")
NEVER = -1.0
_BLOCK = 4096


def level_bytes(resolution: int) -> tuple[int, ...]:
    """Returns where each level of the bits begins, in bytes, and where the last one ends."""
    offsets = [0]
    for level in range(LEVELS):
        offsets.append(offsets[-1] + 4 * -(-((resolution >> level) ** 3) // 32))
    return tuple(offsets)


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """The state of a grid; the operations here change it in place.

    Attributes:
        resolution: G, cells along a side; a multiple of 8, at most 256.
        densities: [G³] float32.
        bits: uint8, the levels one after another, each a whole number of four bytes, lowest bit first.  Level 0 has a
            bit for each cell; level l one for each block of 2^l cells a side, which is on if a cell of the block or of
            the 26 blocks around it is occupied.
    """

    resolution: int
    densities: torch.Tensor
    bits: torch.Tensor

    def __post_init__(self) -> None:
        doing = "making an occupancy grid"
        if not (8 <= self.resolution <= MOST_CELLS_A_SIDE and self.resolution % 8 == 0):
            raise ReconError(
                doing, f"its resolution is {self.resolution}", f"a multiple of 8 up to {MOST_CELLS_A_SIDE}"
            )
        check_tensor(doing.replace("making ", ""), "densities", self.densities, (self.cells,))
        check_tensor("occupancy grid", "bits", self.bits, (level_bytes(self.resolution)[-1],), torch.uint8)

    @staticmethod
    def full(resolution: int, device: torch.device | str = "cpu") -> OccupancyGrid:
        """Returns a grid whose cells nobody has looked at: all count as occupied."""
        from recon.kernels.occupancy.reference import bits_of

        device = torch.device(device)
        densities = torch.full((resolution**3,), UNKNOWN, device=device)
        return OccupancyGrid(resolution, densities, bits_of(densities > 0, resolution))

    @property
    def cells(self) -> int:
        """G³."""
        return self.resolution**3

    def aligned_bits(self) -> torch.Tensor:
        """Returns the bits where words of four bytes can be read: themselves, or a copy."""
        return self.bits if self.bits.data_ptr() % 4 == 0 else self.bits.clone()

    def occupied(self) -> torch.Tensor:
        """Returns [G³] bool."""
        from recon.kernels.occupancy.reference import unpacked

        return unpacked(self.bits[: level_bytes(self.resolution)[1]], self.cells)

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Returns whether points [..., 3] of the unit cube lie in occupied cells, [...] bool; none outside does."""
        inside = ((points >= 0) & (points < 1)).all(-1)
        x, y, z = (torch.where(inside[..., None], points, 0) * self.resolution).long().unbind(-1)
        return self.occupied()[(z * self.resolution + y) * self.resolution + x] & inside


def occupancy_cells(
    grid: OccupancyGrid, seed: int, count: int | None = None, backend: Backend = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses cells to look at: half of them evenly among all that may be occupied, half among those that are.

    Each half ascends, and takes one cell from each of as many equal parts of those that there are to choose from, or
    each of them equally often where there are fewer.

    Args:
        grid: of G³ cells.
        seed: makes the choice; the same one on every machine.
        count: how many; None for each cell that may be occupied, once.
        backend: see `recon.kernels.backend`; on CUDA it is plain torch.

    Returns:
        cells [M] int32 and a random position in each, [M, 3] float32 in the unit cube.  M is `count`; 0 where no cell
        may be occupied.
    """
    from recon.kernels.occupancy.reference import occupancy_cells_reference, random_key

    if count is not None and not 0 <= count < 1 << 28:
        raise ReconError("choosing cells of an occupancy grid", f"{count} were asked for", "0 to 2^28")
    device = grid.densities.device
    resolved = resolve_backend(backend, device, ("cpu", "reference"))
    if resolved == "reference":
        return occupancy_cells_reference(grid, seed, count)
    module, before = native(), torch.empty((2, -(-grid.cells // _BLOCK) + 1), dtype=torch.int64)
    params = module.OccupancyCellsParams()
    bits = grid.aligned_bits()
    params.densities, params.bits, params.resolution = grid.densities.data_ptr(), bits.data_ptr(), grid.resolution
    params.possible, params.occupied = before[0].data_ptr(), before[1].data_ptr()
    module.occupancy_count(params)
    possible, occupied = before[:, -1].tolist()
    half = 0 if count is None or occupied == 0 else count // 2
    rest = possible if count is None else count - half if possible else 0
    cells, positions = torch.empty(half + rest, dtype=torch.int32), torch.empty((half + rest, 3))
    params.from_possible, params.from_occupied, params.key = rest, half, random_key(seed)
    params.cells, params.positions = cells.data_ptr(), positions.data_ptr()
    module.occupancy_choose(params)
    return cells, positions


def update_occupancy(
    grid: OccupancyGrid,
    cells: torch.Tensor,
    densities: torch.Tensor,
    threshold: float,
    decay: float = 0.95,
    backend: Backend = "auto",
) -> None:
    """Takes note of the field's density in some cells, and decides anew which cells are occupied.

    The density of a cell that is among them becomes the greatest of its old one times `decay` and the new ones; 1, an
    opaque step, is the most that counts, so that a cell which has become empty is let go in time.  A cell is occupied
    if its density is above the threshold or above the mean over the cells that were ever looked at, whichever is lower.

    Args:
        grid: changed in place.
        cells: [M] int32, in any order, also several times the same.
        densities: [M] float32, the optical depth of one step; what is no number, or below 0, is passed over.
        threshold: optical depth, above 0.
        decay: 0..1.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ, or a cell that is none.
    """
    from recon.kernels.occupancy.reference import update_occupancy_reference

    doing, device = "updating an occupancy grid", grid.densities.device
    cells = check_tensor("update_occupancy", "cells", cells, (None,), torch.int32)
    densities = check_tensor("update_occupancy", "densities", densities.detach(), (len(cells),))
    if not threshold > 0 or not 0 <= decay <= 1:
        raise ReconError(doing, f"threshold is {threshold} and decay {decay}", "above 0, and 0 to 1")
    resolved = resolve_backend(backend, device, ("cpu", "cuda", "reference"))
    if resolved == "cpu":
        right = _update_cpu(grid, cells, densities, threshold, decay)
    else:
        right = len(cells) == 0 or 0 <= int(cells.min()) <= int(cells.max()) < grid.cells
        if right and resolved == "cuda":
            from recon.kernels.occupancy.cuda import update_occupancy_cuda

            update_occupancy_cuda(grid, cells, densities, threshold, decay)
        elif right:
            update_occupancy_reference(grid, cells, densities, threshold, decay)
    if not right:
        raise ReconError(doing, f"cells reach from {cells.min()} to {cells.max()}", f"0 to {grid.cells - 1}")


def _update_cpu(
    grid: OccupancyGrid, cells: torch.Tensor, densities: torch.Tensor, threshold: float, decay: float
) -> bool:
    """Returns whether all cells exist; nothing is changed otherwise."""
    module = native()
    bits, blocks = grid.aligned_bits(), -(-grid.cells // _BLOCK)
    touched = torch.zeros(grid.cells // 32, dtype=torch.int32)
    sums, counts = torch.empty(blocks, dtype=torch.float64), torch.empty(blocks, dtype=torch.int64)
    flags = torch.empty(3 * (grid.resolution // 2) ** 3, dtype=torch.uint8)
    params = module.OccupancyUpdateParams()
    params.densities, params.bits, params.resolution = grid.densities.data_ptr(), bits.data_ptr(), grid.resolution
    params.cells, params.found, params.count = cells.data_ptr(), densities.data_ptr(), len(cells)
    params.threads, params.threshold, params.decay = module.max_threads(), threshold, decay
    params.touched, params.flags = touched.data_ptr(), flags.data_ptr()
    params.sums, params.counts = sums.data_ptr(), counts.data_ptr()
    right: bool = module.occupancy_update(params)
    if bits is not grid.bits:
        grid.bits.copy_(bits)
    return right


def mark_unseen(
    grid: OccupancyGrid,
    space: Space,
    cameras: Sequence[Camera],
    near: float | Sequence[float],
    min_views: int = 1,
    backend: Backend = "auto",
) -> None:
    """Marks the cells that can never be occupied.

    A camera sees a cell if some of the sphere around the cell lies within its picture at a depth of `near` or more.
    Marked are cells

    - that fewer than `min_views` cameras see: nothing in the photographs says what is there;
    - whose sphere lies wholly inside a camera's picture and nearer than `near`: what stood there would have been in the
      way.  Fog in front of cameras, which a field grows because nobody else looks there, has no room, and scene
      content is not cut as long as `near` is below what the camera's photograph shows, for example half the depth of
      the nearest reconstructed points in it.  It may be given for each camera.

    Args:
        grid: changed in place.
        space: what the unit cube is.
        cameras: those that the field is trained on; PINHOLE.
        near: depth in world units; one for all or one for each camera.
        min_views: how many cameras must see a cell.  2 keeps fog out of all that only one photograph shows, at the cost
            of what really stands there.
        backend: see `recon.kernels.backend`; on CUDA it is plain torch.

    Raises:
        ReconError: another camera model, or other numbers of cameras and nears.
    """
    from recon.kernels.occupancy.reference import mark_unseen_reference

    table = cameras_table(cameras, near).to(grid.densities.device)
    resolved = resolve_backend(backend, grid.densities.device, ("cpu", "reference"))
    if resolved == "reference":
        mark_unseen_reference(grid, space, table, min_views)
        return
    module, bits = native(), grid.aligned_bits()
    flags = torch.empty(3 * (grid.resolution // 2) ** 3, dtype=torch.uint8)
    params = module.UnseenParams()
    params.densities, params.bits, params.resolution = grid.densities.data_ptr(), bits.data_ptr(), grid.resolution
    params.flags, params.cameras = flags.data_ptr(), table.data_ptr()
    params.camera_count, params.min_views = len(table), min_views
    params.center_x, params.center_y, params.center_z = space.center
    params.half_size, params.contracted = space.half_size, int(space.contracted)
    module.occupancy_mark(params)
    if bits is not grid.bits:
        grid.bits.copy_(bits)


def cameras_table(cameras: Sequence[Camera], near: float | Sequence[float]) -> torch.Tensor:
    """Returns what `mark_unseen` needs of each camera, [C, 24] float32.

    The first three rows of `cam_from_world`; near; then of the planes through the picture's left, right, upper and
    lower side the factors of z and of x (or y) in a point's distance from them, positive inside; and zeros.
    """
    doing = "marking the cells that no camera sees"
    nears = [float(near)] * len(cameras) if isinstance(near, (int, float)) else [float(n) for n in near]
    if len(nears) != len(cameras):
        raise ReconError(doing, f"{len(nears)} near distances for {len(cameras)} cameras", "as many")
    if any(not n >= 0 for n in nears):
        raise ReconError(doing, f"the near distances are {nears}", "0 or more")
    if other := next((camera for camera in cameras if not camera.is_pinhole), None):
        raise ReconError(doing, f"a camera is {other.model.value}", "PINHOLE", "undistort the photographs")
    table = np.zeros((len(cameras), 24), dtype=np.float32)
    for row, camera, nearest in zip(table, cameras, nears):
        row[:12], row[12] = camera.cam_from_world[:3].flatten(), nearest
        sides = (camera.cx, camera.cx - camera.width, camera.cy, camera.cy - camera.height)
        for number, (side, focal) in enumerate(zip(sides, (camera.fx, camera.fx, camera.fy, camera.fy))):
            reach, sign = abs(side) / focal, 1 if number % 2 == 0 else -1
            # Where the principal point lies outside the picture, the sides' signs say so.
            row[13 + 2 * number : 15 + 2 * number] = np.array([sign * side / focal, sign]) / np.hypot(1, reach)
    return torch.from_numpy(table)
