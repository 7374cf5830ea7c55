# SPDX-License-Identifier: Apache-2.0
"""Pictures in bands are the same pictures; ellipsoids are solid up to their outline; who gives up gets nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon import painting
from recon.cameras import Camera, look_at
from recon.painting import PaintOptions, SplatPainter
from recon.rasterization import RasterizeOptions, SplatRenderer, rasterize
from recon.splats import Splats

POSE = look_at(np.array([0.0, -4.0, 1.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
CAMERA = Camera(150, 110, 130.0, 130.0, 70.0, 60.0, cam_from_world=POSE)


def some_splats(count: int = 400) -> Splats:
    generator = torch.Generator().manual_seed(3)
    return Splats(
        torch.randn(count, 3, generator=generator) * 0.7,
        torch.randn(count, 4, generator=generator),
        torch.randn(count, 3, generator=generator) * 0.4 - 2.5,
        torch.randn(count, generator=generator) * 2,
        torch.randn(count, 4, 3, generator=generator) * 0.3,
    )


@pytest.mark.parametrize("antialiased", [False, True])
def test_bands_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, antialiased: bool) -> None:
    splats = replace(some_splats(), antialiased=antialiased)
    options = PaintOptions((0.2, 0.3, 0.4), depth=True, normal=True)
    whole = SplatPainter().paint(splats, CAMERA, options)
    monkeypatch.setattr(painting, "BAND_PIXELS", 1)
    bands = SplatPainter().paint(splats, CAMERA, options, lambda: False)
    assert whole is not None
    assert bands is not None
    for name in ("rgb", "alpha", "depth", "normal"):
        torch.testing.assert_close(getattr(bands, name), getattr(whole, name), atol=2e-5, rtol=1e-4)


def test_what_is_painted_is_what_is_rasterized() -> None:
    splats = some_splats()
    expected = rasterize(
        splats, CAMERA, RasterizeOptions((0.2, 0.3, 0.4), depth=True, planar_depth=True, normal=True)
    ).output
    found = SplatRenderer(splats).paint(
        CAMERA, PaintOptions((0.2, 0.3, 0.4), depth=True, planar_depth=True, normal=True)
    )
    assert found is not None
    for name in ("rgb", "alpha", "depth", "normal"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_picture_is_given_up_within_a_band(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(painting, "BAND_PIXELS", 1)
    blended = []
    blend = painting.blend_forward_into
    monkeypatch.setattr(painting, "blend_forward_into", lambda *args: (blended.append(args), blend(*args))[1])
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > after

    assert SplatPainter().paint(some_splats(), CAMERA, PaintOptions(), cancelled) is None
    assert len(blended) == max(0, after - 1)
    # The next picture is whole.
    assert SplatPainter().paint(some_splats(), CAMERA, PaintOptions()) is not None


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_an_ellipsoid_ends_at_its_sigma(sigma: float) -> None:
    radius = 0.4
    ball = Splats(
        torch.zeros(1, 3),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), math.log(radius)),
        torch.tensor([0.0]),
        torch.zeros(1, 1, 3),
    )
    far = Camera(200, 200, 2000.0, 2000.0, 100.0, 100.0, cam_from_world=look_at(
        np.array([0.0, -40.0, 0.0]), np.zeros(3), np.array([0.0, 0.0, 1.0])))  # fmt: skip
    output = SplatRenderer(ball).paint(far, PaintOptions((1.0, 1.0, 1.0), depth=True, solid_sigma=sigma))
    assert output is not None
    solid = output.alpha > 0.9
    assert bool(((output.alpha < 1e-6) | solid).all())
    # The screen filter adds 0.3 px² to the variance.
    expected = math.pi * (sigma**2) * ((radius * 50) ** 2 + 0.3)
    assert abs(float(solid.sum()) / expected - 1) < 0.03
    assert bool((output.rgb[~solid] == 1).all())
    # Light comes from the upper left.
    reach = int(0.6 * sigma * radius * 50)
    bright, dark = output.rgb[100 - reach, 100 - reach, 0], output.rgb[100 + reach, 100 + reach, 0]
    assert float(bright) > float(dark) + 0.05


def test_faint_splats_have_no_ellipsoid() -> None:
    faint = replace(some_splats(), opacity_logits=torch.full((400,), -4.0))
    output = SplatRenderer(faint).paint(CAMERA, PaintOptions((0.5, 0.5, 0.5), solid_sigma=1.0))
    assert output is not None
    assert float(output.alpha.max()) == 0
    assert bool((output.rgb == 0.5).all())


def test_no_splats_and_broken_ones() -> None:
    none = some_splats().select(torch.arange(0))
    output = SplatRenderer(none).paint(CAMERA, PaintOptions(depth=True, normal=True, solid_sigma=1.0))
    assert output is not None
    assert float(output.alpha.max()) == 0
    splats = some_splats()
    splats.means[::3] = float("nan")
    splats.log_scales[1::3] = float("inf")
    splats.quats[2::9] = 0
    for options in (PaintOptions(depth=True, planar_depth=True, normal=True), PaintOptions(solid_sigma=1.0)):
        output = SplatRenderer(splats).paint(CAMERA, options)
        assert output is not None
        assert bool(torch.isfinite(output.rgb).all())
