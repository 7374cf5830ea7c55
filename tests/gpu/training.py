# SPDX-License-Identifier: Apache-2.0
"""Trainings on the CUDA kernels, and on gsplat's where it runs: held-out PSNR and time."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.cameras import Camera, look_at
from recon.methods.method import TrainingData
from recon.methods.profile import OFF
from recon.methods.splat.config import DensityConfig, SplatConfig
from recon.methods.splat.train import SplatTrainer
from recon.metrics.images import to_bytes
from recon.rasterization import SplatRenderer
from recon.scene import Frame, Scene, SparsePoints, View
from recon.splats import SH_C0, Splats
from recon.views import load_views

if TYPE_CHECKING:
    from gpu.check import Report

_STEPS = 1500
_GAUSSIANS = 100_000


def make_trainer(
    scene: Scene, views: Sequence[View], device: torch.device, backend: str, steps: int, most: int
) -> SplatTrainer:
    """Returns a trainer of `most` Gaussians at most."""
    config = SplatConfig(
        steps=steps, max_gaussians=most, device=device.type, backend=backend, coarse=0.0,  # type: ignore[arg-type]
        density=DensityConfig() if steps > 200 else DensityConfig("none"),
    )  # fmt: skip
    return SplatTrainer(TrainingData(scene, tuple(views), (), device, np.random.default_rng(0), OFF), config)


def synthetic_views(report: Report, side: int) -> tuple[Scene, list[View]]:
    """Photographs of coloured Gaussians in a ball, rendered by the CPU's kernels."""
    generator = torch.Generator().manual_seed(11)
    means = torch.randn(300, 3, generator=generator)
    sh = torch.zeros(300, 1, 3)
    sh[:, 0] = (torch.rand(300, 3, generator=generator) - 0.5) / SH_C0
    true = Splats(
        means / means.norm(dim=1, keepdim=True).clamp_min(1), torch.randn(300, 4, generator=generator),
        torch.log(0.03 + 0.1 * torch.rand(300, 3, generator=generator)), torch.full((300,), 3.0), sh,
    )  # fmt: skip
    frames, views, renderer = [], [], SplatRenderer(true, backend="cpu")
    for index in range(8):
        angle = 2 * math.pi * index / 8
        eye = 3 * np.array([math.cos(angle), math.sin(angle), 0.3])
        pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
        camera = Camera(side, side, side, side, side / 2, side / 2, cam_from_world=pose)
        frames.append(Frame(f"{index}.png", Path(f"{index}.png"), camera, 1))
        views.append(View(f"{index}.png", index, camera, to_bytes(renderer.render(camera).rgb), None))
    points = means.numpy()[::2].astype(np.float64)
    colors = np.full((len(points), 3), 128, np.uint8)
    sparse = SparsePoints(points, colors, np.ones(len(points), np.float32), np.full(len(points), 3, np.int32))
    return Scene(tuple(frames), sparse), views


def training(report: Report) -> None:
    """The synthetic room, and the fox photographs where they are at hand."""
    with tempfile.TemporaryDirectory() as folder:
        scenes = {"room": _room(report, Path(folder))}
        fox = _fox()
        if fox is not None and not report.small:
            scenes["fox"] = fox
        for name, scene in scenes.items():
            _train(report, name, scene)


def _room(report: Report, folder: Path) -> Scene:
    from recon.data.capture import make_capture
    from recon.data.config import CaptureConfig

    config = CaptureConfig(maps=True, light_samples=16)
    if report.small:
        config = CaptureConfig(views=6, width=64, height=48, detail=0.1, supersampling=1, light_samples=4)
    begun = time.perf_counter()
    capture = make_capture("room", folder / "room", config)
    report.numbers["making the room s"] = round(time.perf_counter() - begun, 1)
    return replace(capture.scene, points=_points_of(capture.scene, config.seed))


def _points_of(scene: Scene, seed: int) -> SparsePoints:
    """Points on what the true depths of some photographs show, as structure from motion would find them."""
    random = np.random.default_rng(seed)
    positions, colors = [], []
    for frame in scene.frames[::2]:
        camera = frame.camera
        assert frame.depth_path is not None
        depth = np.load(frame.depth_path).astype(np.float64)
        pixels = random.random((400, 2)) * [camera.width, camera.height]
        at = pixels.astype(int)
        along = depth[at[:, 1], at[:, 0]]
        rays = camera.ray_directions_in_cam(pixels)
        in_cam = rays / rays[:, 2:] * along[:, None]
        pose = camera.world_from_cam
        positions.append((in_cam @ pose[:3, :3].T + pose[:3, 3])[along > 0])
        colors.append(np.full((int((along > 0).sum()), 3), 128, np.uint8))
    points = np.concatenate(positions)
    count = len(points)
    return SparsePoints(points, np.concatenate(colors), np.ones(count, np.float32), np.full(count, 3, np.int32))


def _fox() -> Scene | None:
    from recon.formats.transforms_json import read_transforms

    shared = os.environ.get("RECON_SHARED", "")
    for folder in (Path(shared) if shared else Path("shared"), Path("shared"), Path("../shared")):
        path = folder / "data" / "fox" / "transforms.json"
        if path.is_file():
            return read_transforms(path).scene
    return None


def _train(report: Report, name: str, scene: Scene) -> None:
    """Trains on seven of eight photographs and scores the others."""
    views = load_views(scene, 64 if report.small else 640)
    held_out, used = views[::8], [view for index, view in enumerate(views) if index % 8]
    steps, most = (8, 500) if report.small else (_STEPS, _GAUSSIANS)
    backends = ["cuda"] + (["gsplat"] if report.numbers.get("gsplat") and report.seconds() < 380 else [])
    for backend in backends:
        made = make_trainer(scene, used, report.device, backend, steps, most)
        random = np.random.default_rng(1)
        order = [int(view) for _ in range(steps // len(used) + 1) for view in random.permutation(len(used))]
        report.synchronize()
        begun = time.perf_counter()
        for step in range(1, steps + 1):
            made.step(step, order[step - 1])
        report.synchronize()
        seconds = time.perf_counter() - begun
        psnr = float(np.mean([_psnr(made.snapshot(), view) for view in held_out]))
        report.numbers[f"{name}, {backend}"] = {"s": round(seconds, 2), "PSNR": round(psnr, 2), "steps": steps}
        least = -100.0 if report.small else 18.0
        report.check(
            f"training on {name}, {backend}", psnr > least, f"{psnr:.2f} dB after {steps} steps, {seconds:.1f} s"
        )


def _psnr(renderer: SplatRenderer, view: View) -> float:
    rgb = renderer.render(view.camera).rgb.clamp(0, 1).cpu()
    truth = torch.from_numpy(view.image).float() / 255
    return -10 * math.log10(max(float((rgb - truth).square().mean()), 1e-10))
