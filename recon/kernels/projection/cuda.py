# SPDX-License-Identifier: Apache-2.0
"""The projection on CUDA."""

from __future__ import annotations

from typing import Any

import torch

from recon.cameras import Camera
from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.projection.types import Projected, ProjectedGradients, ProjectionOptions, SplatGradients
from recon.kernels.workspace import Workspace
from recon.splats import Splats

_STORED = ("means", "quats", "log_scales", "opacity_logits", "sh")
_WIDTHS: dict[str, tuple[int, ...]] = {"means_px": (2,), "conics": (3,), "opacities": (), "colors": (3,), "depths": ()}
_POSE_SUMS = 15
_BACKWARD_THREADS = 128


def fill_projection(
    params: Any, splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions
) -> None:
    """Sets the inputs of a `ProjectionParams`; the tensors are float32, contiguous and on one device."""
    for name in _STORED:
        tensor = getattr(splats, name)
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
        assign(params, **{name: tensor.detach()})
    assert cam_from_world.device == splats.device, "the pose is elsewhere than the splats"
    fill_view(params, cam_from_world, camera)
    assign(
        params,
        count=len(splats),
        sh_bases=splats.sh.shape[1],
        sh_degree=options.sh_degree,
        near_plane=options.near,
        far_plane=options.far,
        blur_px2=options.blur_px2,
        alpha_cutoff=options.alpha_cutoff,
        antialiased=int(options.antialiased),
    )


def fill_view(params: Any, cam_from_world: torch.Tensor, camera: Camera) -> None:
    """Sets the pose and the camera of a `ProjectionParams`."""
    assert cam_from_world.shape == (4, 4)
    assert cam_from_world.dtype == torch.float32
    assign(
        params, cam_from_world=cam_from_world.detach(), fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy,
        width=camera.width, height=camera.height,
    )  # fmt: skip


def project_into_cuda(
    splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions, workspace: Workspace
) -> Projected:
    """As `recon.kernels.projection.op.project_into`, on CUDA; nothing waits for the GPU."""
    count = len(splats)
    fields = {name: workspace.take(f"projected.{name}", (count, *width)) for name, width in _WIDTHS.items()}
    out = Projected(**fields, visible=workspace.take("projected.visible", (count,), torch.uint8))
    params = params_of("ProjectionLaunch")
    fill_projection(params.projection, splats, cam_from_world, camera, options)
    assign(params.projection, **{name: getattr(out, name) for name in (*_WIDTHS, "visible")})
    program_for(splats.device).launch("project_forward", count, params)
    return out


def project_backward_cuda(
    splats: Splats,
    cam_from_world: torch.Tensor,
    camera: Camera,
    options: ProjectionOptions,
    projected: Projected,
    gradients: ProjectedGradients,
    out: SplatGradients,
) -> SplatGradients:
    """The vector-Jacobian product of `project_into_cuda`; fields of `out` that are None are not computed."""
    program, count = program_for(splats.device), len(splats)
    params = params_of("ProjectionLaunch")
    inner = params.projection
    fill_projection(inner, splats, cam_from_world, camera, options)
    assign(inner, visible=projected.visible, colors=projected.colors, zero_culled=1)
    keep = {name: getattr(gradients, name) for name in _WIDTHS if getattr(gradients, name) is not None}
    keep = {name: tensor.contiguous() for name, tensor in keep.items()}
    assign(inner, **{f"grad_{name}": tensor for name, tensor in keep.items()})
    assign(inner, **{f"grad_{name}": getattr(out, name) for name in _STORED})
    pose = None
    if out.cam_from_world is not None:
        pose = start_pose(params, inner, count, workspace := Workspace(splats.device))
    program.launch("project_backward", count, params)
    if pose is not None and out.cam_from_world is not None:
        out.cam_from_world.copy_(finish_pose(params, pose))
        del workspace
    return out


def start_pose(params: Any, projection: Any, count: int, workspace: Workspace) -> torch.Tensor:
    """Lets a kernel sum the pose's gradient; returns where it comes to stand, [4, 4] float64 of the workspace."""
    pose = workspace.take("pose gradient", (4, 4), torch.float64)
    partial = workspace.take("pose sums", (max(-(-count // _BACKWARD_THREADS), 1), _POSE_SUMS), torch.float64)
    program = program_for(pose.device)
    program.clear(pose)
    program.clear(partial)
    assign(params, pose_partial=partial)
    assign(projection, grad_cam_from_world=pose)
    return pose


def finish_pose(params: Any, pose: torch.Tensor) -> torch.Tensor:
    """Returns the pose's gradient [4, 4] float64 after the kernel of `start_pose` was queued."""
    projection = params.projection if hasattr(params, "projection") else params.update.projection
    launch = params_of("ProjectionLaunch", pose_partial=params.pose_partial)
    launch.projection = projection
    launch.pose_blocks = -(-projection.count // _BACKWARD_THREADS)
    program_for(pose.device).launch_blocks("finish_pose_gradient", 1, launch)
    return pose


def project_cuda(splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions) -> Projected:
    """As `recon.kernels.projection.op.project`; differentiable."""
    tensors = [getattr(splats, name).contiguous() for name in _STORED]
    return Projected(*_Project.apply(*tensors, cam_from_world.contiguous(), camera, options))


class _Project(torch.autograd.Function):
    """Ties the two halves together; what the backward needs besides colours is recomputed there."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[torch.Tensor, ...]:
        *tensors, cam_from_world, camera, options = inputs
        projected = project_into_cuda(Splats(*tensors), cam_from_world, camera, options, Workspace(tensors[0].device))
        ctx.save_for_backward(*tensors, cam_from_world, projected.visible, projected.colors)
        ctx.camera, ctx.options = camera, options
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(projected.visible)
        return (*(getattr(projected, name) for name in _WIDTHS), projected.visible)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        *tensors, cam_from_world, visible, colors = ctx.saved_tensors
        splats = Splats(*tensors)
        wanted = dict(zip((*_STORED, "cam_from_world"), ctx.needs_input_grad))
        buffers = {name: torch.empty_like(getattr(splats, name)) if wanted[name] else None for name in _STORED}
        pose = cam_from_world.new_empty((4, 4)) if wanted["cam_from_world"] else None
        out = SplatGradients(**buffers, cam_from_world=pose)
        nothing = torch.empty(0, device=visible.device)
        projected = Projected(nothing, nothing, nothing, colors, nothing, visible)
        given = ProjectedGradients(*gradients[:-1])
        project_backward_cuda(splats, cam_from_world, ctx.camera, ctx.options, projected, given, out)
        return (*(getattr(out, name) for name in wanted), None, None)
