# SPDX-License-Identifier: Apache-2.0
"""What a field shows does not depend on how it is rendered; broken files are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ball import ball_camera

from recon.cameras import Camera, CameraModel
from recon.errors import ReconError
from recon.kernels.occupancy.op import OccupancyGrid
from recon.kernels.ray_march.op import Space
from recon.methods.nerf import render as module
from recon.methods.nerf.config import NerfConfig
from recon.methods.nerf.field import FieldParameters
from recon.methods.nerf.files import read_field, write_field
from recon.methods.nerf.render import NerfRenderer
from recon.methods.nerf.step import Stage
from recon.render import Renderer, RenderOptions, RenderOutput

OPTIONS = RenderOptions(background=(0.2, 0.4, 0.6), depth=True, normal=True)


def renderer_of(config: NerfConfig, contracted: bool = False) -> NerfRenderer:
    """A field with clouds of random density and colour."""
    stage = Stage.of(config, Space((0.0, 0.0, 0.0), 1.0, contracted))
    parameters = FieldParameters.fresh(stage.shape, 0, 4)
    generator = torch.Generator().manual_seed(8)
    table = 3 * torch.randn(parameters.table.shape, generator=generator)
    return NerfRenderer(replace(parameters, table=table), stage, OccupancyGrid.full(config.space.grid))


def fields(output: RenderOutput) -> list[torch.Tensor]:
    found = [output.rgb, output.alpha, output.depth, output.median_depth, output.normal]
    assert all(tensor is not None for tensor in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("contracted", [False, True])
def test_portions_do_not_show(small: NerfConfig, contracted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, camera = renderer_of(small, contracted), ball_camera(0.4, 0.5, 20)
    assert isinstance(renderer, Renderer)
    expected = fields(renderer.render(camera, OPTIONS))
    assert 0.2 < float(expected[1].mean()) <= 1
    monkeypatch.setattr(module, "_FIRST_PORTION", 3)
    monkeypatch.setattr(module, "_RAYS_AT_ONCE", 77)
    monkeypatch.setattr(module, "_LARGEST_PORTION", 5)
    for found, wanted in zip(fields(renderer.render(camera, OPTIONS)), expected):
        # Where what is left of the light is just what a ray may end with, the last sample may count or not.
        assert float(((found - wanted).abs() > 1e-5).float().mean()) < 0.03
        torch.testing.assert_close(found, wanted, atol=3e-3, rtol=3e-3)


def test_the_reference_shows_the_same(small: NerfConfig) -> None:
    renderer, camera = renderer_of(small), ball_camera(0.4, 0.5, 12)
    plain = NerfRenderer(renderer.parameters, renderer.stage, renderer.occupancy, backend="reference")
    for found, wanted in zip(fields(renderer.render(camera, OPTIONS)), fields(plain.render(camera, OPTIONS))):
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)


def test_an_empty_grid_shows_the_background(small: NerfConfig) -> None:
    renderer = renderer_of(small)
    renderer.occupancy.bits.zero_()
    output = renderer.render(ball_camera(0.0, 0.0, 8), OPTIONS)
    assert float(output.alpha.max()) == 0
    torch.testing.assert_close(output.rgb, torch.tensor(OPTIONS.background).expand(8, 8, 3))
    assert output.median_depth is not None
    assert float(output.median_depth.max()) == 0


def test_only_pinholes_are_rendered(small: NerfConfig) -> None:
    camera = ball_camera(0.0, 0.0, 8)
    fisheye = Camera(8, 8, 8.0, 8.0, 4.0, 4.0, model=CameraModel.OPENCV_FISHEYE, distortion=(0.1, 0, 0, 0),
                     cam_from_world=camera.cam_from_world)  # fmt: skip
    with pytest.raises(ReconError, match="PINHOLE"):
        renderer_of(small).render(fisheye, RenderOptions())


def test_a_field_survives_its_file(small: NerfConfig, tmp_path: Path) -> None:
    renderer, camera = renderer_of(small, True), ball_camera(0.2, 0.1, 10)
    write_field(renderer, tmp_path / "field.safetensors")
    again = read_field(tmp_path / "field.safetensors", small)
    assert again.stage == renderer.stage
    assert torch.equal(again.render(camera, OPTIONS).rgb, renderer.render(camera, OPTIONS).rgb)


def test_broken_files_are_refused(small: NerfConfig, tmp_path: Path) -> None:
    from safetensors.torch import load, save_file

    path = tmp_path / "field.safetensors"
    with pytest.raises(ReconError, match="not readable"):
        read_field(path, small)
    write_field(renderer_of(small), path)
    whole, tensors = path.read_bytes(), load(path.read_bytes())
    random = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        if random.random() < 0.5:
            del data[random.integers(0, len(data)) :]
        else:
            data[random.integers(0, min(len(data), 900))] ^= 1 << random.integers(0, 8)
        path.write_bytes(data)
        try:
            read_field(path, small)
        except ReconError:
            continue
    changes: dict[str, torch.Tensor] = {
        "table": tensors["table"][:-1],
        "density": torch.full_like(tensors["density"], torch.nan),
        "color": tensors["color"].double(),
        "space": torch.tensor([0.0, 0, 0, -1, 0], dtype=torch.float64),
        "occupancy": tensors["occupancy"][:5],
        "occupancy.bits": tensors["occupancy.bits"][:5],
    }
    for name, tensor in changes.items():
        save_file({**tensors, name: tensor.contiguous()}, str(path))
        with pytest.raises(ReconError):
            read_field(path, small)
    for name in tensors:
        save_file({other: tensor for other, tensor in tensors.items() if other != name}, str(path))
        with pytest.raises(ReconError):
            read_field(path, small)
