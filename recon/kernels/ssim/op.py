# SPDX-License-Identifier: Apache-2.0
"""The photometric loss of 3DGS, L1 and D-SSIM, with its gradient in one fused pass; and SSIM as a score.

SSIM is that of Wang et al. 2004 with an 11×11 Gaussian window of standard deviation 1.5 pixels, K1 = 0.01, K2 = 0.03,
a dynamic range of 1 and zeros beyond the frame (as in the 3DGS loss).  A score without the frame's influence gives the
five border pixels a weight of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.ssim.reference import RADIUS, photometric_reference
from recon.kernels.workspace import Workspace

BORDER_PX = RADIUS
"""How far the window reaches beyond a pixel."""


@dataclass(frozen=True)
class PhotometricWeights:
    """How much L1 and 1 − SSIM count."""

    l1: float = 0.8
    ssim: float = 0.2


def photometric_loss(
    image: torch.Tensor,
    target: torch.Tensor,
    ssim_weight: float = 0.2,
    weight: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Returns (1 − λ) · mean |image − target| + λ · (1 − mean SSIM) as a scalar, differentiable to `image`.

    Args:
        image: [H, W, C] float32, any number of channels.
        target: [H, W, C], float32 in 0..1 or uint8.
        ssim_weight: λ (3DGS: 0.2).
        weight: [H, W] float32, each pixel's weight in both means; 0 ignores a pixel, even one that is NaN in `image`
            (as a centre; it still stands in its neighbours' windows).  None weighs all 1.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    return _loss(image, target, weight, PhotometricWeights(1 - ssim_weight, ssim_weight), backend)


def ssim(
    image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, backend: Backend = "auto"
) -> torch.Tensor:
    """Returns the weighted mean SSIM as a scalar, differentiable to `image`; arguments as for `photometric_loss`."""
    return 1 - _loss(image, target, weight, PhotometricWeights(0.0, 1.0), backend)


def _loss(
    image: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    weights: PhotometricWeights,
    backend: Backend,
) -> torch.Tensor:
    operation = "photometric_loss"
    image = check_tensor(operation, "image", image, (None, None, None), image.dtype)
    target_dtype = torch.uint8 if target.dtype == torch.uint8 else image.dtype
    target = check_tensor(operation, "target", target, tuple(image.shape), target_dtype)
    if weight is not None:
        weight = check_tensor(operation, "weight", weight, tuple(image.shape[:2]), image.dtype)
    resolved = resolve_backend(backend, image.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        if target.dtype == torch.uint8:
            target = target.to(image.dtype) / 255
        if weight is None:
            weight = torch.ones(image.shape[:2], dtype=image.dtype, device=image.device)
        return photometric_reference(image, target, weight, weights.l1, weights.ssim)
    check_tensor(operation, "image", image, (None, None, None))
    if resolved == "cuda":
        from recon.kernels.ssim.cuda import PhotometricCuda

        loss: torch.Tensor = PhotometricCuda.apply(image, target, weight, weights)
        return loss
    return _Photometric.apply(image, target, weight, weights)


class _Photometric(torch.autograd.Function):
    """Computes the gradient together with the value, because both need the same windowed moments."""

    @staticmethod
    def forward(
        ctx: Any,
        image: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None,
        weights: PhotometricWeights,
    ) -> torch.Tensor:
        ctx.gradient = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        params = _params(image, target, weights, weight)
        return image.new_tensor(_run(params, Workspace(), ctx.gradient))

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return ctx.gradient * upstream[0], None, None, None


@dataclass(frozen=True)
class PhotometricResult:
    """The loss, and its gradient [H, W, C] to the image, which lives in the workspace until the next call."""

    loss: float
    gradient: torch.Tensor


def photometric_into(
    image: torch.Tensor,
    target: torch.Tensor,
    workspace: Workspace,
    ssim_weight: float = 0.2,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    mask_is_alpha: bool = False,
    background: torch.Tensor | None = None,
) -> PhotometricResult:
    """Returns the loss of `photometric_loss` and its gradient; on the CPU, without autograd, allocating nothing.

    Args:
        image: [H, W, C] float32, contiguous like all that follow.
        target: [H, W, C], float32 in 0..1 or uint8.
        workspace: holds the gradient and the scratch memory.
        ssim_weight: λ (3DGS: 0.2).
        weight: [H, W] float32, as for `photometric_loss`.
        mask: [H, W] uint8.  A pixel's weight is mask / 255 (times `weight` where both are given).
        mask_is_alpha: the mask does not weigh; the target is background + mask / 255 · (target − background) instead.
        background: [C] float32, needed with `mask_is_alpha`.
    """
    _assert_layout(image, tuple(image.shape), torch.float32)
    _assert_layout(target, tuple(image.shape), torch.uint8 if target.dtype == torch.uint8 else torch.float32)
    params = _params(image, target, PhotometricWeights(1 - ssim_weight, ssim_weight), weight)
    if weight is not None:
        _assert_layout(weight, tuple(image.shape[:2]), torch.float32)
    if mask is not None:
        _assert_layout(mask, tuple(image.shape[:2]), torch.uint8)
        params.mask, params.mask_is_alpha = mask.data_ptr(), mask_is_alpha
        if mask_is_alpha:
            assert background is not None, "a mask that is alpha needs a background"
            _assert_layout(background, (image.shape[2],), torch.float32)
            params.background = background.data_ptr()
    gradient = workspace.take("photometric gradient", tuple(image.shape))
    return PhotometricResult(_run(params, workspace, gradient), gradient)


def _assert_layout(tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype), f"{tuple(tensor.shape)} {tensor.dtype}"
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"


def _params(image: torch.Tensor, target: torch.Tensor, weights: PhotometricWeights, weight: torch.Tensor | None) -> Any:
    params = native().SsimParams()
    params.image = image.data_ptr()
    if target.dtype == torch.uint8:
        params.target_bytes = target.data_ptr()
    else:
        params.target = target.data_ptr()
    if weight is not None:
        params.weight = weight.data_ptr()
    params.height, params.width, params.channels = image.shape
    params.l1_weight, params.ssim_weight = weights.l1, weights.ssim
    return params


def _run(params: Any, workspace: Workspace, gradient: torch.Tensor | None) -> float:
    module = native()
    if gradient is not None:
        params.gradient = gradient.data_ptr()
    params.row_sums = workspace.take("photometric rows", (params.height, 3), torch.float64).data_ptr()
    params.workspace = workspace.take("photometric scratch", (module.ssim_workspace_floats(params),)).data_ptr()
    loss: float = module.photometric(params)
    return loss
