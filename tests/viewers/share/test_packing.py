# SPDX-License-Identifier: Apache-2.0
"""Packed splats are the splats, but for rounding: field by field, in their pictures, and in the order of importance."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recon.cameras import Camera
from recon.rasterization import SplatRenderer
from recon.splats import SH_C0, Splats
from recon.viewers.share.harmonics import pack_harmonics
from recon.viewers.share.importance import importance, viewing_directions
from recon.viewers.share.packing import BLOCK, CHUNK, CHUNK_FLOATS, WORDS, pack_splats, unpack_splats


def colorful(splats: Splats, degree: int = 3, strength: float = 0.1, antialiased: bool = False) -> Splats:
    """The same splats turned and stretched anyhow, with harmonics that neighbours share in part."""
    generator = torch.Generator().manual_seed(1)
    count, bases = len(splats), (degree + 1) ** 2
    sh = torch.zeros(count, bases, 3)
    sh[:, 0] = splats.sh[:, 0]
    kinds = torch.randn(12, bases - 1, 3, generator=generator) * strength
    sh[:, 1:] = kinds[torch.randint(12, (count,), generator=generator)]
    sh[:, 1:] += torch.randn(count, bases - 1, 3, generator=generator) * 0.1 * strength
    return replace(
        splats,
        quats=torch.randn(count, 4, generator=generator),
        log_scales=splats.log_scales + torch.randn(count, 3, generator=generator) * 0.4,
        opacity_logits=splats.opacity_logits + torch.randn(count, generator=generator),
        sh=sh,
        antialiased=antialiased,
    )


def worst_psnr_db(one: Splats, other: Splats, cameras: list[Camera]) -> float:
    scores = []
    for camera in cameras:
        pictures = [SplatRenderer(splats).render(camera).rgb.clamp(0, 1) for splats in (one, other)]
        scores.append(-10 * float(np.log10(max(float((pictures[0] - pictures[1]).square().mean()), 1e-12))))
    return min(scores)


@pytest.mark.parametrize("antialiased", [False, True])
def test_pictures_of_packed_splats_are_alike(world: Any, antialiased: bool) -> None:
    splats = colorful(world.splats, antialiased=antialiased)
    packed = pack_splats(splats, world.cameras)
    unpacked = unpack_splats(packed)
    assert (packed.antialiased, unpacked.antialiased) == (antialiased, antialiased)
    # What is lost is the order of the many splats that stand within a rounding step of each other here.
    assert worst_psnr_db(splats, unpacked, world.cameras[::3]) > 42
    # The very comparison notices splats that lost their harmonics, or that are a hundredth of a unit elsewhere.
    assert worst_psnr_db(splats, replace(unpacked, sh=unpacked.sh[:, :1].contiguous()), world.cameras[::3]) < 38
    assert worst_psnr_db(splats, replace(unpacked, means=unpacked.means + 0.01), world.cameras[::3]) < 38


def test_fields_come_back(world: Any) -> None:
    splats = colorful(world.splats, degree=0)
    unpacked = unpack_splats(pack_splats(splats, world.cameras))
    assert len(unpacked) == len(splats)
    # Blocks are sorted by place, so partners are found by their nearest centres.
    nearest = torch.cdist(unpacked.means.double(), splats.means.double()).argmin(1)
    assert len(nearest.unique()) > 0.999 * len(splats)
    partner = splats.select(nearest)
    spread = float(splats.means.max() - splats.means.min())
    assert float((unpacked.means - partner.means).abs().max()) < spread / 8000
    assert float((unpacked.log_scales - partner.log_scales).abs().max()) < 0.02
    assert float((unpacked.opacities - partner.opacities).abs().max()) < 0.5 / 255 + 1e-6
    assert float((unpacked.base_colors - partner.base_colors).abs().max()) < 0.003
    unit = torch.nn.functional.normalize(partner.quats, dim=1)
    assert float((unit * torch.nn.functional.normalize(unpacked.quats, dim=1)).sum(1).abs().min()) > 1 - 2e-4


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_degree(world: Any, degree: int) -> None:
    packed = pack_splats(colorful(world.splats, degree), world.cameras)
    assert packed.degree == degree
    assert unpack_splats(packed).sh.shape[1] == (degree + 1) ** 2
    assert not packed.harmonics.entries[:, :, 3 * ((degree + 1) ** 2 - 1) :].any()


def test_what_is_broken_or_invisible_is_left_out(world: Any) -> None:
    splats = colorful(world.splats)
    means, quats, logits = splats.means.clone(), splats.quats.clone(), splats.opacity_logits.clone()
    means[3, 1], quats[5], logits[7], logits[9] = float("nan"), 0.0, -9.0, float("inf")
    packed = pack_splats(replace(splats, means=means, quats=quats, opacity_logits=logits))
    assert packed.count == len(splats) - 4
    assert bool(torch.isfinite(unpack_splats(packed).sh).all())
    assert pack_splats(splats.select(torch.arange(0))).count == 0
    assert len(unpack_splats(pack_splats(splats.select(torch.arange(0))))) == 0
    assert len(unpack_splats(pack_splats(splats.select(torch.arange(1))))) == 1


def test_a_budget_keeps_what_matters(world: Any) -> None:
    splats = colorful(world.splats)
    faint = replace(
        splats, opacity_logits=splats.opacity_logits - torch.where(torch.arange(len(splats)) % 2 == 0, 5, 0)
    )
    packed = pack_splats(faint, world.cameras, budget=len(splats) // 2)
    drawable = int((faint.opacities >= 1 / 255).sum())
    assert (packed.count, packed.left_out) == (len(splats) // 2, drawable - len(splats) // 2)
    assert float(unpack_splats(packed).opacities.median()) > 5 * float(faint.opacities[::2].median())


def test_importance_is_what_is_covered(world: Any) -> None:
    splats = world.splats
    bigger = replace(
        splats, log_scales=splats.log_scales + torch.where(torch.arange(len(splats)) == 100, 1, 0)[:, None]
    )
    for cameras in (world.cameras, []):
        weights = importance(bigger, cameras)
        assert bool((weights > 0).all())
        assert float(weights[100]) > 3 * float(importance(splats, cameras)[100])


def test_what_harmonics_lose_goes_into_the_colour(world: Any) -> None:
    splats = colorful(world.splats, strength=0.3)
    weights = importance(splats, world.cameras)
    with_cameras = pack_harmonics(splats, world.cameras, weights)
    directions = viewing_directions(splats, world.cameras, weights)
    lost = splats.sh[:, 1:] - torch.from_numpy(with_cameras.unpacked())
    mean = torch.einsum("nk,nkc->nc", directions.mean, lost) / SH_C0
    assert float(mean.abs().max()) > 1e-3
    assert torch.allclose(torch.from_numpy(with_cameras.base), splats.sh[:, 0] + mean, atol=1e-4)
    again = pack_harmonics(splats, world.cameras, weights)
    assert np.array_equal(with_cameras.labels, again.labels)


def test_blocks_hold_what_their_description_says(world: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(world.splats), (BLOCK + 5000,), generator=generator)
    many = world.splats.select(rows)
    many = replace(many, means=many.means + 0.01 * torch.randn(len(many), 3, generator=generator))
    for spatial in (False, True):
        packed = pack_splats(many, world.cameras, spatial=spatial)
        assert [block.count for block in packed.blocks] == [BLOCK, 5000]
        for block in packed.blocks:
            chunks = -(-block.count // CHUNK)
            data = zlib.decompress(block.data, wbits=-15)
            assert len(data) == chunks * (4 * CHUNK_FLOATS + 4 * WORDS * CHUNK)
            assert bool((block.low < block.high).all())
    first, second = (unpack_splats(replace(packed, blocks=(block,))) for block in packed.blocks)
    assert float(importance(first, world.cameras).median()) > float(importance(second, world.cameras).median())
