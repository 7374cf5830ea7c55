# SPDX-License-Identifier: Apache-2.0
"""Starting a training from the surface of a trained run: `--init nerf:RUN`.

What the run shows to the training cameras becomes points, which stand in for the scene's sparse points.  They are kept
in the new run's folder, so that a resumed training starts from the very same ones, whatever became of the other run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.errors import ReconError
from recon.files import read_arrays, write_arrays
from recon.methods.registry import method_names
from recon.progress import SILENT, Progress
from recon.scene import Scene, SparsePoints

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.methods.run import Run

FILE_NAME = "start.safetensors"
"""Where the points stand in the run's folder."""

POINTS = 50_000
"""About how many points there are at most."""

_LONG_SIDE = 256
_MOST_VIEWS = 80
_SAME_PLACE = 1e-3
_FIELDS = {"positions": (np.float64, 3), "colors": (np.uint8, 3), "errors_px": (np.float32, 0)}
_FIELDS |= {"track_lengths": (np.int32, 0)}


@dataclass(frozen=True, eq=False)
class StartPoints:
    """Points that a training starts from.

    Attributes:
        points: on the surface of another run.
        origin: where they came from, for config.json: "run" (its path), "method", "step" and "points" (how many).
    """

    points: SparsePoints
    origin: dict[str, Any]

    def write(self, out: Path) -> None:
        """Writes the points into a run's folder."""
        write_arrays(out / FILE_NAME, {name: getattr(self.points, name) for name in _FIELDS})

    @staticmethod
    def read(out: Path, origin: dict[str, Any]) -> StartPoints:
        """Reads what `write` wrote.

        Raises:
            ReconError: it is gone or broken.
        """
        arrays = read_arrays(out / FILE_NAME)
        count = len(arrays.get("positions", ()))
        for name, (kind, width) in _FIELDS.items():
            array, shape = arrays.get(name), (count, width) if width else (count,)
            if array is None or array.dtype != kind or array.shape != shape or count != origin.get("points"):
                raise ReconError(
                    f"reading the points that {out} starts from",
                    f"{FILE_NAME} has {count} points and its {name} do not fit",
                    f"{origin.get('points')} points, as config.json says",
                    "train into another folder, or replace the run (--replace)",
                )
        return StartPoints(SparsePoints(**{name: arrays[name] for name in _FIELDS}), origin)

    def applied_to(self, scene: Scene) -> Scene:
        """Returns the scene with these points in place of its own."""
        return replace(scene, points=self.points)


def parse_source(text: str) -> tuple[Path, str | None]:
    """Returns the run's folder and the method that it has to be of (None for any) of "RUN" or "METHOD:RUN"."""
    method, colon, rest = text.partition(":")
    if colon and rest and method in method_names():
        return Path(rest), method
    return Path(text), None


def start_points(
    source: Path | str, scene: Scene, training: list[str], out: Path, progress: Progress = SILENT
) -> StartPoints:
    """Samples the surface of a trained run as the cameras of a training see it.

    Args:
        source: "RUN" or "METHOD:RUN": the folder of `recon train` or of `recon run`.
        scene: the scene that is to be trained on.
        training: names of its photographs that are trained on.
        out: the folder of the new run, relative to which the source is noted.
        progress: hears of the stages.

    Raises:
        ReconError: there is no such run, it is of another method or of another scene, or it shows no surface.
    """
    from recon.surface.points import sample_surface

    path, wanted = parse_source(str(source))
    run = _open(path, wanted, out)
    _require_same_world(run, scene)
    points = sample_surface(run.renderer, _cameras(scene, training), POINTS, progress)
    progress.log(f"Starting from {len(points):,} points on the surface of {run.path} ({run.method.name}).")
    origin = {
        "run": Path(os.path.relpath(run.path.resolve(), out.resolve())).as_posix(),
        "method": run.method.name,
        "step": run.step,
        "points": len(points),
    }
    return StartPoints(points, origin)


def require_same_source(source: Path | str, origin: dict[str, Any] | None, out: Path) -> None:
    """Refuses to resume a run from another start than it was begun with.

    Raises:
        ReconError: the run was begun from the scene's points, or from another run's surface.
    """
    path, _ = parse_source(str(source))
    path = _run_folder(path)
    begun = None if origin is None else (out / origin["run"]).resolve()
    if begun != path.resolve():
        raise ReconError(
            f"resuming the run {out}",
            f"it was begun from {'the points of its scene' if begun is None else begun}, not from {path}",
            "the start that it was begun with",
            "leave --init out, or train into another folder",
        )


def _open(path: Path, wanted: str | None, out: Path) -> Run:
    from recon.methods.run import load_run

    doing = f"starting from the run {path}"
    folder = _run_folder(path)
    if folder.resolve() == out.resolve():
        raise ReconError(doing, "it is the run that is to be trained", "another run", "train into another --out")
    if not (folder / "config.json").is_file():
        raise ReconError(
            doing,
            "there is no config.json in it" if folder.is_dir() else "there is no such folder",
            f"a folder that `recon train` wrote, or METHOD:FOLDER with one of {', '.join(method_names())}",
        )
    run = load_run(folder)
    if wanted is not None and run.method.name != wanted:
        raise ReconError(doing, f"it was trained with --method {run.method.name}", f"a run of {wanted}")
    return run


def _run_folder(path: Path) -> Path:
    """Returns the training's own folder of what `recon run` or `recon train` wrote."""
    return path / "run" if (path / "run" / "config.json").is_file() else path


def _require_same_world(run: Run, scene: Scene) -> None:
    """Refuses a run whose cameras stand elsewhere: its surface would be nowhere in this scene."""
    theirs = {frame.name: frame.camera.cam_from_world for frame in run.scene.frames}
    differences = [
        np.abs(frame.camera.cam_from_world - theirs[frame.name])[:3] / [1, 1, 1, scene.extent]
        for frame in scene.frames
        if frame.name in theirs
    ]
    doing = f"starting from the run {run.path}"
    if len(differences) < 2:
        raise ReconError(doing, "it was trained on other photographs", "a run of the same scene")
    if np.median([difference.max() for difference in differences]) > _SAME_PLACE:
        raise ReconError(
            doing,
            "the photographs' cameras stand elsewhere in its scene",
            "a run of the same scene, which was not posed anew since",
            "train that run again on this scene",
        )


def _cameras(scene: Scene, training: list[str]) -> list[Camera]:
    """Returns the cameras that the surface is looked at with: those of training, at most some, and not large."""
    from recon.views import undistorted_camera

    names = set(training)
    cameras = [undistorted_camera(frame.camera) for frame in scene.frames if frame.name in names]
    chosen = np.unique(np.linspace(0, len(cameras) - 1, min(_MOST_VIEWS, len(cameras))).round().astype(int))
    return [cameras[index].fitted(_LONG_SIDE) for index in chosen]
