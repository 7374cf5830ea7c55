# SPDX-License-Identifier: Apache-2.0
"""The photometric loss against its reference, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from recon.errors import ReconError
from recon.kernels.ssim.op import BORDER_PX, photometric_loss, ssim
from recon.kernels.ssim.reference import photometric_reference

SIZES = [(1, 1, 1), (5, 7, 3), (48, 33, 3), (97, 64, 4), (50, 131, 2), (49, 16, 1)]
VALUE_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 2e-4
"""Relative to the largest gradient: variances are differences of float32 means."""


def pictures(height: int, width: int, channels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(height, width, channels, generator=generator)
    target = (image + 0.2 * torch.randn(height, width, channels, generator=generator)).clamp(0, 1)
    weight = torch.rand(height, width, generator=generator) * (torch.rand(height, width, generator=generator) > 0.2)
    weight[0, 0] = 1.0
    return image, target, weight


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_value_and_gradient_equal_the_reference(
    isa: str, size: tuple[int, int, int], weighted: bool, as_bytes: bool
) -> None:
    image, target, weight = pictures(*size)
    given = (target * 255).round().to(torch.uint8) if as_bytes else target
    mine, theirs = image.clone().requires_grad_(), image.double().requires_grad_()
    value = photometric_loss(mine, given, 0.2, weight if weighted else None, backend="cpu")
    target_exact = given.double() / 255 if as_bytes else target.double()
    weight_exact = weight.double() if weighted else torch.ones(size[:2], dtype=torch.float64)
    expected = photometric_reference(theirs, target_exact, weight_exact, 0.8, 0.2)
    value.backward()
    expected.backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    assert abs(float(value.detach()) - float(expected.detach())) < VALUE_TOLERANCE
    scale = float(theirs.grad.abs().max())
    assert float((mine.grad - theirs.grad).abs().max()) < GRADIENT_TOLERANCE * scale


def test_the_reference_has_the_gradient_of_its_value() -> None:
    image, target, weight = pictures(9, 8, 2)
    assert torch.autograd.gradcheck(
        lambda x: photometric_reference(x, target.double(), weight.double(), 0.3, 0.7),
        image.double().requires_grad_(),
    )


def test_ssim_equals_scikit_image_inside_the_border(isa: str) -> None:
    image, target, _ = pictures(40, 52, 3)
    inside = torch.zeros(40, 52)
    inside[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = 1
    expected = structural_similarity(
        image.numpy(),
        target.numpy(),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert abs(float(ssim(image, target, inside)) - expected) < 1e-5


def test_equal_pictures_score_one_and_have_no_gradient(isa: str) -> None:
    image, _, _ = pictures(30, 30, 3)
    mine = image.clone().requires_grad_()
    loss = photometric_loss(mine, image)
    loss.backward()
    assert mine.grad is not None
    assert abs(float(loss.detach())) < 1e-6
    assert float(mine.grad.abs().max()) < 1e-6


def test_a_masked_nan_does_not_reach_far_pixels(isa: str) -> None:
    image, target, _ = pictures(40, 40, 3)
    weight = torch.ones(40, 40)
    weight[:12, :12] = 0
    image[0, 0] = float("nan")
    mine = image.clone().requires_grad_()
    loss = photometric_loss(mine, target, 0.2, weight)
    loss.backward()
    assert mine.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(mine.grad[12:, 12:]).all()


def test_threads_do_not_change_the_result() -> None:
    from recon.kernels.native import native

    image, target, weight = pictures(200, 61, 3)
    results = []
    for threads in (1, 2):
        native().set_threads(threads)
        mine = image.clone().requires_grad_()
        loss = photometric_loss(mine, target, 0.2, weight)
        loss.backward()
        results.append((float(loss.detach()), mine.grad))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_shapes_that_disagree_are_refused() -> None:
    image, target, weight = pictures(10, 10, 3)
    with pytest.raises(ReconError, match="target has shape"):
        photometric_loss(image, target[:9])
    with pytest.raises(ReconError, match="weight has shape"):
        photometric_loss(image, target, weight=weight[:5])
    with pytest.raises(ReconError, match="float32"):
        photometric_loss(image.half(), target.half(), backend="cpu")
