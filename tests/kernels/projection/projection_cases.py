# SPDX-License-Identifier: Apache-2.0
"""Gaussians, cameras and comparisons that the projection's tests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.cameras import Camera, look_at
from recon.kernels.backend import Backend
from recon.kernels.projection.op import Projected, ProjectionOptions, project, project_forward
from recon.splats import Splats

FIELDS = ("means_px", "conics", "opacities", "colors", "depths")
INPUTS = ("means", "quats", "log_scales", "opacity_logits", "sh")

TOLERANCE = {
    "means_px": (2e-6, 2e-6),
    "conics": (1e-5, 1e-6),
    "opacities": (5e-6, 1e-6),
    "colors": (2e-6, 2e-6),
    "depths": (2e-6, 2e-6),
    "means": (5e-5, 4e-6),
    "quats": (5e-5, 8e-6),
    "log_scales": (5e-5, 8e-6),
    "opacity_logits": (5e-6, 1e-6),
    "sh": (5e-6, 2e-6),
    "cam_from_world": (5e-6, 5e-6),
}
"""Per output, and per input for its gradient: relative, and absolute in units of the field's root mean square.

What float32 may differ by from the reference in float64; torch in float32 differs as much.  Gradients through the
covariance lose digits because the shares of the conic's entries and of its determinant cancel.
"""

CAMERA = Camera(272, 180, 210.0, 230.0, 110.0, 105.0, cam_from_world=look_at([0.3, -4, 1], [0, 0, 0], [0, 0, 1]))
"""The principal point is far off the centre, the focal lengths differ."""


@dataclass(frozen=True)
class Run:
    """One forward and backward: the result, and the gradients by name."""

    projected: Projected
    gradients: dict[str, torch.Tensor]

    def gradient(self, name: str) -> torch.Tensor:
        return self.gradients[name]


def pose_of(camera: Camera, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(camera.cam_from_world, dtype=dtype)


def make_splats(count: int, bases: int = 16, seed: int = 0) -> Splats:
    """Gaussians around the origin, from needles to discs; some behind the camera, some beside the picture."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Splats(
        means=normal(count, 3) * 1.6,
        quats=normal(count, 4) * torch.exp(normal(count, 1)),
        log_scales=normal(count, 3) * 0.8 - 3,
        opacity_logits=normal(count) * 2,
        sh=normal(count, bases, 3) * 0.4,
    )


def inner_splats(count: int, bases: int = 16, seed: int = 0) -> Splats:
    """Gaussians that stay visible, and on the same side of every threshold, under small changes."""
    splats = make_splats(count * 40, bases, seed)
    with torch.no_grad():
        projected = project(splats, pose_of(CAMERA), CAMERA, ProjectionOptions(sh_degree=0), backend="reference")
    size = torch.tensor([CAMERA.width, CAMERA.height])
    inside = ((projected.means_px > 5) & (projected.means_px < size - 5)).all(-1)
    keep = projected.visible.bool() & inside & (projected.opacities > 0.05) & (projected.depths > 1)
    index = keep.nonzero().squeeze(1)[:count]
    assert len(index) == count
    return splats.select(index)


def forward(
    splats: Splats, options: ProjectionOptions | None = None, camera: Camera = CAMERA
) -> dict[str, torch.Tensor]:
    """Projects by the kernel, all outputs by name."""
    options = options or ProjectionOptions(sh_degree=splats.sh_degree)
    projected = project_forward(splats, pose_of(camera), camera, options)
    return {name: getattr(projected, name) for name in (*FIELDS, "visible")}


def weights_of(projected: Projected, seed: int = 5) -> dict[str, torch.Tensor]:
    """Fixed random gradients of a loss by each output, float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(getattr(projected, name).shape, generator=generator, dtype=torch.float64) for name in FIELDS
    }


def run(
    splats: Splats,
    options: ProjectionOptions,
    backend: Backend,
    dtype: torch.dtype = torch.float32,
    camera: Camera = CAMERA,
    outputs: tuple[str, ...] = FIELDS,
) -> Run:
    """Projects and differentiates a random linear loss of `outputs` by everything."""
    inputs = {name: getattr(splats, name).detach().to(dtype).requires_grad_() for name in INPUTS}
    pose = pose_of(camera, dtype).requires_grad_()
    projected = project(Splats(**inputs), pose, camera, options, backend)
    weights = weights_of(projected)
    terms = [(getattr(projected, name) * weights[name].to(dtype)).sum() for name in outputs]
    torch.stack(terms).sum().backward()
    leaves = inputs | {"cam_from_world": pose}
    # Autograd gives none where an input has no part in the loss.
    return Run(
        projected=Projected(*(getattr(projected, name).detach() for name in (*FIELDS, "visible"))),
        gradients={n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in leaves.items()},
    )


def assert_close(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares by the table."""
    relative, absolute = TOLERANCE[name]
    expected = expected.detach().double()
    found = found.detach().double()
    assert found.shape == expected.shape, name
    assert bool(found.isfinite().all()), name
    scale = float(expected.square().mean().sqrt()) if expected.numel() else 0.0
    allowed = relative * expected.abs() + absolute * scale
    excess = (found - expected).abs() - allowed
    worst = int(excess.argmax()) if excess.numel() else 0
    assert bool((excess <= 0).all()), (
        f"{name}: {float(found.flatten()[worst])} is not {float(expected.flatten()[worst])} "
        f"at {worst}, allowed {float(allowed.flatten()[worst])}"
    )
