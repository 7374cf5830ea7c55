# SPDX-License-Identifier: Apache-2.0
"""Gathers what `recon run` made into the page that sums it up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon.cli.console import duration
from recon.errors import ReconError
from recon.progress import Progress, label_of, shown_number

if TYPE_CHECKING:
    from recon.cli.pipeline import PipelineReport
    from recon.methods import Run
    from recon.scene import View
    from recon.viewers.summary.page import Comparison, PageFile, PagePicture

MOST_COMPARISONS = 4
MESH_VIEWS = 3


def write_page(report: PipelineReport, progress: Progress) -> None:
    """Writes `report.page` from the results on disk."""
    from recon import __version__
    from recon.cli.edited import load_edited_run
    from recon.cli.train import method_numbers
    from recon.methods import load_run
    from recon.scene import held_out_names
    from recon.viewers.summary.page import SummaryData, ViewScore, write_summary_page

    with progress.stage("Writing the page"):
        run, edited = load_run(report.out / "run"), load_edited_run(report.out / "run")
        scene, scores = edited.scene, report.eval
        steps, losses, psnr = _curve(run.path / "metrics.jsonl")
        data = SummaryData(
            title=report.out.resolve().name,
            subtitle=f"{report.process['posed']} photographs, reconstructed by recon {__version__}",
            attention=report.attention,
            highlights=_highlights(report),
            facts=[
                ("Photographs posed", f"{report.process['posed']} of {report.process['photos']}"),
                ("Training", f"{report.train['step']:,} steps in {duration(report.train['seconds'])}"),
                ("Method", run.method.summary),
                *[(label_of(name), shown_number(n)) for name, n in method_numbers(report.train["numbers"]).items()],
                ("Protocol of the scores", scores["protocol"]),
            ],
            scores=[ViewScore(i["name"], i["psnr_db"], i["ssim"], i["lpips"]) for i in scores["images"]],
            comparisons=_comparisons(run, scores),
            mesh_pictures=_mesh_pictures(report, edited),
            steps=steps,
            losses=losses,
            psnr_by_step=psnr,
            cameras=[(frame.name, frame.camera) for frame in scene.frames],
            held_out=frozenset(held_out_names([f.name for f in scene.frames], run.config.held_out_every)),
            points=scene.points.positions,
            point_colors=scene.points.colors,
            splats=edited.splats,
            files=_files(report),
            commands=[
                (f"recon view {report.out}", "turn it in the browser, with cameras, points and mesh as layers"),
                (f"recon render {run.path} --out film.mp4", "a film around it"),
                (f"recon mesh {run.path} --out mesh.obj", "the mesh in another format or another resolution"),
                (f"recon eval {run.path}", "the scores again"),
            ],
        )
        write_summary_page(report.page, data)


def _highlights(report: PipelineReport) -> list[tuple[str, str]]:
    highlights = [
        (f"{report.process['posed']} / {report.process['photos']}", "photographs posed"),
        (f"{report.eval['psnr_db']:.2f} dB", "held-out PSNR"),
        (f"{report.eval['ssim']:.3f}", "held-out SSIM"),
    ]
    if report.export is not None:
        highlights.append((f"{report.export['splats']:,}", "Gaussians"))
    if report.mesh is not None:
        highlights.append((f"{report.mesh['faces']:,}", "triangles"))
    return highlights


def _comparisons(run: Run, scores: dict[str, Any]) -> list[Comparison]:
    """Returns photographs beside renderings: the median one first, then the worst."""
    from recon.viewers.summary.page import Comparison
    from recon.views import load_views

    ranked = sorted(scores["images"], key=lambda image: image["psnr_db"])
    middle = ranked[len(ranked) // 2]
    chosen = [middle, *[image for image in ranked if image is not middle]][:MOST_COMPARISONS]
    views = {view.name: view for view in load_views(run.scene, run.long_side, names=[i["name"] for i in chosen])}
    return [
        Comparison(i["name"], views[i["name"]].image, _rendering(run, views[i["name"]]), f"{i['psnr_db']:.2f} dB")
        for i in chosen
    ]


def _rendering(run: Run, view: View) -> npt.NDArray[np.uint8]:
    from recon.render import RenderOptions

    return _bytes(run.renderer.render(view.camera, RenderOptions()).rgb)


def _bytes(rgb: Any) -> npt.NDArray[np.uint8]:
    picture: npt.NDArray[np.uint8] = (rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return picture


def _mesh_pictures(report: PipelineReport, run: Run) -> list[PagePicture]:
    """Returns the mesh as three photographs see it, spread over the capture."""
    from recon.formats.mesh_files import read_mesh
    from recon.render import RenderOptions
    from recon.surface import MeshRenderer
    from recon.viewers.summary.page import PagePicture
    from recon.views import undistorted_camera

    if report.mesh is None or not report.mesh["faces"]:
        return []
    renderer = MeshRenderer(read_mesh(Path(report.mesh["path"])))
    frames = run.scene.frames
    pictures = []
    for index in np.linspace(0, len(frames) - 1, MESH_VIEWS + 2).round().astype(int)[1:-1]:
        camera = undistorted_camera(frames[index].camera).fitted(640)
        output = renderer.render(camera, RenderOptions(background=(1.0, 1.0, 1.0)))
        pictures.append(PagePicture(_bytes(output.rgb), f"The mesh as {frames[index].name} sees it"))
    return pictures


def _curve(path: Path) -> tuple[list[float], list[float | None], list[tuple[float, float]]]:
    """Returns steps, losses and held-out PSNR from the training log; a broken line is left out."""
    steps: list[float] = []
    losses: list[float | None] = []
    psnr: list[tuple[float, float]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            if "loss" in entry:
                steps.append(entry["step"])
                losses.append(entry["loss"])
            if entry.get("held_out_psnr_db") is not None:
                psnr.append((entry["step"], entry["held_out_psnr_db"]))
    return steps, losses, psnr


def _files(report: PipelineReport) -> list[PageFile]:
    from recon.viewers.summary.page import PageFile

    found = [
        ("scene", "posed photographs as a COLMAP project, with their report"),
        ("run", "configuration, checkpoints, metrics and scores"),
    ]
    if report.export is not None:
        found.append(("splats.ply", "Gaussian splats for other programs (up is -Y)"))
    if report.mesh is not None:
        name = Path(report.mesh["path"]).name
        up = "+Y" if name.endswith((".glb", ".obj")) else "+Z"
        found.append((name, f"the mesh (up is {up})"))
    files = []
    for name, description in found:
        path = report.out / name
        if not path.exists():
            raise ReconError(f"writing {report.page}", f"{path} is gone", "the result in place", "run it again")
        files.append(PageFile(name, description, None if path.is_dir() else path.stat().st_size))
    return files
