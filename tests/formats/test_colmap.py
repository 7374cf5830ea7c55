# SPDX-License-Identifier: Apache-2.0
"""COLMAP models: both ways through COLMAP's own reader, all lens models, and files that lie."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from recon.cameras import Camera, CameraModel
from recon.errors import ReconError
from recon.formats.colmap import find_model, read_model, write_model
from recon.formats.colmap_types import PARAMETER_COUNT, camera_from_parameters, pose_from_quaternion, quaternion_of

pycolmap = pytest.importorskip("pycolmap")


def synthetic(frames: int = 6, points: int = 60):
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, frames, points
    pycolmap.set_random_seed(3)
    reconstruction = pycolmap.synthesize_dataset(options)
    reconstruction.update_point_3d_errors()
    return reconstruction


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory):
    """A reconstruction of pycolmap's and the folder with its binary files, rigs and frames included."""
    folder = tmp_path_factory.mktemp("colmap") / "sparse" / "0"
    folder.mkdir(parents=True)
    reconstruction = synthetic()
    reconstruction.write_binary(str(folder))
    assert (folder / "rigs.bin").is_file()
    return reconstruction, folder


def assert_same(model, reconstruction) -> None:
    assert {image.name for image in model.images} == {i.name for i in reconstruction.images.values()}
    for image in model.images:
        other = reconstruction.images[image.image_id]
        assert other.name == image.name
        assert np.allclose(image.cam_from_world[:3], other.cam_from_world().matrix(), atol=1e-12)
        assert len(image.keypoints_px) == len(other.points2D)
        for keypoint, point_id, point2d in zip(image.keypoints_px, image.point_ids, other.points2D, strict=True):
            assert np.array_equal(keypoint, point2d.xy)
            assert point_id == (point2d.point3D_id if point2d.has_point3D() else -1)
    assert len(model.points) == len(reconstruction.points3D) > 10
    for row, point_id in enumerate(model.point_ids):
        other = reconstruction.points3D[int(point_id)]
        assert np.array_equal(model.points.positions[row], other.xyz)
        assert np.array_equal(model.points.colors[row], other.color)
        assert model.points.errors_px[row] == np.float32(other.error)
        track = model.tracks[model.track_offsets[row] : model.track_offsets[row + 1]]
        assert [(e.image_id, e.point2D_idx) for e in other.track.elements] == [tuple(pair) for pair in track.tolist()]
        assert model.points.track_lengths[row] == other.track.length()


def test_reads_what_colmap_writes(theirs, tmp_path: Path) -> None:
    reconstruction, folder = theirs
    assert_same(read_model(folder), reconstruction)
    reconstruction.write_text(str(tmp_path))
    assert_same(read_model(tmp_path), pycolmap.Reconstruction(str(tmp_path)))


def test_colmap_reads_what_we_write(theirs, tmp_path: Path) -> None:
    write_model(read_model(theirs[1]), tmp_path)
    reconstruction = pycolmap.Reconstruction(str(tmp_path))
    assert_same(read_model(tmp_path), reconstruction)
    assert reconstruction.num_reg_images() == theirs[0].num_reg_images()
    assert reconstruction.compute_mean_track_length() == theirs[0].compute_mean_track_length()
    for camera_id, camera in theirs[0].cameras.items():
        point = np.array([0.3, -0.2, 1.1])
        assert np.allclose(reconstruction.cameras[camera_id].img_from_cam(point), camera.img_from_cam(point))


def test_writing_removes_companions_of_another_model(theirs, tmp_path: Path) -> None:
    theirs[0].write_text(str(tmp_path))
    theirs[0].write_binary(str(tmp_path))
    write_model(read_model(tmp_path), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.bin", "images.bin", "points3D.bin"]


@pytest.mark.parametrize("name", sorted(set(PARAMETER_COUNT) - {"EQUIRECTANGULAR"}))
def test_lens_models_project_as_colmaps_do(name: str) -> None:
    theirs = pycolmap.Camera.create_from_model_name(1, name, 500.0, 640, 480)
    lens = [0.05, -0.03, 0.002, -0.001, 0.01, 0.02, -0.01, 0.004]
    values = list(theirs.params)
    head = 4 if theirs.params_info.startswith("fx") else 3
    values[head:] = lens[: len(values) - head]
    values[0] = 510.0
    theirs.params = values
    ours = camera_from_parameters(name, 640, 480, values)
    points = np.random.default_rng(0).uniform([-0.5, -0.4, 1.0], [0.5, 0.4, 2.0], (50, 3))
    expected = np.array([theirs.img_from_cam(point) for point in points])
    assert np.allclose(ours.project_from_cam(points)[0], expected, atol=1e-9)


def test_equirectangular_comes_back(tmp_path: Path, theirs) -> None:
    model = read_model(theirs[1])
    camera = Camera(200, 100, 30.0, 30.0, 100.0, 50.0, CameraModel.EQUIRECTANGULAR)
    write_model(type(model)(dict.fromkeys(model.cameras, camera), *list(vars(model).values())[1:]), tmp_path)
    assert {c.model for c in read_model(tmp_path).cameras.values()} == {CameraModel.EQUIRECTANGULAR}


@pytest.mark.parametrize("name", ["FOV", "THIN_PRISM_FISHEYE", "EUCM", "BANANA"])
def test_unknown_lens_is_named(name: str) -> None:
    with pytest.raises(ReconError, match=name):
        camera_from_parameters(name, 640, 480, [1.0] * 5)


def test_unknown_lens_in_a_file_is_named(tmp_path: Path) -> None:
    reconstruction = synthetic()
    for camera in reconstruction.cameras.values():
        camera.model = pycolmap.CameraModelId.FOV
        camera.params = [500.0, 500.0, 320.0, 240.0, 0.1]
    reconstruction.write_binary(str(tmp_path))
    with pytest.raises(ReconError, match="FOV"):
        read_model(tmp_path)


def test_quaternions_come_back() -> None:
    random = np.random.default_rng(1)
    for quat in [*random.normal(size=(50, 4)), [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]:
        rotation = pose_from_quaternion("", list(quat), [0, 0, 0])[:3, :3]
        unit = np.array(quat) / np.linalg.norm(quat)
        back = quaternion_of(rotation)
        assert min(np.abs(back - unit).max(), np.abs(back + unit).max()) < 1e-14


@pytest.mark.parametrize("part", ["cameras.bin", "images.bin", "points3D.bin"])
def test_every_cut_is_noticed(theirs, tmp_path: Path, part: str) -> None:
    for path in theirs[1].glob("*.bin"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (theirs[1] / part).read_bytes()
    cuts = sorted({0, 1, 7, 8, 9, len(whole) - 1, *range(10, len(whole), max(1, len(whole) // 40))})
    for cut in cuts:
        (tmp_path / part).write_bytes(whole[:cut])
        with pytest.raises(ReconError, match=part):
            read_model(tmp_path)


@pytest.mark.parametrize("part", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 10**6])
def test_lying_counts_cost_nothing(theirs, tmp_path: Path, part: str, count: int) -> None:
    for path in theirs[1].glob("*.bin"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (theirs[1] / part).read_bytes()
    (tmp_path / part).write_bytes(struct.pack("<Q", count) + whole[8:])
    start = time.perf_counter()
    with pytest.raises(ReconError, match="promises"):
        read_model(tmp_path)
    assert time.perf_counter() - start < 1.0


def test_random_damage_never_crashes(theirs, tmp_path: Path) -> None:
    """Any flipped bytes give either a model or a `ReconError`."""
    random = np.random.default_rng(5)
    originals = {path.name: path.read_bytes() for path in theirs[1].glob("*.bin")}
    refused = 0
    for trial in range(150):
        for name, data in originals.items():
            damaged = bytearray(data)
            if name == ["cameras.bin", "images.bin", "points3D.bin"][trial % 3]:
                for place in random.integers(0, min(len(damaged), 400), 4):
                    damaged[place] = random.integers(256)
            (tmp_path / name).write_bytes(bytes(damaged))
        try:
            read_model(tmp_path)
        except ReconError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("images.txt", " 1 camera", " 99 camera"),
        ("images.txt", "camera", "../../etc/camera"),
        ("cameras.txt", "1024", "-3"),
        ("cameras.txt", "1280", "nan"),
        ("cameras.txt", "SIMPLE_RADIAL", "FOV"),
        ("points3D.txt", "1 ", "1 nan "),
    ],
)
def test_text_damage_is_refused(tmp_path: Path, part: str, old: str, new: str) -> None:
    synthetic().write_text(str(tmp_path))
    text = (tmp_path / part).read_text()
    start = text.index("\n", text.rindex("#"))
    header, body = text[:start], text[start:]
    assert old in body
    (tmp_path / part).write_text(header + body.replace(old, new, 1))
    with pytest.raises(ReconError):
        read_model(tmp_path)


def test_text_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    synthetic().write_text(str(tmp_path))
    text = (tmp_path / "images.txt").read_text()
    (tmp_path / "images.txt").write_text(text[: len(text) - 5])
    with pytest.raises(ReconError, match=r"images\.txt"):
        read_model(tmp_path)


def test_no_model(tmp_path: Path) -> None:
    assert find_model(tmp_path) is None
    with pytest.raises(ReconError, match="no model"):
        read_model(tmp_path)


def test_the_largest_of_several_models_is_found(tmp_path: Path) -> None:
    for name, frames in (("0", 3), ("1", 6)):
        (tmp_path / "sparse" / name).mkdir(parents=True)
        synthetic(frames).write_binary(str(tmp_path / "sparse" / name))
    assert find_model(tmp_path) == tmp_path / "sparse" / "1"


def test_large_models_are_read_fast(tmp_path: Path) -> None:
    """200,000 points take about a quarter of a second; a reader that parses each in Python takes ten times that."""
    random = np.random.default_rng(0)
    count, length = 200_000, 4
    record = np.zeros(
        count, [("id", "<u8"), ("f", "<f8", 3), ("rgb", "u1", 3), ("e", "<f8"), ("n", "<u8"), ("t", "<i4", (length, 2))]
    )
    record["id"], record["f"], record["n"] = np.arange(count), random.normal(size=(count, 3)), length
    record["t"][..., 1] = random.integers(0, 100, (count, length))
    theirs = synthetic()
    theirs.write_binary(str(tmp_path))
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", count) + record.tobytes())
    start = time.perf_counter()
    model = read_model(tmp_path)
    assert time.perf_counter() - start < 3.0
    assert np.array_equal(model.points.positions, record["f"])
    assert np.array_equal(model.tracks.reshape(count, length, 2), record["t"])
