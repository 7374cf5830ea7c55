# SPDX-License-Identifier: Apache-2.0
"""Random samples of rays, and what tests of compositing share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from recon.kernels.composite.op import CompositeOptions
from recon.kernels.ray_march.types import RaySamples

OPTIONS = CompositeOptions(density_shift=-0.5, length_scale=1.3, near_scale=0.4)

COUNTS: dict[str, list[int]] = {
    "nothing": [],
    "one empty ray": [0],
    "one sample": [1],
    "short, long and empty": [0, 3, 0, 20, 1, 40, 0, 0],
    "longer than a block": [130, 0, 1000, 2, 128, 128, 1],
    "many": [(7 * i * i) % 31 for i in range(700)],
}


def make_samples(counts: Sequence[int], seed: int = 0) -> RaySamples:
    """Returns rays with so many samples each, of uneven lengths and with gaps."""
    count = torch.tensor(counts, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    total = int(count.sum())
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    ray_of = torch.repeat_interleave(torch.arange(len(count)), count)
    lengths = 0.002 + 0.05 * torch.rand(total, generator=generator, dtype=torch.float64).square()
    gaps = 0.1 * torch.rand(total, generator=generator, dtype=torch.float64)
    gaps *= torch.rand(total, generator=generator) < 0.1
    passed = torch.nn.functional.pad((lengths + gaps).cumsum(0), (1, 0))
    distances = 0.05 + passed[1:] - passed[offsets[:-1]][ray_of] - lengths / 2
    ends = torch.full((len(count),), float("inf"))
    ends[::3] = 5.0
    positions = torch.rand((total, 3), generator=generator)
    return RaySamples(positions, distances.float(), lengths.float(), offsets.int(), ray_of.int(), ends)


def make_raw(samples: RaySamples, width: int = 16, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns raw densities and colours, [S, width] float32 each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(samples.distances), width)
    return 3 + 2 * torch.randn(shape, generator=generator), 2 * torch.randn(shape, generator=generator)


def double(samples: RaySamples) -> RaySamples:
    """Returns the same samples in float64."""
    return replace(samples, distances=samples.distances.double(), lengths=samples.lengths.double())


def ray_alone(samples: RaySamples, ray: int) -> tuple[RaySamples, slice]:
    """Returns one ray's samples, and where they stood."""
    at = slice(int(samples.offsets[ray]), int(samples.offsets[ray + 1]))
    alone = RaySamples(
        samples.positions[at], samples.distances[at], samples.lengths[at],
        torch.tensor([0, at.stop - at.start], dtype=torch.int32), torch.zeros(at.stop - at.start, dtype=torch.int32),
        samples.ends[ray : ray + 1],
    )  # fmt: skip
    return alone, at


def assert_near(found: torch.Tensor, expected: torch.Tensor, part: float = 2e-6) -> None:
    """`part` is of the largest number that is expected."""
    assert found.shape == expected.shape
    if expected.numel():
        worst = float((found.double() - expected.double()).abs().max())
        assert worst <= part * max(1e-12, float(expected.abs().max())), worst
