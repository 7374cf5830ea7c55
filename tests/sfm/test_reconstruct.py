# SPDX-License-Identifier: Apache-2.0
"""Pose recovery from pictures to the report: what works, what fails with a reason, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.errors import ReconError
from recon.progress import SilentProgress, Stage, StageContext
from recon.sfm import SfmConfig, SfmInput, SfmResult, Verdict, pose_errors, reconstruct
from recon.sfm.recovery import ladder
from tests.sfm.scenes import texture, wall_input, write_walls

QUICK = SfmConfig(ladder=False, max_features=1200)


def same(one: SfmResult, other: SfmResult) -> None:
    """Asserts that two results are the same to the last bit."""
    assert one.names == other.names
    for a, b in zip(one.cameras, other.cameras):
        np.testing.assert_array_equal(a.cam_from_world, b.cam_from_world)
        assert (a.fx, a.fy, a.cx, a.cy, a.distortion) == (b.fx, b.fy, b.cx, b.cy, b.distortion)
    np.testing.assert_array_equal(one.points.positions, other.points.positions)
    np.testing.assert_array_equal(one.points.colors, other.points.colors)
    np.testing.assert_array_equal(one.pairs, other.pairs)


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> tuple[SfmInput, dict, SfmResult, Path]:
    """Pictures of walls, the true cameras, the result and its work folder."""
    folder = tmp_path_factory.mktemp("walls")
    truth = write_walls(folder / "images", 7)
    photos = wall_input(folder / "images", sorted(truth))
    return photos, truth, reconstruct(photos, QUICK, folder / "work"), folder / "work"


def test_walls_are_posed_exactly(walls: tuple[SfmInput, dict, SfmResult, Path]) -> None:
    photos, truth, result, _ = walls
    assert result.names == photos.names
    errors = pose_errors(dict(zip(result.names, result.cameras)), truth)
    assert errors.center_rms < 0.01 * errors.extent
    assert errors.rotation_mean_deg < 0.3
    assert result.mean_error_px < 0.5
    # The cameras were held level, so +Z is up to within a degree.
    for name, camera in zip(result.names, result.cameras):
        up = truth[name].cam_from_world[:3, :3] @ [0, 0, 1]
        assert (camera.cam_from_world[:3, :3] @ [0, 0, 1]) @ up > np.cos(np.radians(2.0))


def test_the_report_adds_up(walls: tuple[SfmInput, dict, SfmResult, Path]) -> None:
    photos, _, result, _ = walls
    assert [photo.name for photo in result.photos] == list(photos.names)
    assert all(photo.verdict is Verdict.POSED for photo in result.photos)
    assert sum(photo.points for photo in result.photos) == result.observations
    assert result.observations == result.points.track_lengths.sum()
    assert all(0.2 < photo.coverage <= 1 for photo in result.photos)
    matrix = result.matches_matrix()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert [int(row.sum()) for row in matrix] == [photo.inlier_matches for photo in result.photos]
    assert [rung.chosen for rung in result.rungs] == [True]
    assert {"features", "matching", "mapping", "refining"} <= {stage.name for stage in result.stages}
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["posed"] == 7
    scene = result.to_scene(photos)
    assert [frame.name for frame in scene.frames] == list(photos.names)
    assert all(frame.image_path.is_file() for frame in scene.frames)


def test_the_model_on_disk_is_the_same(walls: tuple[SfmInput, dict, SfmResult, Path]) -> None:
    import pycolmap

    result = walls[2]
    assert result.model_dir is not None
    model = pycolmap.Reconstruction(result.model_dir)
    assert model.num_points3D() == len(result.points)
    for name, camera in zip(result.names, result.cameras):
        found = model.find_image_with_name(name)
        np.testing.assert_allclose(found.cam_from_world().matrix(), camera.cam_from_world[:3], atol=1e-12)


def test_colours_are_those_of_the_pictures(walls: tuple[SfmInput, dict, SfmResult, Path]) -> None:
    photos, _, result, _ = walls
    picture = cv2.imread(str(photos.image_dir / photos.names[3]))[..., ::-1]
    pixels, _ = result.cameras[3].project(result.points.positions)
    inside = (pixels > 2).all(1) & (pixels < [398, 298]).all(1)
    column, row = pixels[inside].astype(int).T
    off = np.abs(picture[row, column].astype(float) - result.points.colors[inside]).mean(1)
    assert np.median(off) < 12


def test_a_second_call_takes_what_is_there(walls: tuple[SfmInput, dict, SfmResult, Path]) -> None:
    photos, _, result, work = walls
    start = time.perf_counter()
    again = reconstruct(photos, QUICK, work)
    assert time.perf_counter() - start < 2.0
    same(result, again)
    assert all(stage.reused for stage in again.stages)
    assert [p.verdict for p in again.photos] == [p.verdict for p in result.photos]


def test_from_nothing_it_comes_out_the_same(walls: tuple[SfmInput, dict, SfmResult, Path], tmp_path: Path) -> None:
    same(walls[2], reconstruct(walls[0], replace(QUICK, threads=1), tmp_path / "elsewhere"))


def test_a_damaged_result_is_made_again(walls: tuple[SfmInput, dict, SfmResult, Path], tmp_path: Path) -> None:
    import shutil

    photos, _, result, work = walls
    shutil.copytree(work, tmp_path / "work")
    (folder,) = (tmp_path / "work").glob("result-*")
    (folder / "arrays.safetensors").write_bytes(b"half")
    again = reconstruct(photos, QUICK, tmp_path / "work")
    same(result, again)
    # Features and matches were whole and were taken.
    assert {stage.name for stage in again.stages if stage.reused} >= {"features", "matching"}


class Interrupting(SilentProgress):
    """Behaves as if Ctrl-C were pressed when a stage begins."""

    def __init__(self, at: str) -> None:
        self.at = at

    def stage(self, name: str, total: float | None = None, unit: str = "") -> StageContext:
        if name == self.at:
            raise KeyboardInterrupt
        return super().stage(name, total, unit)


@pytest.mark.parametrize("at", ["finding features", "matching", "incremental mapping", "refining"])
def test_interrupted_it_goes_on(walls: tuple[SfmInput, dict, SfmResult, Path], tmp_path: Path, at: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        reconstruct(walls[0], QUICK, tmp_path, Interrupting(at))
    same(walls[2], reconstruct(walls[0], QUICK, tmp_path))


class InterruptedWithin(SilentProgress):
    """Behaves as if Ctrl-C were pressed after the third step of a stage."""

    def __init__(self, at: str) -> None:
        self.at = at

    def stage(self, name: str, total: float | None = None, unit: str = "") -> StageContext:
        context = super().stage(name, total, unit)
        return _Counting(context) if name == self.at else context


class _Counting:
    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.count = 0

    def __enter__(self) -> Stage:
        self.stage = self.context.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.count += 1
        if self.count == 3:
            raise KeyboardInterrupt

    def set_total(self, total: float) -> None:
        pass


@pytest.mark.parametrize("at", ["finding features", "matching"])
def test_interrupted_in_the_middle_it_goes_on(
    walls: tuple[SfmInput, dict, SfmResult, Path], tmp_path: Path, at: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        reconstruct(walls[0], QUICK, tmp_path, InterruptedWithin(at))
    same(walls[2], reconstruct(walls[0], QUICK, tmp_path))


SCRIPT = """
import sys
from pathlib import Path
from recon.sfm import SfmConfig, reconstruct
from tests.sfm.scenes import wall_input
names = sorted(p.name for p in Path(sys.argv[1]).iterdir())
photos = wall_input(Path(sys.argv[1]), names)
print("go", flush=True)
reconstruct(photos, SfmConfig(ladder=False, max_features=1200), Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_it_goes_on(walls: tuple[SfmInput, dict, SfmResult, Path], tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for delay in (0.4, 1.0, 1.6):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(walls[0].image_dir), str(tmp_path)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.kill()
        child.communicate()
    same(walls[2], reconstruct(walls[0], QUICK, tmp_path))
    assert not [p for p in tmp_path.rglob("*") if "recon-tmp" in p.name]


def test_every_unposed_photo_has_its_reason(walls: tuple[SfmInput, dict, SfmResult, Path], tmp_path: Path) -> None:
    names = sorted(write_walls(tmp_path / "images", 7))
    cv2.imwrite(str(tmp_path / "images" / "blank.png"), np.full((300, 400), 128, np.uint8))
    cv2.imwrite(str(tmp_path / "images" / "other.png"), texture(77)[:300, :400])
    cv2.imwrite(str(tmp_path / "images" / "hidden.png"), cv2.imread(str(tmp_path / "images" / names[2])))
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "hidden.png.png"), np.zeros((300, 400), np.uint8))
    photos = wall_input(tmp_path / "images", [*names, "blank.png", "other.png", "hidden.png"], masks)
    result = reconstruct(photos, QUICK, tmp_path / "work")
    assert result.names == tuple(names)
    verdicts = {photo.name: photo.verdict for photo in result.photos}
    assert verdicts["blank.png"] is Verdict.NO_FEATURES
    assert verdicts["other.png"] is Verdict.NO_VERIFIED_PAIRS
    assert verdicts["hidden.png"] is Verdict.MASKED_OUT
    assert all(photo.detail for photo in result.photos)
    assert np.isnan(result.photos[-1].mean_error_px)
    json.dumps(result.to_json(), allow_nan=False)


def test_two_places_give_the_larger_and_say_so(tmp_path: Path) -> None:
    names = sorted(write_walls(tmp_path / "images", 6))
    others = sorted(write_walls(tmp_path / "images", 3, seed=50, prefix="x"))
    photos = wall_input(tmp_path / "images", [*names, *others])
    result = reconstruct(photos, QUICK, tmp_path / "work")
    assert set(result.names) == set(names)
    lost = {photo.name: photo.verdict for photo in result.photos if photo.name in others}
    assert set(lost.values()) == {Verdict.NOT_CONNECTED}


def test_one_photo_is_not_enough(tmp_path: Path) -> None:
    names = sorted(write_walls(tmp_path / "images", 1))
    with pytest.raises(ReconError, match="1 photo"):
        reconstruct(wall_input(tmp_path / "images", names), QUICK, tmp_path / "work")


def test_photos_without_overlap(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), texture(100 + index)[:300, :400])
    photos = wall_input(tmp_path / "images", [f"{index}.png" for index in range(4)])
    with pytest.raises(ReconError, match="no two of the 4 photos") as caught:
        reconstruct(photos, QUICK, tmp_path / "work")
    assert "re-shoot" in caught.value.fix


def test_photos_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.full((300, 400), 40 * index, np.uint8))
    photos = wall_input(tmp_path / "images", ["0.png", "1.png", "2.png"])
    with pytest.raises(ReconError, match="no photo has features"):
        reconstruct(photos, SfmConfig(max_features=500), tmp_path / "work")


def test_the_same_photo_thrice_gives_no_depth(tmp_path: Path) -> None:
    write_walls(tmp_path / "images", 1)
    picture = (tmp_path / "images" / "00.png").read_bytes()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(picture)
    photos = wall_input(tmp_path / "images", ["00.png", "a.png", "b.png"])
    with pytest.raises(ReconError, match="depth"):
        reconstruct(photos, QUICK, tmp_path / "work")


def test_missing_and_unusable_files(tmp_path: Path) -> None:
    names = sorted(write_walls(tmp_path / "images", 2))
    with pytest.raises(ReconError, match=r"missing\.png"):
        reconstruct(wall_input(tmp_path / "images", [*names, "missing.png"]), QUICK, tmp_path / "work")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReconError):
        reconstruct(wall_input(tmp_path / "images", names), QUICK, tmp_path / "file")


def test_wrong_inputs_are_refused() -> None:
    good = wall_input(Path("."), ["a", "b"])
    with pytest.raises(ReconError, match="camera ind"):
        replace(good, camera_indices=(0,))
    with pytest.raises(ReconError, match="camera index 3"):
        replace(good, camera_indices=(0, 3))
    with pytest.raises(ReconError, match="twice"):
        replace(good, names=("a", "a"))


def test_the_ladder_gets_harder() -> None:
    photos = wall_input(Path("."), ["a", "b"])
    rungs = ladder(photos, SfmConfig())
    assert [rung.mapper.kind for rung in rungs[:3]] == ["incremental", "global", "incremental"]
    assert rungs[2].features.max_features > rungs[0].features.max_features
    assert rungs[3].mapper.pose_inliers < rungs[2].mapper.pose_inliers
    assert "global" not in {rung.mapper.kind for rung in ladder(photos, SfmConfig(mapper="incremental"))}
    assert ladder(photos, SfmConfig(mapper="global"))[0].mapper.kind == "global"
    assert len(ladder(photos, SfmConfig(ladder=False))) == 1
    assert len({rung.name for rung in rungs}) == len(rungs)
