# SPDX-License-Identifier: Apache-2.0
"""Sparse points for photos whose poses are given without any: matched features, triangulated with the poses held."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from recon.cameras import CameraModel
from recon.files import TEMPORARY_MARK, fingerprint
from recon.formats.colmap import ColmapModel, read_model
from recon.formats.colmap_types import parameters_of, quaternion_of
from recon.progress import Progress
from recon.scene import Scene
from recon.sfm.contracts import CameraPrior, SfmConfig, SfmInput
from recon.sfm.features import FeatureOptions, extract_features
from recon.sfm.mapping import MappingProblem, initial_cameras, quiet_colmap, write_database
from recon.sfm.matching import Matcher, MatchOptions, match_pairs
from recon.sfm.pairs import choose_pairs

FEWEST_POINTS = 50


def triangulate(
    scene: Scene, photos: Path, config: SfmConfig, work: Path, progress: Progress
) -> tuple[Scene, ColmapModel] | None:
    """Returns the scene with points and the COLMAP model with their tracks; None if the poses give too few points.

    Args:
        scene: posed frames.
        photos: folder with `images/<name>` and, for frames with a mask, `masks/<name>.png`.
        config: how features are found and which photos are compared.
        work: folder for features and matches, which a later call reuses.
        progress: told of every stage.
    """
    if any(frame.camera.model is CameraModel.EQUIRECTANGULAR for frame in scene.frames):
        return None
    source = _input(scene, photos)
    threads = config.threads or os.cpu_count() or 1
    options = FeatureOptions(config.max_features, config.max_image_side)
    features, key, _ = extract_features(source, options, work, threads, progress)
    pairs, how = choose_pairs(features, config.pairs, False, threads, progress)
    progress.log(f"{len(pairs)} pairs of photos to compare ({how})")
    cameras = initial_cameras(source)
    matching = MatchOptions(seed=config.seed)
    matcher = Matcher(features, [cameras[index] for index in source.camera_indices], matching)
    key = fingerprint("triangulate 1", key, matching, source.cameras, source.camera_indices)
    geometries, _ = match_pairs(matcher, pairs, key, work, threads, progress)
    problem = MappingProblem(source, features, geometries, cameras)
    with progress.stage("Triangulating"), quiet_colmap():
        model = _with_points(scene, problem, config.seed)
    if model is None or len(model.points) < FEWEST_POINTS:
        return None
    return replace(scene, points=model.points), model


def _input(scene: Scene, photos: Path) -> SfmInput:
    """Describes the scene's photos as pose recovery wants them, with every lens held as it is."""
    lenses: dict[tuple, int] = {}
    priors: list[CameraPrior] = []
    indices = []
    for frame in scene.frames:
        camera = frame.camera
        name, values = parameters_of(camera)
        index = lenses.setdefault((name, camera.width, camera.height, *values), len(lenses))
        if index == len(priors):
            priors.append(CameraPrior(camera.width, camera.height, camera.fx, name, tuple(values), fixed=True))
        indices.append(index)
    return SfmInput(
        image_dir=photos / "images",
        names=tuple(frame.name for frame in scene.frames),
        cameras=tuple(priors),
        camera_indices=tuple(indices),
        masks_dir=photos / "masks" if any(frame.mask_path is not None for frame in scene.frames) else None,
    )


def _with_points(scene: Scene, problem: MappingProblem, seed: int) -> ColmapModel | None:
    import pycolmap

    if not problem.geometries:
        return None
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_MARK) as name:
        folder = Path(name)
        write_database(folder / "database.db", problem)
        poses = _posed_model(scene, problem)
        options = pycolmap.IncrementalPipelineOptions()
        options.random_seed = seed
        options.num_threads = 1  # More make the points depend on the order in which threads finish.
        (folder / "points").mkdir()
        model = pycolmap.triangulate_points(
            poses, folder / "database.db", problem.photos.image_dir, folder / "points", True, options
        )
        model.extract_colors_for_all_images(problem.photos.image_dir, 1)
        model.update_point_3d_errors()
        model.write_binary(folder / "points")
        return read_model(folder / "points")


def _posed_model(scene: Scene, problem: MappingProblem) -> Any:
    import pycolmap

    model = pycolmap.Reconstruction()
    for camera in problem.cameras:
        model.add_camera_with_trivial_rig(camera)
    for index, frame in enumerate(scene.frames):
        pose = frame.camera.cam_from_world
        image = pycolmap.Image(name=frame.name, camera_id=problem.photos.camera_indices[index] + 1, image_id=index + 1)
        w, x, y, z = quaternion_of(pose[:3, :3])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d([x, y, z, w]), pose[:3, 3]))
    return model
