# SPDX-License-Identifier: Apache-2.0
"""Scores a run on the photographs that it never saw: a table, the worst ones as pictures, the protocol in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.files import atomic_directory, write_json
from recon.methods.run import Run, load_run
from recon.progress import SILENT, Progress
from recon.scene import View, held_out_names

if TYPE_CHECKING:
    import torch

    from recon.metrics.lpips import Lpips

SCHEMA = 1
PICTURES = "eval"
_GAP_PX = 4
_ERROR_GAIN = 4.0


@dataclass(frozen=True)
class ImageScore:
    """One photograph's scores; `counted` is its share of unmasked pixels, `lpips` None without weights."""

    name: str
    psnr_db: float
    ssim: float
    lpips: float | None
    counted: float


@dataclass(frozen=True)
class EvalReport:
    """What evaluation found.

    Attributes:
        path: eval.json.
        step: steps of the state that was scored.
        psnr_db, ssim, lpips: means over the photographs; `lpips` is None without its weights.
        images: per photograph, in order of name.
        worst: pictures of the worst photographs, worst first: rendering, photograph, error.
        protocol: how the scores came about, in words.
        notes: what the reader should know, such as how to get LPIPS.
    """

    path: Path
    step: int
    psnr_db: float
    ssim: float
    lpips: float | None
    images: tuple[ImageScore, ...]
    worst: tuple[Path, ...]
    protocol: str
    notes: tuple[str, ...] = ()


def evaluate(run: Run | Path | str, progress: Progress = SILENT, worst_count: int = 4) -> EvalReport:
    """Scores the held-out photographs and writes eval.json and eval/*.png into the run's folder.

    Args:
        run: a run, or its folder.
        progress: told about each photograph.
        worst_count: how many of the worst photographs to show.

    Raises:
        ReconError: no photograph was held out, or the scene is gone.
    """
    from recon.views import load_views

    if not isinstance(run, Run):
        run = load_run(run)
    names = held_out_names([frame.name for frame in run.scene.frames], run.config.held_out_every)
    if not names:
        raise ReconError(
            f"evaluating {run.path}",
            "it was trained on all photographs, so there is none to score",
            "photographs that were held out",
            "train with --held-out-every 8",
        )
    views = sorted(load_views(run.scene, run.long_side, progress, names), key=lambda view: view.name)
    metric, notes = _find_lpips()
    scores, pictures = [], {}
    with progress.stage("scoring", len(views), "photographs") as stage:
        for view in views:
            score, rgb = _score(run, view, metric)
            scores.append(score)
            pictures[view.name] = rgb
            stage.advance(1, f"{view.name} {score.psnr_db:.2f} dB")
    ranked = sorted(scores, key=lambda score: score.psnr_db)[:worst_count]
    by_name = {view.name: view for view in views}
    worst = _write_pictures(run.path, [(score, by_name[score.name], pictures[score.name]) for score in ranked])
    report = EvalReport(
        path=run.path / "eval.json",
        step=run.step,
        psnr_db=_mean([score.psnr_db for score in scores]),
        ssim=_mean([score.ssim for score in scores]),
        lpips=None if metric is None else _mean([score.lpips for score in scores if score.lpips is not None]),
        images=tuple(scores),
        worst=worst,
        protocol=_protocol(run, views, scores, metric),
        notes=tuple(notes),
    )
    write_json(report.path, _document(report), SCHEMA)
    return report


def _find_lpips() -> tuple[Lpips | None, list[str]]:
    from recon.metrics.lpips import HOW_TO_GET, find_weights, load_lpips

    weights = find_weights()
    return (None, [HOW_TO_GET]) if weights is None else (load_lpips(weights), [])


def _score(run: Run, view: View, metric: Lpips | None) -> tuple[ImageScore, torch.Tensor]:
    import torch

    from recon.metrics.images import psnr_db, ssim_score, target_tensor, weight_tensor
    from recon.render import RenderOptions

    rgb = run.renderer.render(view.camera, RenderOptions()).rgb.clamp(0, 1).cpu()
    target, weight = target_tensor(view), weight_tensor(view)
    distance = None
    if metric is not None and min(rgb.shape[:2]) >= 32:
        masked = rgb if weight is None else torch.where((weight > 0)[..., None], rgb, target)
        distance = metric(masked, target)
    counted = 1.0 if weight is None else float(weight.mean())
    return ImageScore(view.name, psnr_db(rgb, target, weight), ssim_score(rgb, target, weight), distance, counted), rgb


def _write_pictures(run: Path, chosen: list[tuple[ImageScore, View, torch.Tensor]]) -> tuple[Path, ...]:
    """Writes rendering, photograph and error side by side; the folder is replaced as a whole."""
    from PIL import Image

    names = []
    with atomic_directory(run / PICTURES) as folder:
        for rank, (score, view, rgb) in enumerate(chosen, 1):
            stem = Path(view.name).with_suffix("").as_posix().replace("/", "_")
            names.append(f"worst-{rank}-{stem}-{score.psnr_db:.2f}dB.png")
            Image.fromarray(side_by_side(rgb, view)).save(folder / names[-1])
    return tuple(run / PICTURES / name for name in names)


def side_by_side(rgb: torch.Tensor, view: View) -> Any:
    """Returns rendering | photograph | error ×4 as one uint8 picture [H, 3 W + gaps, 3]; masked pixels are darkened."""
    import numpy as np
    import torch

    from recon.metrics.images import target_tensor, to_bytes, weight_tensor

    target, weight = target_tensor(view), weight_tensor(view)
    error = ((rgb - target).abs() * _ERROR_GAIN).clamp(0, 1)
    panels = [rgb, target, error]
    if weight is not None:
        shade = (0.25 + 0.75 * weight)[..., None]
        panels = [panel * shade for panel in panels]
    gap = np.full((rgb.shape[0], _GAP_PX, 3), 255, np.uint8)
    arrays = [to_bytes(panel if isinstance(panel, torch.Tensor) else target) for panel in panels]
    return np.concatenate([arrays[0], gap, arrays[1], gap, arrays[2]], 1)


def _protocol(run: Run, views: list[View], scores: list[ImageScore], metric: Lpips | None) -> str:
    sizes = sorted({f"{view.camera.width}×{view.camera.height}" for view in views})
    masked = [score for score in scores if score.counted < 1]
    lpips = "" if metric is None else f" LPIPS 0.1 with {metric.network}, masked pixels set to the photograph's."
    return (
        f"{len(views)} photographs held out: each {run.config.held_out_every}th by sorted name, from the first; never "
        "trained on, and neither their poses nor their exposure are fitted to the result. Photographs are undistorted "
        "and cropped to the largest rectangle that the lens covers, area-averaged to "
        + (f"a long side of at most {run.long_side} pixels" if run.long_side else "no smaller size")
        + f" ({', '.join(sizes)}), 8-bit sRGB; the same pictures size as in training. Renderings over black are "
        "float32, clamped to 0..1, not rounded. PSNR over all counted pixels and channels of a picture, SSIM with an "
        "11×11 Gaussian window of 1.5 px, zero padding, no pixel cropped; means over pictures."
        + (f" {len(masked)} pictures have masked pixels, which are left out." if masked else " No pixel is masked.")
        + lpips
    )


def _document(report: EvalReport) -> dict[str, Any]:
    document = asdict(report)
    del document["path"]
    document["worst"] = [f"{PICTURES}/{path.name}" for path in report.worst]
    for group in (document, *document["images"]):
        for name in ("psnr_db", "ssim", "lpips"):
            value = group[name]
            group[name] = round(value, 6) if value is not None and value == value else None
    return document


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
