# SPDX-License-Identifier: Apache-2.0
"""A scene made of Gaussians, so that splats can fit it exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.cameras import Camera, look_at
from recon.metrics.images import to_bytes
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.scene import Frame, Scene, SparsePoints
from recon.splats import SH_C0, Splats

SIDE = 48
SceneMaker = Callable[..., Scene]


def true_splats(count: int = 60) -> Splats:
    """Opaque coloured Gaussians in a ball of radius 1."""
    generator = torch.Generator().manual_seed(11)
    means = torch.randn(count, 3, generator=generator)
    means = means / means.norm(dim=1, keepdim=True).clamp_min(1)
    sh = torch.zeros(count, 1, 3)
    sh[:, 0] = (torch.rand(count, 3, generator=generator) - 0.5) / SH_C0
    return Splats(
        means=means,
        quats=torch.randn(count, 4, generator=generator),
        log_scales=torch.log(0.08 + 0.15 * torch.rand(count, 3, generator=generator)),
        opacity_logits=torch.full((count,), 3.0),
        sh=sh,
    )


@pytest.fixture
def make_scene(tmp_path: Path) -> SceneMaker:
    """Returns a function that renders a scene of `true_splats` to files: 17 views around it and above."""
    from PIL import Image

    def make(gain: list[float] | None = None, shift: float = 0.0, masked: bool = False, points: bool = True) -> Scene:
        splats, folder = true_splats(), tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        renderer = SplatRenderer(splats)
        random, frames = np.random.default_rng(0), []
        for i in range(17):
            angle, height = 2 * np.pi * i / 17, 1.5 * np.sin(2.4 * i)
            eye = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), height])
            pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
            camera = Camera(SIDE, SIDE, 60.0, 60.0, SIDE / 2, SIDE / 2, cam_from_world=pose)
            out = renderer.render(camera, RenderOptions())
            picture = to_bytes(out.rgb * (gain[i] if gain else 1.0))
            path, mask_path = folder / f"{i:03d}.png", None
            if masked:
                alpha = to_bytes(out.alpha[..., None])[..., 0]
                mask_path = folder / f"{i:03d}.mask.png"
                Image.fromarray(np.where(alpha > 127, 255, 0).astype(np.uint8)).save(mask_path)
                picture = np.where(alpha[..., None] > 127, picture, random.integers(0, 255, picture.shape, np.uint8))
            Image.fromarray(picture).save(path)
            moved = pose.copy()
            moved[:3, 3] += shift * random.normal(size=3)
            frames.append(Frame(path.name, path, camera.with_pose(moved), mask_path=mask_path))
        sparse = SparsePoints.empty()
        if points:
            means = splats.means.numpy().astype(np.float64).repeat(4, 0)
            positions = means + 0.05 * random.normal(size=means.shape)
            colors = (splats.base_colors.numpy() * 255).astype(np.uint8).repeat(4, 0)
            count = len(positions)
            sparse = SparsePoints(positions, colors, np.ones(count, np.float32), np.full(count, 3, np.int32))
        return Scene(tuple(frames), sparse)

    return make
