# SPDX-License-Identifier: Apache-2.0
"""The mappers, the last refinement, and the guard against misplaced photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.errors import ReconError
from recon.progress import SILENT
from recon.scene import Similarity
from recon.sfm.alignment import PoseErrors, fit_similarity, pose_errors, transform_camera
from recon.sfm.contracts import CameraPrior
from recon.sfm.guard import find_suspects, remove_photos
from recon.sfm.mapping import MapperOptions, MappingProblem, initial_cameras, quiet_colmap, run_mapper
from recon.sfm.observations import core_camera, lens_of, pair_agreement, posed_image_ids, read_observations
from recon.sfm.refine import drop_outliers, refine
from tests.sfm.scenes import PointCapture, odd_lens, plain_lens, point_capture, problem_of

FULL_LENS = CameraPrior(640, 480, model="OPENCV", params=(600.0, 600.0, 333.0, 229.0, -0.12, 0.05, 0.0, 0.0))


def errors_of(model: Any, capture: PointCapture) -> PoseErrors:
    names = capture.photos.names
    return pose_errors({names[i - 1]: core_camera(model, i) for i in posed_image_ids(model)}, capture.truth())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[PointCapture, MappingProblem]:
    capture = point_capture(plain_lens())
    return capture, problem_of(capture, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[PointCapture, MappingProblem]:
    capture = point_capture(odd_lens(), count=10)
    return capture, problem_of(capture, tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("kind", ["incremental", "global"])
def test_a_mapper_poses_all_and_twice_the_same(plain: tuple[PointCapture, MappingProblem], kind: str) -> None:
    capture, problem = plain
    first, second = (run_mapper(problem, MapperOptions(kind, seed=3), SILENT)[0] for _ in range(2))
    assert first.num_reg_images() == 8
    assert errors_of(first, capture).center_rms < 0.003 * errors_of(first, capture).extent
    for image_id in posed_image_ids(first):
        np.testing.assert_array_equal(
            core_camera(first, image_id).cam_from_world, core_camera(second, image_id).cam_from_world
        )


def test_without_pairs_there_is_no_model(plain: tuple[PointCapture, MappingProblem]) -> None:
    capture, problem = plain
    assert (
        run_mapper(MappingProblem(capture.photos, problem.features, [], problem.cameras), MapperOptions(), SILENT) == []
    )


def test_a_camera_model_that_nobody_knows() -> None:
    from dataclasses import replace

    photos = replace(point_capture(plain_lens(), count=2).photos, cameras=(CameraPrior(640, 480, model="MAGIC"),))
    with pytest.raises(ReconError, match="MAGIC"):
        initial_cameras(photos)
    photos = replace(photos, cameras=(CameraPrior(640, 480, model="PINHOLE", params=(1.0, 2.0)),))
    with pytest.raises(ReconError, match="2 parameters"):
        initial_cameras(photos)


def test_an_odd_lens_is_found(odd: tuple[PointCapture, MappingProblem]) -> None:
    capture, problem = odd
    rough = run_mapper(problem, MapperOptions(), SILENT)[0]
    before = errors_of(rough, capture)
    model, notes = refine(problem, rough, None)
    after = errors_of(model, capture)
    lens = core_camera(model, 1)
    assert abs(lens.cx - 333) < 1.5
    assert abs(lens.cy - 229) < 1.5
    assert lens.fx == pytest.approx(600, rel=0.005)
    assert any("principal point refined" in note for note in notes)
    assert after.center_rms < 0.5 * before.center_rms
    assert after.center_rms < 0.0015 * after.extent
    assert after.rotation_mean_deg < 0.05
    # The lens as a whole is right wherever the photo reaches.
    pixels = np.array([[20.0, 20], [620, 20], [320, 460], [600, 440]])
    rays = lens.ray_directions_in_cam(pixels) - odd_lens().ray_directions_in_cam(pixels)
    assert np.abs(rays).max() * 600 < 3.0


def test_a_principal_point_that_is_not_wanted_stays(odd: tuple[PointCapture, MappingProblem]) -> None:
    model, notes = refine(odd[1], run_mapper(odd[1], MapperOptions(), SILENT)[0], False)
    assert (core_camera(model, 1).cx, core_camera(model, 1).cy) == (320.0, 240.0)
    assert not any("principal point" in note for note in notes)


def test_a_known_calibration_is_held(tmp_path: Path) -> None:
    capture = point_capture(odd_lens(), count=6, prior=FULL_LENS)
    problem = problem_of(capture, tmp_path)
    for kind in ("incremental", "global"):
        model, _ = refine(problem, run_mapper(problem, MapperOptions(kind), SILENT)[0], None)
        np.testing.assert_array_equal(model.camera(1).params, FULL_LENS.params)
        assert errors_of(model, capture).center_rms < 0.001 * errors_of(model, capture).extent


def displaced(model: Any, image_id: int, shift: tuple[float, float, float]) -> None:
    """Moves one photo of a model."""
    import pycolmap

    image = model.image(image_id)
    pose = image.cam_from_world()
    center = image.projection_center() + np.asarray(shift)
    image.frame.set_cam_from_world(image.camera_id, pycolmap.Rigid3d(pose.rotation, -(pose.rotation.matrix() @ center)))


@pytest.mark.parametrize("shift", [(40.0, 0.0, 0.0), (0.0, 0.0, 3.0), (-1.0, 1.0, 0.0)])
def test_a_misplaced_photo_is_found_and_posed_anew(
    plain: tuple[PointCapture, MappingProblem], shift: tuple[float, float, float]
) -> None:
    capture, problem = plain
    model = run_mapper(problem, MapperOptions(), SILENT)[0]
    assert find_suspects(model, problem.features, problem.geometries, 640) == []
    displaced(model, 4, shift)
    suspects = find_suspects(model, problem.features, problem.geometries, 640)
    assert [suspect.photo for suspect in suspects] == [3]
    assert "verified matches agree" in suspects[0].reason
    remove_photos(model, suspects)
    assert posed_image_ids(model) == [1, 2, 3, 5, 6, 7, 8]
    again = run_mapper(problem, MapperOptions(), SILENT, start=model)[0]
    assert again.num_reg_images() == 8
    assert errors_of(again, capture).center_max < 0.01


def test_right_poses_agree_with_nearly_all_matches(plain: tuple[PointCapture, MappingProblem]) -> None:
    model = run_mapper(plain[1], MapperOptions(), SILENT)[0]
    shares = pair_agreement(model, plain[1].features, plain[1].geometries, 4.0)
    assert np.nanmin(shares) > 0.9


def test_outliers_are_dropped(plain: tuple[PointCapture, MappingProblem]) -> None:
    model = run_mapper(plain[1], MapperOptions(), SILENT)[0]
    with quiet_colmap():
        before = read_observations(model, plain[1].features)
        victim = model.point3D(int(before.point_ids[0]))
        victim.xyz = victim.xyz + 0.2
        assert drop_outliers(model, plain[1].features) > 0
    assert read_observations(model, plain[1].features).errors_px.max() <= 4.0


def test_observations_agree_with_colmap(odd: tuple[PointCapture, MappingProblem]) -> None:
    model = run_mapper(odd[1], MapperOptions(), SILENT)[0]
    model.update_point_3d_errors()
    observations = read_observations(model, odd[1].features)
    assert len(observations.photo) == model.compute_num_observations()
    assert observations.errors_px.mean() == pytest.approx(model.compute_mean_reprojection_error(), rel=0.02)
    theirs = [model.point3D(int(i)).error for i in observations.point_ids]
    np.testing.assert_allclose(observations.point_errors(), theirs, rtol=1e-6, atol=1e-9)


PARAMS = {
    "SIMPLE_PINHOLE": [500, 320, 240],
    "PINHOLE": [500, 510, 320, 240],
    "SIMPLE_RADIAL": [500, 320, 240, -0.1],
    "RADIAL": [500, 320, 240, -0.1, 0.03],
    "OPENCV": [500, 510, 320, 240, -0.1, 0.03, 0.001, -0.002],
    "FULL_OPENCV": [500, 510, 320, 240, -0.1, 0.03, 0.001, -0.002, 0.01, 0.02, 0.01, 0.0],
    "OPENCV_FISHEYE": [300, 310, 320, 240, -0.05, 0.02, 0.0, 0.001],
    "SIMPLE_RADIAL_FISHEYE": [300, 320, 240, -0.05],
    "RADIAL_FISHEYE": [300, 320, 240, -0.05, 0.02],
    "SIMPLE_FISHEYE": [300, 320, 240],
    "FISHEYE": [300, 310, 320, 240],
}


@pytest.mark.parametrize("model", sorted(PARAMS))
def test_lenses_project_as_colmap_does(model: str) -> None:
    import pycolmap

    camera = pycolmap.Camera(model=model, width=640, height=480, params=PARAMS[model])
    points = np.random.default_rng(2).uniform([-1, -1, 1.5], [1, 1, 4], (40, 3))
    pixels, _ = lens_of(camera).project(points)
    np.testing.assert_allclose(pixels, np.array([camera.img_from_cam(p) for p in points]).reshape(-1, 2), atol=1e-8)


def test_transforms_of_cameras_compose() -> None:
    capture = point_capture(plain_lens(), count=4, points=50)
    away = Similarity(3.0, np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]), np.array([1.0, 2, 3]))
    moved = [transform_camera(camera, away) for camera in capture.cameras]
    back = fit_similarity(
        np.array([c.center_in_world for c in moved]), np.array([c.center_in_world for c in capture.cameras])
    )
    assert back.scale == pytest.approx(1 / 3.0)
