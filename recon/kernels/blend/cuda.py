# SPDX-License-Identifier: Apache-2.0
"""Blending and its gradient on CUDA."""

from __future__ import annotations

import math
from typing import Any

import torch

from recon.kernels.binning.cuda import QueuedTiles
from recon.kernels.binning.op import TileLists
from recon.kernels.blend.op import Blended, BlendStatistics, DepthPlanes
from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.projection.types import Projected
from recon.kernels.workspace import Workspace

MOMENTS = 12
"""Floats that the backward pass sums for each Gaussian; see moments.cuh."""

_WIDE = 8
_BACKWARD_BLOCKS_PER_TILE = 2


def _launches(channels: int) -> list[tuple[str, int, int]]:
    """Returns the kernels' suffix, the first channel and the number of channels of each launch."""
    if channels == 3:
        return [("3", 0, 3)]
    return [(str(_WIDE), first, min(_WIDE, channels - first)) for first in range(0, channels, _WIDE)]


def blend_params(
    channels: torch.Tensor,
    tiles: QueuedTiles | TileLists,
    ids: torch.Tensor,
    size: tuple[int, int],
    alpha_cutoff: float,
    picture: tuple[torch.Tensor, torch.Tensor],
) -> Any:
    """Returns what both passes read; `picture` is where channels [H, W, D] and alpha [H, W] stand."""
    assert tiles.records is not None, "these lists are not from the CUDA kernels"
    return params_of(
        "BlendLaunch",
        records=tiles.records, channels=channels, offsets=tiles.offsets, ids=ids, count=len(channels),
        channel_count=channels.shape[1], slope_channel=-1, width=size[0], height=size[1],
        log2_cutoff=math.log2(alpha_cutoff), out_channels=picture[0], out_alpha=picture[1],
    )  # fmt: skip


def queue_forward(params: Any, device: torch.device, tiles: int) -> None:
    """Queues the forward pass over so many tiles."""
    program = program_for(device)
    for suffix, first, used in _launches(params.channel_count):
        assign(params, first_channel=first, used_channels=used)
        program.launch_blocks(f"blend_forward_{suffix}", tiles, params)


def queue_backward(params: Any, device: torch.device, tiles: int) -> None:
    """Queues the backward pass; `moments` and, but for three channels, `grad_channels` must be zero."""
    program = program_for(device)
    for suffix, first, used in _launches(params.channel_count):
        assign(params, first_channel=first, used_channels=used)
        program.launch_blocks(f"blend_backward_{suffix}", tiles * _BACKWARD_BLOCKS_PER_TILE, params)


def blend_forward_into_cuda(
    projected: Projected,
    tiles: QueuedTiles,
    size: tuple[int, int],
    alpha_cutoff: float,
    workspace: Workspace,
    background: torch.Tensor,
) -> tuple[Blended, Any]:
    """Queues the blending of colours over a background [3]; returns the picture, which stands in `workspace`, and what
    `blend_backward_into_cuda` needs."""
    width, height = size
    channels = workspace.take("blend.channels", (height, width, 3))
    alpha = workspace.take("blend.alpha", (height, width))
    params = blend_params(projected.colors, tiles, tiles.ids, size, alpha_cutoff, (channels, alpha))
    assign(params, background=background)
    queue_forward(params, channels.device, tiles.tiles_x * tiles.tiles_y)
    return Blended(channels, alpha), params


def blend_backward_into_cuda(
    params: Any, tiles: QueuedTiles, grad_channels: torch.Tensor, workspace: Workspace, statistics: bool
) -> torch.Tensor:
    """Queues the backward pass of what `blend_forward_into_cuda` queued; returns the moments [N, 12]."""
    moments = workspace.take("blend.moments", (params.count, MOMENTS))
    program_for(moments.device).clear(moments)
    assign(
        params, grad_out_channels=grad_channels, moments=moments, statistics=int(statistics),
        skip=tiles.counters[3:],
    )  # fmt: skip
    queue_backward(params, moments.device, tiles.tiles_x * tiles.tiles_y)
    return moments


def blend_cuda(
    projected: Projected,
    channels: torch.Tensor,
    tiles: TileLists,
    size: tuple[int, int],
    median_depth: bool,
    statistics: BlendStatistics | None,
    planes: DepthPlanes | None,
) -> Blended:
    """As `recon.kernels.blend.op.blend`; differentiable.  With more than eight channels the absolute gradients of the
    statistics are sums over groups of eight, at least what they would be of all together."""
    inputs = (projected.means_px, projected.conics, projected.opacities, channels, projected.depths.detach())
    out = _Blend.apply(*(tensor.contiguous() for tensor in inputs), tiles, (*size, median_depth), (statistics, planes))
    return Blended(*out)


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        *scene, tiles, (width, height, wants_median), (statistics, planes) = inputs
        channels, depths = scene[3], scene[4]
        new = channels.new_empty
        picture = (new((height, width, channels.shape[1])), new((height, width)))
        median = new((height, width)) if wants_median else None
        ids = tiles.ids.contiguous()
        params = blend_params(channels, tiles, ids, (width, height), tiles.alpha_cutoff, picture)
        assign(params, depths=depths, median_depth=median)
        if planes is not None:
            slopes = planes.slopes.contiguous()
            assign(params, slopes=slopes, slope_channel=planes.channel)
        _wide_for_depth(params, channels.device, tiles.tiles_x * tiles.tiles_y)
        ctx.save_for_backward(*scene[:4], ids, *picture)
        ctx.tiles, ctx.statistics = tiles, statistics
        ctx.set_materialize_grads(False)
        if median is not None:
            ctx.mark_non_differentiable(median)
        return (*picture, median)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        by_channels, by_alpha = gradients[0], gradients[1]
        if by_channels is None and by_alpha is None:
            return (None,) * 8
        means_px, conics, opacities, channels, ids, *picture = ctx.saved_tensors
        tiles, statistics = ctx.tiles, ctx.statistics
        by_channels = torch.zeros_like(picture[0]) if by_channels is None else by_channels.contiguous()
        by_alpha = None if by_alpha is None else by_alpha.contiguous()
        height, width = picture[1].shape
        params = blend_params(channels, tiles, ids, (width, height), tiles.alpha_cutoff, (picture[0], picture[1]))
        moments = channels.new_zeros((len(channels), MOMENTS))
        out = tuple(torch.zeros_like(tensor) for tensor in (means_px, conics, opacities, channels))
        touched = tiles.touched.to(torch.uint8)
        assign(
            params, grad_out_channels=by_channels, grad_out_alpha=by_alpha, moments=moments, conics=conics,
            opacities=opacities, touched=touched, statistics=int(statistics is not None),
            grad_means_px=out[0], grad_conics=out[1], grad_opacities=out[2], grad_channels=out[3],
        )  # fmt: skip
        if statistics is not None:
            statistics.mean_gradient_px = out[0]
            statistics.mean_gradient_abs_px = torch.zeros_like(means_px)
            statistics.weight_sum, statistics.weight_max = torch.zeros_like(opacities), torch.zeros_like(opacities)
            assign(
                params, grad_means_abs=statistics.mean_gradient_abs_px, weight_sum=statistics.weight_sum,
                weight_max=statistics.weight_max,
            )  # fmt: skip
        queue_backward(params, channels.device, tiles.tiles_x * tiles.tiles_y)
        program_for(channels.device).launch("blend_gradients", len(channels), params)
        return (*out, None, None, None, None)


def _wide_for_depth(params: Any, device: torch.device, tiles: int) -> None:
    """As `queue_forward`; the kernel for three channels knows no depth."""
    if params.channel_count == 3 and (params.median_depth or params.slopes):
        params.first_channel, params.used_channels = 0, 3
        program_for(device).launch_blocks(f"blend_forward_{_WIDE}", tiles, params)
        return
    queue_forward(params, device, tiles)
