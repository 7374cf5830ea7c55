# SPDX-License-Identifier: Apache-2.0
"""What the kernels are compared with: plain torch on a small scene, and gsplat where there is an NVIDIA GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from recon.bench.scenes import picture_size, random_scene
from recon.bench.stages import picture_bytes
from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.binning.op import bin_tiles
from recon.kernels.blend.op import blend
from recon.kernels.projection.op import Projected, ProjectionOptions, project
from recon.kernels.ssim.op import photometric_loss
from recon.splats import Splats

_REPEATS = 3
_NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh")


def reference_seconds(gaussians: int, size: tuple[int, int], sh_degree: int) -> dict[str, list[float]]:
    """Returns wall seconds of each stage in plain torch on the processor, by the names of the kernels' stages."""
    scene = random_scene(gaussians, size, sh_degree)
    camera, pose = scene.camera, scene.pose
    options = ProjectionOptions(sh_degree=sh_degree)
    target = picture_bytes(scene)
    samples: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        samples.setdefault(stage, []).append(time.perf_counter() - begun)
        return result

    tiles = None
    for _ in range(_REPEATS):
        leaves = {name: getattr(scene.splats, name).clone().requires_grad_() for name in _NAMES}
        projected = timed("project", lambda: project(Splats(**leaves), pose, camera, options, "reference"))  # noqa: B023
        inputs = [tensor.detach().requires_grad_() for tensor in _blended(projected)]
        means_px, conics, opacities, colors = inputs
        flat = Projected(means_px, conics, opacities, colors, projected.depths.detach(), projected.visible)
        if tiles is None:  # it takes longest, and once is enough
            tiles = timed("bin", lambda: bin_tiles(flat, *size, backend="reference"))  # noqa: B023
        blended = timed("blend forward", lambda: blend(flat, colors, tiles, *size, backend="reference"))  # noqa: B023

        def loss_and_gradient() -> torch.Tensor:
            picture = blended.channels.detach().requires_grad_()  # noqa: B023
            photometric_loss(picture, target, backend="reference").backward()
            assert picture.grad is not None
            return picture.grad

        gradient = timed("loss", loss_and_gradient)
        by_screen = timed("blend backward", lambda: torch.autograd.grad(blended.channels, inputs, gradient))  # noqa: B023
        timed("update", lambda: _update(projected, leaves, by_screen))  # noqa: B023
    return samples


def _blended(projected: Projected) -> list[torch.Tensor]:
    return [projected.means_px, projected.conics, projected.opacities, projected.colors]


def _update(projected: Projected, leaves: dict[str, torch.Tensor], by_screen: tuple[torch.Tensor, ...]) -> None:
    gradients = torch.autograd.grad(_blended(projected), list(leaves.values()), list(by_screen))
    for leaf, gradient in zip(leaves.values(), gradients):
        moments = torch.zeros_like(leaf), torch.zeros_like(leaf)
        adam_step(leaf.data, gradient, *moments, AdamHyper(1e-9, 1), projected.visible, "reference")


def why_no_gsplat() -> str:
    """Returns why gsplat does not run here; empty where it does."""
    if not torch.cuda.is_available():
        return "it renders on NVIDIA GPUs only, and torch sees none"
    try:
        import gsplat  # noqa: F401
    except ImportError as error:
        return f'it does not load ({error}); pip install "recon[gsplat]"'
    return ""


def gsplat_seconds(gaussians: int, size: tuple[int, int] | None, sh_degree: int) -> list[tuple[str, list[float], str]]:
    """Returns stage, wall seconds and scene of rendering alone, and of rendering and its backward pass, on the GPU."""
    from dataclasses import replace

    from recon.rasterization import RasterizeOptions, rasterize

    scene = random_scene(gaussians, size or picture_size(gaussians), sh_degree)
    camera = scene.camera
    leaves = {name: getattr(scene.splats, name).cuda().requires_grad_() for name in _NAMES}
    splats = replace(scene.splats, **leaves)

    def render() -> None:
        with torch.no_grad():
            rasterize(splats, camera, RasterizeOptions(), backend="gsplat")

    def render_and_back() -> None:
        rasterize(splats, camera, RasterizeOptions(), backend="gsplat").output.rgb.sum().backward()

    name = f"{scene.name} · {camera.width}×{camera.height}"
    return [
        (stage, _cuda_seconds(work), name)
        for stage, work in (("render", render), ("render and backward", render_and_back))
    ]


def _cuda_seconds(work: Callable[[], None], repeats: int = 15) -> list[float]:
    samples = []
    for index in range(repeats + 2):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if index >= 2:  # the first ones compile and allocate
            samples.append(time.perf_counter() - begun)
    return samples
