# SPDX-License-Identifier: Apache-2.0
"""Scenes that several tests need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from recon.cameras import Camera, look_at
from recon.scene import Frame, Scene, SparsePoints
from recon.scene_io import save_scene


def small_scene(folder: Path) -> Path:
    """Writes a scene folder of three pictures of noise and some points below `folder`; returns its path."""
    generator = np.random.default_rng(0)
    frames = []
    (folder / "photos").mkdir(parents=True)
    for index in range(3):
        path = folder / "photos" / f"{index}.png"
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
        eye = np.array([np.cos(index), np.sin(index), 0.5]) * 3
        pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
        frames.append(Frame(path.name, path, Camera(32, 32, 30.0, 30.0, 16.0, 16.0, cam_from_world=pose), 1))
    points = SparsePoints(
        generator.normal(size=(200, 3)) * 0.5,
        generator.integers(0, 255, (200, 3), np.uint8),
        np.ones(200, np.float32),
        np.full(200, 3, np.int32),
    )
    save_scene(Scene(tuple(frames), points), folder / "scene")
    return folder / "scene"
