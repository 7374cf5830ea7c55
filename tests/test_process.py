# SPDX-License-Identifier: Apache-2.0
"""From captures to scenes: every kind of input, what is redone and what is not, kills at any moment, and bad input."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.capture import photos as photos_module
from recon.errors import ReconError
from recon.formats.colmap import read_model
from recon.formats.transforms_json import write_transforms
from recon.process import ProcessConfig, ProcessReport, process
from recon.scene_io import load_scene
from recon.sfm.contracts import SfmConfig
from tests.capture.fakes import fake_result, write_photos
from tests.capture.test_video import audio_only, panning, write_video

pycolmap = pytest.importorskip("pycolmap")


class Recovery:
    """Counts how often poses are recovered and decides how many photos get one."""

    def __init__(self) -> None:
        self.calls = 0
        self.posed: int | None = None
        self.error_px = 0.5
        self.photos = None

    def __call__(self, photos, config, work, progress):
        self.calls += 1
        self.photos = photos
        return fake_result(photos, work, self.posed, self.error_px)


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch) -> Recovery:
    import recon.sfm

    fake = Recovery()
    monkeypatch.setattr(recon.sfm, "reconstruct", fake)
    return fake


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 6)


def assert_whole(out: Path, count: int) -> None:
    """The scene loads, its files are there, other programs open it, and nothing half-made lies about."""
    scene = load_scene(out)
    assert len(scene.frames) == count
    for frame in scene.frames:
        with Image.open(frame.image_path) as image:
            image.load()
            assert image.size == (frame.camera.width, frame.camera.height)
    assert {path.name for path in (out / "images").rglob("*") if path.is_file()} == {
        Path(frame.name).name for frame in scene.frames
    }
    assert pycolmap.Reconstruction(str(out / "sparse" / "0")).num_reg_images() == count
    assert not [path for path in out.rglob("*") if ".recon-" in path.name]


def test_photos_become_a_scene(photos: Path, tmp_path: Path, recovery: Recovery) -> None:
    (photos / "notes.jpg").write_text("not a photo")
    report = process(photos, tmp_path / "scene")
    assert (report.source, report.photos, report.posed, report.points) == ("photos", 6, 6, 240)
    assert not report.needs_attention
    assert [file.name for file in report.skipped] == ["notes.jpg"]
    assert report.html.is_file()
    assert_whole(tmp_path / "scene", 6)
    scene = load_scene(tmp_path / "scene")
    assert scene.points.track_lengths.tolist() == [2] * 240
    document = json.loads((tmp_path / "scene" / "report" / "process.json").read_text())
    assert document["schema"] == 1
    assert ProcessReport.from_json(document["report"], tmp_path / "scene") == report
    assert json.loads(json.dumps(report.to_json()))["posed"] == 6


def test_tracks_fit_the_points(photos: Path, tmp_path: Path, recovery: Recovery) -> None:
    """The fake lists its points in another order than its model; each must keep its own track and colour."""
    process(photos, tmp_path / "scene")
    model = read_model(tmp_path / "scene" / "sparse" / "0")
    expected = fake_result(recovery.photos, tmp_path / "again")
    for row in range(0, 240, 17):
        index = int(model.point_ids[row]) - 1
        assert np.array_equal(model.points.positions[row], expected.points.positions[index])
        assert np.array_equal(model.points.colors[row], expected.points.colors[index])
        assert model.tracks[2 * row].tolist() == [1, index]


def test_a_second_call_finds_everything_done(photos: Path, tmp_path: Path, recovery: Recovery, monkeypatch) -> None:
    first = process(photos, tmp_path / "scene")
    monkeypatch.setattr(photos_module, "_place", lambda *args: pytest.fail("a photo was prepared again"))
    second = process(photos, tmp_path / "scene", ProcessConfig(sfm=SfmConfig(threads=1)))
    assert second.reused
    assert recovery.calls == 1
    assert replace(second, reused=False, seconds=first.seconds) == first


@pytest.mark.parametrize("damage", ["scene.json", "images/photo03.jpg", "sparse/0/images.bin", "report/index.html"])
def test_what_was_lost_is_made_again(photos: Path, tmp_path: Path, recovery: Recovery, damage: str) -> None:
    process(photos, tmp_path / "scene")
    (tmp_path / "scene" / damage).unlink()
    assert not process(photos, tmp_path / "scene").reused
    assert_whole(tmp_path / "scene", 6)


def test_only_what_an_option_affects_is_redone(
    photos: Path, tmp_path: Path, recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(photos, tmp_path / "scene")
    with monkeypatch.context() as patch:
        patch.setattr(photos_module, "_place", lambda *args: pytest.fail("a photo was prepared again"))
        process(photos, tmp_path / "scene", ProcessConfig(sfm=SfmConfig(max_features=99)))
        assert recovery.calls == 2
        process(photos, tmp_path / "scene", ProcessConfig(least_posed=0.5))
    process(photos, tmp_path / "scene", ProcessConfig(cameras="per-image"))
    assert len(recovery.photos.cameras) == 6
    write_photos(photos, 7)
    assert process(photos, tmp_path / "scene").posed == 7
    assert_whole(tmp_path / "scene", 7)
    assert len(list((tmp_path / "scene" / "work").glob("prepared-*"))) == 1


def test_photos_that_are_gone_leave_the_scene(photos: Path, tmp_path: Path, recovery: Recovery) -> None:
    process(photos, tmp_path / "scene")
    (photos / "photo02.jpg").unlink()
    process(photos, tmp_path / "scene")
    assert_whole(tmp_path / "scene", 5)


def test_too_few_posed_needs_attention(photos: Path, tmp_path: Path, recovery: Recovery) -> None:
    recovery.posed = 4
    report = process(photos, tmp_path / "scene")
    assert report.needs_attention
    assert "Only 4 of 6 photos" in report.attention[0]
    assert [photo.name for photo in report.unposed] == ["photo04.jpg", "photo05.jpg"]
    assert report.unposed[0].reason == "no verified pairs"
    assert_whole(tmp_path / "scene", 4)
    assert process(photos, tmp_path / "scene").attention == report.attention
    assert not process(photos, tmp_path / "scene", ProcessConfig(least_posed=0.5)).needs_attention


def test_a_high_error_needs_attention(photos: Path, tmp_path: Path, recovery: Recovery) -> None:
    recovery.error_px = 3.4
    assert "3.4 px" in process(photos, tmp_path / "scene").attention[0]


def test_masks_and_calibration_reach_pose_recovery(photos: Path, tmp_path: Path, recovery: Recovery) -> None:
    (tmp_path / "masks").mkdir()
    Image.new("L", (64, 48)).save(tmp_path / "masks" / "photo01.png")
    (tmp_path / "k.txt").write_text("70 0 31\n0 71 23\n0 0 1\n")
    process(photos, tmp_path / "scene", ProcessConfig(masks=tmp_path / "masks", calibration=tmp_path / "k.txt"))
    assert recovery.photos.cameras[0].is_calibrated
    assert (recovery.photos.masks_dir / "photo01.jpg.png").is_file()
    masks = [frame.mask_path for frame in load_scene(tmp_path / "scene").frames]
    assert masks[1] == tmp_path / "scene" / "masks" / "photo01.jpg.png"
    assert masks[0] is None


def test_a_video_becomes_a_scene(tmp_path: Path, recovery: Recovery) -> None:
    path = write_video(tmp_path / "walk.mp4", panning(24))
    report = process(path, tmp_path / "scene", ProcessConfig(frames=6))
    assert (report.source, report.posed) == ("video", 6)
    assert recovery.photos.kind == "video"
    assert load_scene(tmp_path / "scene").frames[1].time_s == pytest.approx(0.4, abs=0.1)
    assert "video frames taken" in report.notes[0]
    # A folder with one video in it is that video.
    (tmp_path / "clips").mkdir()
    shutil.copy(path, tmp_path / "clips")
    assert process(tmp_path / "clips", tmp_path / "scene2", ProcessConfig(frames=6)).posed == 6


class TestExistingPoses:
    def test_a_colmap_project(self, photos: Path, tmp_path: Path, recovery: Recovery) -> None:
        process(photos, tmp_path / "first")
        project = tmp_path / "project"
        shutil.copytree(tmp_path / "first" / "images", project / "images")
        shutil.copytree(tmp_path / "first" / "sparse", project / "sparse")
        report = process(project, tmp_path / "scene")
        assert (report.source, report.posed, recovery.calls) == ("colmap", 6, 1)
        assert_whole(tmp_path / "scene", 6)
        model = pycolmap.Reconstruction(str(tmp_path / "scene" / "sparse" / "0"))
        assert model.compute_num_observations() == 480
        (project / "images" / "photo00.jpg").write_bytes(b"broken")
        (project / "images" / "photo01.jpg").unlink()
        (project / "sparse" / "0" / "cameras.bin").touch()
        report = process(project, tmp_path / "scene")
        assert report.posed == 4
        assert {file.name for file in report.skipped} == {"photo00.jpg", "photo01.jpg"}
        assert_whole(tmp_path / "scene", 4)

    def test_a_colmap_model_cut_short(self, photos: Path, tmp_path: Path, recovery: Recovery) -> None:
        process(photos, tmp_path / "first")
        project = tmp_path / "project"
        shutil.copytree(tmp_path / "first" / "images", project / "images")
        shutil.copytree(tmp_path / "first" / "sparse", project / "sparse")
        file = project / "sparse" / "0" / "points3D.bin"
        file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(ReconError, match=r"points3D\.bin"):
            process(project, tmp_path / "scene")

    def test_transforms_json(self, photos: Path, tmp_path: Path, recovery: Recovery) -> None:
        process(photos, tmp_path / "first")
        write_transforms(load_scene(tmp_path / "first"), tmp_path / "first" / "transforms.json")
        document = json.loads((tmp_path / "first" / "transforms.json").read_text())
        document["frames"].append({**document["frames"][0], "file_path": "images/gone.jpg"})
        (photos / "transforms.json").write_text(json.dumps(document).replace("images/", "../first/images/"))
        report = process(photos, tmp_path / "scene")
        assert (report.source, report.posed) == ("transforms.json", 6)
        assert report.skipped[0].name == "../first/images/gone.jpg"
        assert_whole(tmp_path / "scene", 6)
        assert process(photos, tmp_path / "scene").reused
        anew = process(photos, tmp_path / "anew", ProcessConfig(poses="ignore"))
        assert (anew.source, recovery.calls) == ("photos", 2)

    def test_a_scene(self, photos: Path, tmp_path: Path, recovery: Recovery) -> None:
        process(photos, tmp_path / "first")
        report = process(tmp_path / "first", tmp_path / "scene")
        assert (report.source, report.posed, report.points) == ("scene", 6, 240)
        assert_whole(tmp_path / "scene", 6)

    def test_points_are_triangulated(self, captures: Path, tmp_path: Path) -> None:
        """Five photos of the fox with their given poses; the points that fit them come with tracks and colours."""
        document = json.loads((captures / "fox" / "transforms.json").read_text())
        there = [f for f in document["frames"] if (captures / "fox" / f["file_path"]).is_file()]
        document["frames"] = there[:5]
        folder = tmp_path / "fox"
        (folder / "images").mkdir(parents=True)
        for frame in document["frames"]:
            with Image.open(captures / "fox" / frame["file_path"]) as image:
                image.resize((360, 640), Image.Resampling.LANCZOS).save(folder / frame["file_path"], quality=95)
        (folder / "transforms.json").write_text(json.dumps(document))
        report = process(folder, tmp_path / "scene", ProcessConfig(sfm=SfmConfig(threads=2)))
        assert (report.source, report.posed) == ("transforms.json", 5)
        assert report.points > 150
        assert report.mean_error_px is not None
        assert report.mean_error_px < 1.5
        assert report.mean_track_length > 2
        scene = load_scene(tmp_path / "scene")
        assert scene.frames[0].camera.width == 360
        assert scene.points.colors.std() > 10
        assert not list((tmp_path / "scene" / "work").glob("prepared-*"))

    def test_poses_that_do_not_fit_are_said(self, photos: Path, tmp_path: Path, recovery: Recovery) -> None:
        process(photos, tmp_path / "first")
        write_transforms(load_scene(tmp_path / "first"), tmp_path / "first" / "transforms.json")
        shutil.rmtree(tmp_path / "first" / "sparse")
        (tmp_path / "first" / "scene.json").unlink()
        report = process(tmp_path / "first", tmp_path / "scene")
        assert report.points == 0
        assert "poses may be wrong" in report.attention[0]

    def test_fox(self, captures: Path, tmp_path: Path) -> None:
        report = process(captures / "fox", tmp_path / "scene", ProcessConfig(triangulate=False))
        assert (report.source, report.posed) == ("transforms.json", 50)
        assert len(report.skipped) == 17
        assert len(load_scene(tmp_path / "scene").frames) == 50


def process_and_die(photos: Path, out: Path, kill_at: int) -> bool:
    """Processes in a child that exits without any cleanup at its n-th change of a file; True if it finished."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function):
            def wrapped(*args, **kwargs):
                nonlocal count
                if count == kill_at:
                    os._exit(1)
                count += 1
                return function(*args, **kwargs)

            return wrapped

        for name in ("replace", "link", "unlink", "mkdir", "rmdir", "rename"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            process(photos, out)
        except BaseException:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a child process that can be ended at a chosen call")
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_anywhere_leaves_nothing_corrupt(tmp_path: Path, recovery: Recovery, first: bool) -> None:
    old, new = write_photos(tmp_path / "old", 3), write_photos(tmp_path / "new", 4, size=(48, 64))
    template = tmp_path / "template"
    if not first:
        process(old, template)
    finished, kill_at = False, 0 if first else 3
    while not finished:
        assert kill_at < 400
        out = tmp_path / f"out{kill_at}"
        if not first:
            shutil.copytree(template, out)
        finished = process_and_die(new, out, kill_at)
        if (out / "scene.json").is_file() or (out / ".recon-save").is_dir():
            scene = load_scene(out)  # The old one or the new one, whole.
            size = {3: (64, 48), 4: (48, 64)}[len(scene.frames)]
            for frame in scene.frames:
                with Image.open(frame.image_path) as image:
                    image.load()
                    assert image.size == size == (frame.camera.width, frame.camera.height)
        process(new, out)
        assert_whole(out, 4)
        shutil.rmtree(out)
        kill_at += 7
    assert kill_at > 60


def test_options_have_names_of_their_own() -> None:
    """The command line shows both configs in one flat list."""
    from dataclasses import fields

    assert not {option.name for option in fields(ProcessConfig)} & {option.name for option in fields(SfmConfig)}


def test_the_name_in_the_package_can_be_called(tmp_path: Path) -> None:
    import recon.process

    with pytest.raises(ReconError, match="no such file or folder"):
        recon.process(tmp_path / "none", tmp_path / "out")  # type: ignore[operator]


class TestBadInput:
    def refused(self, source: Path, out: Path, match: str, **options) -> ReconError:
        with pytest.raises(ReconError, match=match) as caught:
            process(source, out, ProcessConfig(**options))
        assert not (out / "scene.json").exists()
        return caught.value

    def test_nothing_there(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none", tmp_path / "out", "no such file or folder")
        (tmp_path / "empty").mkdir()
        self.refused(tmp_path / "empty", tmp_path / "out", "the folder is empty")
        (tmp_path / "empty" / "readme.txt").write_text("hello")
        self.refused(tmp_path / "empty", tmp_path / "out", r"no photos \(only readme.txt\)")
        self.refused(tmp_path / "empty" / "readme.txt", tmp_path / "out", "neither a video")

    def test_one_photo(self, tmp_path: Path) -> None:
        folder = write_photos(tmp_path / "one", 1)
        assert "overlap" in self.refused(folder, tmp_path / "out", "only one photo").fix
        self.refused(folder / "photo00.jpg", tmp_path / "out", "it is one photo")

    def test_a_text_file_named_jpg(self, tmp_path: Path) -> None:
        folder = tmp_path / "text"
        folder.mkdir()
        (folder / "a.jpg").write_text("hello")
        self.refused(folder, tmp_path / "out", "a.jpg: it is not a picture")

    def test_a_truncated_photo_among_good_ones(self, photos: Path, tmp_path: Path, recovery: Recovery) -> None:
        data = (photos / "photo03.jpg").read_bytes()
        (photos / "photo03.jpg").write_bytes(data[: len(data) // 2])
        report = process(photos, tmp_path / "out")
        assert report.posed == 5
        assert "damaged" in report.skipped[0].reason
        assert_whole(tmp_path / "out", 5)

    def test_a_video_without_frames(self, tmp_path: Path) -> None:
        self.refused(audio_only(tmp_path / "a.mp4"), tmp_path / "out", "no pictures")

    def test_several_videos(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mov"):
            (tmp_path / "v" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "v" / name).write_bytes(b"")
        self.refused(tmp_path / "v", tmp_path / "out", "2 videos")

    def test_results_are_not_put_among_the_photos(self, photos: Path, tmp_path: Path) -> None:
        self.refused(photos, photos, "folder of the input")
        photos.rename(tmp_path / "images")
        self.refused(tmp_path / "images", tmp_path, "folder of the input")
        assert len(list((tmp_path / "images").iterdir())) == 6

    def test_a_folder_that_cannot_be_written(self, photos: Path, tmp_path: Path, monkeypatch) -> None:
        (tmp_path / "file").write_text("")
        self.refused(photos, tmp_path / "file" / "out", "While")
        real = os.open

        def read_only(path, flags, *args, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR) and "locked" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, *args, **kwargs)

        # Root may write anywhere, so a mode alone would not refuse it.
        monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, data: read_only(self, os.O_WRONLY))
        self.refused(photos, tmp_path / "locked", "Permission denied")

    def test_a_full_disk(self, photos: Path, tmp_path: Path, recovery: Recovery, monkeypatch) -> None:
        process(photos, tmp_path / "out")
        write_photos(photos, 7)

        def full(source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(photos_module, "link_or_copy", full)
            with pytest.raises(ReconError, match="disk is full"):
                process(photos, tmp_path / "out")
        assert_whole(tmp_path / "out", 6)
        process(photos, tmp_path / "out")
        assert_whole(tmp_path / "out", 7)

    def test_photos_without_overlap(self, tmp_path: Path) -> None:
        """Pictures of noise have nothing in common, and the real pose recovery says so."""
        folder = write_photos(tmp_path / "noise", 3, size=(320, 240))
        error = self.refused(folder, tmp_path / "out", "While", sfm=SfmConfig(ladder=False, threads=2))
        assert error.fix

    @pytest.mark.parametrize("options", [{"least_posed": 1.5}, {"least_posed": -1.0}, {"frames": -3}, {"frames": 1}])
    def test_options_out_of_range(self, options: dict) -> None:
        with pytest.raises(ReconError, match="reading the options"):
            ProcessConfig(**options)

    def test_masks_and_calibration_that_do_not_exist(self, photos: Path, tmp_path: Path) -> None:
        self.refused(photos, tmp_path / "out", "no such folder", masks=tmp_path / "nowhere")
        self.refused(photos, tmp_path / "out", "no such file", calibration=tmp_path / "nowhere")


def test_real_photos_get_real_poses(captures: Path, tmp_path: Path) -> None:
    """Herz-Jesu at a third of a third of its size, through everything."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((captures / "herzjesu_P8_half" / "images").iterdir())[:5]:
        with Image.open(path) as image:
            image.resize((576, 384), Image.Resampling.LANCZOS).save(folder / path.name, quality=95)
    report = process(folder, tmp_path / "scene", ProcessConfig(sfm=SfmConfig(threads=2)))
    assert report.posed == 5
    assert report.mean_error_px is not None
    assert report.mean_error_px < 1
    assert_whole(tmp_path / "scene", 5)
    scene = load_scene(tmp_path / "scene")
    model = read_model(tmp_path / "scene" / "sparse" / "0")
    assert model.points.track_lengths.tolist() == scene.points.track_lengths.tolist()
    # Each observation lies where its point projects to.
    by_id = {image.image_id: image for image in model.images}
    frames = {frame.name: frame for frame in scene.frames}
    for row in range(0, len(scene.points), 50):
        for image_id, keypoint in model.tracks[model.track_offsets[row] : model.track_offsets[row + 1]]:
            image = by_id[int(image_id)]
            pixel = frames[image.name].camera.project(scene.points.positions[row][None])[0][0]
            assert np.linalg.norm(pixel - image.keypoints_px[keypoint]) < 8
