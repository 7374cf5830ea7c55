# SPDX-License-Identifier: Apache-2.0
"""What the readers and writers of compact splat formats share: rotations by three numbers, opacities in a byte,
the order along a space-filling curve, limits that keep hostile files cheap, and the last checks of what was read.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from recon.errors import ReconError
from recon.formats.splat_axes import UpAxis, splats_from_world, world_from_splats
from recon.formats.splat_ply import finite_rows
from recon.progress import Progress
from recon.splats import SH_C0, Splats

NotFinite = Literal["refuse", "drop"]
FloatArray = npt.NDArray[np.floating[Any]]
ByteArray = npt.NDArray[np.uint8]

REST_NUMBERS = {0: 0, 1: 9, 2: 24, 3: 45, 4: 72}
"""How many numbers the harmonics above the constant have, by degree."""

LEAST_BUDGET = 16 << 20
MOST_RATIO = 24
"""Honest splat files shrink to a third; what claims more than 16 MB and 24 times its size is not unpacked."""

LEAST_LOG_SCALE = -30.0
ROWS_AT_ONCE = 16384


@dataclass(eq=False)
class SplatParts:
    """What a reader found, in the file's axes.

    Attributes:
        means: [N, 3].
        quats: [N, 4] wxyz.
        log_scales: [N, 3].
        opacity_logits: [N].
        base: [N, 3] coefficients of the constant harmonic.
        rest: [N, K - 1, 3] the others; None for none.
        antialiased: what the file says of the screen filter.
        up: what is usual in the format, or what the file says.
    """

    means: FloatArray
    quats: FloatArray
    log_scales: FloatArray
    opacity_logits: FloatArray
    base: FloatArray
    rest: FloatArray | None = None
    antialiased: bool = False
    up: UpAxis = "-y"

    def splats(
        self, doing: str, not_finite: NotFinite, progress: Progress, up: UpAxis | Literal["auto"] = "auto"
    ) -> Splats:
        """Checks and mends the parts and turns them to our world.

        Raises:
            ReconError: values are not finite and `not_finite` is "refuse", or all of them are.
        """
        sh = self.base[:, None] if self.rest is None else np.concatenate([self.base[:, None], self.rest], 1)
        if sh.shape[1] > 16:
            progress.log("harmonics above degree 3 were left out")
            sh = sh[:, :16]
        parts = [self.means, self.quats, self.log_scales, self.opacity_logits[:, None], sh.reshape(len(sh), -1)]
        keep = np.logical_and.reduce([finite_rows(part) for part in parts]) if len(sh) else np.ones(0, bool)
        if not keep.all():
            found = f"{int((~keep).sum())} of {len(keep)} splats have values that are NaN or infinite"
            if not_finite == "refuse" or not keep.any():
                first = int(np.flatnonzero(~keep)[0])
                raise ReconError(doing, f"{found} (the first is number {first})", "finite numbers", "drop these splats")
            progress.log(f"{found}; they were left out")
            parts = [part[keep] for part in parts]
        means, quats, log_scales, logits, harmonics = (np.require(part, np.float32, ["C", "W"]) for part in parts)
        unturned = ~quats.any(1)
        if unturned.any():
            progress.log(f"{int(unturned.sum())} splats had a zero rotation; set to none")
            quats = quats.copy()
            quats[unturned, 0] = 1.0
        splats = Splats(
            torch.from_numpy(means),
            torch.from_numpy(quats),
            torch.from_numpy(log_scales),
            torch.from_numpy(logits[:, 0]),
            torch.from_numpy(harmonics.reshape(len(means), -1, 3)),
            antialiased=self.antialiased,
        )
        return world_from_splats(splats, self.up if up == "auto" else up)


def splats_to_write(splats: Splats, path: Path, up: UpAxis) -> Splats:
    """Returns float32 splats on the CPU in the file's axes, without features.

    Raises:
        ReconError: there are none, or a value is not finite.
    """
    splats = splats.detach().to("cpu")
    splats = replace(
        splats,
        means=splats.means.float(),
        quats=splats.quats.float(),
        log_scales=splats.log_scales.float(),
        opacity_logits=splats.opacity_logits.float(),
        sh=splats.sh.float(),
        features=None,
    )
    parts = (splats.means, splats.quats, splats.log_scales, splats.opacity_logits, splats.sh)
    broken = torch.zeros(len(splats), dtype=torch.bool)
    for part in parts:
        # The sum is finite only if all numbers are, and much faster than looking at each.
        if not bool(torch.isfinite(part.sum())):
            broken |= ~torch.isfinite(part.reshape(len(splats), -1)).all(1)
    if bool(broken.any()):
        raise ReconError(
            f"writing {path}",
            f"{int(broken.sum())} of {len(splats)} splats have values that are not finite",
            "finite numbers",
            "train again with a smaller learning rate, or remove these splats first",
        )
    return splats_from_world(splats, up)


def check_up(up: str, doing: str, auto: bool) -> None:
    """Refuses what is no up axis."""
    from recon.formats.splat_axes import UP_AXES

    known = (*UP_AXES, "auto") if auto else UP_AXES
    if up not in known:
        raise ReconError(doing, f"the up axis is {up!r}", " or ".join(known))


_BROKEN: tuple[type[Exception], ...] = (
    ValueError,  # UnicodeDecodeError and json.JSONDecodeError are its children.
    EOFError,
    KeyError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,  # Pillow's word for a broken PNG.
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
)
"""What decoders raise when bytes are broken."""


@contextmanager
def refusing(doing: str, what: str, *also: type[Exception]) -> Iterator[None]:
    """Turns whatever a decoder of the standard library says about broken bytes, and `also`, into a `ReconError`."""
    try:
        yield
    except ReconError:
        raise
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except _BROKEN + also as error:
        raise ReconError(doing, f"{what} ({str(error)[:200] or type(error).__name__})", "an unbroken file") from error
    except OSError as error:
        raise ReconError(doing, f"{what} ({error.strerror or str(error)[:200]})", "a readable file") from error


def file_bytes(path: Path, doing: str, most: int = 1 << 34) -> bytes:
    """Returns the bytes of a file, or says why it cannot be read."""
    with refusing(doing, "it cannot be read"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ReconError(doing, f"it has {size} bytes", f"at most {most}")
        return file.read()


def check_budget(claimed: int, packed: int, doing: str) -> None:
    """Refuses to unpack `claimed` bytes from `packed` ones where no honest file would have that many."""
    budget = LEAST_BUDGET + MOST_RATIO * packed
    if claimed > budget:
        raise ReconError(
            doing, f"{packed} bytes claim to hold {claimed}", f"at most {budget}: this is a bomb or broken"
        )


def logits_of_bytes(alpha: ByteArray) -> FloatArray:
    """Returns logits of opacities in 1/255, [N].

    Nothing and all stand for the middle of what was rounded to them: a logit has no 0 and no 1.
    """
    table = np.clip(np.arange(256) / 255.0, 0.25 / 255, 1 - 0.25 / 255)
    result: FloatArray = np.log(table / (1 - table)).astype(np.float32)[alpha]
    return result


def bytes_of_logits(logits: torch.Tensor) -> ByteArray:
    """Returns opacities in 1/255, [N] uint8."""
    result: ByteArray = (torch.sigmoid(logits) * 255).round().to(torch.uint8).numpy()
    return result


def base_of_colors(colors: FloatArray) -> FloatArray:
    """Returns coefficients of the constant harmonic for colours in 0..1."""
    result: FloatArray = ((colors - np.float32(0.5)) / np.float32(SH_C0)).astype(np.float32, copy=False)
    return result


def log_scales_of(scales: FloatArray) -> FloatArray:
    """Returns natural logarithms; nothing becomes a scale so small that nobody sees it, NaN and negatives NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scales == 0, np.float32(LEAST_LOG_SCALE), np.log(scales)).astype(np.float32)


def rounded_bytes(values: torch.Tensor, factor: float, offset: float, step: int = 1, down: bool = False) -> ByteArray:
    """Returns `offset` + `factor` times the values as bytes, rounded to multiples of `step` about the offset.

    Rows are done a few at a time, which stays in the cache and needs no second copy of all numbers.  With `down`
    numbers are cut off instead of rounded.
    """
    values = values.flatten(1)
    result = torch.empty(values.shape, dtype=torch.uint8)
    for start in range(0, len(values), ROWS_AT_ONCE):
        piece = values[start : start + ROWS_AT_ONCE] * (factor / step)
        if step > 1:
            piece.round_().mul_(step)
        piece.add_(offset)
        result[start : start + ROWS_AT_ONCE] = (piece.floor_() if down else piece.round_()).clamp_(0, 255)
    return np.asarray(result.numpy())


def typical_scale(splats: Splats) -> float:
    """Returns the median over splats of the middle one of their three standard deviations, which flat ones have too."""
    sample = splats.log_scales[:: max(1, len(splats) // 100_000)]
    return float(sample.median(1).values.median().clamp(-30, 30).exp())


def smallest_three(quats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which component of each unit quaternion is largest, [N], and the others in order, [N, 3], each at most
    √½ in size, with the sign at which the largest is positive.  The order of components is that of `quats`."""
    quats = torch.nn.functional.normalize(quats, dim=1, eps=1e-30)
    largest = quats.abs().argmax(1)
    sign = torch.where(quats.gather(1, largest[:, None]) < 0, -1.0, 1.0)
    others = torch.arange(3)[None] + (torch.arange(3)[None] >= largest[:, None])
    return largest, quats.gather(1, others) * sign


def quats_from_three(largest: npt.NDArray[np.integer], others: FloatArray) -> FloatArray:
    """Returns unit quaternions [N, 4] in the order of components that `smallest_three` was given."""
    missing = np.sqrt(np.maximum(0, 1 - np.square(others).sum(1)))
    quats = np.empty((len(others), 4), np.float32)
    for index in range(4):
        mine = largest == index
        quats[mine, index] = missing[mine]
        quats[np.ix_(mine, [other for other in range(4) if other != index])] = others[mine]
    return quats


def curve_order(means: torch.Tensor) -> torch.Tensor:
    """Returns the order of points along a Morton curve, [N] int64: neighbours in the list are neighbours in space.

    Space is contracted around the median first, so that a few far points do not leave all others in one cell.
    """
    if len(means) == 0:
        return torch.zeros(0, dtype=torch.int64)
    sample = means[:: max(1, len(means) // 100_000)].double()
    low, middle, high = torch.quantile(sample, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), 0)
    x = (means.double() - middle) / (high - low).clamp(min=1e-9)
    cells = ((0.5 + 0.5 * x / (1 + x.abs())) * (2**21 - 1)).long()
    key = _spread_bits(cells[:, 0]) | _spread_bits(cells[:, 1]) << 1 | _spread_bits(cells[:, 2]) << 2
    return torch.from_numpy(np.argsort(key.numpy(), kind="stable"))


def _spread_bits(value: torch.Tensor) -> torch.Tensor:
    """Puts two zero bits between the bits of numbers below 2^21 (Morton 1966; masks as usual)."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        value = (value | (value << shift)) & mask
    return value
