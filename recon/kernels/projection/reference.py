# SPDX-License-Identifier: Apache-2.0
"""The projection in plain torch: obvious, differentiable, in float32 or float64, on any device.

Notation (Zwicker et al., "EWA splatting", 2002; Kerbl et al. 2023): p = R m + t, covariance in the world
Σ = Q S² Qᵀ, J the derivative of the pixel by p, covariance in the picture J R Σ Rᵀ Jᵀ + blur I.
"""

from __future__ import annotations

import torch

from recon.cameras import Camera
from recon.kernels.projection.spherical_harmonics import evaluate_sh
from recon.kernels.projection.types import Projected, ProjectionOptions
from recon.splats import Splats

# The limits of math.h and view.h; there it says what they are for.
LEAST_QUAT_NORM2, MOST_QUAT_NORM2 = 1e-30, 1e30
MOST_VARIANCE, LEAST_DETERMINANT, MOST_COLOR = 1e15, 1e-12, 1e30
LEAST_COMPENSATION2 = 2.5e-5
CLAMP_BEYOND = 0.3


def project_reference(
    splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions
) -> Projected:
    """See `recon.kernels.projection.op.project`.

    A first pass without gradients finds what is visible; only those rows are projected again with gradients, so that
    nothing from a broken row reaches any gradient.
    """
    with torch.no_grad():
        visible = _project_rows(splats, cam_from_world, camera, options).visible.bool()
    index = visible.nonzero().squeeze(1)
    rows = _project_rows(splats.select(index), cam_from_world, camera, options)

    def spread(values: torch.Tensor) -> torch.Tensor:
        zeros = values.new_zeros((len(splats), *values.shape[1:]))
        return zeros.index_copy(0, index, values)

    return Projected(
        means_px=spread(rows.means_px),
        conics=spread(rows.conics),
        opacities=spread(rows.opacities),
        colors=spread(rows.colors),
        depths=spread(rows.depths),
        visible=visible.to(torch.uint8),
    )


def rotation_matrices(quats: torch.Tensor) -> torch.Tensor:
    """Returns rotations [N, 3, 3] of unit quaternions [N, 4] wxyz."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def _root_of_covariance(
    splats: Splats, rotation: torch.Tensor, points_in_cam: torch.Tensor, camera: Camera
) -> torch.Tensor:
    """Returns B = J R Q S, [N, 2, 3]; the covariance in the picture, before the blur, is B Bᵀ."""
    x, y, z = points_in_cam.unbind(-1)
    beyond_x = CLAMP_BEYOND * 0.5 * camera.width / camera.fx
    beyond_y = CLAMP_BEYOND * 0.5 * camera.height / camera.fy
    u = (x / z).clamp(-camera.cx / camera.fx - beyond_x, (camera.width - camera.cx) / camera.fx + beyond_x)
    v = (y / z).clamp(-camera.cy / camera.fy - beyond_y, (camera.height - camera.cy) / camera.fy + beyond_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / z, zero, -camera.fx * u / z], -1),
            torch.stack([zero, camera.fy / z, -camera.fy * v / z], -1),
        ],
        -2,
    )
    axes = rotation_matrices(splats.quats / splats.quats.norm(dim=-1, keepdim=True))
    return jacobian @ rotation @ (axes * splats.scales.unsqueeze(-2))


def _project_rows(
    splats: Splats, cam_from_world: torch.Tensor, camera: Camera, options: ProjectionOptions
) -> Projected:
    """Projects every row; rows that are not visible hold anything."""
    rotation, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
    points_in_cam = splats.means @ rotation.T + translation
    x, y, z = points_in_cam.unbind(-1)
    means_px = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], -1)

    root = _root_of_covariance(splats, rotation, points_in_cam, camera)
    sharp = torch.linalg.cross(root[:, 0], root[:, 1]).square().sum(-1)
    xx = root[:, 0].square().sum(-1)
    yy = root[:, 1].square().sum(-1)
    xy = (root[:, 0] * root[:, 1]).sum(-1)
    blur = options.blur_px2
    # det(B Bᵀ + blur I), with det(B Bᵀ) = |b0 × b1|² by Cauchy-Binet.
    determinant = sharp + blur * (xx + yy + blur)
    conics = torch.stack([yy + blur, -xy, xx + blur], -1) / determinant.unsqueeze(-1)
    opacities = splats.opacities
    if options.antialiased:
        opacities = opacities * (sharp / determinant).clamp_min(LEAST_COMPENSATION2).sqrt()

    center_in_world = -rotation.T @ translation
    directions = torch.nn.functional.normalize(splats.means - center_in_world, dim=-1, eps=0.0)
    raw_colors = 0.5 + evaluate_sh(splats.sh, directions, options.sh_degree)

    stored = (splats.means, splats.quats, splats.log_scales, splats.opacity_logits.unsqueeze(-1))
    norm2 = splats.quats.square().sum(-1)
    reach = 2 * (opacities / options.alpha_cutoff).log()
    reach_x, reach_y = (reach * (xx + blur)).sqrt(), (reach * (yy + blur)).sqrt()
    visible = (
        torch.stack([values.isfinite().all(-1) for values in stored]).all(0)
        & ((z > options.near) & (z < options.far))
        & ((norm2 > LEAST_QUAT_NORM2) & (norm2 < MOST_QUAT_NORM2))
        & ((xx + blur < MOST_VARIANCE) & (yy + blur < MOST_VARIANCE) & (determinant > LEAST_DETERMINANT))
        & (opacities > options.alpha_cutoff)
        & ((means_px[:, 0] + reach_x > 0) & (means_px[:, 0] - reach_x < camera.width))
        & ((means_px[:, 1] + reach_y > 0) & (means_px[:, 1] - reach_y < camera.height))
        & (raw_colors.abs() < MOST_COLOR).all(-1)
    )
    return Projected(means_px, conics, opacities, raw_colors.clamp_min(0), z, visible.to(torch.uint8))
