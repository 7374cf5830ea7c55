# SPDX-License-Identifier: Apache-2.0
"""Synthetic captures: what they claim to be true is true, and the same configuration gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import ExifTags, Image

from recon.cameras import CameraModel
from recon.data import CaptureConfig, SyntheticCapture, load_capture, make_capture, sparse_points
from recon.data.surfaces import linear_from_srgb
from recon.errors import ReconError
from recon.files import atomic_path

# Small, quick, and without anything that the sensor adds.
SMALL = CaptureConfig(
    views=6, width=120, height=90, detail=0.35, light_samples=8, noise=0.0, gloss=0.0, photo_format="png"
)


@pytest.fixture(scope="module", params=["room", "object"])
def capture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SyntheticCapture:
    return make_capture(request.param, tmp_path_factory.mktemp(request.param), SMALL)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCapture:
    # A dense walk, so that neighbours see the same things.
    return make_capture("room", tmp_path_factory.mktemp("dense"), replace(SMALL, views=24, supersampling=3))


def image(capture: SyntheticCapture, number: int) -> np.ndarray:
    with Image.open(capture.scene.frames[number].image_path) as photo:
        return np.asarray(photo.convert("RGB"))


def depth_of(capture: SyntheticCapture, number: int) -> np.ndarray:
    path = capture.scene.frames[number].depth_path
    assert path is not None
    return np.load(path)


def points_of(capture: SyntheticCapture, number: int) -> np.ndarray:
    """The world positions [H, W, 3] of a frame's pixels, from its depth."""
    camera, depth = capture.scene.frames[number].camera, depth_of(capture, number)
    in_cam = camera.ray_directions_in_cam(camera.pixel_grid()) * depth[..., None]
    pose = camera.world_from_cam
    return in_cam @ pose[:3, :3].T + pose[:3, 3]


def test_files_and_scene_agree(capture: SyntheticCapture) -> None:
    names = sorted(path.name for path in capture.photos_dir.iterdir())
    assert names == [f"frame_{k:04d}.png" for k in range(1, 7)]
    assert [frame.name for frame in capture.scene.frames] == names
    assert capture.scene.world.up_is_known
    assert capture.scene.world.meters_per_unit == 1.0
    assert (capture.object_mesh_path is None) == (capture.kind == "room")
    for number, frame in enumerate(capture.scene.frames):
        assert frame.camera.model is CameraModel.OPENCV
        assert frame.camera.distortion == SMALL.distortion
        assert image(capture, number).shape == (90, 120, 3)
        assert depth_of(capture, number).dtype == np.float32
        # Upright within a hand's unsteadiness, never looking straight up or down.
        assert frame.camera.cam_from_world[1, 2] < -0.4


def test_depth_and_normals_lie_on_the_mesh(capture: SyntheticCapture) -> None:
    mesh = trimesh.load_mesh(capture.mesh_path, process=False)
    rng = np.random.default_rng(0)
    for number in (0, 4):
        depth = depth_of(capture, number)
        assert (depth > 0).mean() > 0.99
        rows, columns = np.nonzero(depth > 0)
        chosen = rng.choice(len(rows), 25, replace=False)
        rows, columns = rows[chosen], columns[chosen]
        points = points_of(capture, number)[rows, columns]
        closest, distance, triangle = trimesh.proximity.closest_point_naive(mesh, points)
        assert distance.max() < 2e-5
        assert closest.shape == points.shape
        normals = capture.normals(capture.scene.frames[number].name)[rows, columns]
        assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 2e-3
        towards = capture.scene.frames[number].camera.center_in_world - points
        assert ((normals * towards).sum(1) > 0).all()
        # On edges the nearest triangle may be the neighbour.
        agreement = np.abs((mesh.face_normals[triangle] * normals).sum(1))
        assert np.median(agreement) > 0.999
        assert (agreement > 0.99).mean() > 0.8


def test_nothing_stands_between_camera_and_depth(capture: SyntheticCapture) -> None:
    """Points on the mesh are never nearer than the depth of the pixel that they fall on."""
    mesh = trimesh.load_mesh(capture.mesh_path, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, 4000, seed=1)
    camera, depth = capture.scene.frames[1].camera, depth_of(capture, 1)
    pixels, z = camera.project(points)
    inside = (z > 0.05) & (pixels > 1).all(1) & (pixels < (119, 89)).all(1)
    assert inside.sum() > 100
    column, row = pixels[inside].astype(int).T
    around = np.stack([depth[row + dy, column + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    assert (z[inside] > around.min(0) - 0.01).mean() > 0.995


def test_views_agree_where_they_see_the_same(room: SyntheticCapture) -> None:
    """The depth of one photograph, carried into the next, is the next one's depth, and shows the same colours."""
    compared = 0
    for first, second in ((2, 3), (8, 9), (18, 19)):
        camera = room.scene.frames[second].camera
        points = points_of(room, first).reshape(-1, 3)
        pixels, z = camera.project(points)
        inside = (z > 0) & (pixels > 1).all(1) & (pixels < (118, 88)).all(1)
        column, row = np.where(inside[:, None], pixels, 0).astype(int).T
        near = depth_of(room, second)[row, column]
        same = inside & (np.abs(near - z) < 0.01 * z)
        assert same.sum() > 0.3 * len(points)
        ours = image(room, first).reshape(-1, 3)[same].astype(float)
        theirs = image(room, second)[row, column][same].astype(float)
        difference = np.abs(ours - theirs).mean(1)
        assert np.median(difference) < 14
        # Half a pixel apart, but correlated as only the same texture is.
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9
        shuffled = np.random.default_rng(0).permutation(theirs)
        assert np.median(np.abs(ours - shuffled).mean(1)) > 2.5 * np.median(difference)
        compared += int(same.sum())
    assert compared > 10_000


def test_the_walk_keeps_its_distance(tmp_path: Path) -> None:
    """No camera stands inside or close to anything, not even with another seed."""
    for kind in ("room", "object"):
        capture = make_capture(kind, tmp_path / kind, replace(SMALL, views=40, seed=5, width=32, height=24, detail=0.2))
        depths = np.stack([depth_of(capture, number) for number in range(40)])
        assert depths[depths > 0].min() > 0.12
        assert capture.scene.extent > 0.5


def test_neighbours_overlap(room: SyntheticCapture) -> None:
    """Each photograph of the walk shares at least half of what it shows with a neighbour."""
    frames = room.scene.frames
    for number in range(len(frames)):
        shares = []
        for other in ((number - 1) % len(frames), (number + 1) % len(frames)):
            pixels, z = frames[other].camera.project(points_of(room, number).reshape(-1, 3))
            shares.append(((z > 0) & (pixels > 0).all(1) & (pixels < (120, 90)).all(1)).mean())
        assert max(shares) > 0.5


def test_object_bounds_and_meshes(tmp_path: Path) -> None:
    capture = make_capture("object", tmp_path, replace(SMALL, views=12, width=64, height=48))
    assert capture.object_mesh_path is not None
    assert capture.seen_object_mesh_path is not None
    assert capture.object_bounds_m is not None
    whole = trimesh.load_mesh(capture.object_mesh_path, process=False)
    assert whole.is_watertight
    assert whole.volume > 0
    assert whole.bounds == pytest.approx(capture.object_bounds_m)
    assert whole.body_count == 1
    size = capture.object_bounds_m[1] - capture.object_bounds_m[0]
    assert ((size > 0.2) & (size < 0.5)).all()
    seen = trimesh.load_mesh(capture.seen_object_mesh_path, process=False)
    assert 0.6 < seen.area / whole.area < 0.995
    # Nobody sees the plinth from below.
    assert (seen.face_normals[seen.triangles_center[:, 2] < capture.object_bounds_m[0, 2] + 0.002, 2] > -0.9).all()
    for frame in capture.scene.frames:
        pixels, z = frame.camera.project(whole.vertices)
        assert (z > 0).all()
        assert ((pixels > 0) & (pixels < (64, 48))).all()


def file_hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    config = CaptureConfig(
        views=2, width=64, height=48, detail=0.2, light_samples=4, exposure_stops=0.3, distractors=1, vignetting=0.3
    )
    for kind in ("room", "object"):
        make_capture(kind, tmp_path / kind / "a", config)
        make_capture(kind, tmp_path / kind / "b", config)
        first, second = file_hashes(tmp_path / kind / "a"), file_hashes(tmp_path / kind / "b")
        assert first == second
        assert "photos/frame_0002.jpg" in first
        assert "masks/frame_0002.jpg.png" in first
    other = make_capture("room", tmp_path / "other", replace(config, views=1, seed=1))
    assert file_hashes(other.root)["photos/frame_0001.jpg"] != first["photos/frame_0001.jpg"]


def test_distractors_stay_within_their_masks(tmp_path: Path) -> None:
    config = replace(SMALL, views=3, detail=0.2)
    empty = make_capture("room", tmp_path / "empty", config)
    busy = make_capture("room", tmp_path / "busy", replace(config, distractors=2))
    assert empty.masks_dir is None
    assert not (empty.root / "masks").exists()
    assert busy.masks_dir is not None
    for number, frame in enumerate(busy.scene.frames):
        assert frame.mask_path is not None
        with Image.open(frame.mask_path) as mask:
            keep = np.asarray(mask) > 0
        assert 0.02 < (~keep).mean() < 0.7
        same = (image(empty, number) == image(busy, number)).all(-1)
        assert same[keep].all()
        assert same[~keep].mean() < 0.1
        # The truth is that of the room without its visitors.
        assert np.array_equal(depth_of(empty, number), depth_of(busy, number))


def test_exposure_and_vignetting_change_brightness_as_told(tmp_path: Path) -> None:
    config = replace(SMALL, views=3, detail=0.2)
    plain = make_capture("room", tmp_path / "plain", config)
    exposed = make_capture("room", tmp_path / "exposed", replace(config, exposure_stops=0.5))
    stops = [frame.exposure_log2 for frame in exposed.scene.frames]
    assert all(stop is not None for stop in stops)
    assert np.std(stops) == pytest.approx(0.5)  # type: ignore[arg-type]
    for number, stop in enumerate(stops):
        before, after = (linear_from_srgb(image(c, number) / 255.0) for c in (plain, exposed))
        # Below the shoulder of the response, light is proportional.
        usable = (before > 0.05) & (before < 0.4) & (after < 0.6)
        assert np.median(after[usable] / before[usable]) == pytest.approx(2.0**stop, rel=0.02)  # type: ignore[operator]
    dark = make_capture("room", tmp_path / "dark", replace(config, vignetting=0.5))
    ratio = (image(dark, 0) + 1.0) / (image(plain, 0) + 1.0)
    assert np.median(ratio[40:50, 55:65]) > 0.99
    assert np.median(ratio[:6, :6]) < 0.85


def test_noise_is_as_strong_as_told(tmp_path: Path) -> None:
    config = replace(SMALL, views=1, detail=0.2)
    plain = make_capture("object", tmp_path / "plain", config)
    noisy = make_capture("object", tmp_path / "noisy", replace(config, noise=0.02))
    difference = image(noisy, 0).astype(float) - image(plain, 0)
    grey = np.abs(image(plain, 0).astype(float) - 118) < 30
    assert np.std(difference[grey]) / 255 == pytest.approx(0.02, rel=0.25)
    assert abs(difference[grey].mean()) < 0.5


def test_a_finished_capture_is_not_made_again(capture: SyntheticCapture) -> None:
    before = capture.scene.frames[0].image_path.stat().st_mtime_ns
    again = make_capture(capture.kind, capture.root, SMALL)
    assert again.scene.frames[0].image_path.stat().st_mtime_ns == before
    loaded = load_capture(capture.root)
    assert loaded.config == SMALL
    for ours, theirs in zip(capture.scene.frames, loaded.scene.frames):
        assert np.array_equal(ours.camera.cam_from_world, theirs.camera.cam_from_world)


def test_another_capture_replaces_the_old_one(tmp_path: Path) -> None:
    tiny = CaptureConfig(views=2, width=32, height=24, detail=0.15, light_samples=2)
    make_capture("room", tmp_path, tiny)
    capture = make_capture("room", tmp_path, replace(tiny, views=1, maps=False, photo_format="png"))
    assert [path.name for path in capture.photos_dir.iterdir()] == ["frame_0001.png"]
    assert capture.scene.frames[0].depth_path is None
    assert not list((tmp_path / "truth" / "depth").iterdir())
    (tmp_path / "photos" / "frame_0001.png").unlink()
    assert len(list(make_capture("room", tmp_path, capture.config).photos_dir.iterdir())) == 1


def test_a_broken_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="no such file"):
        load_capture(tmp_path)
    tiny = CaptureConfig(views=1, width=32, height=24, detail=0.15, light_samples=2)
    make_capture("room", tmp_path, tiny)
    index = tmp_path / "capture.json"
    good = json.loads(index.read_text())

    def spoiled(document: object) -> None:
        with atomic_path(index) as path:
            path.write_text(json.dumps(document))
        with pytest.raises(ReconError):
            load_capture(tmp_path)

    for key in ("kind", "config", "frames", "scene_bounds_m", "look"):
        spoiled({k: v for k, v in good.items() if k != key})
    spoiled([])
    spoiled({**good, "schema": 99})
    spoiled({**good, "look": -1})
    spoiled({**good, "kind": "planet"})
    spoiled({**good, "extra": 1})
    spoiled({**good, "frames": [{}]})
    spoiled({**good, "frames": "none"})
    spoiled({**good, "config": {**good["config"], "views": "many"}})
    spoiled({**good, "config": {**good["config"], "unknown": 1}})
    spoiled({**good, "scene_bounds_m": [1, 2]})
    spoiled({**good, "frames": [{**good["frames"][0], "fx": float("1e999")}]})
    # A damaged index does not keep a capture from being made.
    assert len(make_capture("room", tmp_path, tiny).scene.frames) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"views": 0}, "views"),
        ({"views": 2.5}, "views"),
        ({"views": True}, "views"),
        ({"width": 8}, "width"),
        ({"height": 100_000}, "height"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"supersampling": 9}, "supersampling"),
        ({"field_of_view_deg": 179.0}, "field_of_view_deg"),
        ({"distortion": (0.1, 0.0)}, "distortion"),
        ({"distortion": (float("inf"), 0, 0, 0)}, "distortion"),
        ({"principal_point_px": (1.0,)}, "principal_point_px"),
        ({"photo_format": "bmp"}, "photo_format"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"detail": "high"}, "detail"),
    ],
)
def test_bad_configurations_are_refused(change: dict, named: str) -> None:
    with pytest.raises(ReconError, match=named):
        CaptureConfig(**change)


def test_bad_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="room or object"):
        make_capture("moon", tmp_path / "x", SMALL)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReconError):
        make_capture("room", tmp_path / "file", SMALL)


def test_sparse_points_lie_on_surfaces(capture: SyntheticCapture) -> None:
    points = sparse_points(capture, 300)
    assert len(points) == 300
    mesh = trimesh.load_mesh(capture.mesh_path, process=False)
    _, distance, _ = trimesh.proximity.closest_point_naive(mesh, points.positions[:25])
    assert distance.max() < 2e-5
    assert points.colors.dtype == np.uint8
    assert points.colors.std() > 10
    assert (points.track_lengths >= 1).all()
    assert (points.track_lengths <= 6).all()
    assert np.array_equal(points.positions, sparse_points(capture, 300).positions)
    assert len(sparse_points(capture, 0)) == 0
    with pytest.raises(ReconError, match="-1 points"):
        sparse_points(capture, -1)


def test_exif_tells_the_focal_length(tmp_path: Path) -> None:
    capture = make_capture("room", tmp_path, replace(SMALL, views=1, photo_format="jpg"))
    frame = capture.scene.frames[0]
    with Image.open(frame.image_path) as photo:
        details = photo.getexif().get_ifd(ExifTags.IFD.Exif)
    equivalent = float(details[ExifTags.Base.FocalLengthIn35mmFilm])
    assert equivalent / 36 * frame.camera.width == pytest.approx(frame.camera.fx, rel=0.03)
