# SPDX-License-Identifier: Apache-2.0
"""Blends the Gaussians of each tile front to back, and differentiates that.

    alpha_i = min(0.999, opacity_i · exp(-q_i / 2)), skipped below the cutoff (1/255)
    channel = Σ_i T_i alpha_i c_i,  T_1 = 1,  T_{i+1} = T_i (1 - alpha_i),  as long as T_i >= 1e-4

Source: Kerbl et al., "3D Gaussian splatting", 2023; the absolute gradients are those of AbsGS (Ye et al. 2024).
Background is not added here: channels are premultiplied, and alpha comes with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.binning.op import TILE_SIZE, TileLists
from recon.kernels.checks import check_tensor
from recon.kernels.native import native

if TYPE_CHECKING:
    from recon.kernels.projection.op import Projected

MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
_CACHE_LINE_FLOATS = 16


@dataclass(eq=False)
class BlendStatistics:
    """What a backward pass learns of each Gaussian besides gradients; its fields are set then and None before.

    Attributes:
        mean_gradient_px: [N, 2] dL/d mean, in 1/pixels.
        mean_gradient_abs_px: [N, 2] Σ over pixels of |dL/d mean through that pixel|, per axis (AbsGS).
        weight_sum: [N] Σ over pixels of the blended weights T alpha.
        weight_max: [N] the largest of them.
    """

    mean_gradient_px: torch.Tensor | None = None
    mean_gradient_abs_px: torch.Tensor | None = None
    weight_sum: torch.Tensor | None = None
    weight_max: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class DepthPlanes:
    """Lets depth follow each Gaussian's own plane instead of being that of its centre wherever it is seen.

    Attributes:
        slopes: [N, 2] change of depth per pixel along x and y; finite.
        channel: the channel that holds the centres' depth and is tilted.
    """

    slopes: torch.Tensor
    channel: int


@dataclass(frozen=True, eq=False)
class Blended:
    """One picture.

    Attributes:
        channels: [H, W, D], premultiplied by alpha.
        alpha: [H, W].
        median_depth: [H, W], depth of the Gaussian at which transmittance falls to one half, 0 where it never does;
            not differentiable.  None unless asked for.
    """

    channels: torch.Tensor
    alpha: torch.Tensor
    median_depth: torch.Tensor | None = None


def blend(
    projected: Projected,
    channels: torch.Tensor,
    tiles: TileLists,
    width: int,
    height: int,
    median_depth: bool = False,
    statistics: BlendStatistics | None = None,
    backend: Backend = "auto",
    planes: DepthPlanes | None = None,
) -> Blended:
    """Blends `channels` in the order of `tiles`; differentiable to means_px, conics, opacities and channels.

    A Gaussian with a channel that is not finite is not drawn.  The result and its gradients do not depend on the
    number of threads.

    Args:
        projected: N Gaussians in the picture.
        channels: [N, D], any D from 1.
        tiles: what `bin_tiles` gave for them and this size.
        width, height: size of the picture in pixels.
        median_depth: also give the median depth.
        statistics: filled by the backward pass.
        backend: see `recon.kernels.backend`.
        planes: tilts one channel; for pictures only, there are no gradients with it.

    Raises:
        ReconError: shapes or types differ.
    """
    resolved = resolve_backend(backend, channels.device, ("cpu", "reference"))
    _check(projected, channels, tiles, (width, height), channels.dtype if resolved == "reference" else torch.float32)
    if resolved == "reference":
        from recon.kernels.blend.reference import blend_reference

        return blend_reference(projected, channels, tiles, (width, height), median_depth, statistics, planes)
    if planes is not None:
        check_tensor("blend", "planes.slopes", planes.slopes, (channels.shape[0], 2))
        assert 0 <= planes.channel < channels.shape[1]
        inputs = (projected.means_px, projected.conics, projected.opacities, channels, projected.depths)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
            raise ReconError("calling blend", "gradients are wanted with depth planes", "torch.no_grad()")
    picture = (width, height, median_depth)
    out = _Blend.apply(
        projected.means_px,
        projected.conics,
        projected.opacities,
        channels,
        projected.depths.detach() if median_depth else None,
        tiles,
        picture,
        (statistics, planes),
    )
    return Blended(*out)


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means_px: torch.Tensor,
        conics: torch.Tensor,
        opacities: torch.Tensor,
        channels: torch.Tensor,
        depths: torch.Tensor | None,
        tiles: TileLists,
        picture: tuple[int, int, bool],
        extras: tuple[BlendStatistics | None, DepthPlanes | None],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        width, height, wants_median = picture
        statistics, planes = extras
        count, d = channels.shape
        module = native()
        record_stride = _whole_lines(module.blend_record_floats + d)
        records = torch.empty((count, record_stride), dtype=torch.float32)
        out_channels = torch.empty((height, width, d), dtype=torch.float32)
        out_alpha = torch.empty((height, width), dtype=torch.float32)
        median = torch.empty((height, width), dtype=torch.float32) if wants_median else None
        processed = torch.empty(tiles.tiles_x * tiles.tiles_y, dtype=torch.int32)
        inputs = tuple(tensor.contiguous() for tensor in (means_px, conics, opacities, channels))
        params = _params(module, inputs, tiles, (records, out_channels, out_alpha, processed))
        if depths is not None and median is not None:
            depths = depths.contiguous()
            params.depths, params.median_depth = depths.data_ptr(), median.data_ptr()
            ctx.mark_non_differentiable(median)
        if planes is not None:
            slopes = planes.slopes.contiguous()
            params.slopes, params.slope_channel = slopes.data_ptr(), planes.channel
        module.blend_forward(params)
        ctx.save_for_backward(*inputs, records, out_channels, out_alpha, processed)
        ctx.tiles, ctx.statistics = tiles, statistics
        ctx.set_materialize_grads(False)
        return out_channels, out_alpha, median

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        by_channels, by_alpha = gradients[0], gradients[1]
        if by_channels is None and by_alpha is None:
            return (None,) * 8
        *inputs, records, out_channels, out_alpha, processed = ctx.saved_tensors
        tiles, statistics = ctx.tiles, ctx.statistics
        count, d = inputs[3].shape
        module = native()
        by_channels = torch.zeros_like(out_channels) if by_channels is None else by_channels.contiguous()
        params = _params(module, tuple(inputs), tiles, (records, out_channels, out_alpha, processed))
        params.grad_out_channels = by_channels.data_ptr()
        if by_alpha is not None:
            by_alpha = by_alpha.contiguous()
            params.grad_out_alpha = by_alpha.data_ptr()
        out = [torch.empty_like(tensor) for tensor in inputs]
        for name, tensor in zip(("grad_means_px", "grad_conics", "grad_opacities", "grad_channels"), out):
            setattr(params, name, tensor.data_ptr())
        floats = module.blend_pair_floats + d
        if statistics is not None:
            floats += module.blend_statistics
            statistics.mean_gradient_px = out[0]
            statistics.mean_gradient_abs_px = torch.empty_like(inputs[0])
            statistics.weight_sum, statistics.weight_max = torch.empty(count), torch.empty(count)
            params.grad_means_abs = statistics.mean_gradient_abs_px.data_ptr()
            params.weight_sum, params.weight_max = statistics.weight_sum.data_ptr(), statistics.weight_max.data_ptr()
        params.pair_stride = _whole_lines(floats)
        pair_gradients = torch.empty((tiles.entries.shape[0], params.pair_stride), dtype=torch.float32)
        params.pair_gradients = pair_gradients.data_ptr()
        module.blend_backward(params)
        return (*out, None, None, None, None)


def _whole_lines(floats: int) -> int:
    return -(-floats // _CACHE_LINE_FLOATS) * _CACHE_LINE_FLOATS


def _params(module: Any, inputs: tuple[torch.Tensor, ...], tiles: TileLists, buffers: tuple[torch.Tensor, ...]) -> Any:
    """Returns the params struct with everything that both passes read; the caller keeps the tensors alive."""
    params = module.BlendParams()
    for name, tensor in zip(("means_px", "conics", "opacities", "channels"), inputs):
        setattr(params, name, tensor.data_ptr())
    for name in ("offsets", "entries", "pair_starts"):
        setattr(params, name, getattr(tiles, name).data_ptr())
    for name, tensor in zip(("records", "out_channels", "out_alpha", "processed"), buffers):
        setattr(params, name, tensor.data_ptr())
    params.count, params.channel_count = inputs[3].shape
    params.record_stride = buffers[0].shape[1]
    params.height, params.width = buffers[2].shape
    params.log2_cutoff = math.log2(tiles.alpha_cutoff)
    return params


def _check(
    projected: Projected, channels: torch.Tensor, tiles: TileLists, size: tuple[int, int], dtype: torch.dtype
) -> None:
    count = projected.means_px.shape[0]
    shapes = {"means_px": (count, 2), "conics": (count, 3), "opacities": (count,), "depths": (count,)}
    for name, shape in shapes.items():
        check_tensor("blend", name, getattr(projected, name), shape, dtype)
    check_tensor("blend", "channels", channels, (count, max(1, channels.shape[-1])), dtype)
    expected_tiles = -(-size[0] // TILE_SIZE) * -(-size[1] // TILE_SIZE)
    check_tensor("blend", "tiles.offsets", tiles.offsets, (expected_tiles + 1,), torch.int32)
    check_tensor("blend", "tiles.pair_starts", tiles.pair_starts, (count + 1,), torch.int32)
    check_tensor("blend", "tiles.entries", tiles.entries, (None, 2), torch.int32)
