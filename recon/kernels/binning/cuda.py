# SPDX-License-Identifier: Apache-2.0
"""Tile lists on CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from recon.errors import ReconError
from recon.kernels.binning.op import MAX_PAIRS, TILE_SIZE, TileLists
from recon.kernels.cuda.program import Program, params_of, program_for
from recon.kernels.cuda.sort import sort_pairs
from recon.kernels.projection.types import Projected
from recon.kernels.workspace import Workspace

RECORD_FLOATS = 8
COUNTERS = 8
VISIBLE, PAIRS, KEPT, SKIP = range(4)
_THREADS = 256
_DEPTH_BYTES = 4
_FIRST_PAIRS_PER_GAUSSIAN = 4
_GROWTH = 1.3


@dataclass(frozen=True, eq=False)
class QueuedTiles:
    """Tile lists that the GPU may not have made yet.

    Attributes:
        offsets: [T + 1] int32; tile t lists ids[offsets[t]] to ids[offsets[t + 1]].
        ids: [capacity] int32, the Gaussians tile by tile, nearest first.
        records: [N, 8] what blending needs of each listed Gaussian; see blend/records.cuh.
        touched: [N] uint8, whether any tile lists the Gaussian.
        tile_counts: [N] int32, how many do.
        counters: [8] int64: listed Gaussians, their pairs with tiles, the pairs that are in the lists (none where there
            was no room for all), and whether the rest of a step is to be skipped.
        tiles_x, tiles_y: tiles along the picture's sides.
    """

    offsets: torch.Tensor
    ids: torch.Tensor
    records: torch.Tensor
    touched: torch.Tensor
    tile_counts: torch.Tensor
    counters: torch.Tensor
    tiles_x: int
    tiles_y: int


class CudaTileBinner:
    """Bins picture after picture on one device, in memory that is kept and only grows."""

    def __init__(self, device: torch.device, max_pairs: int = MAX_PAIRS) -> None:
        self._workspace, self._device = Workspace(device), device
        self._max_pairs, self._capacity = max_pairs, 0

    @property
    def capacity(self) -> int:
        """How many pairs there is room for."""
        return self._capacity

    def make_room(self, pairs: int, of_what: str = "a picture") -> None:
        """Gets room for so many pairs of a Gaussian and a tile, and some more.

        Raises:
            ReconError: more than the agreed number.
        """
        if pairs > self._max_pairs:
            raise ReconError(
                f"listing the Gaussians of {of_what} by tile",
                f"they touch {pairs} tiles",
                f"at most {self._max_pairs}",
                "render at a smaller size (--long-side), or prune large or surplus Gaussians (--max-gaussians)",
            )
        if pairs > self._capacity:
            self._capacity = min(max(int(pairs * _GROWTH), 1 << 16), self._max_pairs)

    @property
    def generation(self) -> int:
        """Changes when any of the memory is replaced."""
        return self._workspace.generation

    @property
    def _program(self) -> Program:
        return program_for(self._device)

    def queue(
        self,
        projected: Projected,
        width: int,
        height: int,
        alpha_cutoff: float,
        counters: torch.Tensor | None = None,
    ) -> QueuedTiles:
        """Queues everything and waits for nothing; where the pairs do not fit the lists are empty and `SKIP` is set.
        `counters` is where those are to stand, [8] int64 of the caller's."""
        count, take = projected.means_px.shape[0], self._workspace.take
        if self._capacity == 0:
            self.make_room(min(_FIRST_PAIRS_PER_GAUSSIAN * count, self._max_pairs))
        blocks = -(-count // _THREADS)
        counters = self._program.clear(take("counters", (COUNTERS,), torch.int64) if counters is None else counters)
        buffers = {
            "records": take("records", (count, RECORD_FLOATS)),
            "depth_keys": take("depth keys", (count,), torch.int32),
            "tile_counts": take("tile counts", (count,), torch.int32),
            "touched": take("touched", (count,), torch.uint8),
            "block_sums": take("block sums", (blocks,), torch.int64),
            "pair_sums": take("pair sums", (blocks,), torch.int64),
        }
        tiles_x, tiles_y = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
        params = params_of(
            "TileListParams",
            **{n: getattr(projected, n) for n in ("means_px", "conics", "opacities", "depths", "visible")},
            **buffers,
            count=count, width=width, height=height, alpha_cutoff=alpha_cutoff,
            listed=counters[VISIBLE:], pairs=counters[KEPT:],
        )  # fmt: skip
        program = self._program
        program.launch("tiles_prepare", count, params)
        self._scan(program, buffers["block_sums"], counters[VISIBLE:])
        self._list_by_depth(params, count, counters)
        program.launch("tiles_count_pairs", count, params)
        limit = {"limit": self._capacity, "kept": counters[KEPT:], "skip": counters[SKIP:]}
        self._scan(program, buffers["pair_sums"], counters[PAIRS:], **limit)
        offsets, ids = self._list_by_tile(params, count, tiles_x * tiles_y, counters)
        made = {name: buffers[name] for name in ("records", "touched", "tile_counts")}
        return QueuedTiles(offsets, ids, **made, counters=counters, tiles_x=tiles_x, tiles_y=tiles_y)

    def _scan(self, program: Program, sums: torch.Tensor, total: torch.Tensor, **fields: Any) -> None:
        params = params_of("ScanParams", values=sums, count=len(sums), total=total, **fields)
        program.launch_blocks("scan_blocks", 1, params)

    def _list_by_depth(self, params: Any, count: int, counters: torch.Tensor) -> None:
        """Puts the Gaussians that touch a tile in order of depth and then of number."""
        take = self._workspace.take
        keys, ids = take("keys", (count,), torch.int32), take("ids", (count,), torch.int32)
        params.keys, params.ids = keys.data_ptr(), ids.data_ptr()
        self._program.launch("tiles_compact", count, params)
        found = sort_pairs(self._program, self._workspace, (keys, ids), counters[VISIBLE:], _DEPTH_BYTES, "depth")
        params.keys, params.ids = (tensor.data_ptr() for tensor in found)

    def _list_by_tile(
        self, params: Any, count: int, tiles: int, counters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns offsets and ids."""
        take, capacity = self._workspace.take, self._capacity
        offsets = take("offsets", (tiles + 1,), torch.int32)
        keys, ids = (take(name, (capacity,), torch.int32) for name in ("tile keys", "pair ids"))
        params.tile_keys, params.pair_ids, params.offsets = keys.data_ptr(), ids.data_ptr(), offsets.data_ptr()
        self._program.launch("tiles_emit", count, params)
        passes = -(-tiles.bit_length() // 8)
        keys, ids = sort_pairs(self._program, self._workspace, (keys, ids), counters[KEPT:], passes, "tile")
        params.tile_keys, params.pair_ids = keys.data_ptr(), ids.data_ptr()
        # At least one thread per pair and one for the end, as far as the grid may grow; each walks on in strides.
        self._program.launch("tiles_offsets", min(capacity + 1, 1 << 20), params)
        return offsets, ids

    def queue_fitting(self, projected: Projected, width: int, height: int, alpha_cutoff: float) -> QueuedTiles:
        """As `queue`, but waits for the number of pairs and makes room where they did not fit."""
        while True:
            tiles = self.queue(projected, width, height, alpha_cutoff)
            pairs = int(tiles.counters[PAIRS])
            if pairs <= self._capacity:
                return tiles
            self.make_room(pairs, f"a {width}×{height} picture")


def bin_tiles_cuda(
    projected: Projected, width: int, height: int, alpha_cutoff: float, max_pairs: int = MAX_PAIRS
) -> TileLists:
    """As `recon.kernels.binning.op.bin_tiles`, except that pairs are numbered in the order of the lists."""
    binner = CudaTileBinner(projected.means_px.device, max_pairs)
    tiles = binner.queue_fitting(projected, width, height, alpha_cutoff)
    pairs = int(tiles.offsets[-1])
    ids = tiles.ids[:pairs]
    pair_starts = torch.nn.functional.pad(tiles.tile_counts.cumsum(0), (1, 0)).int()
    return TileLists(
        offsets=tiles.offsets,
        entries=ids[:, None].expand(pairs, 2),
        pair_starts=pair_starts,
        tiles_x=tiles.tiles_x,
        tiles_y=tiles.tiles_y,
        alpha_cutoff=alpha_cutoff,
        seen=tiles.touched.bool(),
        records=tiles.records,
    )
