# SPDX-License-Identifier: Apache-2.0
"""Scene folders: they come back as they were, others open them, and a killed save leaves the old or the new."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon import scene_io
from recon.cameras import Camera, CameraModel, look_at
from recon.errors import ReconError
from recon.formats.colmap import find_model, read_model
from recon.scene import Frame, Scene, Similarity, SparsePoints, WorldFrame
from recon.scene_io import load_scene, save_scene
from recon.world import rotation_between, transform_scene, turned_upright, up_direction

pycolmap = pytest.importorskip("pycolmap")


def make_scene(folder: Path, count: int = 5, shade: int = 0) -> Scene:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(shade)
    frames = []
    for index in range(count):
        path = folder / f"photo {index}.png"
        Image.fromarray(np.full((24, 32, 3), 10 * index + shade, np.uint8)).save(path)
        mask = folder / f"mask {index}.png"
        Image.fromarray(np.full((24, 32), 255, np.uint8)).save(mask)
        depth = folder / f"depth {index}.npy"
        np.save(depth, np.full((24, 32), index + 1.0, np.float32))
        eye = np.array([4 * np.cos(index), 4 * np.sin(index), 1.0 + shade])
        camera = Camera(
            32, 24, 30.0, 31.0, 15.5, 12.5, CameraModel.OPENCV, (0.1, 0, 0, 0), look_at(eye, np.zeros(3), np.eye(3)[2])
        )
        frames.append(
            Frame(
                f"left/Ünïcode {index}.png",
                path,
                camera,
                camera_id=7,
                mask_path=mask if index % 2 else None,
                depth_path=depth if index == 0 else None,
                exposure_log2=0.25 * index if index else None,
                time_s=index / 30 if index < 3 else None,
            )
        )
    points = SparsePoints(
        random.normal(size=(50, 3)),
        random.integers(0, 255, (50, 3)).astype(np.uint8),
        random.random(50).astype(np.float32),
        random.integers(2, 9, 50).astype(np.int32),
    )
    similarity = Similarity(0.3, rotation_between(np.array([0.0, 0.6, 0.8]), np.eye(3)[2]), np.array([1.0, 2.0, 3.0]))
    world = WorldFrame(similarity, "sfm", True, 0.5, (1e6, 2e6, 3.125), "EPSG:4978")
    return Scene(tuple(frames), points, world)


def assert_same(loaded: Scene, scene: Scene) -> None:
    assert [frame.name for frame in loaded.frames] == [frame.name for frame in scene.frames]
    for one, other in zip(loaded.frames, scene.frames, strict=True):
        assert one.image_path.read_bytes() == other.image_path.read_bytes()
        assert np.abs(one.camera.cam_from_world - other.camera.cam_from_world).max() < 1e-12
        assert one.camera.intrinsic_matrix.tolist() == other.camera.intrinsic_matrix.tolist()
        assert one.camera.model is other.camera.model
        assert one.camera.distortion == other.camera.distortion
        assert one.camera_id == other.camera_id
        assert (one.exposure_log2, one.time_s) == (other.exposure_log2, other.time_s)
        for mine, theirs in ((one.mask_path, other.mask_path), (one.depth_path, other.depth_path)):
            assert (mine is None) == (theirs is None)
            assert mine is None or mine.read_bytes() == theirs.read_bytes()
    for name in ("positions", "colors", "errors_px", "track_lengths"):
        assert np.array_equal(getattr(loaded.points, name), getattr(scene.points, name)), name
    assert loaded.world.world_from_source.rotation.tolist() == scene.world.world_from_source.rotation.tolist()
    assert loaded.world.world_from_source.scale == scene.world.world_from_source.scale
    for name in ("source", "up_is_known", "meters_per_unit", "origin", "crs"):
        assert getattr(loaded.world, name) == getattr(scene.world, name)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "in")
    save_scene(scene, tmp_path / "out")
    loaded = load_scene(tmp_path / "out")
    assert loaded.root == tmp_path / "out"
    assert_same(loaded, scene)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["depths", "images", "masks", "scene.json", "sparse"]
    # Saving what was loaded over itself changes nothing but the last bit of a quaternion.
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != "images.bin"}
    save_scene(loaded, tmp_path / "out")
    assert {path: path.read_bytes() for path in before} == before
    assert_same(load_scene(tmp_path / "out"), scene)


def test_colmap_opens_it(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "in")
    save_scene(scene, tmp_path / "out")
    reconstruction = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert reconstruction.num_reg_images() == 5
    assert reconstruction.num_points3D() == 50
    assert list(reconstruction.cameras) == [7]
    for image in reconstruction.images.values():
        frame = next(frame for frame in scene.frames if frame.name == image.name)
        assert np.allclose(image.cam_from_world().matrix(), frame.camera.cam_from_world[:3], atol=1e-12)


def test_lenses_that_share_a_number_are_kept_apart(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "in")
    frames = tuple(
        replace(frame, camera_id=0, camera=replace(frame.camera, fx=30.0 + index))
        for index, frame in enumerate(scene.frames)
    )
    save_scene(replace(scene, frames=frames), tmp_path / "out")
    assert [frame.camera.fx for frame in load_scene(tmp_path / "out").frames] == [30, 31, 32, 33, 34]
    assert {frame.camera_id for frame in load_scene(tmp_path / "out").frames} == {0}


def test_tracks_of_a_model_are_kept(tmp_path: Path) -> None:
    project = colmap_project(tmp_path / "project")
    scene, model = load_scene(project), read_model(find_model(project))
    save_scene(scene, tmp_path / "out", model)
    theirs = pycolmap.Reconstruction(str(project / "sparse" / "0"))
    ours = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    assert ours.compute_num_observations() == theirs.compute_num_observations() > 0
    assert ours.compute_mean_reprojection_error() == pytest.approx(theirs.compute_mean_reprojection_error(), abs=1e-6)
    assert load_scene(tmp_path / "out").points.track_lengths.tolist() == scene.points.track_lengths.tolist()


def save_and_die(scene: Scene, out: Path, kill_at: int) -> bool:
    """Saves in a child process that exits without any cleanup at its n-th change of a file; True if it finished."""
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

        for module, name in (
            (os, "replace"), (os, "link"), (os, "unlink"), (os, "mkdir"), (os, "rmdir"), (Path, "write_bytes"),
        ):  # fmt: skip
            setattr(module, name, dying(getattr(module, name)))
        try:
            save_scene(scene, out)
        except BaseException:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a child process that can be ended at a chosen call")
@pytest.mark.parametrize("first", [True, False])
def test_a_save_killed_anywhere_leaves_the_old_or_the_new(tmp_path: Path, first: bool) -> None:
    old, new = make_scene(tmp_path / "a", 3, shade=1), make_scene(tmp_path / "b", 4, shade=2)
    outcomes = set()
    finished = False
    # Every other call, the odd ones in one case and the even ones in the other.
    for kill_at in range(int(first), 200, 2):
        out = tmp_path / f"out{kill_at}"
        if not first:
            save_scene(old, out)
        finished = save_and_die(new, out, kill_at)
        try:
            loaded = load_scene(out)
            assert_same(loaded, old if len(loaded.frames) == 3 else new)
            outcomes.add(len(loaded.frames))
        except ReconError as error:
            assert first, error  # noqa: PT017
            outcomes.add(0)
        save_scene(new, out)  # The next save finishes whatever was left.
        assert_same(load_scene(out), new)
        assert not [p for p in out.iterdir() if p.name.startswith(".")]
        if finished:
            break
    assert finished
    assert kill_at > 20
    assert outcomes == ({0, 4} if first else {3, 4})


def test_what_cannot_be_saved_leaves_the_old(tmp_path: Path) -> None:
    old, new = make_scene(tmp_path / "a", 3, shade=1), make_scene(tmp_path / "b", 4, shade=2)
    save_scene(old, tmp_path / "out")
    new.frames[3].image_path.unlink()
    with pytest.raises(ReconError, match="no file"):
        save_scene(new, tmp_path / "out")
    assert_same(load_scene(tmp_path / "out"), old)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReconError):
        save_scene(old, tmp_path / "file" / "scene")


def test_a_full_disk_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make_scene(tmp_path / "a", 3, shade=1), make_scene(tmp_path / "b", 4, shade=2)
    save_scene(old, tmp_path / "out")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scene_io, "write_model", full)
    with pytest.raises(ReconError, match="disk is full"):
        save_scene(new, tmp_path / "out")
    monkeypatch.undo()
    assert_same(load_scene(tmp_path / "out"), old)


def damaged(document: dict, key: str, value: object) -> dict:
    target = document
    *path, last = key.split(".")
    for part in path:
        target = target[int(part)] if part.isdigit() else target[part]
    target[last] = value
    return document


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("extra", 1),
        ("frames", {}),
        ("frames.0.name", "gone.png"),
        ("frames.0.name", 5),
        ("frames.0.more", 5),
        ("frames.1.mask", "../../etc/passwd"),
        ("frames.1.mask", 3),
        ("frames.1.time_s", "noon"),
        ("frames.1.camera_id", [1]),
        ("world", []),
        ("world.rubbish", 1),
        ("world.world_from_source.rotation", [1, 2]),
        ("world.meters_per_unit", "long"),
        ("world.origin", [1]),
    ],
)
def test_damaged_scene_files_are_refused(tmp_path: Path, key: str, value: object) -> None:
    save_scene(make_scene(tmp_path / "in"), tmp_path / "out")
    file = tmp_path / "out" / "scene.json"
    file.write_text(json.dumps(damaged(json.loads(file.read_text()), key, value)))
    with pytest.raises(ReconError):
        load_scene(tmp_path / "out")


def test_a_model_cut_short_is_refused(tmp_path: Path) -> None:
    save_scene(make_scene(tmp_path / "in"), tmp_path / "out")
    file = tmp_path / "out" / "sparse" / "0" / "images.bin"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ReconError, match=r"images\.bin"):
        load_scene(tmp_path / "out")


def test_what_is_no_scene_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="recon process"):
        load_scene(tmp_path)
    with pytest.raises(ReconError, match="no such folder"):
        load_scene(tmp_path / "nowhere")


def colmap_project(folder: Path, place: str = "sparse/0", text: bool = False) -> Path:
    """A COLMAP project with synthetic poses whose world has y down, as COLMAP's often has."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 5, 40
    reconstruction = pycolmap.synthesize_dataset(options)
    (folder / place).mkdir(parents=True)
    (reconstruction.write_text if text else reconstruction.write_binary)(str(folder / place))
    (folder / "images").mkdir(exist_ok=True)
    for image in reconstruction.images.values():
        Image.new("RGB", (8, 6)).save(folder / "images" / image.name)
    return folder


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
def test_plain_colmap_projects_load_upright(tmp_path: Path, place: str, text: bool) -> None:
    project = colmap_project(tmp_path / "project", place, text)
    scene = load_scene(project)
    assert len(scene.frames) == 5
    assert scene.world.source == "colmap"
    assert not scene.world.up_is_known
    assert up_direction([frame.camera for frame in scene.frames]) == pytest.approx([0, 0, 1], abs=1e-9)
    theirs = pycolmap.Reconstruction(str(project / place))
    centers = {image.name: image.projection_center() for image in theirs.images.values()}
    for frame in scene.frames:
        back = scene.world.world_from_source.inverse().apply(frame.camera.center_in_world)
        assert np.allclose(back, centers[frame.name], atol=1e-9)
    # Points move with the cameras, so they project where they did.
    camera = scene.frames[0].camera
    ids = read_model(find_model(project)).point_ids
    image = next(i for i in theirs.images.values() if i.name == scene.frames[0].name)
    expected = theirs.cameras[image.camera_id].img_from_cam(image.cam_from_world() * theirs.points3D[int(ids[0])].xyz)
    assert np.allclose(camera.project(scene.points.positions[:1])[0][0], expected, atol=1e-6)


def test_colmap_images_that_are_missing_are_left_out(tmp_path: Path) -> None:
    project = colmap_project(tmp_path / "project")
    photos = sorted((project / "images").iterdir())
    photos[0].unlink()
    assert len(load_scene(project).frames) == 4
    for photo in photos[1:]:
        photo.unlink()
    with pytest.raises(ReconError, match="none of its 5 images"):
        load_scene(project)


def test_fox_transforms_load(captures: Path) -> None:
    scene = load_scene(captures / "fox")
    assert len(scene.frames) == 50
    assert scene.frames[0].name == "0001.jpg"


def test_transforming_a_scene_moves_cameras_and_points_together(tmp_path: Path) -> None:
    scene = replace(
        make_scene(tmp_path), frames=tuple(replace(f, depth_path=None) for f in make_scene(tmp_path).frames)
    )
    similarity = Similarity(2.5, rotation_between(np.array([0.0, 0.6, 0.8]), np.eye(3)[0]), np.array([1.0, -2.0, 0.5]))
    moved = transform_scene(scene, similarity)
    for before, after in zip(scene.frames, moved.frames, strict=True):
        pixels, depths = before.camera.project(scene.points.positions)
        new_pixels, new_depths = after.camera.project(moved.points.positions)
        assert np.allclose(pixels, new_pixels, equal_nan=True)
        assert np.allclose(depths * 2.5, new_depths)
    assert moved.world.meters_per_unit == 0.5 / 2.5


def test_up_is_found_although_cameras_look_down() -> None:
    random = np.random.default_rng(0)
    up = np.array([0.6, -0.64, 0.48])
    turn = rotation_between(np.eye(3)[2], up)
    frames = []
    for angle in np.linspace(0, 2, 12):  # A third of a circle, looking down by 40 degrees.
        eye = turn @ np.array([3 * np.cos(angle), 3 * np.sin(angle), 2.5]) + random.normal(size=3) * 0.02
        frames.append(Frame("a", Path("a"), Camera(10, 10, 9, 9, 5, 5, cam_from_world=look_at(eye, 0 * eye, up))))
    scene = turned_upright(Scene(tuple(frames)))
    turned_up = scene.world.world_from_source.rotation @ up
    assert np.degrees(np.arccos(turned_up[2])) < 2


def test_rotation_between_handles_opposites() -> None:
    for source in (np.eye(3)[0], -np.eye(3)[2], np.array([0.6, 0.0, -0.8])):
        for target in (source, -source, np.eye(3)[1]):
            rotation = rotation_between(source, target)
            assert np.allclose(rotation @ source, target)
            assert np.linalg.det(rotation) == pytest.approx(1)
            assert np.allclose(rotation @ rotation.T, np.eye(3))
