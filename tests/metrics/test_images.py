# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM against other implementations and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.metrics.images import MOST_PSNR_DB, psnr_db, ssim_score, to_bytes, view_psnr_db
from recon.render import RenderOptions, RenderOutput
from recon.scene import View


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(40, 50, 3, generator=generator)
    return image, (image + 0.1 * torch.randn(40, 50, 3, generator=generator)).clamp(0, 1)


def test_psnr_equals_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    image, target = pair()
    expected = peak_signal_noise_ratio(
        target.numpy().astype(np.float64), image.numpy().astype(np.float64), data_range=1
    )
    assert psnr_db(image, target) == pytest.approx(expected, abs=1e-9)


def test_ssim_equals_scikit_image_inside() -> None:
    from skimage.metrics import structural_similarity

    image, target = pair(1)
    image[:5], image[-5:], image[:, :5], image[:, -5:] = target[:5], target[-5:], target[:, :5], target[:, -5:]
    _, whole = structural_similarity(
        image.numpy(), target.numpy(), data_range=1, channel_axis=2, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    inside = torch.zeros(40, 50)
    inside[5:-5, 5:-5] = 1
    assert ssim_score(image, target, inside) == pytest.approx(whole[5:-5, 5:-5].mean(), abs=2e-5)


def test_equal_pictures() -> None:
    image, _ = pair(2)
    assert psnr_db(image, image) == MOST_PSNR_DB
    assert ssim_score(image, image) == pytest.approx(1, abs=1e-6)


def test_masked_pixels_may_hold_anything() -> None:
    image, target = pair(3)
    weight = torch.ones(40, 50)
    weight[10:30, :20] = 0
    plain_psnr, plain_ssim = psnr_db(image, target, weight), ssim_score(image, target, weight)
    spoiled = image.clone()
    spoiled[10:30, :20] = float("nan")
    assert psnr_db(spoiled, target, weight) == plain_psnr
    assert ssim_score(spoiled, target, weight) == plain_ssim
    kept = weight.bool()
    error = float((image[kept].double() - target[kept].double()).square().mean())
    assert plain_psnr == pytest.approx(-10 * math.log10(error), abs=1e-9)


def test_nothing_to_count_and_nan_have_no_score() -> None:
    image, target = pair(4)
    assert math.isnan(psnr_db(image, target, torch.zeros(40, 50)))
    assert math.isnan(ssim_score(image, target, torch.zeros(40, 50)))
    image[0, 0, 0] = float("nan")
    assert math.isnan(psnr_db(image, target))


def test_wrong_shapes_are_refused() -> None:
    image, target = pair(5)
    with pytest.raises(ReconError, match="psnr_db"):
        psnr_db(image, target[:-1])
    with pytest.raises(ReconError, match="weight"):
        ssim_score(image, target, torch.ones(50, 40))


def test_a_view_is_scored_clamped_and_masked() -> None:
    class Bright:
        def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
            rgb = torch.full((camera.height, camera.width, 3), 7.0)
            rgb[0] = 0
            return RenderOutput(rgb=rgb, alpha=rgb[..., 0])

    camera = Camera(20, 12, 20.0, 20.0, 10.0, 6.0)
    white = np.full((12, 20, 3), 255, np.uint8)
    mask = np.full((12, 20), 255, np.uint8)
    mask[0] = 0
    assert view_psnr_db(Bright(), View("a", 0, camera, white, mask)) == MOST_PSNR_DB
    assert view_psnr_db(Bright(), View("a", 0, camera, white)) == pytest.approx(10 * math.log10(12), abs=1e-6)


def test_bytes_are_rounded() -> None:
    assert to_bytes(torch.tensor([[[-1.0, 0.5, 2.0]]])).tolist() == [[[0, 128, 255]]]
