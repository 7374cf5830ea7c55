# SPDX-License-Identifier: Apache-2.0
"""The projection and its gradients in float64, with what float32 may make of them.

How much a result may differ is asked of the reference itself: it runs on inputs that are moved by a few roundings, and
what that changes, the kernel may be off by.  So a well-conditioned row has to be right to a few digits less than float
holds, and only rows that hang on a rounding are loose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from kernels.fuzz_scenes import STORED, FuzzScene

from recon.kernels.projection.op import Projected, project
from recon.kernels.projection.reference import LEAST_COMPENSATION2
from recon.kernels.projection.reference import _root_of_covariance as root_of_covariance
from recon.splats import Splats

EPS = 2.0**-23
FIELDS = ("means_px", "conics", "opacities", "colors", "depths")
SMALLEST = 2.0**-149
DRAWS = 5
MOVED_BY = 4.0
"""Roundings by which inputs are moved, at most."""
ALLOWED = 8.0
"""How much more than the largest change that was seen is allowed: few draws do not find the worst direction, which in
ten thousand scenes was up to five times worse."""


@dataclass(frozen=True, eq=False)
class ProjectionBounds:
    """Values and gradients [N, ...] by name, and what each row [N] may be off by; `in_doubt` may be culled."""

    values: dict[str, torch.Tensor]
    allowed: dict[str, torch.Tensor]
    visible: torch.Tensor
    in_doubt: torch.Tensor

    def excess(self, name: str, found: torch.Tensor) -> float:
        """Returns the largest error of the rows that are surely visible, in units of what is allowed."""
        error = _largest(found.double() - self.values[name])
        # Rows that float32 cannot hold, and the reference can, are no fault.
        held = _largest(self.values[name]) < 1e30
        rows = self.visible & ~self.in_doubt & held
        ratio = (error / self.allowed[name])[rows]
        return float(torch.where(ratio.isfinite(), ratio, torch.inf).max()) if len(ratio) else 0.0


def upstream_of(scene: FuzzScene, seed: int) -> dict[str, torch.Tensor]:
    """Returns random gradients of a loss by the projection's results."""
    generator = torch.Generator().manual_seed(seed)
    widths: dict[str, tuple[int, ...]] = {
        "means_px": (2,),
        "conics": (3,),
        "opacities": (),
        "colors": (3,),
        "depths": (),
    }
    return {name: torch.randn((len(scene.splats), *width), generator=generator) for name, width in widths.items()}


def projection_bounds(scene: FuzzScene, upstream: dict[str, torch.Tensor], seed: int) -> ProjectionBounds:
    """Runs the reference in float64 on the scene, and on scenes that are a few roundings away."""
    generator = torch.Generator().manual_seed(seed)
    splats = Splats(*(getattr(scene.splats, name).double() for name in STORED))
    given = {name: gradient.double() for name, gradient in upstream.items()}
    projected, values = _run(scene, splats, scene.pose.double(), given)
    spread = {name: torch.zeros(len(splats), dtype=torch.float64) for name in values}
    in_doubt = torch.zeros(len(splats), dtype=torch.bool)
    for _ in range(DRAWS):
        moved = _moved(splats, scene, generator)
        pulled = {name: g * (1 + MOVED_BY * EPS * _noise(g, generator)) for name, g in given.items()}
        other, others = _run(scene, moved, _moved_pose(scene, generator), pulled)
        in_doubt |= other.visible != projected.visible
        for name, value in values.items():
            change = _largest(others[name] - value)
            spread[name] = torch.maximum(spread[name], torch.nan_to_num(change, torch.inf))
    allowed = {name: ALLOWED * spread[name] + 8 * EPS * _largest(value) + 1e-37 for name, value in values.items()}
    by_quats, by_log_scales = _shape_gradient_shares(scene, splats, values, given)
    allowed["gradient of quats"] += 8 * EPS * by_quats
    allowed["gradient of log_scales"] += 8 * EPS * by_log_scales
    # The reference takes sigmoid (1 - sigmoid), which double precision rounds to 0 first.
    allowed["gradient of opacity_logits"] += 1e-15 * given["opacities"].abs()
    return ProjectionBounds(values, allowed, projected.visible.bool(), in_doubt)


def _shape_gradient_shares(
    scene: FuzzScene, splats: Splats, values: dict[str, torch.Tensor], given: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sizes [N] of what the gradients of quaternions and log scales are the sum of.

    The shares of the conic's entries and of its determinant cancel, the more so the larger the Gaussian is; notation
    as in `recon/kernels/projection/math.h`.
    """
    pose, blur = scene.pose.double(), scene.options.blur_px2
    points = splats.means @ pose[:3, :3].T + pose[:3, 3]
    root = root_of_covariance(splats, pose[:3, :3], points, scene.camera)
    b0, b1 = root.norm(dim=-1).unbind(-1)
    of_unit_size = replace(splats, log_scales=torch.zeros_like(splats.log_scales))
    w0, w1 = root_of_covariance(of_unit_size, pose[:3, :3], points, scene.camera).norm(dim=-1).unbind(-1)
    normal = torch.linalg.cross(root[:, 0], root[:, 1]).norm(dim=-1)
    inverse = 1 / (normal**2 + blur * (b0**2 + b1**2 + blur))
    by_xx, by_xy, by_yy = (given["conics"].abs() * inverse[:, None]).unbind(-1)
    # Of a Gaussian millions of pixels wide this falls below the normal numbers, where float32 holds a few bits.
    by_determinant = inverse * (given["conics"] * values["conics"]).abs().sum(-1) + SMALLEST / EPS
    by_sharp = by_determinant
    if scene.options.antialiased:
        factor = (normal**2 * inverse).clamp_min(LEAST_COMPENSATION2).sqrt()
        share = 0.5 * given["opacities"].abs() * splats.opacities / factor * inverse
        by_determinant, by_sharp = by_determinant + share, by_determinant + 2 * share
    by_b0 = 2 * (by_yy + blur * by_determinant) * b0 + (by_xy + 2 * by_sharp * normal) * b1
    by_b1 = 2 * (by_xx + blur * by_determinant) * b1 + (by_xy + 2 * by_sharp * normal) * b0
    largest_scale, norm = splats.scales.amax(1), splats.quats.norm(dim=1)
    by_quats = 4 * (by_b0 * w0 + by_b1 * w1) * largest_scale / norm
    return torch.nan_to_num(by_quats), torch.nan_to_num(by_b0 * b0 + by_b1 * b1)


def _largest(values: torch.Tensor) -> torch.Tensor:
    """Returns the largest magnitude of each row."""
    return values.abs().reshape(len(values), -1).amax(1)


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return 2 * torch.rand(like.shape, generator=generator, dtype=torch.float64) - 1


def _moved_pose(scene: FuzzScene, generator: torch.Generator) -> torch.Tensor:
    pose = scene.pose.double()
    top = pose[:3] * (1 + MOVED_BY * EPS * _noise(pose[:3], generator))
    return torch.cat([top, pose[3:]])


def _moved(splats: Splats, scene: FuzzScene, generator: torch.Generator) -> Splats:
    """Moves each input by what float32 arithmetic makes of it at once; centres are rounded where t is added."""
    step = MOVED_BY * EPS
    reach = splats.means.abs().amax(1, keepdim=True) + scene.pose[:3, 3].abs().max()
    return replace(
        splats,
        means=splats.means + step * reach * _noise(splats.means, generator),
        quats=splats.quats + step * splats.quats.abs().amax(1, keepdim=True) * _noise(splats.quats, generator),
        log_scales=splats.log_scales + step * (1 + splats.log_scales.abs()) * _noise(splats.log_scales, generator),
        opacity_logits=splats.opacity_logits
        + step * (1 + splats.opacity_logits.abs()) * _noise(splats.opacity_logits, generator),
        sh=splats.sh + step * splats.sh.abs().amax((1, 2), keepdim=True) * _noise(splats.sh, generator),
    )


def _run(
    scene: FuzzScene, splats: Splats, pose: torch.Tensor, upstream: dict[str, torch.Tensor]
) -> tuple[Projected, dict[str, torch.Tensor]]:
    """Returns the projection, and all values and gradients by name."""
    leaves = {name: getattr(splats, name).detach().clone().requires_grad_() for name in STORED}
    projected = project(Splats(**leaves), pose, scene.camera, scene.options, backend="reference")
    terms = [(getattr(projected, name) * upstream[name]).sum() for name in FIELDS]
    gradients = torch.autograd.grad(torch.stack(terms).sum(), list(leaves.values()), allow_unused=True)
    values = {name: getattr(projected, name).detach() for name in FIELDS}
    for name, gradient in zip(STORED, gradients):
        values[f"gradient of {name}"] = torch.zeros_like(leaves[name]) if gradient is None else gradient
    return projected, values
