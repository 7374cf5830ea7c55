# SPDX-License-Identifier: Apache-2.0
"""What the viewer can open: a run, a scene folder, a splat PLY or a mesh, brought into one shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.edits.files import edits_path
from recon.errors import ReconError
from recon.progress import SILENT, Progress
from recon.scene import Scene

if TYPE_CHECKING:
    from recon.render import Renderer
    from recon.splats import Splats
    from recon.surface.mesh import Mesh

MESH_SUFFIXES = (".glb", ".obj", ".stl", ".ply")


@dataclass(frozen=True, eq=False)
class Content:
    """What is shown; every part but the title may be missing.

    Attributes:
        title: what it is called.
        splats: for the splat layer and, without a renderer, for exact pictures.
        scene: cameras with their photographs, sparse points.
        mesh: triangles.
        renderer: what exact pictures are made with; a run of a method without splats has nothing else.
        run_path: the folder of the training run, beside whose files edits and camera paths are kept; None without one.
        edits_path: the file in which edits of the splats are kept; None keeps them in memory.
        awaits_splats: whether `renderer` will show splats once a training is under way.
    """

    title: str
    splats: Splats | None = None
    scene: Scene | None = None
    mesh: Mesh | None = None
    renderer: Renderer | None = None
    run_path: Path | None = None
    edits_path: Path | None = None
    awaits_splats: bool = False


OpenRun = Callable[[Path], "Renderer | None"]
"""Returns the renderer of a run's folder; None where nothing is trained in it yet."""


def load_content(path: Path, progress: Progress = SILENT, open_run: OpenRun | None = None) -> Content:
    """Opens a run folder, a scene folder, splats of any format or a mesh.

    Args:
        path: where it is.
        progress: told what is missing.
        open_run: opens a run that holds no splats; without it such a run shows its scene alone.

    Raises:
        ReconError: there is nothing to see at `path`.
    """
    path = Path(path)
    content = _load_any(path, f"opening {path} in the viewer", progress, open_run)
    is_trained = content.splats is not None or content.renderer is not None
    return replace(content, edits_path=edits_path(path)) if is_trained else content


def _load_any(path: Path, doing: str, progress: Progress, open_run: OpenRun | None) -> Content:
    from recon.formats.splat_files import is_splat_file, read_splats

    if not path.exists():
        raise ReconError(doing, "there is no such file or folder")
    # A SOG may be a folder.
    if is_splat_file(path):
        return Content(path.name, splats=read_splats(path, not_finite="drop", progress=progress))
    if path.is_dir():
        return _load_folder(path, doing, progress, open_run)
    if path.suffix.lower() in MESH_SUFFIXES:
        return Content(path.name, mesh=_read_mesh(path))
    raise ReconError(doing, f"its suffix is {path.suffix or 'missing'}", "a run, a scene, splats or a mesh")


def _load_folder(path: Path, doing: str, progress: Progress, open_run: OpenRun | None) -> Content:
    """Opens what is in a folder: the result of `recon run`, of `recon train` or of `recon process`."""
    from recon.scene_io import load_scene

    # `recon run` puts the scene and the training side by side.
    training = path / "run" if (path / "run" / "config.json").is_file() else path
    splats_path, scene_path = training / "splats.ply", _scene_of_run(training)
    if scene_path is None and (path / "scene" / "scene.json").is_file():
        scene_path = path / "scene"
    splats = None
    if splats_path.is_file():
        from recon.formats.splat_ply import read_splat_ply

        splats = read_splat_ply(splats_path, not_finite="drop", progress=progress)
    is_run = splats is not None or (training / "config.json").is_file()
    scene = None
    if scene_path is not None:
        scene = load_scene(scene_path)
    elif not is_run:
        scene = load_scene(path)
    mesh_path = next(
        (folder / f"mesh{suffix}" for folder in (path, training) for suffix in MESH_SUFFIXES
         if (folder / f"mesh{suffix}").is_file()),
        None,
    )  # fmt: skip
    mesh = _read_mesh(mesh_path) if mesh_path is not None else None
    renderer = open_run(training) if is_run and splats is None and open_run is not None else None
    if is_run and splats is None and renderer is None:
        progress.log(f"{training} holds no result yet: training has not finished. Showing the scene alone.")
    if splats is None and scene is None and mesh is None and renderer is None:
        raise ReconError(doing, "there is nothing to see in it yet", "a finished run or a scene")
    return Content(path.resolve().name, splats, scene, mesh, renderer, run_path=training if is_run else None)


def _scene_of_run(run: Path) -> Path | None:
    """Returns the scene that a run was trained on: where it lies relative to the run, else where it lay then."""
    try:
        place: Any = json.loads((run / "config.json").read_text(encoding="utf-8")).get("scene")
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(place, dict):
        return None
    for key, base in (("relative", run), ("absolute", Path("/"))):
        if isinstance(place.get(key), str) and (base / place[key]).is_dir():
            return base / place[key]
    return None


def _read_mesh(path: Path) -> Mesh:
    from recon.formats.mesh_files import read_mesh

    return read_mesh(path)
