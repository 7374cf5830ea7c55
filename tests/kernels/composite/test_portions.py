# SPDX-License-Identifier: Apache-2.0
"""Truncation behind surfaces, and pictures that grow portion by portion, on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.composite.composite_cases import COUNTS, OPTIONS, assert_near, double, make_raw, make_samples

from recon.kernels.composite.op import RayState, accumulate_into, composite_into, truncate_into
from recon.kernels.composite.reference import accumulate_reference, optical_depths, truncate_reference
from recon.kernels.native import native
from recon.kernels.ray_march.types import RaySamples
from recon.kernels.workspace import Workspace

STATE = ("color", "alpha", "depth", "median_distance")
SAMPLE_FIELDS = ("positions", "distances", "lengths", "ray_of", "offsets", "ends")


def is_clear(raw: torch.Tensor, samples: RaySamples, limit: float) -> bool:
    """Whether rounding cannot decide about any sample."""
    depths = optical_depths(raw.double(), double(samples), OPTIONS)
    passed = torch.nn.functional.pad(depths.cumsum(0), (1, -1))
    reaching = torch.exp(passed[samples.offsets[:-1].long().clamp(max=len(passed) - 1)][samples.ray_of.long()] - passed)
    return bool(((reaching / limit - 1).abs() > 1e-4).all())


@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize("limit", [1e-3, 0.3, 0.0, 1.0])
def test_what_light_reaches_is_kept(isa: str, case: str, limit: float) -> None:
    samples = make_samples(COUNTS[case])
    density, color = make_raw(samples)
    encoded = torch.randn((len(density), 32), generator=torch.Generator().manual_seed(9))
    if 0 < limit < 1 and len(density):
        assert is_clear(density, samples, limit)
    found, arrays = truncate_into(density, samples, limit, [encoded, density, color[:, 0].contiguous()], OPTIONS,
                                  Workspace())  # fmt: skip
    expected, rows = truncate_reference(
        density.double(), double(samples), limit, [encoded, density, color[:, 0]], OPTIONS
    )
    for name in SAMPLE_FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name).to(getattr(found, name).dtype)), name
    assert all(torch.equal(a, b) for a, b in zip(arrays, rows))
    if limit == 0.0:
        assert found is samples
        assert arrays[0] is encoded


def test_each_ray_may_begin_with_less_light(isa: str) -> None:
    samples = make_samples([10, 10, 10, 0, 10])
    density, _ = make_raw(samples)
    light = torch.tensor([1.0, 0.5, 1e-4, 1.0, 0.02])
    found, (rows,) = truncate_into(density, samples, 1e-2, [density], OPTIONS, Workspace(), light)
    expected, (expected_rows,) = truncate_reference(
        density.double(), double(samples), 1e-2, [density], OPTIONS, light.double()
    )
    assert torch.equal(found.offsets, expected.offsets)
    assert torch.equal(rows, expected_rows)
    assert found.offsets.diff()[2] == 0


def test_truncation_hardly_changes_the_picture(isa: str) -> None:
    samples = make_samples(COUNTS["many"])
    density, color = make_raw(samples)
    whole = composite_into(density, color, samples, 3, OPTIONS, Workspace())
    kept, rows = truncate_into(density, samples, 1e-4, [density, color], OPTIONS, Workspace())
    assert len(kept.distances) < 0.95 * len(density)
    short = composite_into(*rows, kept, 3, OPTIONS, Workspace())
    assert float((whole.color - short.color).abs().max()) < 1e-4
    assert float((whole.alpha - short.alpha).abs().max()) < 1e-4


def test_threads_do_not_change_what_is_kept(isa: str) -> None:
    samples = make_samples([(11 * i) % 90 for i in range(400)])
    density, color = make_raw(samples)
    module, before, results = native(), native().max_threads(), []
    try:
        for threads in (1, 2, 6):
            module.set_threads(threads)
            kept, rows = truncate_into(density, samples, 1e-2, [color], OPTIONS, Workspace())
            results.append([*(getattr(kept, name) for name in SAMPLE_FIELDS), *rows])
    finally:
        module.set_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


def test_nan_ends_a_ray(isa: str) -> None:
    samples = make_samples([10, 10])
    density, _ = make_raw(samples)
    density[:, 0] = -5.0
    density[3, 0] = float("nan")
    kept, _ = truncate_into(density, samples, 1e-3, [], OPTIONS, Workspace())
    assert kept.offsets.tolist() == [0, 4, 14]


def portions_of(samples: RaySamples, sizes: tuple[int, ...]) -> list[tuple[torch.Tensor, RaySamples]]:
    """Cuts each ray into portions; returns which samples each has, with it."""
    within = torch.arange(len(samples.ray_of)) - samples.offsets[samples.ray_of.long()]
    portions, first = [], 0
    for size in sizes:
        keep = (within >= first) & (within < first + size)
        counts = torch.bincount(samples.ray_of[keep].long(), minlength=len(samples.ends))
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
        fields = {name: getattr(samples, name)[keep] for name in ("positions", "distances", "lengths", "ray_of")}
        portions.append((keep, replace(samples, offsets=offsets, **fields)))
        first += size
    return portions


@pytest.mark.parametrize("channels", [3, 1, 4])
def test_portions_make_the_whole(isa: str, channels: int) -> None:
    samples = make_samples(COUNTS["many"])
    density, color = make_raw(samples)
    whole = composite_into(density, color, samples, channels, OPTIONS, Workspace())
    state, workspace = RayState.start(900, channels), Workspace()
    rows = torch.randperm(900, generator=torch.Generator().manual_seed(4))[:700].int()
    for keep, portion in portions_of(samples, (1, 4, 16, 100)):
        accumulate_into(state, density[keep], color[keep], portion, rows, OPTIONS, workspace)
    for name in STATE:
        assert_near(getattr(state, name)[rows.long()], getattr(whole, name), 2e-5)
    others = torch.ones(900, dtype=torch.bool)
    others[rows.long()] = False
    assert all(bool((getattr(state, name)[others] == 0).all()) for name in STATE)


def test_accumulation_equals_the_reference(isa: str) -> None:
    samples = make_samples(COUNTS["short, long and empty"])
    density, color = make_raw(samples)
    density[:, 0] -= 1
    rows = torch.tensor([3, 9, 0, 1, 2, 8, 5, 6], dtype=torch.int32)
    found = RayState.start(10, 3)
    expected = RayState(*(getattr(found, name).double() for name in STATE))
    workspace = Workspace()
    for keep, portion in portions_of(samples, (2, 5, 50)):
        alive = accumulate_into(found, density[keep], color[keep], portion, rows, OPTIONS, workspace, 0.2)
        still = accumulate_reference(
            expected, density[keep].double(), color[keep].double(), double(portion), rows, OPTIONS, 0.2
        )
        assert torch.equal(alive, still)
        for name in STATE:
            assert_near(getattr(found, name), getattr(expected, name), 1e-5)


def test_rays_die_of_darkness_or_at_the_end_of_space(isa: str) -> None:
    samples = replace(make_samples([2, 2, 2, 0]), ends=torch.tensor([1.0, float("inf"), 1.0, 1.0]))
    density, color = torch.full((6, 1), -15.0), torch.zeros((6, 3))
    density[4:] = 15.0
    rows = torch.arange(4, dtype=torch.int32)
    state = RayState.start(4, 3)
    assert accumulate_into(state, density, color, samples, rows, OPTIONS, Workspace()).tolist() == [0, 3]


def test_no_rays_at_all(isa: str) -> None:
    samples, state = make_samples([]), RayState.start(3, 3)
    density, color = make_raw(samples)
    rows = torch.zeros(0, dtype=torch.int32)
    assert accumulate_into(state, density, color, samples, rows, OPTIONS, Workspace()).tolist() == []
    assert float(state.alpha.sum()) == 0
