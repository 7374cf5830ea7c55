# SPDX-License-Identifier: Apache-2.0
"""Volume compositing along rays: colour, opacity, depth and distortion, forward and backward; truncation behind the
surface; accumulation portion by portion.

    optical depth  τ_i = exp(clamp(raw density_i + shift, ±15)) · length_i · length_scale
    transmittance  T_1 = 1,  T_{i+1} = T_i e^{−τ_i}
    weight         w_i = T_i (1 − e^{−τ_i}) = T_i − T_{i+1}
    colour         Σ_i w_i sigmoid(raw colour_i), premultiplied, no background

Source: Max, "Optical models for direct volume rendering", 1995; Mildenhall et al., "NeRF", 2020, eq. 3; the distortion
is that of Barron et al., "Mip-NeRF 360", 2022, eq. 15.

A number that is not one makes the results of its ray so if light reaches it (a transmittance of 1e-20 counts as none),
and those of no other ray.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.composite.cuda import RAY_THREADS, compact_rows_cuda, truncate_rays_cuda
from recon.kernels.composite.reference import composite_reference
from recon.kernels.composite.types import Composited, CompositeGradients, CompositeOptions, RayState, Saved
from recon.kernels.cuda.program import params_of, program_for
from recon.kernels.native import native
from recon.kernels.workspace import Workspace

if TYPE_CHECKING:
    from recon.kernels.ray_march.types import RaySamples

__all__ = [
    "Composited", "CompositeGradients", "CompositeOptions", "RayState", "accumulate_into", "composite",
    "composite_backward_into", "composite_into", "truncate_into",
]  # fmt: skip

_BACKENDS = ("cpu", "cuda", "reference")
_KERNELS = ("cpu", "cuda")


def composite(
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    channels: int = 3,
    options: CompositeOptions | None = None,
    backend: Backend = "auto",
) -> Composited:
    """Returns what the rays see, differentiable to both raw arrays.

    Args:
        raw_density: [S, W] float32; column 0 is used.
        raw_color: [S, V] float32; columns 0 .. channels − 1 are used.
        samples: of R rays, one ray after another, near to far.
        channels: D, 1 to V.
        options: None for the defaults.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: shapes or types differ.
    """
    operation, options = "composite", options or CompositeOptions()
    dtype, count = raw_density.dtype, len(samples.distances)
    raw_density = check_tensor(operation, "raw_density", raw_density, (count, None), dtype)
    raw_color = check_tensor(operation, "raw_color", raw_color, (count, None), dtype)
    if raw_density.shape[1] == 0 or not 1 <= channels <= raw_color.shape[1]:
        raise ReconError(
            f"calling {operation}",
            f"{channels} channels of {raw_color.shape[1]} columns, a density of {raw_density.shape[1]} columns",
            "1 to as many channels as there are columns, and at least one column of density",
        )
    resolved = resolve_backend(backend, raw_density.device, _BACKENDS)
    if resolved == "reference":
        return composite_reference(raw_density, raw_color, samples, channels, options)
    check_tensor(operation, "raw_density", raw_density, (None, None))
    for name in ("distances", "lengths"):
        check_tensor(operation, name, getattr(samples, name), (count,))
    results = _Composite.apply(raw_density, raw_color, samples, channels, options, resolved)
    return Composited(*results)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        raw_density: torch.Tensor,
        raw_color: torch.Tensor,
        samples: RaySamples,
        channels: int,
        options: CompositeOptions,
        backend: Backend,
    ) -> tuple[torch.Tensor, ...]:
        workspace = Workspace(raw_density.device)
        found = composite_into(raw_density, raw_color, samples, channels, options, workspace, backend=backend)
        ctx.given = (found, samples, options, workspace, backend, raw_density.shape)
        ctx.mark_non_differentiable(found.median_distance, found.weights)
        return found.color, found.alpha, found.depth, found.median_distance, found.distortion, found.weights

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found, samples, options, workspace, backend, shape = ctx.given
        color, alpha, depth, _, distortion, _ = (gradient.contiguous() for gradient in upstream)
        by_density = color.new_zeros(shape)
        gradients = CompositeGradients(color, alpha, depth, distortion)
        by_color = composite_backward_into(found, gradients, samples, options, by_density, workspace, backend=backend)
        return by_density, by_color, None, None, None, None


def composite_into(
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    channels: int,
    options: CompositeOptions,
    workspace: Workspace,
    name: str = "composite",
    backend: Backend = "auto",
) -> Composited:
    """Returns what `composite` does, in the workspace under names that begin with `name`, without autograd.

    Rows of the raw arrays may lie further apart than they are wide.
    """
    resolved = resolve_backend(backend, raw_density.device, _KERNELS)
    rays, count = len(samples.offsets) - 1, len(samples.distances)
    ray_fields = {field: workspace.take(f"{name} {field}", (rays,)) for field in _RAY_FIELDS}
    fields = {field: workspace.take(f"{name} {field}", (count,)) for field in _SAMPLE_FIELDS}
    color = workspace.take(f"{name} color", (rays, channels))
    values = workspace.take(f"{name} values", (count, channels + 1))
    params = _params("CompositeParams", resolved, color=color, values=values, **ray_fields, **fields)
    _set_colors(params, raw_color, count, channels)
    _set_samples(params, raw_density, samples, options)
    _start(resolved, "composite_forward", params, rays, color.device)
    weights = fields.pop("weights")
    saved = Saved(values=values, color_width=raw_color.shape[1], **fields)
    return Composited(color=color, weights=weights, saved=saved, **ray_fields)


_RAY_FIELDS = ("alpha", "depth", "median_distance", "distortion")
_SAMPLE_FIELDS = ("weights", "behind", "opacity", "slope", "crowding")


def composite_backward_into(
    composited: Composited,
    gradients: CompositeGradients,
    samples: RaySamples,
    options: CompositeOptions,
    density_gradient: torch.Tensor,
    workspace: Workspace,
    name: str = "composite",
    backend: Backend = "auto",
) -> torch.Tensor:
    """Returns the gradient [S, V] to the raw colours, with zeros in unused columns; in the workspace.

    Args:
        composited: of `composite_into`; what it saved must still stand in its workspace.
        gradients: to what it holds, contiguous.
        samples, options: as they were given there.
        density_gradient: [S, W]; the gradient to the raw density is added to its column 0.
        workspace, name: hold the result.
        backend: see `recon.kernels.backend`.
    """
    saved, (rays, channels), count = composited.saved, composited.color.shape, len(samples.distances)
    assert saved is not None, "this was composited without a workspace"
    resolved = resolve_backend(backend, density_gradient.device, _KERNELS)
    by_raw_color = workspace.take(f"{name} color gradient", (count, saved.color_width))
    _check_rows(density_gradient, count)
    assert gradients.color.shape == (rays, channels), gradients.color.shape
    for gradient in (gradients.alpha, gradients.depth, gradients.distortion):
        assert gradient is None or gradient.shape == (rays,), gradient.shape
    params = _params(
        "CompositeBackwardParams", resolved, values=saved.values, weights=composited.weights, behind=saved.behind,
        opacity=saved.opacity, slope=saved.slope, crowding=saved.crowding, by_color=gradients.color,
        by_alpha=gradients.alpha, by_depth=gradients.depth, by_distortion=gradients.distortion,
        by_raw_color=by_raw_color,
    )  # fmt: skip
    params.channels, params.color_stride, params.near_scale = channels, saved.color_width, options.near_scale
    params.by_raw_density, params.by_density_stride = density_gradient.data_ptr(), density_gradient.stride(0)
    _set_samples(params, None, samples, options)
    _start(resolved, "composite_backward", params, rays, density_gradient.device)
    return by_raw_color


def truncate_into(
    raw_density: torch.Tensor,
    samples: RaySamples,
    min_transmittance: float,
    arrays: list[torch.Tensor],
    options: CompositeOptions,
    workspace: Workspace,
    transmittance: torch.Tensor | None = None,
    name: str = "truncated",
    backend: Backend = "auto",
) -> tuple[RaySamples, list[torch.Tensor]]:
    """Returns the samples that some light reaches, and their rows of other arrays; in the workspace.

    A sample is kept as long as the transmittance in front of it is at least `min_transmittance`.  Where nothing is
    dropped, the very arguments are returned.

    Args:
        raw_density: [S, W] float32; column 0 is used.
        samples: of R rays.
        min_transmittance: 0 to 1.
        arrays: each [S, any], of numbers of 4 bytes, contiguous; at most 12.
        options: see there.
        workspace: holds the results under names that begin with `name`.
        transmittance: [R] in front of each ray's first sample; None for 1.
        name: see `workspace`.
        backend: see `recon.kernels.backend`.
    """
    resolved = resolve_backend(backend, raw_density.device, _KERNELS)
    rays, count = len(samples.offsets) - 1, len(samples.distances)
    offsets = workspace.take(f"{name} offsets", (rays + 1,), torch.int32)
    params = _params("TruncateParams", resolved, transmittance=transmittance, kept_offsets=offsets)
    params.min_transmittance = min_transmittance
    _set_samples(params, raw_density, samples, options)
    if resolved == "cuda":
        kept = truncate_rays_cuda(params, offsets)
    else:
        kept = native().truncate_rays(params)
    if kept == count:
        return samples, arrays
    own = [samples.positions, samples.distances, samples.lengths, samples.ray_of]
    positions, distances, lengths, ray_of, *moved = _compact(
        resolved, [*own, *arrays], (samples.offsets, offsets), workspace, name
    )
    truncated = replace(
        samples, positions=positions, distances=distances, lengths=lengths, ray_of=ray_of, offsets=offsets
    )
    return truncated, moved


def _compact(
    backend: str,
    arrays: list[torch.Tensor],
    offsets: tuple[torch.Tensor, torch.Tensor],
    workspace: Workspace,
    name: str,
) -> list[torch.Tensor]:
    """Returns the kept rows of arrays, in the workspace; `offsets` are those of all samples and of the kept ones."""
    before, after = offsets
    kept, moved = int(after[-1]), []
    for index, array in enumerate(arrays):
        assert array.is_contiguous()
        assert array.element_size() == 4
        moved.append(workspace.take(f"{name} rows {index}", (kept, *array.shape[1:]), array.dtype))
    if backend == "cuda":
        compact_rows_cuda(arrays, moved, before, after)
        return moved
    params = _params("CompactParams", backend, offsets=before, kept_offsets=after)
    params.rays = len(before) - 1
    for array, to in zip(arrays, moved):
        params.add(array.data_ptr(), to.data_ptr(), math.prod(array.shape[1:]))
    native().compact_rows(params)
    return moved


def accumulate_into(
    state: RayState,
    raw_density: torch.Tensor,
    raw_color: torch.Tensor,
    samples: RaySamples,
    rays: torch.Tensor,
    options: CompositeOptions,
    workspace: Workspace,
    min_transmittance: float = 1e-3,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Adds the next portion of some rays' samples to `state`, in place, and returns which of them go on.

    Args:
        state: of all rays of a picture; each ray continues with the transmittance 1 − alpha.
        raw_density, raw_color: of the portion's samples, [S, W] and [S, V ≥ D].
        samples: the portion, of r rays.
        rays: [r] int32, where these rays stand in `state`, each at most once.
        options: see there.
        workspace: holds scratch memory.
        min_transmittance: a ray with less left is dead; so is one whose march left the space (`samples.ends` infinite).
        backend: see `recon.kernels.backend`.

    Returns:
        [A] int64, ascending: positions in the portion (0 to r − 1) of the rays that are still alive.
    """
    resolved = resolve_backend(backend, raw_density.device, _KERNELS)
    count, channels = len(samples.distances), state.color.shape[1]
    assert (len(rays), rays.dtype) == (len(samples.offsets) - 1, torch.int32)
    alive = workspace.take("accumulated alive", (len(rays),), torch.bool)
    values = workspace.take("accumulated values", (count, channels + 1))
    params = _params(
        "CompositeParams", resolved, color=state.color, alpha=state.alpha, depth=state.depth,
        median_distance=state.median_distance, values=values, rows=rays, ends=samples.ends, alive=alive,
    )  # fmt: skip
    params.min_transmittance = min_transmittance
    _set_colors(params, raw_color, count, channels)
    _set_samples(params, raw_density, samples, options)
    _start(resolved, "composite_forward", params, len(rays), raw_density.device)
    return alive.nonzero()[:, 0]


def _params(struct: str, backend: str, **tensors: torch.Tensor | None) -> Any:
    """Returns a struct of parameters that points to contiguous tensors; what is None stays a null pointer."""
    params = getattr(native(), struct)() if backend == "cpu" else params_of(struct)
    for name, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), f"{name} is not contiguous"
            setattr(params, name, tensor.data_ptr())
    return params


def _check_rows(rows: torch.Tensor, count: int) -> None:
    assert rows.ndim == 2, rows.shape
    assert (len(rows), rows.dtype) == (count, torch.float32), (rows.shape, rows.dtype)
    assert rows.stride(1) == 1 or rows.shape[1] == 1, "the numbers of a row lie apart"


def _set_colors(params: Any, raw_color: torch.Tensor, count: int, channels: int) -> None:
    _check_rows(raw_color, count)
    assert 1 <= channels <= raw_color.shape[1]
    params.raw_color, params.color_stride = raw_color.data_ptr(), raw_color.stride(0)
    params.channels = channels


def _set_samples(params: Any, raw_density: torch.Tensor | None, samples: RaySamples, options: CompositeOptions) -> None:
    offsets, count = samples.offsets, len(samples.distances)
    for tensor, dtype in ((offsets, torch.int32), (samples.distances, torch.float32), (samples.lengths, torch.float32)):
        assert tensor.is_contiguous()
        assert tensor.dtype == dtype
    into = params.samples
    if raw_density is not None:
        _check_rows(raw_density, count)
        into.raw_density, into.density_stride = raw_density.data_ptr(), raw_density.stride(0)
    into.offsets, into.rays = offsets.data_ptr(), len(offsets) - 1
    into.distances, into.lengths = samples.distances.data_ptr(), samples.lengths.data_ptr()
    into.density_shift, into.length_scale = options.density_shift, options.length_scale


def _start(backend: str, kernel: str, params: Any, rays: int, device: torch.device) -> None:
    """Runs a kernel of all rays."""
    if backend == "cpu":
        getattr(native(), kernel)(params)
    else:
        program_for(device).launch(kernel, RAY_THREADS * rays, params)
