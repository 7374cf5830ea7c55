# SPDX-License-Identifier: Apache-2.0
"""Random samples of rays, and what tests of compositing share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.kernels.composite.op import CompositeOptions


@dataclass(frozen=True, eq=False)
class RaySamples:
    """Stands in for that of the ray march."""

    positions: torch.Tensor
    distances: torch.Tensor
    lengths: torch.Tensor
    offsets: torch.Tensor
    ray_of: torch.Tensor
    ends: torch.Tensor


def make_samples(counts: list[int] | torch.Tensor, seed: int = 0, dtype: torch.dtype = torch.float32) -> RaySamples:
    """Returns rays with so many samples each, of uneven lengths and with gaps."""
    counts = torch.as_tensor(counts, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    total = int(counts.sum())
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    ray_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    lengths = 0.002 + 0.05 * torch.rand(total, generator=generator, dtype=torch.float64).square()
    gaps = 0.1 * torch.rand(total, generator=generator, dtype=torch.float64)
    gaps *= torch.rand(total, generator=generator) < 0.1
    ends = (lengths + gaps).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])[offsets[:-1]][ray_of]
    distances = 0.05 + ends - starts - lengths / 2
    stops = torch.full((len(counts),), float("inf"), dtype=dtype)
    stops[::3] = 5.0
    positions = torch.rand((total, 3), generator=generator).to(dtype)
    return RaySamples(positions, distances.to(dtype), lengths.to(dtype), offsets.int(), ray_of.int(), stops)


OPTIONS = CompositeOptions(density_shift=-0.5, length_scale=1.3, near_scale=0.4)


def make_raw(
    samples: RaySamples, width: int = 16, seed: int = 1, spread: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns raw densities and colours, [S, width] each."""
    generator = torch.Generator().manual_seed(seed)
    dtype, total = samples.distances.dtype, len(samples.distances)
    density = spread * torch.randn((total, width), generator=generator, dtype=torch.float64) + 3
    color = 2 * torch.randn((total, width), generator=generator, dtype=torch.float64)
    return density.to(dtype), color.to(dtype)
