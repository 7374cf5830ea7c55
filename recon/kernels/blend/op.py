# SPDX-License-Identifier: Apache-2.0
"""Blends the Gaussians of each tile front to back, and differentiates that.

    alpha_i = min(0.999, opacity_i · exp(-q_i / 2)), skipped below the cutoff (1/255)
    channel = Σ_i T_i alpha_i c_i,  T_1 = 1,  T_{i+1} = T_i (1 - alpha_i),  as long as T_i >= 1e-4

Source: Kerbl et al., "3D Gaussian splatting", 2023; the absolute gradients are those of AbsGS (Ye et al. 2024).
`blend` adds no background: channels are premultiplied, and alpha comes with them.  `blend_forward_into` can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.binning.op import TILE_SIZE, TileLists
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.projection.types import ProjectedGradients
from recon.kernels.workspace import Overlaid, Workspace

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
        channels: [H, W, D], premultiplied by alpha, plus the background where one was given.
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
    resolved = resolve_backend(backend, channels.device, ("cpu", "cuda", "reference"))
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
    if resolved == "cuda":
        from recon.kernels.blend.cuda import blend_cuda

        return blend_cuda(projected, channels, tiles, (width, height), median_depth, statistics, planes)
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


@dataclass(frozen=True, eq=False)
class DensityAccumulators:
    """What density control gathers of N Gaussians over many backward passes; each pass adds to it in place.

    Attributes:
        gradient_sum: [N] += the length of (Σ |dL/dx|, Σ |dL/dy|) over the pixels (AbsGS), per pixel.
        seen: [N] += 1 where a tile lists the Gaussian.
        most_weight: [N] = the largest blended weight T alpha so far.
    """

    gradient_sum: torch.Tensor
    seen: torch.Tensor
    most_weight: torch.Tensor


@dataclass(frozen=True)
class PairCounts:
    """How much work a picture is.

    Attributes:
        listed: pairs of a Gaussian and a tile.
        evaluated: pairs of a Gaussian and a pixel whose exponent the kernels compute, masked lanes included.
        blended: those of them that are blended.
    """

    listed: int
    evaluated: int
    blended: int


def blend_forward_into(
    projected: Projected,
    channels: torch.Tensor,
    tiles: TileLists,
    width: int,
    height: int,
    workspace: Workspace,
    background: torch.Tensor | None = None,
    planes: DepthPlanes | None = None,
) -> Blended:
    """Blends as `blend` does, on the CPU, without gradients and without allocating; the result is in `workspace`.

    Args:
        projected: N Gaussians in the picture, contiguous float32.
        channels: [N, D], contiguous float32.
        tiles: their lists.
        width, height: size of the picture in pixels.
        workspace: keeps the result, and what `blend_backward_into` needs, until the next call with it.
        background: [D]; with it the picture's channels are premultiplied + T_end · background.
        planes: tilts one channel; such a picture has no backward pass.
    """
    inputs = _inputs(projected, channels)
    params = _forward_params(inputs, tiles, (width, height), workspace.take)
    if planes is not None:
        check_tensor("blend", "planes.slopes", planes.slopes, (len(channels), 2))
        assert planes.slopes.is_contiguous()
        params.slopes, params.slope_channel = planes.slopes.data_ptr(), planes.channel
    if background is not None:
        assert background.shape == (channels.shape[1],)
        background = background.to(torch.float32).contiguous()
        params.background = background.data_ptr()
    native().blend_forward(params)
    d = channels.shape[1]
    return Blended(workspace.take("blend.channels", (height, width, d)), workspace.take("blend.alpha", (height, width)))


def drawn_onto(workspace: Workspace, channels: torch.Tensor, alpha: torch.Tensor) -> Workspace:
    """Returns the workspace with a picture of the caller's, [H, W, D] and [H, W], in place of its own.

    `blend_forward_into` with it draws straight onto that picture, float32 and contiguous, of the size that it is called
    with; there is no backward pass then.
    """
    assert channels.dtype == alpha.dtype == torch.float32
    assert channels.is_contiguous()
    assert alpha.is_contiguous()
    return Overlaid(workspace, {"blend.channels": channels, "blend.alpha": alpha})


def blend_backward_into(
    projected: Projected,
    channels: torch.Tensor,
    tiles: TileLists,
    blended: Blended,
    grad_channels: torch.Tensor,
    workspace: Workspace,
    accumulators: DensityAccumulators | None = None,
) -> ProjectedGradients:
    """Differentiates what `blend_forward_into` has just blended with the same arguments and the same workspace.

    Behind the picture is the background that it was composited with; alpha takes no gradient of its own.

    Args:
        projected, channels, tiles: as for `blend_forward_into`.
        blended: what it returned, unchanged.
        grad_channels: [H, W, D] dL/d channels.
        workspace: the one of the forward pass; keeps the result until the next call with it.
        accumulators: density statistics to add to.  Without them none are computed.

    Returns:
        Gradients by means_px, conics, opacities and, as `colors` [N, D], by the channels.  Rows of Gaussians that no
        tile lists are of no meaning.
    """
    height, width, _ = blended.channels.shape
    assert grad_channels.shape == blended.channels.shape
    assert grad_channels.is_contiguous()
    inputs = _inputs(projected, channels)
    params = _forward_params(inputs, tiles, (width, height), workspace.take)
    assert params.out_channels == blended.channels.data_ptr(), "the picture is not the workspace's"
    params.grad_out_channels = grad_channels.data_ptr()
    names = ("means_px", "conics", "opacities", "channels")
    out = tuple(workspace.take(f"blend.grad_{name}", tuple(like.shape)) for name, like in zip(names, inputs))
    statistics = 0
    if accumulators is not None:
        fields = ("gradient_sum", "seen", "most_weight")
        for name in fields:
            tensor = getattr(accumulators, name)
            assert tensor.shape == (len(channels),)
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous()
            setattr(params, name, tensor.data_ptr())
        statistics = native().blend_density_statistics
    _backward(params, out, tiles, statistics, workspace.take)
    return ProjectedGradients(*out)


def count_pairs(projected: Projected, channels: torch.Tensor, tiles: TileLists, width: int, height: int) -> PairCounts:
    """Counts the work of blending a picture, for profiles: slower than the picture itself."""
    workspace = Workspace()
    params = _forward_params(_inputs(projected, channels), tiles, (width, height), workspace.take)
    counts = torch.zeros((tiles.tiles_x * tiles.tiles_y, 2), dtype=torch.int64)
    params.counts = counts.data_ptr()
    native().blend_forward(params)
    evaluated, blended = counts.sum(0).tolist()
    return PairCounts(int(tiles.entries.shape[0]), evaluated, blended)


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
        kept: dict[str, torch.Tensor] = {}

        def take(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return kept.setdefault(name, _fresh(name, shape, dtype))

        inputs = tuple(tensor.contiguous() for tensor in (means_px, conics, opacities, channels))
        params = _forward_params(inputs, tiles, (width, height), take)
        median = None
        if depths is not None and wants_median:
            depths, median = depths.contiguous(), torch.empty((height, width), dtype=torch.float32)
            params.depths, params.median_depth = depths.data_ptr(), median.data_ptr()
            ctx.mark_non_differentiable(median)
        if planes is not None:
            slopes = planes.slopes.contiguous()
            params.slopes, params.slope_channel = slopes.data_ptr(), planes.channel
        native().blend_forward(params)
        ctx.save_for_backward(*inputs, *kept.values())
        ctx.names = tuple(kept)
        ctx.tiles, ctx.statistics = tiles, statistics
        ctx.set_materialize_grads(False)
        return kept["blend.channels"], kept["blend.alpha"], median

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        by_channels, by_alpha = gradients[0], gradients[1]
        if by_channels is None and by_alpha is None:
            return (None,) * 8
        saved, tiles, statistics = ctx.saved_tensors, ctx.tiles, ctx.statistics
        inputs, kept = saved[:4], dict(zip(ctx.names, saved[4:]))
        out_channels = kept["blend.channels"]
        height, width, _ = out_channels.shape
        by_channels = torch.zeros_like(out_channels) if by_channels is None else by_channels.contiguous()
        params = _forward_params(inputs, tiles, (width, height), lambda name, *_: kept[name])
        params.grad_out_channels = by_channels.data_ptr()
        if by_alpha is not None:
            by_alpha = by_alpha.contiguous()
            params.grad_out_alpha = by_alpha.data_ptr()
        out = tuple(torch.zeros_like(tensor) for tensor in inputs)
        count = len(inputs[0])
        if statistics is not None:
            statistics.mean_gradient_px = out[0]
            statistics.mean_gradient_abs_px = torch.zeros_like(inputs[0])
            statistics.weight_sum, statistics.weight_max = torch.zeros(count), torch.zeros(count)
            params.grad_means_abs = statistics.mean_gradient_abs_px.data_ptr()
            params.weight_sum, params.weight_max = statistics.weight_sum.data_ptr(), statistics.weight_max.data_ptr()
        _backward(params, out, tiles, native().blend_statistics if statistics is not None else 0, _fresh)
        return (*out, None, None, None, None)


# What `Workspace.take` is: a name, a shape and a type to an uninitialised tensor.
_Take = Callable[..., torch.Tensor]


def _fresh(_name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _whole_lines(floats: int) -> int:
    return -(-floats // _CACHE_LINE_FLOATS) * _CACHE_LINE_FLOATS


def _inputs(projected: Projected, channels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    inputs = (projected.means_px, projected.conics, projected.opacities, channels)
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in inputs)
    assert len({len(tensor) for tensor in inputs}) == 1
    return inputs


def _forward_params(inputs: tuple[torch.Tensor, ...], tiles: TileLists, size: tuple[int, int], take: _Take) -> Any:
    """Returns the params struct with everything that both passes read; the caller keeps the tensors alive."""
    module = native()
    (width, height), (count, d) = size, inputs[3].shape
    params = module.BlendParams()
    params.count, params.channel_count, params.width, params.height = count, d, width, height
    params.record_stride = _whole_lines(module.blend_record_floats + d)
    params.log2_cutoff = math.log2(tiles.alpha_cutoff)
    for name, tensor in zip(("means_px", "conics", "opacities", "channels"), inputs):
        setattr(params, name, tensor.data_ptr())
    for name in ("offsets", "entries", "pair_starts"):
        setattr(params, name, getattr(tiles, name).data_ptr())
    params.records = take("blend.records", (count, params.record_stride)).data_ptr()
    params.processed = take("blend.processed", (tiles.tiles_x * tiles.tiles_y,), torch.int32).data_ptr()
    params.out_channels = take("blend.channels", (height, width, d)).data_ptr()
    params.out_alpha = take("blend.alpha", (height, width)).data_ptr()
    return params


def _backward(params: Any, out: tuple[torch.Tensor, ...], tiles: TileLists, statistics: int, take: _Take) -> None:
    """Runs the backward pass into `out`: gradients by the four inputs, in rows that a tile lists."""
    module = native()
    for name, tensor in zip(("grad_means_px", "grad_conics", "grad_opacities", "grad_channels"), out):
        setattr(params, name, tensor.data_ptr())
    # Multiples of four floats; the kernel reads up to a pack behind the last pair.
    params.pair_stride = -(-(module.blend_pair_floats + params.channel_count + statistics) // 4) * 4
    floats = tiles.entries.shape[0] * params.pair_stride + _CACHE_LINE_FLOATS
    pair_gradients = take("blend.pair_gradients", (floats,))
    params.pair_gradients = pair_gradients.data_ptr()
    module.blend_backward(params)


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
