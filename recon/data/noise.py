# SPDX-License-Identifier: Apache-2.0
"""Random fields from which materials are painted: sums of smooth noises at halving scales, on pictures and in space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
LATTICE = 64


def octave_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell_px: float | tuple[float, float],
    octaves: int = 4,
    gain: float = 0.5,
) -> Field:
    """Returns a random picture [H, W] with about zero mean and unit variance.

    Args:
        rng: where the randomness comes from.
        shape: H and W in pixels.
        cell_px: size of the coarsest cells, or their height and width for a stretched noise (wood grain).
        octaves: how many noises to add, each with cells half as large; those finer than 1.5 pixels are left out.
        gain: amplitude of each noise relative to the one before it.
    """
    import cv2

    height, width = shape
    cell_y, cell_x = cell_px if isinstance(cell_px, tuple) else (cell_px, cell_px)
    total = np.zeros(shape, np.float32)
    power = 0.0
    for octave in range(octaves):
        y, x = max(cell_y / 2**octave, 1.0), max(cell_x / 2**octave, 1.0)
        if octave > 0 and max(y, x) < 1.5:
            break
        # One cell too many on each axis, cut off at a random phase, so that scales do not share their lattice.
        rows, columns = int(np.ceil(height / y)) + 3, int(np.ceil(width / x)) + 3
        lattice = rng.standard_normal((rows, columns), dtype=np.float32)
        shift = rng.uniform(0.5, 1.5, 2)
        transform = np.array([[1 / x, 0, shift[0]], [0, 1 / y, shift[1]]])
        amplitude = gain**octave
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        layer = cv2.warpAffine(lattice, transform, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        total += amplitude * layer
        power += (0.75 * amplitude) ** 2
    return (total / np.float32(np.sqrt(power))).astype(np.float32)


def space_noise(rng: np.random.Generator, points: npt.NDArray, cell_m: float, octaves: int = 4) -> Field:
    """Returns a random field at points [N, 3] with about zero mean and unit variance; cells are `cell_m` large.

    The same generator state gives the same field; it repeats after `LATTICE` cells, turned for each scale.
    """
    import torch
    import torch.nn.functional as functional

    where = torch.from_numpy(np.ascontiguousarray(points, np.float32))
    total = torch.zeros(len(points))
    power = 0.0
    for octave in range(octaves):
        # A turned lattice per scale hides the straight creases of the linear interpolation, and that it repeats.
        turn = np.linalg.qr(rng.standard_normal((3, 3)))[0] * (2**octave / cell_m / LATTICE)
        lattice = np.pad(rng.standard_normal((LATTICE,) * 3, dtype=np.float32), (0, 1), mode="wrap")
        turns = where @ torch.from_numpy(turn.astype(np.float32))
        grid = (turns - turns.floor()).mul_(2).sub_(1).reshape(1, -1, 1, 1, 3)
        layer = functional.grid_sample(torch.from_numpy(lattice)[None, None], grid, align_corners=True)
        amplitude = 0.5**octave
        total.add_(layer.reshape(-1), alpha=amplitude)
        power += (0.6 * amplitude) ** 2
    return (total / float(np.sqrt(power))).numpy()


def smoothstep(low: float, high: float, value: npt.NDArray) -> npt.NDArray:
    """Returns 0 below `low`, 1 above `high` and a smooth ramp between them."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
