# SPDX-License-Identifier: Apache-2.0
"""Sparse TSDF fusion: the kernel against its reference, and what must hold of a fused field."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.cameras import Camera, CameraModel, look_at
from recon.errors import ReconError
from recon.kernels.native import native
from recon.kernels.tsdf.op import (
    BlockList,
    DepthView,
    GridFrame,
    TsdfGrid,
    allocate_blocks,
    block_keys,
    blocks_from_keys,
    integrate,
)
from recon.kernels.tsdf.reference import integrate_reference, observe, voxel_positions

RADIUS = 0.5


def sphere_view(eye: tuple[float, float, float], width: int = 53, height: int = 41, color: bool = True) -> DepthView:
    """The exact depth of a sphere around the origin, with an off-centre principal point."""
    pose = look_at(np.array(eye), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    focal = 60.0 * width / 53
    camera = Camera(width, height, focal, 0.97 * focal, width / 2 + 1.7, height / 2 - 0.6, cam_from_world=pose)
    rays = camera.ray_directions_in_cam(camera.pixel_grid())
    center = pose[:3, 3]
    along, length2 = rays @ center, (rays**2).sum(-1)
    root = along**2 - length2 * (center @ center - RADIUS**2)
    hit = root > 0
    depth = np.where(hit, (along - np.sqrt(np.where(hit, root, 0))) / length2, np.inf)
    points = rays * np.where(hit, depth, 1)[..., None]
    slant = ((center - points) / RADIUS * rays).sum(-1)
    world = (points - center) @ pose[:3, :3]
    colors = (world / RADIUS + 1) / 2 * hit[..., None]

    def as_tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    confidence = np.where(hit, np.maximum(slant, 0.05), 0)
    return DepthView(
        camera,
        as_tensor(1 / depth),
        as_tensor(slant),
        as_tensor(confidence),
        as_tensor(colors.transpose(2, 0, 1)) if color else None,
    )


def sphere_frame(voxel: float = 0.05, truncation: float = 0.2) -> GridFrame:
    return GridFrame.covering(np.full(3, -0.8), np.full(3, 0.8), voxel, truncation)


EYES = [(1.8, 0.3, 0.4), (-1.5, 0.9, -0.2), (0.1, -1.9, 0.5), (0.2, 0.4, 2.0), (-0.4, 0.3, -1.8)]


def dense_blocks(frame: GridFrame) -> torch.Tensor:
    axes = [torch.arange(low, high + 1) for low, high in zip(frame.first_block, frame.last_block)]
    return torch.cartesian_prod(*axes).to(torch.int32)


def test_integration_equals_the_reference(isa: str) -> None:
    frame = sphere_frame()
    blocks = dense_blocks(frame)
    fast, plain = TsdfGrid.empty(frame, blocks), TsdfGrid.empty(frame, blocks)
    for eye in EYES:
        integrate(fast, sphere_view(eye), backend="cpu")
        integrate(plain, sphere_view(eye), backend="reference")
    # A voxel on a pixel's border may fall to either side; everything else agrees to float32.
    close = torch.isclose(fast.weight_sum, plain.weight_sum, rtol=1e-3, atol=1e-4)
    assert close.float().mean() > 0.999
    torch.testing.assert_close(fast.distance_sum[close], plain.distance_sum[close], rtol=2e-3, atol=1e-3)
    color_close = torch.isclose(fast.color_sum, plain.color_sum, rtol=2e-3, atol=2e-3)
    assert color_close.float().mean() > 0.998
    assert (plain.weight_sum > 0).any()
    assert (plain.color_sum[:, 3] > 0).any()


def test_allocation_equals_the_reference(isa: str) -> None:
    frame = sphere_frame(0.03, 0.09)
    views = [sphere_view(eye, 31, 27) for eye in EYES[:2]]
    fast, plain = (allocate_blocks(views, frame, 10**6, backend) for backend in ("cpu", "reference"))
    assert fast.complete
    assert plain.complete
    fast_keys, plain_keys = block_keys(fast.blocks.numpy()), block_keys(plain.blocks.numpy())
    assert (np.diff(fast_keys) > 0).all()
    # The reference counts boxes that a ray only touches at an edge.
    assert set(fast_keys) <= set(plain_keys)
    assert len(fast_keys) >= 0.99 * len(plain_keys) > 50


def test_the_fused_sphere_is_a_sphere() -> None:
    frame = sphere_frame(0.025, 0.1)
    views = [sphere_view(eye, 160, 120) for eye in EYES]
    grid = TsdfGrid.empty(frame, allocate_blocks(views, frame, 10**6).blocks)
    for view in views:
        integrate(grid, view)
    true = (voxel_positions(grid).norm(dim=-1) - RADIUS) / frame.truncation
    near = (grid.weight_sum > 0) & (true.abs() < 0.3)
    error = (grid.distance.double() - true)[near].abs()
    assert near.sum() > 1000
    assert float(error.median()) < 0.03
    colored = near & (grid.color_sum[:, 3] > 0)
    mean = (grid.color_sum[:, :3] / grid.color_sum[:, 3:].clamp_min(1e-9)).permute(0, 2, 1)[colored]
    expected = (voxel_positions(grid)[colored] / voxel_positions(grid)[colored].norm(dim=-1, keepdim=True) + 1) / 2
    assert float((mean - expected).abs().median()) < 0.05


def test_a_plane_seen_at_a_slant_is_exact() -> None:
    """Inverse depth is affine over the picture of a plane, so the distances have only rounding errors."""
    camera = Camera(40, 30, 50.0, 50.0, 20.0, 15.0)
    normal = np.array([0.4, -0.3, 0.87])
    normal /= np.linalg.norm(normal)
    rays = camera.ray_directions_in_cam(camera.pixel_grid())
    slant = rays @ normal
    inverse = slant / 2.0  # the plane n · x = 2
    view = DepthView(camera, *(torch.from_numpy(a.astype(np.float32)) for a in (inverse, slant, np.ones_like(slant))))
    frame = GridFrame.covering(np.array([-0.5, -0.5, 1.6]), np.array([0.5, 0.5, 2.6]), 0.03, 0.15)
    grid = TsdfGrid.empty(frame, allocate_blocks([view], frame, 10**5).blocks)
    integrate(grid, view)
    distance = (2.0 - voxel_positions(grid) @ torch.from_numpy(normal)) / frame.truncation
    # The slant is that of the nearest pixel, which scales the distance by up to half a pixel's change of it.
    near = (grid.weight_sum > 0) & (distance.abs() < 0.2)
    x, y, z = (voxel_positions(grid) @ torch.tensor(camera.cam_from_world[:3, :3].T)).unbind(-1)
    u, v = 50 * x / z + 20, 50 * y / z + 15
    inner = near & (u > 1) & (u < 39) & (v > 1) & (v < 29)
    assert inner.sum() > 500
    assert float((grid.distance.double() - distance)[inner].abs().max()) < 0.01


def test_the_number_of_threads_changes_nothing() -> None:
    frame = sphere_frame(0.02, 0.08)
    views = [sphere_view(eye) for eye in EYES]
    module = native()
    threads = module.max_threads()
    results = []
    try:
        for count in (1, 3):
            module.set_threads(count)
            grid = TsdfGrid.empty(frame, allocate_blocks(views, frame, 10**6).blocks)
            for view in views:
                integrate(grid, view)
            results.append(grid)
    finally:
        module.set_threads(threads)
    for name in ("blocks", "distance_sum", "weight_sum", "color_sum"):
        assert torch.equal(getattr(results[0], name), getattr(results[1], name))


def test_the_order_of_views_changes_only_rounding() -> None:
    frame = sphere_frame()
    blocks = dense_blocks(frame)
    grids = []
    for eyes in (EYES, EYES[::-1]):
        grid = TsdfGrid.empty(frame, blocks)
        for eye in eyes:
            integrate(grid, sphere_view(eye))
        grids.append(grid)
    torch.testing.assert_close(grids[0].distance_sum, grids[1].distance_sum, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grids[0].weight_sum, grids[1].weight_sum, rtol=1e-4, atol=1e-5)


def test_a_view_without_colour_leaves_the_colours_alone(isa: str) -> None:
    frame = sphere_frame()
    with_color, without = (TsdfGrid.empty(frame, dense_blocks(frame)) for _ in range(2))
    integrate(with_color, sphere_view(EYES[0]))
    integrate(without, sphere_view(EYES[0], color=False))
    assert torch.equal(with_color.distance_sum, without.distance_sum)
    assert (without.color_sum == 0).all()


def test_allocation_stops_at_its_limit() -> None:
    frame = sphere_frame(0.01, 0.04)
    views = [sphere_view(eye) for eye in EYES]
    everything = allocate_blocks(views, frame, 10**6)
    assert everything.complete
    assert len(everything.blocks) > 600
    limited = allocate_blocks(views, frame, 100)
    assert not limited.complete
    assert 100 <= len(limited.blocks) < 120
    assert allocate_blocks(views, frame, len(everything.blocks)).complete


def test_a_growing_table_loses_nothing() -> None:
    """More than half of the first table's 4096 places are needed, so it is refilled on the way."""
    frame = GridFrame.covering(np.full(3, -0.8), np.full(3, 0.8), 0.004, 0.03)
    views = [sphere_view(eye, 200, 150) for eye in EYES[:3]]
    together = allocate_blocks(views, frame, 10**6).blocks
    assert len(together) > 4096
    apart = np.concatenate([allocate_blocks([view], frame, 10**6).blocks.numpy() for view in views])
    assert np.array_equal(np.unique(block_keys(apart)), block_keys(together.numpy()))


def test_blocks_stay_inside_the_bounds() -> None:
    frame = GridFrame.covering(np.array([0.0, -0.3, -0.3]), np.array([0.6, 0.3, 0.3]), 0.02, 0.06)
    blocks = allocate_blocks([sphere_view(EYES[0], 160, 120)], frame, 10**6).blocks
    assert len(blocks) > 10
    assert (blocks >= torch.tensor(frame.first_block)).all()
    assert (blocks <= torch.tensor(frame.last_block)).all()


def test_keys_and_blocks_are_inverses() -> None:
    blocks = np.array([[-(1 << 20), 0, 5], [-3, -2, -1], [0, 0, 0], [7, -9, (1 << 20) - 1]], np.int32)
    assert np.array_equal(blocks_from_keys(block_keys(blocks)), blocks)


def test_nothing_to_fuse(isa: str) -> None:
    frame = sphere_frame()
    found = allocate_blocks([], frame, 100)
    assert found.complete
    assert found.blocks.shape == (0, 3)
    grid = TsdfGrid.empty(frame, found.blocks)
    integrate(grid, sphere_view(EYES[0]))
    assert len(grid) == 0
    # A camera that looks away adds nothing.
    away = TsdfGrid.empty(frame, dense_blocks(frame))
    view = sphere_view(EYES[0])
    pose = look_at(np.array(EYES[0]), 2 * np.array(EYES[0]), np.array([0.0, 0.0, 1.0]))
    turned = DepthView(view.camera.with_pose(pose), view.inverse_depth, view.slant, view.confidence)
    integrate(away, turned)
    assert (away.weight_sum == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 1e-38, 1e38])
def test_wild_pixels_do_no_harm(isa: str, bad: float) -> None:
    """Whatever stands in the maps, the sums stay finite and the pixels without it keep their say."""
    generator = torch.Generator().manual_seed(3)
    view = sphere_view(EYES[0])
    wild = torch.rand(view.inverse_depth.shape, generator=generator) < 0.2
    frame = sphere_frame()
    for name in ("inverse_depth", "slant", "confidence"):
        if name == "confidence" and bad in (float("inf"), 1e38):
            continue  # an infinite weight is the caller's wish
        broken = DepthView(
            view.camera,
            *(
                torch.where(wild, torch.tensor(bad), value) if field == name else value
                for field, value in (
                    ("inverse_depth", view.inverse_depth),
                    ("slant", view.slant),
                    ("confidence", view.confidence),
                )
            ),
        )
        found = allocate_blocks([broken], frame, 10**5)
        assert isinstance(found, BlockList)
        assert len(found.blocks) > 0
        grid = TsdfGrid.empty(frame, dense_blocks(frame))
        integrate(grid, broken)
        assert torch.isfinite(grid.distance_sum).all()
        assert torch.isfinite(grid.weight_sum).all()
        assert (grid.weight_sum > 0).any()


def test_the_reference_works_in_float64_and_has_gradients() -> None:
    frame = sphere_frame(0.1, 0.3)
    grid = TsdfGrid.empty(frame, dense_blocks(frame))
    double = TsdfGrid(frame, grid.blocks, grid.distance_sum.double(), grid.weight_sum.double(), grid.color_sum.double())
    view = sphere_view(EYES[0], 12, 10, color=False)
    integrate_reference(double, view)
    assert (double.weight_sum > 0).any()
    inverse = view.inverse_depth.double().requires_grad_(True)
    positions = voxel_positions(grid).reshape(-1, 3)
    seen = observe(positions, DepthView(view.camera, inverse, view.slant, view.confidence), frame)
    index = int(torch.nonzero((seen.weight > 0) & (seen.distance.abs() < 0.5))[0])

    def distance(values: torch.Tensor) -> torch.Tensor:
        return observe(positions[index], DepthView(view.camera, values, view.slant, view.confidence), frame).distance

    assert torch.autograd.gradcheck(distance, (inverse,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("field", ["inverse_depth", "slant", "confidence", "color"])
def test_wrong_shapes_are_refused(field: str) -> None:
    view = sphere_view(EYES[0])
    maps = {name: getattr(view, name) for name in ("inverse_depth", "slant", "confidence", "color")}
    maps[field] = maps[field][..., 1:].contiguous()
    frame = sphere_frame()
    with pytest.raises(ReconError, match=field):
        integrate(TsdfGrid.empty(frame, dense_blocks(frame)), DepthView(view.camera, **maps))
    maps[field] = getattr(view, field).double()
    with pytest.raises(ReconError, match="float64"):
        allocate_blocks([DepthView(view.camera, **maps)], frame, 100)


def test_lenses_and_bad_frames_are_refused() -> None:
    view = sphere_view(EYES[0])
    lens = Camera(53, 41, 60, 58, 26, 20, CameraModel.OPENCV, (0.1, 0, 0, 0))
    with pytest.raises(ReconError, match="PINHOLE"):
        allocate_blocks([DepthView(lens, view.inverse_depth, view.slant, view.confidence)], sphere_frame(), 10)
    for voxel, truncation in ((0.0, 1.0), (1.0, 0.5), (float("nan"), 1.0), (-1.0, 1.0)):
        with pytest.raises(ReconError, match="voxel size"):
            GridFrame((0, 0, 0), voxel, truncation, (0, 0, 0), (1, 1, 1))
    with pytest.raises(ReconError, match="range"):
        GridFrame((0, 0, 0), 1, 2, (2, 0, 0), (1, 1, 1))
