# SPDX-License-Identifier: Apache-2.0
"""From depth maps to a mesh on the emulated CUDA kernels, against those of the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.marching_cubes.test_marching_cubes import grid_of, noise, sphere, torus
from kernels.tsdf.test_tsdf import EYES, sphere_frame, sphere_view

from recon.kernels.marching_cubes.cuda import neighbor_rows_of
from recon.kernels.marching_cubes.op import marching_cubes, neighbor_rows
from recon.kernels.tsdf.cuda import allocate_blocks_cuda
from recon.kernels.tsdf.op import TsdfGrid, allocate_blocks
from recon.surface import extract
from recon.surface.config import MeshConfig
from recon.surface.depth_maps import DepthMap
from recon.surface.extract import as_mesh, fuse
from recon.surface.region import Region

CPU = torch.device("cpu")


@pytest.mark.parametrize("capacity", [1 << 6, 1 << 14])
def test_the_same_blocks_are_found(emulated: EmulatedProgram, capacity: int) -> None:
    """Also by way of a table that has to grow."""
    frame, views = sphere_frame(), [sphere_view(eye) for eye in EYES[:2]]
    found, complete = allocate_blocks_cuda(views, frame, 1 << 20, CPU, capacity)
    assert complete
    assert ("tsdf_refill" in emulated.launches) == (capacity == 1 << 6)
    assert torch.equal(found, allocate_blocks(views, frame, 1 << 20, "cpu").blocks)


def test_blocks_stop_at_the_most(emulated: EmulatedProgram) -> None:
    frame, views = sphere_frame(), [sphere_view(EYES[0])]
    every = len(allocate_blocks(views, frame, 1 << 20, "cpu").blocks)
    found = allocate_blocks(views, frame, every - 5, "cuda", CPU)
    assert not found.complete
    assert len(found.blocks) <= every - 5
    found = allocate_blocks(views, frame, every + 5, "cuda", CPU)
    assert found.complete
    assert len(found.blocks) == every


def test_maps_without_sense_bring_no_blocks(emulated: EmulatedProgram) -> None:
    view = sphere_view(EYES[0])
    for bad in (0.0, -1.0, float("nan"), 1e-45):
        broken = replace(view, inverse_depth=torch.full_like(view.inverse_depth, bad))
        assert len(allocate_blocks([broken], sphere_frame(), 1000, "cuda", CPU).blocks) == 0
    assert len(allocate_blocks([], sphere_frame(), 1000, "cuda", CPU).blocks) == 0


@pytest.mark.parametrize("name", ["sphere", "torus", "noise", "holes", "few weights"])
@pytest.mark.parametrize("colors", [True, False])
def test_the_same_surface(emulated: EmulatedProgram, name: str, colors: bool) -> None:
    random = np.random.default_rng(4)
    values = {"sphere": sphere, "torus": torus}.get(name, noise)()
    weights = (random.random(values.shape) > 0.05) + 1.0 if name == "few weights" else None
    drop = np.array([3, 7, 20]) if name == "holes" else None
    grid = grid_of(values, weights, drop)
    least = 1.5 if name == "few weights" else 0.0
    found = marching_cubes(grid, least, colors, "cuda")
    expected = marching_cubes(grid, least, colors, "cpu")
    assert len(expected.faces) > 20
    assert torch.equal(found.faces, expected.faces)
    torch.testing.assert_close(found.vertices, expected.vertices, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.normals, expected.normals, rtol=1e-4, atol=1e-5)
    assert (found.colors is None) == (expected.colors is None) == (not colors)
    if found.colors is not None:
        torch.testing.assert_close(found.colors, expected.colors, rtol=1e-5, atol=1e-6)


def test_a_field_without_blocks_has_no_surface(emulated: EmulatedProgram) -> None:
    grid = TsdfGrid.empty(sphere_frame(), torch.zeros((0, 3), dtype=torch.int32))
    assert len(marching_cubes(grid, backend="cuda").faces) == 0


def test_neighbours_are_found_on_the_device() -> None:
    blocks = torch.unique(torch.randint(-3, 3, (90, 3), generator=torch.Generator().manual_seed(0)), dim=0).int()
    assert torch.equal(neighbor_rows_of(blocks), torch.from_numpy(neighbor_rows(blocks.numpy())))


def test_depth_maps_are_fused_where_they_were_rendered(emulated: EmulatedProgram, monkeypatch: Any) -> None:
    """The kernels of the emulation stand for those of a GPU; without them it is the CPU's turn."""
    maps = []
    for eye in EYES[:3]:
        view = sphere_view(eye, width=37, height=29)
        depth = torch.where(view.confidence > 0, 1 / view.inverse_depth, torch.zeros(()))
        color = (255 * view.color.permute(1, 2, 0)).to(torch.uint8)  # type: ignore[union-attr]
        maps.append(DepthMap(view.camera, depth, color, depth == 0, view.confidence))
    region = Region(np.full(3, -0.7), np.full(3, 0.7), "all", 0.05)
    config = MeshConfig(voxel_size=0.1)
    surfaces = {}
    for backend in ("cuda", "cpu"):
        field = fuse(maps, region, config, backend=backend)
        surfaces[backend] = as_mesh(marching_cubes(field.grid, field.min_weight, backend=backend))
    assert {"tsdf_allocate", "tsdf_integrate", "marching_cubes_write"} <= set(emulated.launches)
    found, expected = surfaces["cuda"], surfaces["cpu"]
    assert len(expected.faces) > 100
    assert found.faces.shape == expected.faces.shape
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-3)
    rendered = [replace(seen, rendered_on=torch.device("cuda", 0)) for seen in maps]
    monkeypatch.setattr(extract, "can_run_on", lambda device: False)
    assert fuse(rendered, region, config).grid.blocks.device.type == "cpu"
