# SPDX-License-Identifier: Apache-2.0
"""Views: pixels land where their new camera says, masks follow, and the cache is right or redone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon import views as views_module
from recon.cameras import Camera, CameraModel, look_at
from recon.errors import ReconError
from recon.scene import Frame, Scene
from recon.scene_io import load_scene
from recon.views import load_views, undistorted_camera

POSE = look_at(np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))

LENSES = {
    "pinhole": Camera(320, 240, 250, 255, 171.3, 108.9, cam_from_world=POSE),
    "barrel": Camera(320, 240, 250, 250, 150, 130, CameraModel.OPENCV, (-0.2, 0.05, 0.001, -0.002), POSE),
    "pincushion": Camera(320, 240, 250, 250, 160, 120, CameraModel.OPENCV, (0.15, 0.02, 0.0, 0.0), POSE),
    "rational": Camera(
        320, 240, 250, 260, 160, 120, CameraModel.FULL_OPENCV, (0.1, 0.05, 0.001, 0, 0.01, 0.2, 0.02, 0.001), POSE
    ),
    "fisheye": Camera(320, 240, 120, 120, 160, 120, CameraModel.OPENCV_FISHEYE, (0.02, -0.01, 0.001, 0.0), POSE),
    "zero lens": Camera(320, 240, 250, 250, 160, 120, CameraModel.OPENCV, (0.0, 0.0, 0.0, 0.0), POSE),
}


def color_of(directions: np.ndarray) -> np.ndarray:
    """A smooth picture of the directions themselves, [..., 3] in the camera's frame."""
    u, v = directions[..., 0] / directions[..., 2], directions[..., 1] / directions[..., 2]
    waves = [np.sin(6 * u + 1), np.cos(5 * v - 0.5), np.sin(4 * (u + v))]
    return np.stack([127.5 + 100 * wave for wave in waves], -1)


def photograph(camera: Camera) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        color = color_of(camera.ray_directions_in_cam(camera.pixel_grid()))
    return np.clip(np.nan_to_num(color) + 0.5, 0, 255).astype(np.uint8)


def scene_of(folder: Path, camera: Camera, rgb: np.ndarray, root: Path | None = None, **extras: object) -> Scene:
    path = folder / "a.png"
    Image.fromarray(rgb).save(path)
    return Scene((Frame("a.png", path, camera, **extras),), root=root)  # type: ignore[arg-type]


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("long_side", [None, 128])
def test_pixels_lie_where_the_camera_says(tmp_path: Path, lens: str, long_side: int | None) -> None:
    camera = LENSES[lens]
    (view,) = load_views(scene_of(tmp_path, camera, photograph(camera)), long_side)
    assert view.camera.is_pinhole
    assert view.image.shape == (view.camera.height, view.camera.width, 3)
    assert view.mask is None or (view.mask == 0).mean() < 0.001
    assert np.array_equal(view.camera.cam_from_world, camera.cam_from_world)
    expected = color_of(view.camera.ray_directions_in_cam(view.camera.pixel_grid()))
    inner = (slice(2, -2), slice(2, -2))
    error = np.abs(view.image[inner].astype(float) - expected[inner])
    # Averaging over a pixel bends the wave a little where the picture is small.
    assert error.max() < (4.0 if long_side is None else 6.0)
    assert error.mean() < 1.0
    if long_side is not None:
        assert max(view.image.shape[:2]) == long_side


@pytest.mark.parametrize("lens", ["barrel", "pincushion", "rational"])
def test_most_of_the_photograph_is_kept(lens: str) -> None:
    camera = LENSES[lens]
    new = undistorted_camera(camera)
    assert (new.fx, new.fy) == (camera.fx, camera.fy)
    corners = new.ray_directions_in_cam(np.array([[0, 0], [new.width, 0], [0, new.height], [new.width, new.height]]))
    pixels, _ = replace(camera, cam_from_world=np.eye(4)).project_from_cam(corners)
    assert (pixels > -1).all()
    assert (pixels < [camera.width + 1, camera.height + 1]).all()
    reach = np.concatenate([pixels.min(0), [camera.width, camera.height] - pixels.max(0)])
    assert reach.max() < 30, "the rectangle could be much larger"


def test_a_full_circle_fisheye_is_bounded() -> None:
    camera = Camera(1000, 1000, 320, 320, 500, 500, CameraModel.OPENCV_FISHEYE, (0.0, 0.0, 0.0, 0.0))
    new = undistorted_camera(camera)
    half_angle = np.degrees(np.arctan2(new.width / 2, new.fx))
    assert 55 < half_angle <= 60.1


@pytest.mark.parametrize(
    "distortion", [(-0.9, 0.0, 0.0, 0.0), (-0.5, 2.0, 0.0, 0.0), (5.0, -30.0, 0, 0), (1e6, 1e6, 0, 0), (-1e9, 0, 0, 0)]
)
def test_wild_lenses_are_bounded_or_refused(distortion: tuple[float, ...]) -> None:
    """A polynomial that folds over inside of the picture must not give a picture that shows things twice."""
    camera = Camera(320, 240, 200, 200, 160, 120, CameraModel.OPENCV, distortion)
    try:
        new = undistorted_camera(camera)
    except ReconError as error:
        assert "lens" in str(error)  # noqa: PT017
        return
    directions = new.ray_directions_in_cam(new.pixel_grid())
    pixels, _ = camera.project_from_cam(directions)
    along_rows = np.diff(pixels[new.height // 2, :, 0])
    assert (along_rows > 0).all()
    assert (pixels.min((0, 1)) > -1).all()
    assert (pixels.max((0, 1)) < [321, 241]).all()


def test_panoramas_are_refused_in_words() -> None:
    camera = Camera(200, 100, 30, 30, 100, 50, CameraModel.EQUIRECTANGULAR)
    with pytest.raises(ReconError, match="panorama"):
        undistorted_camera(camera)


def test_fine_stripes_become_grey(tmp_path: Path) -> None:
    """One resampling with an area filter: stripes of one pixel may leave no moiré."""
    camera = Camera(401, 301, 300, 300, 200, 150)
    stripes = np.zeros((301, 401, 3), np.uint8)
    stripes[:, ::2] = 255
    (view,) = load_views(scene_of(tmp_path, camera, stripes), 97)
    assert np.abs(view.image[5:-5, 5:-5].astype(float) - 127.5).max() < 40
    assert abs(view.image.mean() - 127.5) < 3


def test_never_enlarged(tmp_path: Path) -> None:
    camera = LENSES["pinhole"]
    rgb = photograph(camera)
    (view,) = load_views(scene_of(tmp_path, camera, rgb), 9999)
    assert np.array_equal(view.image, rgb)


@pytest.mark.parametrize("lens", ["pinhole", "barrel"])
def test_masks_and_alpha_follow_the_photograph(tmp_path: Path, lens: str) -> None:
    camera = LENSES[lens]
    u = camera.ray_directions_in_cam(camera.pixel_grid())[..., 0]
    v = camera.ray_directions_in_cam(camera.pixel_grid())[..., 1]
    rgba = np.concatenate([photograph(camera), np.where(v < 0.1, 255, 0)[..., None]], -1).astype(np.uint8)
    mask_path = tmp_path / "mask.png"
    Image.fromarray(np.where(u < 0.2, 1, 0).astype(np.uint8)).save(mask_path)  # 1 is not black, so it counts.
    (view,) = load_views(scene_of(tmp_path, camera, rgba, mask_path=mask_path), 160)
    assert view.mask is not None
    assert set(np.unique(view.mask)) == {0, 255}
    directions = view.camera.ray_directions_in_cam(view.camera.pixel_grid())
    margin = 1.5 / view.camera.fx
    surely = (directions[..., 0] < 0.2 - margin) & (directions[..., 1] < 0.1 - margin)
    surely_not = (directions[..., 0] > 0.2 + margin / 3) | (directions[..., 1] > 0.1 + margin / 3)
    assert (view.mask[surely] == 255).all()
    assert (view.mask[surely_not] == 0).all()


def test_photos_at_another_size_of_the_same_shape_are_taken(tmp_path: Path) -> None:
    camera = LENSES["barrel"]
    (view,) = load_views(scene_of(tmp_path, camera, photograph(camera.resized(160, 120))), None)
    expected = color_of(view.camera.ray_directions_in_cam(view.camera.pixel_grid()))
    assert np.abs(view.image[4:-4, 4:-4] - expected[4:-4, 4:-4]).mean() < 1.5


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    camera = LENSES["pinhole"]
    scene = scene_of(tmp_path, camera, photograph(camera)[:, :200])
    with pytest.raises(ReconError, match="200×240"):
        load_views(scene, 100)
    with pytest.raises(ReconError, match="nope"):
        load_views(scene, 100, names=["nope"])
    (tmp_path / "a.png").unlink()
    with pytest.raises(ReconError, match="no file"):
        load_views(scene, 100)


class TestCache:
    @pytest.fixture
    def scene(self, tmp_path: Path) -> Scene:
        camera = LENSES["barrel"]
        return scene_of(tmp_path, camera, photograph(camera), root=tmp_path)

    def forbid_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(views_module, "read_picture", lambda path: pytest.fail("the photo was decoded again"))

    def files(self, scene: Scene) -> list[Path]:
        assert scene.root is not None
        return sorted((scene.root / "cache").rglob("*.safetensors"))

    def test_second_call_decodes_nothing(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        (first,) = load_views(scene, 100)
        self.forbid_work(monkeypatch)
        (second,) = load_views(scene, 100)
        assert np.array_equal(first.image, second.image)
        assert second.camera.intrinsic_matrix.tolist() == first.camera.intrinsic_matrix.tolist()

    def test_another_pose_reuses_the_pixels(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        load_views(scene, 100)
        self.forbid_work(monkeypatch)
        frame = scene.frames[0]
        moved = replace(scene, frames=(replace(frame, camera=frame.camera.with_pose(np.eye(4))),))
        assert np.array_equal(load_views(moved, 100)[0].camera.cam_from_world, np.eye(4))

    def test_a_changed_photo_mask_or_lens_is_redone(self, scene: Scene, tmp_path: Path) -> None:
        (first,) = load_views(scene, 100)
        Image.fromarray(255 - photograph(LENSES["barrel"])).save(tmp_path / "a.png")
        (second,) = load_views(scene, 100)
        assert np.abs(second.image.astype(int) + first.image - 255).mean() < 2
        frame = scene.frames[0]
        other = replace(scene, frames=(replace(frame, camera=replace(frame.camera, distortion=(0.0, 0.1, 0, 0))),))
        assert not np.array_equal(load_views(other, 100)[0].image, second.image)
        assert len(self.files(scene)) == 1, "older versions of a frame are removed"

    @pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
    def test_damage_is_redone(self, scene: Scene, damage: str) -> None:
        (first,) = load_views(scene, 100)
        (file,) = self.files(scene)
        data = bytearray(file.read_bytes())
        if damage == "flip":
            data[-1000] ^= 0x40
        file.write_bytes({"cut": data[:-10], "flip": data, "empty": b"", "other": b"{}" * 100}[damage])
        (second,) = load_views(scene, 100)
        assert np.array_equal(first.image, second.image)
        assert len(self.files(scene)) == 1

    def test_a_cache_that_cannot_be_written_is_no_error(self, scene: Scene, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("in the way")
        assert len(load_views(scene, 100)) == 1


def test_fox_views_are_reused_fast(captures: Path, tmp_path: Path) -> None:
    scene = load_scene(captures / "fox" / "transforms.json")
    names = [frame.name for frame in scene.frames[:6]]
    scene = replace(scene, root=tmp_path)
    made = load_views(scene, 480, names=names)
    assert [view.name for view in made] == names
    assert all(view.image.shape == (480, 270, 3) and view.mask is None for view in made)
    start = time.perf_counter()
    again = load_views(scene, 480, names=names)
    assert time.perf_counter() - start < 0.5
    assert all(np.array_equal(a.image, b.image) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("lens", ["pinhole", "barrel"])
def test_averaging_first_gives_the_same_picture(tmp_path: Path, lens: str, suffix: str) -> None:
    """Sides that are no multiples of 2 keep a photograph from being averaged first; one pixel less must not show."""
    camera = replace(LENSES[lens], cam_from_world=np.eye(4))
    camera = camera.resized(4 * camera.width, 4 * camera.height)
    pictures = []
    for cut in (0, 1):
        cropped = replace(camera, width=camera.width - cut, height=camera.height - cut)
        path = tmp_path / f"{cut}{suffix}"
        Image.fromarray(photograph(cropped)).save(path, quality=98)
        (view,) = load_views(Scene((Frame(path.name, path, cropped),)), 200)
        expected = photograph(view.camera)
        assert np.abs(view.image.astype(int) - expected)[2:-2, 2:-2].max() <= 4
        pictures.append(view.image)
    assert pictures[0].shape == pictures[1].shape
