# SPDX-License-Identifier: Apache-2.0
"""The packed format of the page: 20 bytes a splat, in blocks that are loaded one after another.

A block holds up to 32,768 splats; within it neighbours in space stand together, in chunks of 256.  A chunk has 18
float32: least value and step of the positions, log scales and constant colours, three numbers each, so that
value = least + step · whole number.  A splat is five 32-bit words, least significant bits first:

    word 0   x 13, y 13, label 3 bits 0..5
    word 1   z 13, rotation: which component is left out 2, first 8, second 8, label 3 bit 9
    word 2   rotation third 8, log scales 7 7 7, label 3 bits 6..8
    word 3   red 8, green 8, blue 8, opacity 8
    word 4   labels 0, 1, 2 of the harmonics' palettes, 10 bits each

The rotation is the unit quaternion wxyz with its largest component made positive and left out, the others in
-1/√2..1/√2.  The colour is 0.5 + SH_C0 · the constant coefficient.  A block's bytes are its chunks followed by the
four bytes of each word as separate planes, compressed with raw DEFLATE; the last chunk is filled up with splats of no
opacity.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera
from recon.splats import SH_C0, Splats
from recon.viewers.share.harmonics import PackedHarmonics, pack_harmonics
from recon.viewers.share.importance import importance

CHUNK = 256
BLOCK = 32_768
WORDS = 5
CHUNK_FLOATS = 18
LEAST_OPACITY = 1 / 255
"""Splats below are drawn by nobody."""

_POSITION_BITS, _SCALE_BITS, _COLOR_BITS = 13, 7, 8
_ROOT_HALF = np.sqrt(0.5)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Block:
    """Splats that are loaded together.

    Attributes:
        count: how many, without those that fill up the last chunk.
        data: raw DEFLATE of the chunks and the planes.
        low, high: [3] the box of their ellipsoids at three standard deviations, world.
    """

    count: int
    data: bytes
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PackedSplats:
    """Everything that the page needs to draw splats, the most important blocks first.

    Attributes:
        blocks: see `Block`.
        harmonics: palettes; its labels are in the blocks.
        degree: of the spherical harmonics.
        antialiased: the mode to render them in.
        left_out: how many drawable splats were left out for the budget.
    """

    blocks: tuple[Block, ...]
    harmonics: PackedHarmonics
    degree: int
    antialiased: bool
    left_out: int

    @property
    def count(self) -> int:
        """Number of splats."""
        return sum(block.count for block in self.blocks)

    @property
    def size_bytes(self) -> int:
        """Bytes of blocks and palettes."""
        return sum(len(block.data) for block in self.blocks) + self.harmonics.entries.nbytes


def pack_splats(
    splats: Splats,
    cameras: Sequence[Camera] = (),
    budget: int | None = None,
    spatial: bool = False,
) -> PackedSplats:
    """Packs splats, which may be on any device and hold broken values; those are left out.

    Args:
        splats: N Gaussians.
        cameras: those of the photographs, which tell what matters and from where it is seen.
        budget: the most splats to keep; the least important ones are left out.
        spatial: blocks behind the first eighth are cut by place, for pages that load what is looked at.
    """
    splats = _drawable(splats.detach().to("cpu"))
    weights = importance(splats, cameras)
    order = torch.argsort(weights, descending=True, stable=True)
    kept = order if budget is None else order[:budget]
    left_out, splats, weights = len(order) - len(kept), splats.select(kept), weights[kept]
    harmonics = pack_harmonics(splats, cameras, weights)
    means = splats.means.double().numpy()
    blocks = [_block(splats, harmonics, rows) for rows in _partition(means, spatial)]
    return PackedSplats(tuple(blocks), harmonics, splats.sh_degree, splats.antialiased, left_out)


def unpack_splats(packed: PackedSplats) -> Splats:
    """Returns what the page draws, block by block: the inverse of `pack_splats` but for rounding and order."""
    parts = [_unpacked_block(block, packed.harmonics) for block in packed.blocks]
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else []
    if not columns:
        none, colors = torch.zeros(0, 3), torch.zeros(0, 1, 3)
        return Splats(none, torch.zeros(0, 4), none, none[:, 0], colors, antialiased=packed.antialiased)
    means, quats, log_scales, logits, sh = (torch.from_numpy(np.ascontiguousarray(column)) for column in columns)
    bases = (packed.degree + 1) ** 2
    return Splats(means, quats, log_scales, logits, sh[:, :bases].contiguous(), antialiased=packed.antialiased)


def _drawable(splats: Splats) -> Splats:
    """Returns the splats that can be seen at all and that are finite."""
    rows = [splats.means, splats.quats, splats.log_scales, splats.opacity_logits[:, None], splats.sh.flatten(1)]
    finite = torch.stack([torch.isfinite(values).all(1) for values in rows]).all(0)
    sized = (splats.quats.square().sum(1) > 1e-30) & (splats.log_scales.abs() < 60).all(1)
    return splats.select(finite & sized & (splats.opacities >= LEAST_OPACITY))


def _partition(means: npt.NDArray[np.float64], spatial: bool) -> list[npt.NDArray[np.int64]]:
    """Returns the rows of each block, neighbours together; rows come in order of importance."""
    count = len(means)
    first = count if not spatial else max(BLOCK, count // 8)
    blocks = [np.arange(start, min(start + BLOCK, first, count)) for start in range(0, min(first, count), BLOCK)]
    if first < count:
        blocks += _cells(np.arange(first, count), means)
    return [rows[_morton_order(means[rows])] for rows in blocks]


def _cells(rows: npt.NDArray[np.int64], means: npt.NDArray[np.float64]) -> list[npt.NDArray[np.int64]]:
    """Halves the rows along their longest side until each part fits into a block."""
    if len(rows) <= BLOCK:
        return [rows]
    low, high = np.percentile(means[rows], [2, 98], axis=0)
    by_place = rows[np.argsort(means[rows, int(np.argmax(high - low))], kind="stable")]
    # A multiple of the block's size on one side, so that all blocks but one are full.
    middle = BLOCK * max(1, round(len(rows) / BLOCK / 2))
    return _cells(by_place[:middle], means) + _cells(by_place[middle:], means)


def _morton_order(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns the order along a Z-curve of ranks, so that far outliers do not use up the curve's cells."""
    if not len(positions):
        return np.zeros(0, np.int64)
    code = np.zeros(len(positions), np.uint64)
    for axis in range(3):
        ranks = np.empty(len(positions), np.uint64)
        ranks[np.argsort(positions[:, axis], kind="stable")] = np.arange(len(positions), dtype=np.uint64)
        cells = ranks * np.uint64(1024) // np.uint64(len(positions))
        for bit in range(10):
            code |= ((cells >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


def _block(splats: Splats, harmonics: PackedHarmonics, rows: npt.NDArray[np.int64]) -> Block:
    index = torch.from_numpy(rows)
    means, log_scales = splats.means[index].float().numpy(), splats.log_scales[index].float().numpy()
    chunks, positions = _in_chunks(means, _POSITION_BITS)
    scale_chunks, scales = _in_chunks(log_scales, _SCALE_BITS)
    color_chunks, colors = _in_chunks(0.5 + SH_C0 * harmonics.base[rows], _COLOR_BITS)
    which, others = _smallest_three(splats.quats[index].double().numpy())
    opacity = np.round(splats.opacities[index].double().numpy() * 255).astype(np.uint32)
    labels = harmonics.labels[rows].astype(np.uint32)
    x, y, z = positions.T
    last = labels[:, 3]
    words = np.zeros((-(-len(rows) // CHUNK) * CHUNK, WORDS), np.uint32)
    words[: len(rows)] = np.stack(
        [
            x | y << 13 | (last & 63) << 26,
            z | which << 13 | others[:, 0] << 15 | others[:, 1] << 23 | (last >> 9) << 31,
            others[:, 2] | scales[:, 0] << 8 | scales[:, 1] << 15 | scales[:, 2] << 22 | (last >> 6 & 7) << 29,
            colors[:, 0] | colors[:, 1] << 8 | colors[:, 2] << 16 | opacity << 24,
            labels[:, 0] | labels[:, 1] << 10 | labels[:, 2] << 20,
        ],
        1,
    )
    table = np.concatenate([chunks, scale_chunks, color_chunks], 1).astype("<f4")
    planes = words.astype("<u4").view(np.uint8).reshape(len(words), 4 * WORDS).T
    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(table.tobytes() + planes.tobytes()) + compressor.flush()
    reach = 3 * np.exp(log_scales.max(1, initial=-60))[:, None]
    return Block(len(rows), data, (means - reach).min(0).astype(np.float64), (means + reach).max(0).astype(np.float64))


def _in_chunks(values: FloatArray, bits: int) -> tuple[FloatArray, npt.NDArray[np.uint32]]:
    """Returns least values and steps of each chunk [M, 6], and whole numbers [n, D] of `bits` bits."""
    starts = np.arange(0, len(values), CHUNK)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    step = ((high.astype(np.float64) - low) / (2**bits - 1)).astype(np.float32)
    per_row = np.repeat(np.arange(len(starts)), CHUNK)[: len(values)]
    divisor = np.where(step > 0, step, 1)[per_row].astype(np.float64)
    whole = np.round((values.astype(np.float64) - low[per_row]) / divisor).clip(0, 2**bits - 1)
    return np.concatenate([low, step], 1), whole.astype(np.uint32)


def _smallest_three(quats: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Returns which component is largest [n], and the other three as bytes [n, 3]."""
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    which = np.abs(unit).argmax(1)
    sign = np.where(np.take_along_axis(unit, which[:, None], 1) < 0, -1.0, 1.0)
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[which]
    three = np.take_along_axis(unit * sign, others, 1)
    # 127 units to each side, so that zero, which flat floors have, is met exactly.
    return which.astype(np.uint32), (np.round(three / _ROOT_HALF * 127) + 127).clip(0, 254).astype(np.uint32)


def _unpacked_block(block: Block, harmonics: PackedHarmonics) -> tuple[FloatArray, ...]:
    """Returns means, quats, log scales, opacity logits and harmonics [n, 16, 3]."""
    data = zlib.decompress(block.data, wbits=-15)
    chunk_count = -(-block.count // CHUNK)
    table = np.frombuffer(data, "<f4", CHUNK_FLOATS * chunk_count).reshape(chunk_count, 3, 2, 3)
    planes = np.frombuffer(data, np.uint8, offset=table.nbytes).reshape(4 * WORDS, -1)
    words = np.ascontiguousarray(planes.T).view("<u4")[: block.count]
    chunk = np.arange(block.count) // CHUNK

    def field(word: int, shift: int, bits: int) -> npt.NDArray[np.uint32]:
        return (words[:, word] >> shift & (1 << bits) - 1).astype(np.uint32)

    def in_chunk(part: int, *columns: npt.NDArray[np.uint32]) -> FloatArray:
        return table[chunk, part, 0] + table[chunk, part, 1] * np.stack(columns, 1).astype(np.float32)

    means = in_chunk(0, field(0, 0, 13), field(0, 13, 13), field(1, 0, 13))
    log_scales = in_chunk(1, field(2, 8, 7), field(2, 15, 7), field(2, 22, 7))
    colors = in_chunk(2, field(3, 0, 8), field(3, 8, 8), field(3, 16, 8))
    three = (
        (np.stack([field(1, 15, 8), field(1, 23, 8), field(2, 0, 8)], 1).astype(np.float64) - 127) / 127 * _ROOT_HALF
    )
    largest = np.sqrt(np.maximum(1 - np.square(three).sum(1, keepdims=True), 0))
    places = np.array([[3, 0, 1, 2], [0, 3, 1, 2], [0, 1, 3, 2], [0, 1, 2, 3]])[field(1, 13, 2)]
    quats = np.take_along_axis(np.concatenate([three, largest], 1), places, 1).astype(np.float32)
    opacity = field(3, 24, 8).astype(np.float64) / 255
    logits = np.log(opacity.clip(1e-6, 1 - 1e-6) / (1 - opacity).clip(1e-6, 1)).astype(np.float32)
    last = field(0, 26, 6) | field(2, 29, 3) << 6 | field(1, 31, 1) << 9
    labels = np.stack([field(4, 0, 10), field(4, 10, 10), field(4, 20, 10), last], 1).astype(np.uint16)
    rest = PackedHarmonics(labels, harmonics.entries, harmonics.units, harmonics.base).unpacked()
    sh = np.concatenate([((colors - 0.5) / SH_C0)[:, None], rest], 1)
    return means, quats, log_scales, logits, sh.astype(np.float32)
