# SPDX-License-Identifier: Apache-2.0
"""The loss without autograd against its reference: masks, weights and backgrounds, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from recon.kernels.native import native
from recon.kernels.ssim.op import PhotometricResult, photometric_into, photometric_loss
from recon.kernels.ssim.reference import photometric_reference
from recon.kernels.workspace import Workspace

# Smaller than the window, thinner than it, no multiple of any number of lanes, and higher than two bands.
SIZES = [(1, 1, 3), (3, 40, 3), (45, 2, 3), (37, 53, 3), (64, 16, 1), (21, 90, 2), (33, 35, 5), (70, 300, 3)]
MODES = ["plain", "weight", "mask", "mask and weight", "alpha", "alpha and weight"]
VALUE_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 2e-4
"""Relative to the largest gradient: variances are differences of float32 means."""


class Case:
    """Random pictures of one size with the arguments of one mode, and what the reference makes of them."""

    def __init__(self, size: tuple[int, int, int], mode: str, as_bytes: bool = True, seed: int = 0) -> None:
        height, width, channels = size
        generator = torch.Generator().manual_seed(seed)
        self.image = torch.rand(size, generator=generator)
        target = (self.image + 0.2 * torch.randn(size, generator=generator)).clamp(0, 1)
        self.target = (target * 255).round().to(torch.uint8) if as_bytes else target
        holes = torch.rand(height, width, generator=generator) > 0.3
        holes[0, 0] = True
        self.weight = torch.rand(height, width, generator=generator) * holes if "weight" in mode else None
        self.mask = None
        if "mask" in mode or "alpha" in mode:
            self.mask = (torch.rand(height, width, generator=generator) * 255 * holes).to(torch.uint8)
            self.mask[0, 0] = 255
        self.is_alpha = "alpha" in mode
        self.background = torch.rand(channels, generator=generator) if self.is_alpha else None

    def run(self, workspace: Workspace, ssim_weight: float = 0.2) -> PhotometricResult:
        return photometric_into(
            self.image, self.target, workspace, ssim_weight, self.weight, self.mask, self.is_alpha, self.background
        )

    def expected(self, ssim_weight: float = 0.2) -> tuple[float, torch.Tensor]:
        image = self.image.double().requires_grad_()
        target = self.target.double() / 255 if self.target.dtype == torch.uint8 else self.target.double()
        weight = torch.ones(image.shape[:2], dtype=torch.float64) if self.weight is None else self.weight.double()
        if self.is_alpha:
            assert self.mask is not None
            assert self.background is not None
            alpha = (self.mask.double() / 255)[..., None]
            target = self.background.double() * (1 - alpha) + target * alpha
        elif self.mask is not None:
            weight = weight * self.mask.double() / 255
        loss = photometric_reference(image, target, weight, 1 - ssim_weight, ssim_weight)
        (gradient,) = torch.autograd.grad(loss, image)
        return float(loss.detach()), gradient

    def check(self, result: PhotometricResult, ssim_weight: float = 0.2) -> None:
        loss, gradient = self.expected(ssim_weight)
        assert abs(result.loss - loss) < VALUE_TOLERANCE * max(1.0, loss)
        assert float((result.gradient - gradient).abs().max()) < GRADIENT_TOLERANCE * float(gradient.abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_value_and_gradient_equal_the_reference(
    isa: str, size: tuple[int, int, int], mode: str, as_bytes: bool
) -> None:
    case = Case(size, mode, as_bytes)
    case.check(case.run(Workspace()))


@pytest.mark.parametrize("ssim_weight", [0.0, 1.0])
def test_either_part_alone_equals_the_reference(isa: str, ssim_weight: float) -> None:
    case = Case((40, 33, 3), "mask")
    case.check(case.run(Workspace(), ssim_weight), ssim_weight)


def test_a_workspace_serves_pictures_of_all_sizes_in_turn(isa: str) -> None:
    workspace = Workspace()
    for seed, size in enumerate([(70, 300, 3), (9, 8, 3), (33, 35, 5), (70, 299, 3), (64, 16, 1), (70, 300, 3)]):
        case = Case(size, MODES[seed % len(MODES)], seed=seed)
        case.check(case.run(workspace))


def test_a_workspace_is_not_grown_twice_for_one_size() -> None:
    workspace, case = Workspace(), Case((40, 50, 3), "mask")
    first = case.run(workspace)
    address, held, loss = first.gradient.data_ptr(), workspace.bytes(), first.loss
    second = case.run(workspace)
    assert (second.gradient.data_ptr(), workspace.bytes(), second.loss) == (address, held, loss)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("height", [31, 64, 101, 138])
def test_threads_do_not_change_the_result(isa: str, mode: str, height: int) -> None:
    case, module = Case((height, 61, 3), mode), native()
    before, results = module.max_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            module.set_threads(threads)
            result = case.run(Workspace())
            results.append((result.loss, result.gradient))
    finally:
        module.set_threads(before)
    for loss, gradient in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(gradient, results[0][1])


def test_the_autograd_operation_gives_the_same(isa: str) -> None:
    case = Case((50, 47, 3), "weight")
    image = case.image.clone().requires_grad_()
    loss = photometric_loss(image, case.target, 0.2, case.weight, backend="cpu")
    loss.backward()
    result = case.run(Workspace())
    assert image.grad is not None
    assert torch.equal(image.grad, result.gradient)
    assert float(loss.detach()) == pytest.approx(result.loss, abs=1e-7)


def test_a_mask_silences_what_is_not_a_number(isa: str) -> None:
    case = Case((40, 40, 3), "mask")
    assert case.mask is not None
    case.mask[:12, :12] = 0
    case.image[0, 0] = float("nan")
    case.image[2, 5] = float("inf")
    result = case.run(Workspace())
    assert torch.isfinite(torch.tensor(result.loss))
    assert torch.isfinite(result.gradient[12:]).all()
    assert torch.isfinite(result.gradient[:, 12:]).all()


def test_no_weight_at_all_gives_no_gradient(isa: str) -> None:
    case = Case((20, 30, 3), "mask")
    assert case.mask is not None
    case.mask.zero_()
    result = case.run(Workspace())
    assert float(result.gradient.abs().max()) == 0


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-3, 30.0, 1e6, 1e8])
def test_extreme_pictures_stay_finite(isa: str, scale: float) -> None:
    case = Case((30, 40, 3), "plain")
    case.image *= scale
    result = case.run(Workspace())
    assert torch.isfinite(torch.tensor(result.loss))
    assert torch.isfinite(result.gradient).all()
    case.check(result)


def test_nothing_is_written_beyond_the_gradient(isa: str) -> None:
    workspace = Workspace()
    big = Case((41, 52, 3), "plain")
    big.run(workspace).gradient.fill_(7.0)
    small = Case((40, 51, 3), "plain")
    small.run(workspace)
    rest = workspace.take("photometric gradient", (41 * 52 * 3,))[40 * 51 * 3 :]
    assert (rest == 7.0).all()
