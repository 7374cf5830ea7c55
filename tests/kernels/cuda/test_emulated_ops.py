# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels, one operation after another, against plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.projection.projection_cases import CAMERA, make_splats, pose_of
from kernels.tsdf.test_tsdf import EYES, dense_blocks, sphere_frame, sphere_view
from kernels.update.test_update import RATES, assert_equal_steps, make_case
from projected_scenes import make_projected

from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.binning.cuda import CudaTileBinner
from recon.kernels.binning.op import bin_tiles
from recon.kernels.blend.op import DepthPlanes, blend
from recon.kernels.cuda.program import has_program, params_of
from recon.kernels.cuda.sort import sort_pairs
from recon.kernels.projection.op import project
from recon.kernels.rearrange.op import move_rows
from recon.kernels.ssim.op import photometric_loss, ssim
from recon.kernels.tsdf.op import TsdfGrid, integrate
from recon.kernels.update.cuda import update_splats_cuda
from recon.kernels.update.op import UpdateRates
from recon.kernels.workspace import Workspace
from recon.rasterization import RasterizeOptions, SplatRenderer, rasterize
from recon.render import RenderOptions

# ---- sorting and sums ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "capacity", "bits"), [(0, 5, 32), (1, 1, 32), (4096, 4096, 8), (4097, 9000, 16), (9000, 9000, 32)]
)
def test_pairs_are_sorted_stably(emulated: EmulatedProgram, count: int, capacity: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(count)
    keys = torch.randint(0, 1 << bits, (capacity,), generator=generator)
    keys[::3] = int(keys[0])  # many equals
    values, how_many = torch.arange(capacity, dtype=torch.int32), torch.tensor([count])
    given = (keys.to(torch.uint32).view(torch.int32).clone(), values)
    found = sort_pairs(emulated, Workspace(), given, how_many, -(-bits // 8), "test")
    expected = torch.sort(keys[:count], stable=True)
    assert torch.equal(found[0][:count].view(torch.uint32).long(), expected.values)
    assert torch.equal(found[1][:count].long(), expected.indices)


@pytest.mark.parametrize("count", [0, 1, 31, 1024, 1025, 5000])
def test_sums_over_blocks(emulated: EmulatedProgram, count: int) -> None:
    values = torch.randint(0, 1 << 40, (count,), generator=torch.Generator().manual_seed(1))
    numbers, found = torch.full((3,), -1), values.clone()
    fields = {"total": numbers, "kept": numbers[1:], "skip": numbers[2:]}
    limit = int(values.sum()) - (count == 1024)
    emulated.launch_blocks("scan_blocks", 1, params_of("ScanParams", values=found, count=count, limit=limit, **fields))
    assert torch.equal(found, values.cumsum(0) - values)
    fits = count != 1024
    assert numbers.tolist() == [int(values.sum()), int(values.sum()) if fits else 0, -1 if fits else 1]


# ---- tile lists ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(0, (40, 30)), (1, (16, 16)), (700, (200, 90)), (300, (1, 300))])
def test_lists_equal_those_of_the_cpu(emulated: EmulatedProgram, count: int, size: tuple[int, int]) -> None:
    projected = make_projected(count, *size, sigma_px=(0.3, 60.0))
    projected.depths[: count // 4] = 2.0  # equals stay in the order of their numbers
    found, expected = (bin_tiles(projected, *size, backend=backend) for backend in ("cuda", "cpu"))
    assert torch.equal(found.touched, expected.touched)
    assert torch.equal(found.offsets, expected.offsets)
    assert torch.equal(found.ids, expected.ids)


def test_lists_grow(emulated: EmulatedProgram) -> None:
    """One binner for pictures that need more room, and less."""
    binner = CudaTileBinner(torch.device("cpu"))
    for count, side in ((3, 20), (200, 400), (40, 50)):
        projected = make_projected(count, side, side, sigma_px=(50.0, 300.0))
        found = binner.queue_fitting(projected, side, side, 1 / 255)
        expected = bin_tiles(projected, side, side, backend="cpu")
        assert torch.equal(found.ids[: len(expected.ids)], expected.ids)
        assert int(found.offsets[-1]) == len(expected.ids)
    assert binner.capacity > 1 << 16


# ---- blending ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 11])
def test_any_channels_depth_planes_and_median(emulated: EmulatedProgram, channels: int) -> None:
    size, projected = (37, 21), make_projected(120, 37, 21)
    values = torch.rand((120, channels), generator=torch.Generator().manual_seed(2))
    planes = DepthPlanes(0.1 * torch.randn((120, 2), generator=torch.Generator().manual_seed(3)), channels - 1)
    tiles = bin_tiles(projected, *size, backend="cuda")
    for given in (None, planes):
        found = blend(projected, values, tiles, *size, True, backend="cuda", planes=given)
        expected = blend(projected, values, tiles, *size, True, backend="reference", planes=given)
        torch.testing.assert_close(found.channels, expected.channels, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(found.alpha, expected.alpha, rtol=1e-4, atol=2e-5)
        assert found.median_depth is not None
        assert expected.median_depth is not None
        assert float((found.median_depth != expected.median_depth).float().mean()) < 0.01


def test_the_rasterizer_gives_what_the_cpu_gives(emulated: EmulatedProgram) -> None:
    """Colours, depth, normals; gradients by the splats and the pose."""
    options = RasterizeOptions((0.2, 0.3, 0.4), depth=True, median_depth=True, normal=True)
    results = {}
    for backend in ("cuda", "cpu"):
        splats = make_splats(60, 4)
        leaves = {n: getattr(splats, n).clone().requires_grad_() for n in ("means", "quats", "log_scales", "sh")}
        pose = pose_of(CAMERA).requires_grad_()
        out = rasterize(replace(splats, **leaves), CAMERA, options, pose, backend=backend)
        assert out.output.depth is not None
        assert out.output.normal is not None
        (out.output.rgb.square().sum() + out.output.depth.sum() + out.output.normal.sum()).backward()
        pictures = [out.output.rgb, out.output.alpha, out.output.depth, out.output.normal]
        gradients = [leaf.grad for leaf in (*leaves.values(), pose)]
        results[backend] = [tensor.detach() for tensor in pictures] + gradients
    for found, expected in zip(*results.values()):
        scale = float(expected.abs().max())
        assert_nearly_all_close(found, expected, rtol=2e-3, atol=2e-4 * scale)


def assert_nearly_all_close(found: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> None:
    """A sample whose alpha is within rounding of the cutoff may be taken or not."""
    close = torch.isclose(found, expected, rtol=rtol, atol=atol)
    assert float((~close).float().mean()) < 1e-4
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_the_renderer_paints(emulated: EmulatedProgram) -> None:
    splats = make_splats(60, 4)
    pictures = {}
    for backend in ("cuda", "cpu"):
        renderer = SplatRenderer(splats, backend=backend)
        for background in ((0.0, 0.0, 0.0), (0.1, 0.5, 1.0)):
            pictures[backend] = renderer.render(CAMERA, RenderOptions(background=background))
    assert_nearly_all_close(pictures["cuda"].rgb, pictures["cpu"].rgb, rtol=1e-4, atol=2e-5)
    assert_nearly_all_close(pictures["cuda"].alpha, pictures["cpu"].alpha, rtol=1e-4, atol=2e-5)


# ---- projection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bases", "degree"), [(16, 2), (9, 1), (4, 0), (1, 0)])
def test_degrees_below_the_stored_one(emulated: EmulatedProgram, bases: int, degree: int) -> None:
    from recon.kernels.projection.op import ProjectionOptions

    results = []
    for backend in ("cuda", "cpu"):
        splats = make_splats(300, bases)
        sh, pose = splats.sh.clone().requires_grad_(), pose_of(CAMERA).requires_grad_()
        options = ProjectionOptions(sh_degree=degree)
        found = project(replace(splats, sh=sh), pose, CAMERA, options, backend=backend)
        (found.colors.square().sum() + found.means_px.sum() + found.depths.sum()).backward()
        results.append((found.colors.detach(), sh.grad, pose.grad))
    for found_tensor, expected in zip(*results):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found_tensor, expected, rtol=1e-4, atol=1e-5 * scale)


# ---- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 3), (16, 16, 1), (17, 40, 3), (33, 15, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_and_its_gradient(
    emulated: EmulatedProgram, height: int, width: int, channels: int, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(height)
    image, target = (torch.rand((height, width, channels), generator=generator) for _ in range(2))
    weight = (torch.rand((height, width), generator=generator) > 0.4).float() * 0.7 if weighted else None
    found, expected = image.clone().requires_grad_(), image.double().requires_grad_()
    loss = photometric_loss(found, target, 0.3, weight, "cuda")
    exact = photometric_loss(expected, target.double(), 0.3, None if weight is None else weight.double(), "reference")
    loss.backward()
    exact.backward()
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=2e-6, abs=1e-7)
    assert expected.grad is not None
    scale = float(expected.grad.abs().max()) + 1e-12
    torch.testing.assert_close(found.grad, expected.grad.float(), rtol=2e-4, atol=2e-5 * scale)


def test_the_loss_takes_bytes_and_scores_alone(emulated: EmulatedProgram) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((20, 19, 3), generator=generator)
    target = torch.randint(0, 256, (20, 19, 3), generator=generator).to(torch.uint8)
    found, expected = (photometric_loss(image, target, backend=backend) for backend in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    scores = [ssim(image, target, backend=backend) for backend in ("cuda", "cpu")]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)


# ---- the optimiser -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "bases"), [(3, 16), (1, 9), (0, 4), (0, 1)])
@pytest.mark.parametrize("kind", ["all", "constant", "no view", "pose"])
def test_the_fused_update_equals_the_reference(emulated: EmulatedProgram, degree: int, bases: int, kind: str) -> None:
    case = make_case(330, bases, degree, antialiased=kind == "pose")
    rates: UpdateRates = replace(RATES, view_gradient=kind != "no view")
    if kind in ("constant", "no view"):
        rates = replace(rates, sh_detail=0.0)
    moments, gradient = screen_moments(case)
    found, expected = case.copy(), replace(case.copy(torch.float64), gradient=gradient)
    if kind == "no view":
        # The reference knows no such approximation: with no colours' gradient there is no pull.
        moments[:, 6:9] = 0
        expected.gradient.colors.zero_()
    pose, skip = pose_of(CAMERA), torch.zeros(1, dtype=torch.int64)
    given = (found.splats, found.moments, found.projected, found.seen, moments, skip, pose, CAMERA, found.options)
    by_pose = update_splats_cuda(*given, rates, pose_gradient=Workspace() if kind == "pose" else None)
    by_pose_expected = expected.step(rates, pose=kind == "pose", reference=True)
    assert_equal_steps(case, found, expected)
    if by_pose is not None and by_pose_expected is not None:
        scale = float(by_pose_expected.abs().max())
        torch.testing.assert_close(by_pose.double(), by_pose_expected, rtol=1e-3, atol=1e-4 * scale)
    skip += 1
    before = {name: tensor.clone() for name, tensor in found.tensors().items()}
    by_pose = update_splats_cuda(*given, rates, pose_gradient=Workspace() if kind == "pose" else None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.tensors().items())
    assert by_pose is None or not bool(by_pose.any())


def screen_moments(case: object) -> tuple[torch.Tensor, object]:
    """Returns random moments [N, 12] and, in float64, the gradients that they mean; zero where nothing was seen."""
    from recon.kernels.projection.op import ProjectedGradients

    projected, seen = case.projected, case.seen  # type: ignore[attr-defined]
    moments = torch.randn((len(seen), 12), generator=torch.Generator().manual_seed(4)) * seen[:, None]
    h, hx, hy, hxx, hxy, hyy = moments[:, :6].double().unbind(1)
    a, b, c = projected.conics.double().unbind(1)
    opacities = torch.where(seen.bool(), projected.opacities.double(), 1.0)
    return moments, ProjectedGradients(
        means_px=torch.stack([a * hx + b * hy, b * hx + c * hy], 1),
        conics=torch.stack([-0.5 * hxx, -hxy, -0.5 * hyy], 1),
        opacities=h / opacities,
        colors=moments[:, 6:9].double(),
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_adam(emulated: EmulatedProgram, scaled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn((70, 5), generator=generator) for _ in range(3)]
    given.append(torch.rand((70, 5), generator=generator))
    given[1][3, 2], given[1][4, 1] = float("nan"), 1e30
    visible = torch.rand(70, generator=generator) < 0.6
    hyper = AdamHyper(0.01, 3, column_scale=torch.rand(5, generator=generator) if scaled else None)
    results = []
    for backend in ("cuda", "reference"):
        tensors = [tensor.clone() for tensor in given]
        adam_step(*tensors, hyper, visible, backend)
        results.append(tensors)
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6, equal_nan=True)


def test_rows_are_moved(emulated: EmulatedProgram) -> None:
    tensors = [torch.rand(50, 4, 3), torch.arange(50), torch.rand(50) > 0.5, torch.rand(60)]
    sources = torch.tensor([0, 0, 3, 4, 4, 4, 20, 49])
    expected = [tensor[sources].clone() for tensor in tensors]
    rest = [tensor[8:].clone() for tensor in tensors]
    move_rows(tensors, sources, backend="cuda")
    assert all(torch.equal(tensor[:8], wanted) for tensor, wanted in zip(tensors, expected))
    assert all(torch.equal(tensor[8:], wanted) for tensor, wanted in zip(tensors, rest))


def test_the_emulation_is_on_only_where_it_was_asked_for() -> None:
    assert not has_program(torch.device("cpu"))


# ---- distance fields -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", [True, False])
def test_a_depth_map_is_fused(emulated: EmulatedProgram, color: bool) -> None:
    frame = sphere_frame()
    blocks = dense_blocks(frame)
    grids = {backend: TsdfGrid.empty(frame, blocks) for backend in ("cuda", "cpu")}
    for eye in EYES[:2]:
        for backend, grid in grids.items():
            integrate(grid, sphere_view(eye, color=color), backend=backend)
    found, expected = grids["cuda"], grids["cpu"]
    close = torch.isclose(found.weight_sum, expected.weight_sum, rtol=1e-3, atol=1e-4)
    assert close.float().mean() > 0.999
    torch.testing.assert_close(found.distance_sum[close], expected.distance_sum[close], rtol=2e-3, atol=1e-3)
    color_close = torch.isclose(found.color_sum, expected.color_sum, rtol=2e-3, atol=2e-3)
    assert color_close.float().mean() > 0.998
    assert bool(found.color_sum.any()) == color
