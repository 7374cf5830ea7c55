# SPDX-License-Identifier: Apache-2.0
"""Runs and splat files with their edits, for every command that exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recon.errors import ReconError
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    from recon.methods import Run
    from recon.splats import Splats


def load_edited_run(path: Path, edits: bool = True, progress: Progress = SILENT) -> Run:
    """Opens a run with its edits: renderer, splats, cameras and points are as edited.

    Args:
        path: the run's folder, or that of `recon run`.
        edits: False opens it as it was trained.
        progress: told how many edits there are.

    Raises:
        ReconError: not a run, or edits that do not fit it.
    """
    from recon.edits import apply_edits, edits_of
    from recon.edits.scene import edited_scene
    from recon.methods import load_run
    from recon.rasterization import SplatRenderer

    # What `recon run` wrote holds the training beside the scene.
    run = load_run(path / "run" if (path / "run" / "config.json").is_file() else path)
    found = edits_of(run.path) if edits else None
    if not found:
        return run
    if run.splats is None:
        raise no_splats(f"applying the edits of {path}", run)
    progress.log(f"With {len(found)} edits of {run.path.name}/edits.json.")
    renderer = SplatRenderer(apply_edits(run.splats, found), backend=run.config.backend)
    # A run whose scene is gone can still be exported.
    has_scene = run.given_scene is not None or (run.scene_path is not None and run.scene_path.is_dir())
    scene = edited_scene(run.scene, found) if has_scene else None
    return replace(run, given_scene=scene, given_renderer=renderer)


def load_edited_splats(path: Path, edits: bool = True, progress: Progress = SILENT) -> Splats:
    """Reads the splats of a run or of a splat file with their edits.

    Raises:
        ReconError: there are none, or edits that do not fit them.
    """
    from recon.edits import apply_edits, edits_of
    from recon.formats.splat_files import is_splat_file, read_splats

    if is_splat_file(path):
        splats = read_splats(path, progress=progress)
        return apply_edits(splats, edits_of(path)) if edits else splats
    run = load_edited_run(path, edits, progress)
    if run.splats is None:
        raise no_splats(f"opening the splats of {path}", run)
    return run.splats


def no_splats(doing: str, run: Run) -> ReconError:
    """Returns what is said where a run of another method is taken for one of splats."""
    return ReconError(
        doing,
        f"it was trained with --method {run.method.name}, which makes no splats",
        "a run of splats, or a splat file",
        f"recon mesh, render and view work on it; splats may start from it: recon train SCENE --init {run.path}",
    )
