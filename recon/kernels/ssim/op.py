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
    if resolve_backend(backend, image.device, ("cpu", "reference")) == "reference":
        if target.dtype == torch.uint8:
            target = target.to(image.dtype) / 255
        if weight is None:
            weight = torch.ones(image.shape[:2], dtype=image.dtype, device=image.device)
        return photometric_reference(image, target, weight, weights.l1, weights.ssim)
    check_tensor(operation, "image", image, (None, None, None))
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
        module = native()
        height, width, channels = image.shape
        total = max((float(weight.sum()) if weight is not None else height * width) * channels, 1e-12)
        gradient = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        row_sums = torch.zeros(height, 2, dtype=torch.float64)
        params = module.SsimParams()
        params.image = image.data_ptr()
        if target.dtype == torch.uint8:
            params.target_bytes = target.data_ptr()
        else:
            params.target = target.data_ptr()
        params.weight = weight.data_ptr() if weight is not None else 0
        params.gradient = gradient.data_ptr() if gradient is not None else 0
        params.row_sums = row_sums.data_ptr()
        params.height, params.width, params.channels = height, width, channels
        params.l1_scale = weights.l1 / total
        params.ssim_scale = -weights.ssim / total
        workspace = torch.empty(module.ssim_workspace_floats(params))
        params.workspace = workspace.data_ptr()
        module.photometric(params)
        similarity, l1 = (row_sums.sum(0) / total).tolist()
        ctx.gradient = gradient
        return image.new_tensor(weights.l1 * l1 + weights.ssim * (1 - similarity))

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return ctx.gradient * upstream[0], None, None, None
