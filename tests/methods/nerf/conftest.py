# SPDX-License-Identifier: Apache-2.0
"""Photographs of a ball, and a field that learns it in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recon.methods.nerf.config import FieldConfig, NerfConfig, RateConfig, SpaceConfig
from recon.scene import Frame, Scene, SparsePoints

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def make_ball(tmp_path: Path) -> Callable[..., Scene]:
    """Returns a function that writes 16 photographs of the ball, with masks where asked for."""
    from ball import RADIUS, ball_camera, see_ball
    from PIL import Image

    def make(masked: bool = False, gain: list[float] | None = None, shift: float = 0.0) -> Scene:
        folder, frames, random = tmp_path / "photos", [], np.random.default_rng(0)
        folder.mkdir(exist_ok=True)
        for i in range(16):
            camera = ball_camera(2 * np.pi * i / 16, 1.2 * np.sin(2.4 * i))
            picture, depth = see_ball(camera, sky=not masked)
            path, mask_path = folder / f"{i:02d}.png", None
            picture = picture * (gain[i] if gain else 1.0)
            if masked:
                mask_path = folder / f"{i:02d}.mask.png"
                Image.fromarray(np.where(depth > 0, 255, 0).astype(np.uint8)).save(mask_path)
                picture = np.where(depth[..., None] > 0, picture, random.random(picture.shape))
            Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)).save(path)
            moved = camera.cam_from_world.copy()
            moved[:3, 3] += shift * random.normal(size=3)
            frames.append(Frame(path.name, path, camera.with_pose(moved), mask_path=mask_path))
        points = random.normal(size=(400, 3))
        points *= RADIUS / np.linalg.norm(points, axis=1, keepdims=True)
        count = len(points)
        colors = np.full((count, 3), 128, np.uint8)
        sparse = SparsePoints(points, colors, np.ones(count, np.float32), np.full(count, 3, np.int32))
        return Scene(tuple(frames), sparse)

    return make


@pytest.fixture
def small() -> NerfConfig:
    """A field that trains in seconds."""
    from ball import SIDE

    return NerfConfig(
        steps=300,
        long_side=SIDE,
        samples=16_384,
        held_out_every=8,
        evaluate_every=0,
        masks="alpha",
        field=FieldConfig(levels=4, features=4, log2_entries=12, coarsest=8, finest=64),
        space=SpaceConfig(step=1 / 32, grid=32),
        rates=RateConfig(table=1e-2, network=5e-3, warm_up=10, end_ratio=0.05),
    )
