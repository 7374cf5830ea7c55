# SPDX-License-Identifier: Apache-2.0
"""Gaussians in the world to Gaussians in one picture: activations, culling, EWA projection, colours.

Sources: Zwicker et al., "EWA splatting", 2002; Kerbl et al., "3D Gaussian splatting", 2023; Yu et al.,
"Mip-Splatting", 2024 (the antialiased mode).  math.h holds the formulas, reference.py the same in plain torch.

`project` is differentiable; `project_forward` and `project_backward` are its two halves for callers that chain them by
hand; `project_into` is the former for a training step that allocates nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.projection.types import Projected, ProjectedGradients, ProjectionOptions, SplatGradients
from recon.kernels.workspace import Workspace
from recon.splats import Splats

__all__ = [
    "Projected",
    "ProjectedGradients",
    "ProjectionOptions",
    "SplatGradients",
    "empty_gradients",
    "project",
    "project_backward",
    "project_forward",
    "project_into",
]

_STORED = ("means", "quats", "log_scales", "opacity_logits", "sh")
_WIDTHS: dict[str, tuple[int, ...]] = {"means_px": (2,), "conics": (3,), "opacities": (), "colors": (3,), "depths": ()}


def project(
    splats: Splats,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    backend: Backend = "auto",
) -> Projected:
    """Projects Gaussians into one camera.

    Differentiable to the splats' means, quats, log_scales, opacity_logits and sh, and to the top three rows of
    `cam_from_world`, through the positions, the shapes and the view directions.

    Args:
        splats: N Gaussians, float32 (float64 runs the same math in scalar double precision, for tests).
        cam_from_world: [4, 4]; taken instead of the camera's own pose.  Its left 3×3 must be a rotation: the camera's
            centre is computed as -Rᵀ t.
        camera: intrinsics and size; any lens distortion is ignored, so photos are undistorted before.
        options: see there.
        backend: see `recon.kernels.backend`.

    Returns:
        Dense over N; a row with NaN, infinity, a zero quaternion or no visible area is zero with `visible` 0.

    Raises:
        ReconError: a wrong shape or type, or a degree above the stored one.
    """
    _check_degree(splats, options)
    cam_from_world = cam_from_world.to(splats.means.dtype)
    resolved = resolve_backend(backend, splats.device, ("cpu", "cuda", "reference"))
    if resolved == "cuda" and splats.means.dtype == torch.float32:
        from recon.kernels.projection.cuda import project_cuda

        check_tensor("project", "cam_from_world", cam_from_world, (4, 4))
        return project_cuda(splats, cam_from_world, camera, options)
    if resolved != "cpu":
        from recon.kernels.projection.reference import project_reference

        check_tensor("project", "cam_from_world", cam_from_world, (4, 4), splats.means.dtype)
        return project_reference(splats, cam_from_world, camera, options)
    tensors = [getattr(splats, name) for name in _STORED]
    return Projected(*_Project.apply(*tensors, cam_from_world, camera, options))


def project_forward(
    splats: Splats,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    out: Projected | None = None,
) -> Projected:
    """`project` on the CPU without autograd.

    Args:
        splats, cam_from_world, camera, options: as for `project`; contiguous tensors are not copied.
        out: buffers to write to, in the shapes of `Projected`, contiguous; None allocates.
    """
    params, keep = _checked_params(splats, cam_from_world, camera, options)
    count, dtype = len(splats), splats.means.dtype
    if out is None:
        new = splats.means.new_empty
        fields = {name: new((count, *width)) for name, width in _WIDTHS.items()}
        out = Projected(**fields, visible=new((count,), dtype=torch.uint8))
    for name, width in _WIDTHS.items():
        _set_output(params, name, getattr(out, name), (count, *width), dtype)
    _set_output(params, "visible", out.visible, (count,), torch.uint8)
    module = native()
    (module.project_forward if dtype == torch.float32 else module.project_forward_double)(params)
    del keep
    return out


def project_into(
    splats: Splats,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    workspace: Workspace,
) -> Projected:
    """`project` on the CPU without gradients and, in steady state, without allocation.

    Args:
        splats: N Gaussians, float32 contiguous.
        cam_from_world: [4, 4] float32 contiguous.
        camera, options: as for `project`.
        workspace: where the result lives until the next call with it; 41 bytes for each Gaussian.
    """
    assert splats.means.dtype == torch.float32
    assert splats.means.device.type == "cpu"
    params, count = projection_params(splats, cam_from_world, camera, options), len(splats)
    fields = {name: workspace.take(f"projected.{name}", (count, *width)) for name, width in _WIDTHS.items()}
    out = Projected(**fields, visible=workspace.take("projected.visible", (count,), torch.uint8))
    for name in (*_WIDTHS, "visible"):
        setattr(params, name, getattr(out, name).data_ptr())
    native().project_forward(params)
    return out


def project_backward(
    splats: Splats,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    visible: torch.Tensor,
    gradients: ProjectedGradients,
    out: SplatGradients,
    zero_culled: bool = True,
) -> SplatGradients:
    """The vector-Jacobian product of `project_forward`.

    Args:
        splats, cam_from_world, camera, options: what the forward had.
        visible: [N] uint8 from the forward.
        gradients: gradients of the loss by the forward's results.
        out: the buffers to write, contiguous; a field that is None is not computed (`empty_gradients` allocates).
            The pose's is accumulated in double, in an order that does not depend on the number of threads.
        zero_culled: write zeros for culled rows; False may leave those rows of `out` as they are, which saves the
            memory traffic where the optimiser skips them anyway.

    Returns:
        `out`.
    """
    params, keep = _checked_params(splats, cam_from_world, camera, options)
    count, dtype, operation = len(splats), splats.means.dtype, "project_backward"
    flags = check_tensor(operation, "visible", visible, (count,), torch.uint8)
    params.visible = flags.data_ptr()
    widths: dict[str, tuple[int, ...]] = {
        "means_px": (2,),
        "conics": (3,),
        "opacities": (),
        "colors": (3,),
        "depths": (),
    }
    for name, width in widths.items():
        gradient = getattr(gradients, name)
        if gradient is not None:
            gradient = check_tensor(operation, f"gradient of {name}", gradient, (count, *width), dtype)
            keep.append(gradient)
            setattr(params, f"grad_{name}", gradient.data_ptr())
    for name in _STORED:
        if getattr(out, name) is not None:
            _set_output(params, f"grad_{name}", getattr(out, name), tuple(getattr(splats, name).shape), dtype)
    pose = torch.zeros(4, 4, dtype=torch.float64) if out.cam_from_world is not None else None
    if pose is not None:
        params.grad_cam_from_world = pose.data_ptr()
    params.zero_culled = int(zero_culled)
    module = native()
    (module.project_backward if dtype == torch.float32 else module.project_backward_double)(params)
    del keep
    if out.cam_from_world is not None and pose is not None:
        out.cam_from_world.copy_(pose)
    return out


def empty_gradients(splats: Splats, pose: bool = False) -> SplatGradients:
    """Returns uninitialised buffers for `project_backward`, for every field of `splats` and, if asked, the pose."""
    return SplatGradients(
        **{name: torch.empty_like(getattr(splats, name), memory_format=torch.contiguous_format) for name in _STORED},
        cam_from_world=splats.means.new_empty((4, 4)) if pose else None,
    )


class _Project(torch.autograd.Function):
    """Ties the two halves together; everything the backward needs is recomputed there."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[torch.Tensor, ...]:
        *tensors, cam_from_world, camera, options = inputs
        splats = Splats(*tensors)
        projected = project_forward(splats, cam_from_world, camera, options)
        ctx.save_for_backward(*tensors, cam_from_world, projected.visible)
        ctx.camera, ctx.options = camera, options
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(projected.visible)
        return (*(getattr(projected, name) for name in _WIDTHS), projected.visible)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        *tensors, cam_from_world, visible = ctx.saved_tensors
        splats = Splats(*tensors)
        wanted = dict(zip((*_STORED, "cam_from_world"), ctx.needs_input_grad))
        out = empty_gradients(splats, pose=wanted["cam_from_world"])
        if splats.means.dtype == torch.float32:  # the scalar scheduler in double writes all of them
            out = replace(out, **{name: None for name in _STORED if not wanted[name]})
            given = ProjectedGradients(*gradients[:-1])
        else:
            zeros = [splats.means.new_zeros((len(splats), *width)) for width in _WIDTHS.values()]
            given = ProjectedGradients(*(z if g is None else g for g, z in zip(gradients, zeros)))
            out = replace(out, cam_from_world=splats.means.new_empty((4, 4)))
        project_backward(splats, cam_from_world, ctx.camera, ctx.options, visible, given, out)
        results = (getattr(out, name) if wanted[name] else None for name in wanted)
        return (*results, None, None)


def _check_degree(splats: Splats, options: ProjectionOptions) -> None:
    if options.sh_degree > splats.sh_degree:
        raise ReconError(
            "calling project",
            f"sh_degree is {options.sh_degree} and the splats store degree {splats.sh_degree}",
            "at most the stored degree",
        )


def projection_params(splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions) -> Any:
    """Returns the native parameters of a call with its inputs set, for callers that have checked them.

    The tensors must be float32 or float64 and contiguous, and live as long as the parameters.
    """
    module = native()
    params = module.ProjectionParams() if splats.means.dtype == torch.float32 else module.ProjectionParamsDouble()
    for name in _STORED:
        tensor = getattr(splats, name)
        assert tensor.is_contiguous(), f"{name} must be contiguous"
        assert tensor.dtype == splats.means.dtype, f"{name} is {tensor.dtype}"
        setattr(params, name, tensor.data_ptr())
    assert cam_from_world.shape == (4, 4)
    assert cam_from_world.dtype == splats.means.dtype
    assert cam_from_world.is_contiguous()
    assert options.sh_degree <= splats.sh_degree
    params.cam_from_world = cam_from_world.data_ptr()
    params.count, params.sh_bases, params.sh_degree = len(splats), splats.sh.shape[1], options.sh_degree
    params.fx, params.fy, params.cx, params.cy = camera.fx, camera.fy, camera.cx, camera.cy
    params.width, params.height = camera.width, camera.height
    params.near_plane, params.far_plane = options.near, options.far
    params.blur_px2, params.alpha_cutoff = options.blur_px2, options.alpha_cutoff
    params.antialiased = int(options.antialiased)
    return params


def _checked_params(
    splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions
) -> tuple[Any, list[torch.Tensor]]:
    """Returns the parameters of a call with its inputs set, and the tensors that must live as long."""
    _check_degree(splats, options)
    dtype = splats.means.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ReconError("calling project", f"means is {dtype}", "torch.float32")
    shapes = {name: tuple(getattr(splats, name).shape) for name in _STORED}  # which Splats has checked
    means, quats, log_scales, logits, sh = (
        check_tensor("project", name, getattr(splats, name), shape, dtype) for name, shape in shapes.items()
    )
    checked = Splats(means, quats, log_scales, logits, sh)
    pose = check_tensor("project", "cam_from_world", cam_from_world, (4, 4), dtype)
    return projection_params(checked, pose, camera, options), [means, quats, log_scales, logits, sh, pose]


def _set_output(params: Any, name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert tensor.is_contiguous(), f"{name} must be contiguous"
    check_tensor("project", name, tensor, shape, dtype)
    setattr(params, name, tensor.data_ptr())
