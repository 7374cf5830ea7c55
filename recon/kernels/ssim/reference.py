# SPDX-License-Identifier: Apache-2.0
"""SSIM and the photometric loss in plain torch: what the fused kernel must equal."""

from __future__ import annotations

import torch

RADIUS = 5
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def ssim_map_reference(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the SSIM of every pixel and channel, [H, W, C], zeros beyond the frame (Wang et al. 2004, eq. 13)."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=image.dtype, device=image.device)
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def filtered(quantity: torch.Tensor) -> torch.Tensor:
        planes = quantity.permute(2, 0, 1)[:, None]
        planes = torch.nn.functional.conv2d(planes, window.reshape(1, 1, 1, -1), padding=(0, RADIUS))
        planes = torch.nn.functional.conv2d(planes, window.reshape(1, 1, -1, 1), padding=(RADIUS, 0))
        return planes[:, 0].permute(1, 2, 0)

    mean_x, mean_y = filtered(image), filtered(target)
    variance_x = filtered(image * image) - mean_x**2
    variance_y = filtered(target * target) - mean_y**2
    covariance = filtered(image * target) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return numerator / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))


def photometric_reference(
    image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, l1_weight: float, ssim_weight: float
) -> torch.Tensor:
    """Returns l1_weight · mean |x − y| + ssim_weight · (1 − mean SSIM), with means weighted by `weight` [H, W]."""
    total = (weight.sum() * image.shape[2]).clamp_min(1e-12)
    l1 = ((image - target).abs() * weight[..., None]).sum() / total
    similarity = (ssim_map_reference(image, target) * weight[..., None]).sum() / total
    return l1_weight * l1 + ssim_weight * (1 - similarity)
