# SPDX-License-Identifier: Apache-2.0
"""Small scenes for the tests of methods."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from recon.cameras import Camera, look_at
from recon.scene import Frame, Scene

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def toy_scene(tmp_path: Path) -> Scene:
    """Ten photographs of 24×16 pixels around the origin; written to disk, without sparse points."""
    import toy
    from PIL import Image

    frames = []
    folder = tmp_path / "scene" / "images"
    folder.mkdir(parents=True)
    for i in range(10):
        path = folder / f"{i:02d}.png"
        Image.fromarray(toy.random_picture(i, 16, 24)).save(path)
        angle = 2 * np.pi * i / 10
        eye = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.0])
        pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
        frames.append(Frame(path.name, path, Camera(24, 16, 24.0, 24.0, 12.0, 8.0, cam_from_world=pose)))
    return Scene(tuple(frames))


@pytest.fixture
def toy_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy method, registered for the length of a test."""
    import toy

    from recon.methods import registry

    monkeypatch.setattr(registry, "_registered", {})
    registry.register(toy.METHOD)
