# SPDX-License-Identifier: Apache-2.0
"""Every operation on fresh random inputs, with poisoned outputs, against the kernels of the CPU or plain torch."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from kernels.projection.projection_cases import make_splats, pose_of
from projected_scenes import make_projected

from recon.cameras import Camera
from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.binning.op import bin_tiles
from recon.kernels.blend.op import BlendStatistics
from recon.kernels.cuda.program import program_for
from recon.kernels.cuda.sort import sort_pairs
from recon.kernels.projection.op import Projected
from recon.kernels.rearrange.op import move_rows
from recon.kernels.ssim.op import photometric_loss
from recon.kernels.workspace import Workspace
from recon.rasterization import RasterizeOptions, rasterize

if TYPE_CHECKING:
    from gpu.check import Report

_FLOATS = ("means_px", "conics", "opacities", "colors", "depths")


def numbers(report: Report) -> None:
    """Runs all of it with torch filling what it hands out with NaN."""
    seed = time.time_ns() % 100_000
    report.numbers["seed"] = seed
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        _sorting(report, seed)
        for name, antialiased in (("", False), (", antialiased", True)):
            _pictures(report, seed, name, antialiased)
        _lists(report, seed)
        _loss(report, seed)
        _rows(report, seed)
        _density(report, seed)
        _meshing(report)
        _fused_training(report)
        _graphs(report)
    finally:
        torch.use_deterministic_algorithms(False)


def _sorting(report: Report, seed: int) -> None:
    for count in (1, 5000) if report.small else (1, 4096, 3_000_001):
        generator = torch.Generator().manual_seed(seed)
        keys = torch.randint(-(2**31), 2**31, (count,), generator=generator, dtype=torch.int64).to(torch.int32)
        keys[::3] &= 0xFF
        expected = torch.sort(keys.long() & 0xFFFFFFFF, stable=True)
        given = keys.to(report.device, copy=True), torch.arange(count, dtype=torch.int32, device=report.device)
        how_many = torch.tensor([count], device=report.device)
        found = sort_pairs(program_for(report.device), Workspace(report.device), given, how_many, 4, "check")
        same = torch.equal(found[1].cpu().long(), expected.indices)
        report.check(f"sorting {count} pairs", same, "the very order of a stable sort" if same else "another order")


def _pictures(report: Report, seed: int, what: str, antialiased: bool) -> None:
    """Pictures of colours, depth and normals, and gradients by everything, through autograd."""
    count, size = (200, (50, 40)) if report.small else (20_000, (333, 251))
    camera = Camera(*size, 0.9 * size[0], 0.9 * size[0], size[0] / 2, size[1] / 2)
    base = replace(make_splats(count, 16, seed), antialiased=antialiased)
    options = RasterizeOptions((0.1, 0.5, 0.9), depth=True, median_depth=True, normal=True)
    results: dict[str, dict[str, torch.Tensor]] = {}
    for backend, device in (("cuda", report.device), ("cpu", torch.device("cpu"))):
        names = ("means", "quats", "log_scales", "opacity_logits", "sh")
        leaves = {name: getattr(base, name).to(device, copy=True).requires_grad_() for name in names}
        pose = pose_of(camera).to(device).requires_grad_()
        made = rasterize(replace(base, **leaves), camera, options, pose, backend=backend)
        output = made.output
        assert output.depth is not None
        assert output.normal is not None
        weights = torch.rand(output.rgb.shape, generator=torch.Generator().manual_seed(seed)).to(device)
        loss = (output.rgb * weights).sum() + 0.1 * (output.depth * weights[..., 0]).sum() + output.alpha.sum()
        loss.backward()
        results[backend] = {"rgb": output.rgb, "alpha": output.alpha, "depth": output.depth, "normal": output.normal}
        results[backend] |= {f"gradient of {n}": g for n, leaf in leaves.items() if (g := leaf.grad) is not None}
        if pose.grad is not None:
            results[backend]["gradient of the pose"] = pose.grad
        statistics: BlendStatistics = made.statistics
        for name in ("mean_gradient_abs_px", "weight_sum", "weight_max"):
            results[backend][name] = getattr(statistics, name)
    for name, found in results["cuda"].items():
        report.relative(f"{name}{what}", found, results["cpu"][name], 2e-3 if name == "normal" else 1e-3)


def _lists(report: Report, seed: int) -> None:
    size = (90, 70) if report.small else (1000, 700)
    projected = make_projected(300 if report.small else 30_000, *size, seed=seed, sigma_px=(0.3, 40.0))
    moved = Projected(
        **{name: getattr(projected, name).to(report.device) for name in _FLOATS},
        visible=projected.visible.to(report.device),
    )
    found = bin_tiles(moved, *size, backend="cuda")
    expected = bin_tiles(projected, *size, backend="cpu")
    found_lists, expected_lists = (_as_sets(t.offsets.cpu(), t.ids.cpu()) for t in (found, expected))
    differing = len(found_lists ^ expected_lists) / max(len(expected_lists), 1)
    report.check("tile lists", differing < 1e-3, f"{differing:.1e} of {len(expected_lists)} pairs differ")
    offsets, depths = found.offsets.cpu().long(), projected.depths[found.ids.cpu().long()]
    later = torch.ones(len(depths), dtype=torch.bool)
    later[offsets[:-1][offsets[:-1] < len(depths)]] = False
    in_order = bool((depths[1:] >= depths[:-1])[later[1:]].all())
    report.check("order of the lists", in_order, "by depth" if in_order else "not by depth")


def _as_sets(offsets: torch.Tensor, ids: torch.Tensor) -> set[tuple[int, int]]:
    tiles = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff().long())
    return set(zip(tiles.tolist(), ids.tolist()))


def _loss(report: Report, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = (37, 21, 3) if report.small else (517, 1003, 3)
    image, target = (torch.rand(size, generator=generator) for _ in range(2))
    weight = (torch.rand(size[:2], generator=generator) > 0.3).float()
    results = []
    for backend, device in (("cuda", report.device), ("cpu", torch.device("cpu"))):
        leaf = image.to(device, copy=True).requires_grad_()
        loss = photometric_loss(leaf, target.to(device), 0.2, weight.to(device), backend)
        loss.backward()
        results.append((loss, leaf.grad))
    report.relative("photometric loss", results[0][0], results[1][0], 1e-5)
    report.relative("its gradient", results[0][1], results[1][1], 1e-4)


def _rows(report: Report, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    given = [torch.rand((5000, 48), generator=generator) for _ in range(4)]
    visible = torch.rand(5000, generator=generator) < 0.5
    results = []
    for backend, device in (("cuda", report.device), ("reference", torch.device("cpu"))):
        tensors = [tensor.to(device, copy=True) for tensor in given]
        adam_step(*tensors, AdamHyper(0.01, 3), visible.to(device), backend)
        sources = torch.arange(0, 5000, 2, device=device)
        move_rows(tensors, sources, backend)
        results.append(torch.cat(tensors))
    report.relative("Adam and moving rows", results[0], results[1], 1e-5)


def _density(report: Report, seed: int) -> None:
    """A round of density control, against the one in torch."""
    from recon.methods.splat.config import DensityConfig, SplatConfig
    from recon.methods.splat.density import ClassicDensity, CudaClassicDensity, DensityContext
    from recon.methods.splat.model import SplatParameters

    count = 400 if report.small else 300_000
    config = SplatConfig(
        steps=100, max_gaussians=count + count // 4, density=DensityConfig(start=0.1, stop=0.1, prune_weight=0.1)
    )
    results: list[dict[str, torch.Tensor]] = []
    for strategy, device in ((CudaClassicDensity, report.device), (ClassicDensity, torch.device("cpu"))):
        generator = torch.Generator().manual_seed(seed)
        density = strategy(config, count, device)
        gathered = {n: torch.rand(count, generator=generator) for n in ("gradient_sum", "seen", "most_weight")}
        density.restore(gathered)
        parameters = SplatParameters(make_splats(count, 16, seed).to(device))
        density.update(parameters, DensityContext(10, 1.0, 1e-3))
        results.append(parameters.state())
    counts = [len(result["means"]) for result in results]
    report.check("density control", counts[0] == counts[1], f"{counts[0]} Gaussians, {counts[1]} in torch")
    if counts[0] == counts[1]:
        for name in ("means", "log_scales", "sh"):
            report.relative(f"{name} after density control", results[0][name], results[1][name], 1e-5)


def _meshing(report: Report) -> None:
    """Depth maps of a sphere to a mesh, all on the device, against the CPU's kernels."""
    from kernels.tsdf.test_tsdf import EYES, sphere_frame, sphere_view

    from recon.kernels.marching_cubes.op import marching_cubes
    from recon.kernels.tsdf.op import TsdfGrid, allocate_blocks, integrate

    frame = sphere_frame(0.05 if report.small else 0.005, 0.2 if report.small else 0.02)
    size = (37, 29) if report.small else (530, 410)
    surfaces = {}
    for backend, device in (("cuda", report.device), ("cpu", torch.device("cpu"))):
        views = []
        for eye in EYES[: 2 if report.small else None]:
            view = sphere_view(eye, *size)
            maps = ("inverse_depth", "slant", "confidence", "color")
            views.append(replace(view, **{name: getattr(view, name).to(device) for name in maps}))
        found = allocate_blocks(views, frame, 1 << 20, backend, device)  # type: ignore[arg-type]
        grid = TsdfGrid.empty(frame, found.blocks)
        for view in views:
            integrate(grid, view, backend)  # type: ignore[arg-type]
        surfaces[backend] = marching_cubes(grid, backend=backend), found.blocks.cpu()  # type: ignore[arg-type]
    (mesh, blocks), (expected, expected_blocks) = surfaces["cuda"], surfaces["cpu"]
    apart = len(set(map(tuple, blocks.tolist())) ^ set(map(tuple, expected_blocks.tolist())))
    report.check(
        "blocks of the field", apart <= 1e-3 * len(expected_blocks), f"{apart} of {len(expected_blocks)} differ"
    )
    faces = len(mesh.faces), len(expected.faces)
    report.check("triangles", abs(faces[0] - faces[1]) <= 2e-3 * faces[1] + 2, f"{faces[0]}, {faces[1]} on the CPU")
    radii = mesh.vertices.norm(dim=1)
    error = float((radii - 0.5).abs().median())
    report.check(
        "the sphere", error < frame.voxel_size, f"its surface is {error:.1e} off (a voxel is {frame.voxel_size})"
    )


def _graphs(report: Report) -> None:
    """Steps replayed as graphs, and launch by launch."""
    from gpu.training import make_trainer, synthetic_views

    scene, views = synthetic_views(report, side=48 if report.small else 160)
    program: Any = program_for(report.device)
    losses_of, stood = [], bool(getattr(program, "graphs", False))
    for graphs in (stood, False):
        program.graphs = graphs
        made = make_trainer(scene, views, report.device, "cuda", 10, 3000)
        losses = [made.step(step, step % len(views))["loss"] for step in range(1, 7)]
        losses_of.append(torch.tensor(losses))
        stood = bool(program.graphs) if graphs else stood
    program.graphs = stood
    graphs_stand = report.emulated or stood
    report.check("graphs", graphs_stand, "the driver takes them" if graphs_stand else "the driver refused one")
    report.relative("losses of graphs and of launches one by one", *losses_of, most=1e-4)


def _fused_training(report: Report) -> None:
    """Some steps on the fused kernels, against the CPU's."""
    from gpu.training import make_trainer, synthetic_views

    steps = 6 if report.small else 60
    scene, views = synthetic_views(report, side=48 if report.small else 160)
    results = {}
    for backend, device in (("cuda", report.device), ("cpu", torch.device("cpu"))):
        made = make_trainer(scene, views, device, backend, steps, 3000)
        # Of a sphere, the rotation's gradient is nothing but rounding, whose sign Adam would follow.
        random = torch.Generator().manual_seed(5)
        for name in ("log_scales", "quats"):
            values = made._parameters[name].value.data
            values += 0.3 * torch.randn(values.shape, generator=random).to(device)
        losses = [made.step(step, step % len(views))["loss"] for step in range(1, steps + 1)]
        results[backend] = losses
    # The CUDA step tells each loss one step late.
    early = torch.tensor(results["cuda"][1:6]), torch.tensor(results["cpu"][:5])
    report.relative("losses of the first steps", *early, most=1e-3)
    last = sum(results["cuda"][-3:]) / 3, sum(results["cpu"][-3:]) / 3
    report.check("the last losses", abs(last[0] - last[1]) < 0.1 * last[1], f"{last[0]:.4f}, on the CPU {last[1]:.4f}")
