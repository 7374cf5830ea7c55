# SPDX-License-Identifier: Apache-2.0
"""Camera paths keep their promises, and films hold what was rendered or do not appear at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.files import write_json
from recon.film import (
    CameraPath,
    FilmOptions,
    PathOptions,
    film_lens,
    load_path,
    orbit_path,
    read_keyframes,
    render_film,
    train_path,
)
from recon.film.colormap import colorize
from recon.film.keyframes import keyframes_document
from recon.film.paths import resized_path, scene_focus
from recon.film.saved import picture_size
from recon.render import RenderOptions, RenderOutput

FOCUS = np.array([0.4, -0.3, 0.8])


def ring(count: int = 24, arc_deg: float = 360.0, radius: float = 3.0, outward: bool = False) -> list[Camera]:
    """Cameras around FOCUS on two heights, looking at it (or away from it)."""
    cameras = []
    for i, angle in enumerate(np.radians(np.arange(count) * arc_deg / count)):
        eye = FOCUS + [radius * np.cos(angle), radius * np.sin(angle), 1.0 + 0.2 * (i % 2)]
        target = 2 * eye - FOCUS if outward else FOCUS
        pose = look_at(eye, target, np.array([0.0, 0.0, 1.0]))
        cameras.append(Camera(640, 480, 500, 500, 320, 240, cam_from_world=pose))
    return cameras


class Sphere:
    """A renderer of a unit sphere about FOCUS whose colour tells the direction, so that every picture is known."""

    def __init__(self, fails_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.rendered = 0
        self.fails_at = fails_at
        self.error = error

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        if self.rendered == self.fails_at:
            raise self.error
        self.rendered += 1
        directions = camera.ray_directions_in_cam(camera.pixel_grid()) @ camera.cam_from_world[:3, :3]
        offset = camera.center_in_world - FOCUS
        a, b, c = (directions**2).sum(-1), directions @ offset, offset @ offset - 1.0
        root = b * b - a * c
        depth = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, 0.0)
        hit = depth > 0
        normal = np.where(hit[..., None], offset + depth[..., None] * directions, 0.0)
        background = np.array(options.background)
        rgb = np.where(hit[..., None], 0.5 + 0.4 * normal, background)
        return RenderOutput(
            rgb=torch.from_numpy(rgb).float(),
            alpha=torch.from_numpy(hit).float(),
            depth=torch.from_numpy(depth).float() if options.depth else None,
            normal=torch.from_numpy(normal).float() if options.normal else None,
        )


def centers(path: CameraPath) -> np.ndarray:
    return np.array([camera.center_in_world for camera in path.cameras])


def turns_rad(path: CameraPath) -> np.ndarray:
    rotations = np.array([camera.cam_from_world[:3, :3] for camera in path.cameras])
    cosines = (np.einsum("nij,nij->n", rotations[:-1], rotations[1:]) - 1) / 2
    return np.arccos(np.clip(cosines, -1, 1))


# Paths ----------------------------------------------------------------------------------------------------------


def test_the_focus_is_where_the_axes_meet() -> None:
    np.testing.assert_allclose(scene_focus(ring()), FOCUS, atol=2e-3)


def test_cameras_that_look_outward_or_in_parallel_have_a_focus_too() -> None:
    np.testing.assert_allclose(scene_focus(ring(outward=True)), FOCUS + [0, 0, 1.1], atol=1e-6)
    parallel = [
        camera.with_pose(look_at(np.array([x, 0.0, 1.0]), np.array([x, 9.0, 1.0]), np.array([0, 0, 1.0])))
        for x, camera in zip(np.linspace(-2, 2, 9), ring(9))
    ]
    focus = scene_focus(parallel)
    assert np.isfinite(focus).all()
    assert abs(focus[0]) < 1e-6
    assert focus[1] > 0.1


def test_an_orbit_goes_around_level_and_closes() -> None:
    path = orbit_path(ring(), PathOptions(seconds=4, fps=25))
    eyes = centers(path)
    assert len(path.cameras) == 100
    np.testing.assert_allclose(np.linalg.norm((eyes - FOCUS)[:, :2], axis=1), 3.0, rtol=1e-2)
    np.testing.assert_allclose(eyes[:, 2], FOCUS[2] + 1.1, atol=0.11)
    np.testing.assert_allclose(eyes[:, 2], eyes[0, 2], atol=1e-9)
    steps = np.linalg.norm(np.diff(np.vstack([eyes, eyes[:1]]), axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    for camera in path.cameras[::10]:
        pixel, depth = camera.project(FOCUS)
        assert depth > 0
        np.testing.assert_allclose(pixel, [camera.width / 2, camera.height / 2], atol=2)
        # A level horizon: the picture's right direction has no vertical part, and up is up.
        assert abs(camera.cam_from_world[0, 2]) < 1e-9
        assert camera.cam_from_world[1, 2] < 0


def test_an_orbit_of_a_half_circle_stays_where_something_was_seen() -> None:
    path = orbit_path(ring(20, arc_deg=180), PathOptions(seconds=3))
    angles = np.degrees(np.arctan2(*(centers(path) - FOCUS)[:, 1::-1].T))
    assert angles.min() > -6
    assert angles.max() < 177
    assert angles.max() - angles.min() > 150
    assert np.linalg.norm(centers(path)[0] - centers(path)[-1]) < 0.05


def test_an_orbit_of_one_camera_and_of_none() -> None:
    assert len(orbit_path(ring()[:1], PathOptions(seconds=1)).cameras) == 30
    with pytest.raises(ReconError, match="no training cameras"):
        orbit_path([], PathOptions())


def test_the_ride_passes_through_every_training_camera_smoothly() -> None:
    cameras = ring(12, arc_deg=300)
    path = train_path(cameras, PathOptions(seconds=40, fps=30))
    eyes = centers(path)
    for camera in cameras:
        nearest = int(np.argmin(np.linalg.norm(eyes - camera.center_in_world, axis=1)))
        assert np.linalg.norm(eyes[nearest] - camera.center_in_world) < 0.01
        assert path.cameras[nearest].forward_in_world @ camera.forward_in_world > 0.9999
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert steps.max() < 1.3 * np.median(steps)
    assert np.abs(np.diff(eyes, n=2, axis=0)).max() < 0.1 * np.median(steps)
    assert turns_rad(path).max() < 3 * np.median(turns_rad(path))


def test_the_ride_takes_neighbours_where_names_jump_about() -> None:
    cameras = ring(24, arc_deg=300)
    shuffled = [cameras[i] for i in np.random.default_rng(0).permutation(24)]
    length = np.linalg.norm(np.diff(centers(train_path(shuffled, PathOptions())), axis=0), axis=1).sum()
    straight = np.linalg.norm(np.diff(centers(train_path(cameras, PathOptions())), axis=0), axis=1).sum()
    assert length < 1.1 * straight


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rides_through_few_or_equal_cameras(count: int) -> None:
    cameras = ring(24)[:count]
    assert len(train_path(cameras, PathOptions(seconds=1)).cameras) == 30
    assert len(train_path(cameras * 3, PathOptions(seconds=1)).cameras) == 30


def test_the_lens_of_a_film_is_even_and_keeps_the_field_of_view() -> None:
    odd = Camera(1081, 1921, 1500, 1500, 540, 960)
    lens = film_lens([odd, odd, *ring()[:1]], 961)
    assert (lens.width % 2, lens.height % 2) == (0, 0)
    assert lens.height <= 962
    assert lens.height > lens.width
    assert math.isclose(lens.fy / lens.height, odd.fy / odd.height, rel_tol=1e-6)


def test_unknown_paths_and_absurd_lengths_are_refused() -> None:
    with pytest.raises(ReconError, match="no path 'spiral'"):
        load_path("spiral", ring(), PathOptions())
    with pytest.raises(ReconError):
        PathOptions(fps=0)
    with pytest.raises(ReconError):
        PathOptions(seconds=float("nan"))
    with pytest.raises(ReconError, match="frames"):
        orbit_path(ring(), PathOptions(seconds=86000, fps=100))


# Keyframes ------------------------------------------------------------------------------------------------------


def keyframe_file(path: Path, **changes: Any) -> Path:
    document = {
        "schema": 1,
        "fps": 10,
        "width": 320,
        "height": 200,
        "keyframes": [
            {"time_s": 0, "position": [3, 0, 1.5], "look_at": [0, 0, 1]},
            {"time_s": 1, "position": [0, 3, 1.5], "look_at": [0, 0, 1], "fov_deg": 30},
            {"time_s": 3, "position": [-3, 0, 1.5], "rotation_wxyz": [1, -1, 0, 0]},
        ],
    }
    path.write_text(json.dumps(document | changes))
    return path


@pytest.mark.parametrize("easing", ["smooth", "linear", "stop"])
def test_keyframes_are_met_at_their_times(tmp_path: Path, easing: str) -> None:
    path = load_path(str(keyframe_file(tmp_path / "k.json", easing=easing)), [], PathOptions())
    assert path.fps == 10
    assert len(path.cameras) == 31
    assert (path.cameras[0].width, path.cameras[0].height) == (320, 200)
    np.testing.assert_allclose(path.cameras[0].center_in_world, [3, 0, 1.5], atol=1e-9)
    np.testing.assert_allclose(path.cameras[10].center_in_world, [0, 3, 1.5], atol=1e-9)
    np.testing.assert_allclose(path.cameras[30].center_in_world, [-3, 0, 1.5], atol=1e-9)
    assert math.isclose(2 * math.degrees(math.atan(100 / path.cameras[10].fy)), 30, rel_tol=1e-6)
    # The quaternion turns by -90° about x: forward (0, 0, 1) becomes (0, 1, 0) and down (0, 1, 0) becomes (0, 0, -1).
    np.testing.assert_allclose(path.cameras[30].forward_in_world, [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(path.cameras[30].cam_from_world[1, :3], [0, 0, -1], atol=1e-9)
    steps = np.linalg.norm(np.diff(centers(path), axis=0), axis=1)
    if easing == "stop":
        assert steps[[0, 9, 10, 29]].max() < 0.35 * steps.max()
    if easing == "linear":
        np.testing.assert_allclose(steps[:10], steps[0], rtol=1e-6)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = read_keyframes(keyframe_file(tmp_path / "k.json"), PathOptions(seconds=6, fps=5))
    assert len(path.cameras) == 31
    assert path.fps == 5
    np.testing.assert_allclose(path.cameras[10].center_in_world, [0, 3, 1.5], atol=1e-9)


def test_a_path_written_as_keyframes_comes_back(tmp_path: Path) -> None:
    path = orbit_path(ring(), PathOptions(seconds=1, fps=20))
    write_json(tmp_path / "k.json", keyframes_document(path), 1)
    back = read_keyframes(tmp_path / "k.json", PathOptions())
    assert len(back.cameras) == 20
    for one, other in zip(path.cameras, back.cameras):
        np.testing.assert_allclose(one.cam_from_world, other.cam_from_world, atol=1e-6)
        assert math.isclose(one.fy, other.fy, rel_tol=1e-9)


FIRST = {"time_s": 0, "position": [3, 0, 1], "look_at": [0, 0, 1]}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"zoom": 3},
        {"keyframes": []},
        {"keyframes": {}},
        {"keyframes": [3]},
        {"keyframes": [FIRST, FIRST]},
        {"keyframes": [FIRST | {"position": [0, 0, 1]}]},
        {"keyframes": [FIRST | {"position": [0, 0]}]},
        {"keyframes": [FIRST | {"position": ["a", 0, 1]}]},
        {"keyframes": [FIRST | {"position": [float("nan"), 0, 1]}]},
        {"keyframes": [FIRST | {"fov_deg": 180}]},
        {"keyframes": [FIRST | {"fov_deg": True}]},
        {"keyframes": [FIRST | {"roll": 3}]},
        {"keyframes": [FIRST | {"rotation_wxyz": [1, 0, 0, 0]}]},
        {"keyframes": [{"time_s": 0, "position": [3, 0, 1], "rotation_wxyz": [0, 0, 0, 0]}]},
        {"keyframes": [{"position": [3, 0, 1], "look_at": [0, 0, 1]}]},
        {"fps": 0},
        {"fps": "30"},
        {"width": 10**9},
        {"easing": "bounce"},
    ],
)
def test_broken_keyframes_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ReconError):
        read_keyframes(keyframe_file(tmp_path / "k.json", **changes), PathOptions())


def test_files_that_are_no_keyframes(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="no such file"):
        read_keyframes(tmp_path / "none.json", PathOptions())
    (tmp_path / "k.json").write_bytes(b"\xff\xfe not json")
    with pytest.raises(ReconError, match="JSON"):
        read_keyframes(tmp_path / "k.json", PathOptions())


# Films ----------------------------------------------------------------------------------------------------------


def decode(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        return [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray().astype(float)
            for frame in container.decode(stream)
        ]


def short_orbit(frames: int = 6, long_side: int = 160) -> CameraPath:
    return orbit_path(ring(), PathOptions(seconds=frames / 30, long_side=long_side))


def test_a_video_holds_the_frames_that_were_rendered(tmp_path: Path) -> None:
    path = short_orbit()
    report = render_film(Sphere(), path, tmp_path / "film.mp4", FilmOptions(background=(0.1, 0.3, 0.6), quality=10))
    assert (report.frames, report.width, report.height) == (6, 160, 120)
    frames = decode(tmp_path / "film.mp4")
    assert len(frames) == 6
    for frame, camera in zip(frames, path.cameras):
        expected = Sphere().render(camera, RenderOptions(background=(0.1, 0.3, 0.6))).rgb.numpy() * 255
        # Eight-bit YUV is good to one or two steps; a wrong colour matrix is off by more than five here.
        assert np.abs(frame - expected).mean() < 2
        assert np.abs(frame.mean((0, 1)) - expected.mean((0, 1))).max() < 2.5
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]


def test_an_odd_size_is_cut_to_an_even_one(tmp_path: Path) -> None:
    camera = short_orbit(1).cameras[0].resized(71, 53)
    report = render_film(Sphere(), CameraPath((camera,), 30), tmp_path / "film.mp4")
    assert (report.width, report.height) == (70, 52)
    assert decode(tmp_path / "film.mp4")[0].shape == (52, 70, 3)


def test_pictures_are_exact(tmp_path: Path) -> None:
    path = short_orbit(3)
    for _ in range(2):  # The second film replaces the first.
        render_film(Sphere(), path, tmp_path / "frames")
    names = sorted(entry.name for entry in (tmp_path / "frames").iterdir())
    assert names == ["frame_00000.png", "frame_00001.png", "frame_00002.png"]
    for name, camera in zip(names, path.cameras):
        expected = (Sphere().render(camera, RenderOptions()).rgb * 255).round().byte().numpy()
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "frames" / name)), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]


def test_depth_has_one_scale_over_the_film_with_near_red_and_far_blue(tmp_path: Path) -> None:
    far = [camera.with_pose(camera.cam_from_world) for camera in ring(radius=6)]
    path = CameraPath(
        (*short_orbit(2).cameras, *orbit_path(far, PathOptions(seconds=2 / 30, long_side=160)).cameras), 30
    )
    render_film(Sphere(), path, tmp_path / "d", FilmOptions(channel="depth"))
    pictures = [np.array(Image.open(tmp_path / "d" / f"frame_{i:05d}.png")).astype(int) for i in range(4)]
    near, away = pictures[0][60, 80], pictures[3][60, 80]
    assert near[0] > near[2] + 60
    assert away[2] > away[0] + 40
    assert pictures[0][0, 0].tolist() == [0, 0, 0]


def test_normals_are_shown_as_colours(tmp_path: Path) -> None:
    path = short_orbit(1)
    render_film(Sphere(), path, tmp_path / "n", FilmOptions(channel="normal"))
    picture = np.array(Image.open(tmp_path / "n" / "frame_00000.png")).astype(float)
    expected = (path.cameras[0].center_in_world - FOCUS) / np.linalg.norm(path.cameras[0].center_in_world - FOCUS)
    np.testing.assert_allclose(picture[60, 80] / 255, expected / 2 + 0.5, atol=0.02)


@pytest.mark.parametrize("name", ["film.mp4", "frames"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ReconError])
def test_an_interruption_leaves_the_film_before(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    render_film(Sphere(), short_orbit(2), tmp_path / name)

    def content() -> dict[str, bytes]:
        return {str(p.relative_to(tmp_path)): p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    before = content()
    failing = Sphere(fails_at=3, error=KeyboardInterrupt)
    if error is ReconError:
        failing.render = lambda camera, options: (_ for _ in ()).throw(ReconError("rendering", "it broke"))  # type: ignore[method-assign]
    with pytest.raises(error):
        render_film(failing, short_orbit(6), tmp_path / name)
    assert content() == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ReconError, match=r"holiday\.jpg"):
        render_film(Sphere(), short_orbit(1), tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"precious"


def test_other_suffixes_empty_paths_and_missing_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"\.gif"):
        render_film(Sphere(), short_orbit(1), tmp_path / "film.gif")
    with pytest.raises(ReconError, match="empty"):
        render_film(Sphere(), CameraPath((), 30), tmp_path / "film.mp4")
    with pytest.raises(ReconError, match="channel"):
        FilmOptions(channel="heat")  # type: ignore[arg-type]

    class NoDepth(Sphere):
        def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
            return super().render(camera, RenderOptions())

    with pytest.raises(ReconError, match="gives none"):
        render_film(NoDepth(), short_orbit(1), tmp_path / "film.mp4", FilmOptions(channel="depth"))
    assert not list(tmp_path.iterdir())


def test_no_encoder_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.film.writing.ENCODERS", ("no_such_encoder",))
    with pytest.raises(ReconError, match=r"no H\.264 encoder"):
        render_film(Sphere(), short_orbit(1), tmp_path / "film.mp4")


def test_the_colours_of_depth_run_from_blue_to_red_without_jumps() -> None:
    table = colorize(np.linspace(0, 1, 256)).astype(int)
    assert np.abs(np.diff(table, axis=0)).max() <= 8
    assert table[20, 2] > table[20, 0]
    assert table[235, 0] > table[235, 2] + 100
    assert len(np.unique(table, axis=0)) > 250
    assert colorize(np.array([np.nan, -1.0, 2.0])).tolist() == [[0, 0, 0], table[0].tolist(), table[255].tolist()]


def test_what_a_killed_film_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    old, fresh, other = (tmp_path / f".recon-tmp-{name}" for name in ("1-film.mp4", "2-film.mp4", "3-other.mp4"))
    for path in (old, fresh, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1e9, 1e9))
    render_film(Sphere(), short_orbit(2), tmp_path / "film.mp4")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([fresh.name, other.name, "film.mp4"])


@pytest.mark.parametrize(
    ("text", "size"), [("1080p", (1920, 1080)), ("Vertical", (1080, 1920)), ("641x361", (640, 360))]
)
def test_sizes_of_films(text: str, size: tuple[int, int]) -> None:
    assert picture_size(text) == size
    path = orbit_path(ring(), PathOptions(seconds=0.1))
    seen = path.cameras[0]
    same = resized_path(path, *size, keep_vertical_fov=True).cameras[0]
    assert (same.width, same.height) == size
    assert math.isclose(same.fy / same.height, seen.fy / seen.height)
    np.testing.assert_array_equal(same.cam_from_world, seen.cam_from_world)
    as_much = resized_path(path, *size, keep_vertical_fov=False).cameras[0]
    assert math.isclose(as_much.fy**2 / (size[0] * size[1]), seen.fy**2 / (seen.width * seen.height))


@pytest.mark.parametrize("text", ["", "huge", "0x0", "99999x2", "1e3x5", "640x", "-640x360"])
def test_impossible_sizes_are_refused(text: str) -> None:
    with pytest.raises(ReconError, match="its size"):
        picture_size(text)
