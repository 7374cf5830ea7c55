# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM of a picture against a photograph.

Pictures are [H, W, 3] float32 in 0..1, [H, W] weights say how much a pixel counts.  The scores are those of the 3DGS
papers: PSNR over all pixels and channels at once, SSIM with the 11×11 Gaussian window of 1.5 pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from recon.errors import ReconError
from recon.render import Renderer, RenderOptions
from recon.scene import View

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_PSNR_DB = 100.0
"""Given to pictures that are equal, whose PSNR has no value."""


def psnr_db(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Returns 10 log10(1 / MSE), with the mean squared error over the pixels that `weight` keeps.

    Args:
        image, target: [H, W, C] float in 0..1.
        weight: [H, W] float, at least 0; None weighs all pixels 1.

    Returns:
        Decibels, at most `MOST_PSNR_DB`; NaN when the picture holds a NaN or no pixel counts.

    Raises:
        ReconError: shapes differ.
    """
    _check_shapes("psnr_db", image, target, weight)
    squared = (image.double() - target.double()).square().mean(-1)
    if weight is None:
        error = float(squared.mean())
    else:
        # Pixels that do not count may hold anything, NaN included.
        counted = torch.where(weight > 0, squared * weight, torch.zeros_like(squared))
        total = float(weight.double().sum())
        error = float(counted.sum()) / total if total > 0 else math.nan
    if error == 0:
        return MOST_PSNR_DB
    return min(-10 * math.log10(error), MOST_PSNR_DB) if error > 0 else math.nan


def ssim_score(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Returns the mean SSIM over the pixels that `weight` keeps; arguments as for `psnr_db`.

    Masked pixels take the target's value first, so that they tell nothing through their neighbours' windows.
    """
    from recon.kernels.ssim.op import ssim

    _check_shapes("ssim_score", image, target, weight)
    if weight is not None:
        image = torch.where((weight > 0)[..., None], image, target)
        if not bool((weight > 0).any()):
            return math.nan
    with torch.no_grad():
        return float(ssim(image.float().contiguous(), target.float().contiguous(), weight))


def target_tensor(view: View, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns a view's photograph as [H, W, 3] float32 in 0..1."""
    return torch.from_numpy(view.image).to(device).float() / 255


def weight_tensor(view: View, device: torch.device | str = "cpu") -> torch.Tensor | None:
    """Returns a view's mask as [H, W] float32, 1 where a pixel counts and 0 elsewhere; None where all count."""
    if view.mask is None:
        return None
    return (torch.from_numpy(view.mask).to(device) >= 128).float()


def view_psnr_db(renderer: Renderer, view: View) -> float:
    """Renders a view over black, clamps to 0..1 and returns its PSNR over the pixels that count."""
    rgb = renderer.render(view.camera, RenderOptions()).rgb.clamp(0, 1)
    return psnr_db(rgb, target_tensor(view, rgb.device), weight_tensor(view, rgb.device))


def to_bytes(image: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Returns a picture [H, W, C] in 0..1 as rounded uint8 on the processor."""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _check_shapes(operation: str, image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> None:
    if image.shape != target.shape or image.ndim != 3:
        raise ReconError(
            f"calling {operation}", f"image {tuple(image.shape)}, target {tuple(target.shape)}", "one H×W×C shape"
        )
    if weight is not None and weight.shape != image.shape[:2]:
        raise ReconError(f"calling {operation}", f"weight has shape {tuple(weight.shape)}", f"{tuple(image.shape[:2])}")
