# SPDX-License-Identifier: Apache-2.0
"""Times of a training step and its kernels, and of gsplat's, on random scenes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from recon.bench.reference import why_no_gsplat
from recon.bench.scenes import BenchScene, random_scene
from recon.kernels.cuda.program import program_for
from recon.kernels.cuda.sources import Kernel
from recon.kernels.update.op import UpdateRates
from recon.methods.profile import OFF, Profile
from recon.methods.splat.cuda_step import CudaStep
from recon.methods.splat.model import SplatParameters
from recon.methods.splat.step import StepRequest
from recon.methods.targets import Target
from recon.rasterization import RasterizeOptions, SplatRenderer, rasterize
from recon.splats import Splats

if TYPE_CHECKING:
    from gpu.check import Report

_NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh")
_RATES = UpdateRates(1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9, step=10)
_MOST_GSPLAT_START_S = 150.0


def milliseconds(report: Report, work: Callable[[], Any], repeats: int = 30) -> float:
    """Returns the median time on the device, after some runs that do not count."""
    repeats = 2 if report.small else repeats
    for _ in range(1 if report.small else 5):
        work()
    if report.device.type != "cuda":
        samples = []
        for _ in range(repeats):
            begun = time.perf_counter()
            work()
            samples.append(1e3 * (time.perf_counter() - begun))
        return statistics.median(samples)
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in pairs:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def bandwidth(report: Report) -> None:
    """What a copy much larger than the cache moves: the ceiling of everything that streams."""
    count = 1 << (18 if report.small else 30)
    source, target = (torch.rand(count, device=report.device) for _ in range(2))
    taken = milliseconds(report, lambda: target.copy_(source), 10)
    report.numbers["copy GB/s"] = round(8 * count / taken / 1e6, 1)
    print(f"a copy moves {report.numbers['copy GB/s']} GB/s, read and written")


def speed(report: Report) -> None:
    """Steps and pictures of three sizes, ours and gsplat's."""
    reason = "no GPU" if report.emulated else _start_gsplat(report)
    report.numbers["gsplat"] = not reason
    if reason:
        print(f"gsplat is left out: {reason}")
    sizes = [(300, (64, 48))] if report.small else [(100_000, (960, 540)), (1_000_000, (1184, 888))]
    rows = report.numbers["speed"] = []
    for count, size in sizes:
        scene = random_scene(count, size, 3)
        row: dict[str, Any] = {"Gaussians": count, "size": size, "blended": round(scene.blended_per_pixel, 1)}
        rows.append(row)
        row["ours"] = _ours(report, scene)
        if not reason:
            row["gsplat"] = _gsplat(report, scene, row)


def _splats_on(scene: BenchScene, device: torch.device) -> Splats:
    return replace(scene.splats, **{name: getattr(scene.splats, name).to(device) for name in _NAMES})


def _target(scene: BenchScene, device: torch.device) -> Target:
    size = (scene.camera.height, scene.camera.width, 3)
    image = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Target(scene.camera, scene.pose.to(device), image.to(device), None, False)


def _ours(report: Report, scene: BenchScene) -> dict[str, Any]:
    device = report.device
    _start_memory(report)
    parameters = SplatParameters(_splats_on(scene, device))
    target, step = _target(scene, device), CudaStep(device, OFF)
    request = StepRequest(target, target.cam_from_world, (0.0, 0.0, 0.0), 3, 0.2, None, _RATES, None)
    found: dict[str, Any] = {"step ms": round(milliseconds(report, lambda: step.make(parameters, request)), 4)}
    found["memory MB"] = _memory(report)
    found["queueing ms"] = _queueing(report, lambda: step.make(parameters, request))
    with _without_graphs(report):
        ordered = CudaStep(device, OFF)
        found["step ms, launches replayed"] = round(milliseconds(report, lambda: ordered.make(parameters, request)), 4)
        found["queueing ms, replayed"] = _queueing(report, lambda: ordered.make(parameters, request))
    timed = CudaStep(device, Profile())
    found["step ms, launch by launch"] = round(milliseconds(report, lambda: timed.make(parameters, request)), 4)
    found["queueing ms, launch by launch"] = _queueing(report, lambda: timed.make(parameters, request))
    found["kernels ms"] = _kernel_times(report, lambda: timed.make(parameters, request))
    del ordered, timed
    renderer = SplatRenderer(_splats_on(scene, device), backend="cuda")
    found["render ms"] = round(milliseconds(report, lambda: renderer.render(scene.camera)), 4)
    report.check(
        f"a step at {len(scene.splats)}", step.lost_steps == 0, f"{found['step ms']} ms, {step.lost_steps} lost"
    )
    return found


def _queueing(report: Report, work: Callable[[], Any]) -> float:
    """How long the host is busy with a step."""
    report.synchronize()
    samples = []
    for _ in range(2 if report.small else 20):
        begun = time.perf_counter()
        work()
        samples.append(1e3 * (time.perf_counter() - begun))
        report.synchronize()
    return round(statistics.median(samples), 3)


@contextlib.contextmanager
def _without_graphs(report: Report) -> Iterator[None]:
    """Recorded launches are made one by one."""
    program: Any = program_for(report.device)
    before, program.graphs = getattr(program, "graphs", False), False
    try:
        yield
    finally:
        program.graphs = before


@contextlib.contextmanager
def _timed_launches(report: Report) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Puts events around every launch."""
    program, events = program_for(report.device), {}  # type: ignore[var-annotated]
    start = program.start

    def timed(kernel: Kernel, blocks: int, params: Any) -> None:
        pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        pair[0].record()
        start(kernel, blocks, params)
        pair[1].record()
        events.setdefault(kernel.name, []).append(pair)

    program.start = timed  # type: ignore[method-assign]
    try:
        yield events
    finally:
        program.start = start  # type: ignore[method-assign]


def _kernel_times(report: Report, work: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of each kernel in one step, launches of the same added up; with events between, so a little long."""
    if report.device.type != "cuda":
        return {}
    runs = []
    for _ in range(10):
        with _timed_launches(report) as events:
            work()
        torch.cuda.synchronize()
        runs.append({name: sum(a.elapsed_time(b) for a, b in pairs) for name, pairs in events.items()})
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def _start_memory(report: Report) -> None:
    if report.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(report: Report) -> float:
    return round(torch.cuda.max_memory_allocated() / 1e6, 1) if report.device.type == "cuda" else 0.0


# ---- gsplat ----------------------------------------------------------------------------------------------------------


def _start_gsplat(report: Report) -> str:
    """Renders once, in a process of its own with a limit of time, since gsplat may compile; returns why not."""
    import subprocess
    import sys

    reason = why_no_gsplat()
    if reason:
        return reason
    code = (
        "import torch; from recon.bench.scenes import random_scene; from recon.bench.reference import gsplat_seconds;"
        " gsplat_seconds(1000, (64, 48), 3)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=_MOST_GSPLAT_START_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not compile within {_MOST_GSPLAT_START_S:.0f} s"
    return "" if done.returncode == 0 else f"it fails: {done.stderr.decode(errors='replace')[-300:]}"


def _gsplat(report: Report, scene: BenchScene, row: dict[str, Any]) -> dict[str, Any]:
    """A step of gsplat's rasterizer, mean absolute difference and torch's fused Adam; and equality with ours."""
    device = report.device
    _start_memory(report)
    leaves = {name: getattr(scene.splats, name).to(device).requires_grad_() for name in _NAMES}
    splats = replace(scene.splats, **leaves)
    optimizer = torch.optim.Adam([{"params": [leaf]} for leaf in leaves.values()], lr=1e-9, fused=True)
    image = _target(scene, device).image.float() / 255
    options = RasterizeOptions()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # The mean absolute difference stands for the whole loss, which is in gsplat's favour.
        (rasterize(splats, scene.camera, options, backend="gsplat").output.rgb - image).abs().mean().backward()
        optimizer.step()

    found: dict[str, Any] = {"step ms": round(milliseconds(report, step), 4), "memory MB": _memory(report)}

    def render() -> torch.Tensor:
        with torch.no_grad():
            return rasterize(splats, scene.camera, options, backend="gsplat").output.rgb

    found["render ms"] = round(milliseconds(report, render), 4)
    _compare(report, splats, leaves, scene, found)
    ours = row["ours"]
    row["ratio"] = {key: round(found[key] / max(ours[key], 1e-9), 2) for key in ("step ms", "render ms", "memory MB")}
    report.check(f"twice gsplat's speed at {row['Gaussians']}", row["ratio"]["step ms"] >= 2, f"{row['ratio']}")
    return found


def _compare(
    report: Report, splats: Splats, leaves: dict[str, torch.Tensor], scene: BenchScene, found: dict[str, Any]
) -> None:
    results = {}
    for backend in ("gsplat", "cuda"):
        for leaf in leaves.values():
            leaf.grad = None
        rgb = rasterize(splats, scene.camera, RasterizeOptions(), backend=backend).output.rgb  # type: ignore[arg-type]
        weights = torch.rand(rgb.shape, generator=torch.Generator().manual_seed(1)).to(rgb.device)
        (rgb * weights).sum().backward()
        gradients = {n: leaf.grad.clone() for n, leaf in leaves.items() if leaf.grad is not None}
        results[backend] = (rgb.detach(), gradients)
    error = float((results["cuda"][0] - results["gsplat"][0]).double().square().mean())
    found["PSNR between"] = round(-10 * torch.log10(torch.tensor(max(error, 1e-20))).item(), 2)
    report.check("gsplat's picture", found["PSNR between"] >= 60, f"{found['PSNR between']} dB between the two")
    for name in leaves:
        report.relative(f"gsplat's gradient of {name}", results["cuda"][1][name], results["gsplat"][1][name])


def table(numbers: dict[str, Any]) -> str:
    """Returns what a person wants to see at the end."""
    lines = [
        f"copy {numbers.get('copy GB/s', '?')} GB/s; {numbers.get('gpu', 'no GPU')}; driver {numbers.get('driver')}"
    ]
    for row in numbers.get("speed", []):
        lines.append(
            f"{row['Gaussians']} Gaussians, {row['size'][0]}×{row['size'][1]}, {row['blended']} blended per pixel"
        )
        lines.append(f"  {'':16}{'ours':>12}{'gsplat':>12}{'ratio':>8}")
        for key in ("step ms", "render ms", "memory MB"):
            theirs, ratio = row.get("gsplat", {}).get(key, "-"), row.get("ratio", {}).get(key, "-")
            lines.append(f"  {key:16}{row.get('ours', {}).get(key, '-'):>12}{theirs:>12}{ratio:>8}")
        ours = row.get("ours", {})
        for what in ("", ", launches replayed", ", launch by launch"):
            busy = ours.get("queueing ms" + what.replace("launches ", ""))
            name = what.strip(", ") or "one graph"
            lines.append(f"  {name}: {ours.get('step ms' + what)} ms a step, of which the host is busy {busy} ms")
        for name, taken in sorted(row.get("ours", {}).get("kernels ms", {}).items(), key=lambda item: -item[1]):
            achieved = _achieved(name, taken, row, numbers)
            lines.append(f"    {name:20}{taken:9.4f} ms{achieved}")
    lines += [f"{name}: {value}" for name, value in numbers.items() if isinstance(value, dict)]
    return "\n".join(lines)


def _achieved(name: str, taken: float, row: dict[str, Any], numbers: dict[str, Any]) -> str:
    """The bytes that a streaming kernel has to move at least, over its time, beside what a copy moves."""
    count, pixels = row["Gaussians"], row["size"][0] * row["size"][1]
    # Values in and moments in and out, of all Gaussians as if all were seen; pictures of three floats.
    least = {
        "update_3": count * (59 * 4 * 6 + 48 + 12),
        "project_forward": count * (59 * 4 + 41),
        "ssim_forward": pixels * (12 + 3 + 36),
        "ssim_backward": pixels * (12 + 3 + 36 + 12),
    }.get(name)
    if least is None or not taken:
        return ""
    rate = least / taken / 1e6
    return f"   {rate:7.0f} GB/s at most, {100 * rate / max(numbers.get('copy GB/s', 0), 1e-9):.0f}% of a copy"
