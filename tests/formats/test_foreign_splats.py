# SPDX-License-Identifier: Apache-2.0
"""Splat files that other programs wrote: right count, right values, upright, and alike where they hold the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recon.cameras import Camera, look_at
from recon.formats.splat_files import is_splat_file, read_splats
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.splats import Splats


@pytest.fixture(scope="module")
def files(captures: Path) -> Path:
    return captures / "splats"


def around(splats: Splats, count: int, size: tuple[int, int] = (240, 240)) -> list[Camera]:
    """Cameras in a circle about the splats, a little above them."""
    low, high = np.percentile(splats.means.double().numpy(), [5, 95], axis=0)
    middle, extent = (low + high) / 2, np.linalg.norm(high - low)
    cameras = []
    for angle in 2 * np.pi * np.arange(count) / count:
        eye = middle + extent * 1.2 * np.array([np.cos(angle), np.sin(angle), 0.35])
        camera = Camera(*size, size[1] * 1.1, size[1] * 1.1, size[0] / 2, size[1] / 2)
        cameras.append(camera.with_pose(look_at(eye, middle, np.array([0.0, 0.0, 1.0]))))
    return cameras


def pictures(splats: Splats, cameras: list[Camera]) -> torch.Tensor:
    renderer = SplatRenderer(splats)
    return torch.stack([renderer.render(camera, RenderOptions()).rgb.clamp(0, 1) for camera in cameras])


def test_two_formats_of_one_scene_look_alike(files: Path) -> None:
    spz, ply = read_splats(files / "biker.spz"), read_splats(files / "biker.compressed.ply")
    assert len(spz) == len(ply) == 152_746
    cameras = around(ply, 3)
    error = (pictures(spz, cameras) - pictures(ply, cameras)).square().mean((1, 2, 3))
    assert (-10 * torch.log10(error) > 55).all()
    # He stands: tall, and on the ground.
    low, high = ply.means.amin(0), ply.means.amax(0)
    assert high[2] - low[2] > 2 * (high - low)[:2].max()


def test_a_sog_folder_stands_upright(files: Path) -> None:
    splats = read_splats(files / "playbot_3_0")
    assert (len(splats), splats.sh_degree) == (31_000, 2)
    # The wide lawn lies below the robot.
    wide = splats.means[:, :2].abs().amax(1) > 0.8
    assert splats.means[wide, 2].median() < 0.1 < 1.0 < splats.means[:, 2].max()
    blue = pictures(splats, around(splats, 2))[..., 2]
    assert blue.max() > 0.5
    assert torch.equal(read_splats(files / "playbot_3_0" / "meta.json").means, splats.means)


def test_a_zipped_sog_without_harmonics(files: Path) -> None:
    splats = read_splats(files / "monkey_0001.sog")
    assert (len(splats), splats.sh_degree) == (31_658, 0)
    assert splats.base_colors[:, 0].min() > 0.9
    assert splats.base_colors[:, 1:].max() < 0.1


# The corners of a square, at 0 and 1, in the axes of the file.
SQUARE = {(-1.0, -1.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0)}
THIRDS = np.array([[85, 85, 128], [170, 85, 128], [85, 170, 128], [170, 170, 128]]) / 255


@pytest.mark.parametrize("name", ["raw.spz", "v2.spz", "v3.spz", "v4.spz", "ksplat", "splat"])
def test_minimal_files_hold_what_they_should(files: Path, name: str) -> None:
    path = files / "minimal" / (f"minimal-{name}" if name.endswith("spz") else f"minimal.{name}")
    assert is_splat_file(path)
    splats = read_splats(path, up="world")
    assert (len(splats), splats.sh_degree, splats.antialiased) == (4, 0, False)
    # Version 3 and later of SPZ were written with z turned round.
    z = -1 if name in ("v3.spz", "v4.spz") else 1
    assert {(x, z * depth) for x, _, depth in splats.means.tolist()} == SQUARE
    assert splats.means[:, 1].abs().max() == 0
    torch.testing.assert_close(splats.scales, torch.full((4, 3), 0.1), rtol=0.011, atol=0)
    torch.testing.assert_close(splats.opacities, torch.full((4,), 230 / 255), rtol=1e-6, atol=0)
    expected = THIRDS
    if name in ("raw.spz", "v2.spz"):
        # Their writer put colours where the format has coefficients times 0.15.
        expected = 0.5 + (THIRDS - 0.5) / 0.15 * 0.2820948
    elif name.endswith("spz"):
        expected = 0.5 + (np.array([[105, 105, 128], [150, 105, 128], [105, 150, 128], [150, 150, 128]]) / 255
                          - 0.5) / 0.15 * 0.2820948  # fmt: skip
    torch.testing.assert_close(splats.base_colors.numpy(), expected.astype(np.float32), rtol=0, atol=1e-5)


def test_what_is_y_down_or_y_up_is_turned(files: Path) -> None:
    """The same square, flat in y: lying in both, but seen from the other side."""
    down, up = (read_splats(files / "minimal" / f"minimal{name}").means for name in (".splat", "-v4.spz"))
    assert down[:, 2].abs().max() == up[:, 2].abs().max() == 0
    assert set(map(tuple, down[:, :2].tolist())) == SQUARE
    assert set(map(tuple, up[:, :2].tolist())) == SQUARE
