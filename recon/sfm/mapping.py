# SPDX-License-Identifier: Apache-2.0
"""From verified pairs to models: COLMAP's incremental mapper and its global one (GLOMAP), seeded.

COLMAP keeps its state in an SQLite file.  Here that file is made afresh from our own (whole, hashed) feature and
match files for every run of a mapper and thrown away with it, so a killed process never leaves half of one behind.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recon.errors import ReconError
from recon.progress import Progress
from recon.sfm.contracts import CameraPrior, Features, PairGeometry, SfmInput


@dataclass(frozen=True)
class MapperOptions:
    """Thresholds of the mappers, COLMAP's own by default.

    Attributes:
        kind: "incremental" or "global".
        init_inliers, init_angle_deg: what the first pair must have.
        pose_inliers, pose_inlier_ratio: what a photo needs to be posed.
        two_view_points: whether points seen by two photos only may pose others.
        seed: of the random samples.
        threads: of the bundle adjustment.
    """

    kind: str = "incremental"
    init_inliers: int = 100
    init_angle_deg: float = 16.0
    pose_inliers: int = 30
    pose_inlier_ratio: float = 0.25
    two_view_points: bool = False
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, eq=False)
class MappingProblem:
    """Everything that a mapper needs, by photo index."""

    photos: SfmInput
    features: Sequence[Features]
    geometries: Sequence[PairGeometry]
    cameras: Sequence[Any]


def initial_cameras(photos: SfmInput) -> list[Any]:
    """Returns a `pycolmap.Camera` for each physical camera of the input; numbered from 1.

    Raises:
        ReconError: a camera model that COLMAP does not know, or a wrong number of parameters.
    """
    return [_initial_camera(index + 1, prior) for index, prior in enumerate(photos.cameras)]


def _initial_camera(camera_id: int, prior: CameraPrior) -> Any:
    import pycolmap

    doing = "setting up the cameras"
    name = prior.model or "SIMPLE_RADIAL"
    if name not in pycolmap.CameraModelId.__members__ or name == "INVALID":
        known = ", ".join(sorted(n for n in pycolmap.CameraModelId.__members__ if n != "INVALID"))
        raise ReconError(doing, f"the camera model {name!r}", f"one of {known}")
    if prior.params:
        camera = pycolmap.Camera(
            model=name, width=prior.width, height=prior.height, params=list(prior.params), camera_id=camera_id
        )
        if not camera.verify_params():
            raise ReconError(
                doing, f"{len(prior.params)} parameters for {name}", f"{camera.params_info or 'as COLMAP lists them'}"
            )
        camera.has_prior_focal_length = True
        return camera
    focal = prior.focal_px or 1.2 * max(prior.width, prior.height)
    camera = pycolmap.Camera.create_from_model_name(camera_id, name, focal, prior.width, prior.height)
    camera.has_prior_focal_length = prior.focal_px is not None
    return camera


def write_database(path: Path, problem: MappingProblem) -> None:
    """Writes COLMAP's database of the problem: cameras, photos numbered from 1, keypoints, verified pairs."""
    import pycolmap

    database = pycolmap.Database.open(path)
    try:
        with pycolmap.DatabaseTransaction(database):
            for camera in problem.cameras:
                database.write_camera(camera, use_camera_id=True)
                rig = pycolmap.Rig(rig_id=camera.camera_id)
                rig.add_ref_sensor(camera.sensor_id)
                database.write_rig(rig, use_rig_id=True)
            for index, name in enumerate(problem.photos.names):
                camera_id = problem.photos.camera_indices[index] + 1
                image = pycolmap.Image(name=name, camera_id=camera_id, image_id=index + 1)
                database.write_image(image, use_image_id=True)
                frame = pycolmap.Frame(frame_id=index + 1, rig_id=camera_id)
                frame.add_data_id(image.data_id)
                database.write_frame(frame, use_frame_id=True)
                database.write_keypoints(index + 1, problem.features[index].keypoints)
            for geometry in problem.geometries:
                database.write_two_view_geometry(geometry.first + 1, geometry.second + 1, to_pycolmap(geometry))
                database.write_matches(geometry.first + 1, geometry.second + 1, geometry.matches)
    finally:
        database.close()


def to_pycolmap(geometry: PairGeometry) -> Any:
    """Returns COLMAP's object for a verified pair."""
    import pycolmap

    found: dict[str, Any] = {}
    for name, matrix in zip(("E", "F", "H"), geometry.matrices):
        if np.isfinite(matrix).all():
            found[name] = matrix
    return pycolmap.TwoViewGeometry(config=geometry.config, inlier_matches=geometry.matches, **found)


def run_mapper(
    problem: MappingProblem, options: MapperOptions, progress: Progress, start: Any | None = None
) -> list[Any]:
    """Runs a mapper and returns its models (`pycolmap.Reconstruction`), most photos first.

    Args:
        problem: the photos and their verified pairs.
        options: the mapper and its thresholds.
        progress: told of every posed photo.
        start: a model to go on from (incremental only): its photos stay, others are added.
    """
    if not problem.geometries:
        return []
    name = f"{options.kind} mapping" if start is None else "posing the remaining photos"
    with (
        tempfile.TemporaryDirectory(prefix="recon-sfm-") as folder,
        progress.stage(name, len(problem.photos.names), "photos") as stage,
        quiet_colmap(),
    ):
        database = Path(folder) / "database.db"
        write_database(database, problem)
        if options.kind == "global":
            models = _in_worker(lambda _: _run_global(database, folder, problem, options))
        else:
            models = _in_worker(
                lambda token: _run_incremental(
                    database, folder, problem, options, start, token, lambda: stage.advance(1)
                )
            )
    return sorted(models, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _run_incremental(
    database: Path,
    folder: str,
    problem: MappingProblem,
    options: MapperOptions,
    start: Any | None,
    token: Any,
    posed: Callable[[], None],
) -> list[Any]:
    import pycolmap

    settings = pycolmap.IncrementalPipelineOptions()
    settings.random_seed = options.seed
    settings.num_threads = options.threads
    settings.extract_colors = False
    settings.constant_cameras = constant_cameras(problem.photos)
    settings.mapper.init_min_num_inliers = options.init_inliers
    settings.mapper.init_min_tri_angle = options.init_angle_deg
    settings.mapper.abs_pose_min_num_inliers = options.pose_inliers
    settings.mapper.abs_pose_min_inlier_ratio = options.pose_inlier_ratio
    settings.triangulation.ignore_two_view_tracks = not options.two_view_points
    output = Path(folder) / "models"
    output.mkdir()
    source = ""
    if start is not None:
        source = str(Path(folder) / "start")
        Path(source).mkdir()
        start.write_binary(source)
        settings.multiple_models = False

    def posed_two() -> None:
        posed()
        posed()

    models = pycolmap.incremental_mapping(
        database,
        folder,
        output,
        settings,
        input_path=source,
        initial_image_pair_callback=posed_two,
        next_image_callback=posed,
        cancellation_token=token,
    )
    return list(models.values())


def _run_global(database: Path, folder: str, problem: MappingProblem, options: MapperOptions) -> list[Any]:
    import pycolmap

    if any(not camera.has_prior_focal_length for camera in problem.cameras):
        calibration = pycolmap.ViewGraphCalibrationOptions()
        calibration.random_seed = options.seed
        pycolmap.calibrate_view_graph(database, calibration)
    settings = pycolmap.GlobalPipelineOptions()
    settings.random_seed = options.seed
    settings.num_threads = options.threads
    settings.mapper.random_seed = options.seed
    settings.mapper.num_threads = options.threads
    fixed = constant_cameras(problem.photos)
    if len(fixed) == len(problem.cameras):
        settings.mapper.bundle_adjustment.refine_focal_length = False
        settings.mapper.bundle_adjustment.refine_extra_params = False
    output = Path(folder) / "models"
    output.mkdir()
    models = pycolmap.global_mapping(database, folder, output, settings)
    return list(models.values())


def constant_cameras(photos: SfmInput) -> set[int]:
    """Returns COLMAP's numbers of the cameras whose calibration was given and is held."""
    return {index + 1 for index, prior in enumerate(photos.cameras) if prior.is_calibrated}


def _in_worker(work: Callable[[Any], list[Any]]) -> list[Any]:
    """Runs `work` in a thread, so that Ctrl-C reaches the caller at once; the work is told to stop and awaited."""
    import pycolmap

    token = pycolmap.CancellationToken()
    result: list[list[Any]] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work(token))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        token.cancel()
        thread.join(5.0)
        raise
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Keeps COLMAP's log off standard error, except for what kills the process."""
    import pycolmap

    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def save_model(model: Any, folder: Path) -> None:
    """Writes a model as COLMAP's binary files into an existing folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.write_binary(folder)
