# SPDX-License-Identifier: Apache-2.0
"""The photometric loss on CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.workspace import Workspace

if TYPE_CHECKING:
    from recon.kernels.ssim.op import PhotometricWeights

_SIDE = 16


@dataclass(frozen=True, eq=False)
class QueuedLoss:
    """A loss that the GPU may not have computed yet: [2] float64, the loss and 1 / (weights · channels); and the
    gradient [H, W, C] to the image, where it is wanted."""

    result: torch.Tensor
    gradient: torch.Tensor | None


def queue_photometric(
    image: torch.Tensor,
    target: torch.Tensor,
    weights: PhotometricWeights,
    workspace: Workspace,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    mask_is_alpha: bool = False,
    background: torch.Tensor | None = None,
    skip: torch.Tensor | None = None,
    with_gradient: bool = True,
    result: torch.Tensor | None = None,
) -> QueuedLoss:
    """Queues the loss of `recon.kernels.ssim.op.photometric_into`; arguments as there, on one GPU.

    Args:
        skip: [1] int64 that becomes 1 where the loss is not finite.
        with_gradient: whether the gradient is wanted.
        result: [2] float64 of the caller's, where the loss is to stand.
    """
    height, width, channels = image.shape
    blocks = -(-height // _SIDE) * -(-width // _SIDE)
    gradient = workspace.take("photometric gradient", (height, width, channels)) if with_gradient else None
    result = workspace.take("photometric result", (2,), torch.float64) if result is None else result
    params = params_of(
        "SsimLaunch",
        derivatives=workspace.take("photometric derivatives", (3, height, width, channels)) if with_gradient else None,
        block_sums=workspace.take("photometric sums", (blocks, 3), torch.float64),
        result=result,
        blocks=blocks,
        skip=skip,
    )
    fill_target(params.loss, target, weights, mask, mask_is_alpha)
    assign(
        params.loss, image=image, weight=weight, background=background, gradient=gradient, height=height, width=width,
        channels=channels,
    )  # fmt: skip
    program = program_for(image.device)
    program.launch_blocks("ssim_forward", blocks, params)
    program.launch_blocks("ssim_finish", 1, params)
    if with_gradient:
        program.launch_blocks("ssim_backward", blocks, params)
    return QueuedLoss(result, gradient)


def fill_target(
    params: Any, target: torch.Tensor, weights: PhotometricWeights, mask: torch.Tensor | None, mask_is_alpha: bool
) -> None:
    """Sets what an `SsimParams` compares with."""
    has_bytes = target.dtype == torch.uint8
    assign(
        params, target=None if has_bytes else target, target_bytes=target if has_bytes else None, mask=mask,
        mask_is_alpha=mask_is_alpha, l1_weight=weights.l1, ssim_weight=weights.ssim,
    )  # fmt: skip


class PhotometricCuda(torch.autograd.Function):
    """`recon.kernels.ssim.op.photometric_loss`, with the gradient computed together with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        image: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None,
        weights: PhotometricWeights,
    ) -> torch.Tensor:
        queued = queue_photometric(
            image, target, weights, Workspace(image.device), weight, with_gradient=ctx.needs_input_grad[0]
        )
        ctx.gradient = queued.gradient
        return queued.result[0].to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return ctx.gradient * upstream[0], None, None, None
