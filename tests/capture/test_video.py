# SPDX-License-Identifier: Apache-2.0
"""Videos: the sharp frames, no copies, upright; and everything that is no usable video said in words."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from recon.capture.masks import MaskFolder
from recon.capture.pictures import read_picture
from recon.capture.prepared import Known
from recon.capture.video import frame_count_for, motion, prepare_video, read_facts
from recon.errors import ReconError

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")

WIDTH, HEIGHT = 160, 96


def texture() -> np.ndarray:
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (60, 200, 3), np.uint8)
    return cv2.resize(noise, (1600, 480), interpolation=cv2.INTER_CUBIC)


def write_video(path: Path, frames: list[np.ndarray], rate: int = 10, codec: str = "mpeg4") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def panning(count: int = 40, step: int = 8, sharp_every: int = 4) -> list[np.ndarray]:
    """A view that moves along a texture, blurred in all but every few frames."""
    wide = texture()
    frames = []
    for index in range(count):
        view = wide[100 : 100 + HEIGHT, step * index : step * index + WIDTH].copy()
        frames.append(view if index % sharp_every == 1 else cv2.GaussianBlur(view, (0, 0), 3))
    return frames


def test_the_sharpest_of_each_interval_is_taken(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", panning())
    prepared = prepare_video(path, tmp_path / "out", frames=10)
    assert prepared.kind == "video"
    assert len(prepared.photos) == 10
    assert [round(10 * photo.time_s) % 4 for photo in prepared.photos] == [0] * 10  # relative to the first, frame 1
    assert [photo.name for photo in prepared.photos][:2] == ["frame_00001.jpg", "frame_00002.jpg"]
    sharpness = [
        cv2.Laplacian(read_picture(tmp_path / "out" / "images" / photo.name).rgb, cv2.CV_32F).var()
        for photo in prepared.photos
    ]
    assert min(sharpness) > 200
    assert (prepared.cameras[0].width, prepared.cameras[0].height) == (WIDTH, HEIGHT)


def test_a_camera_that_stands_still_gives_no_copies(tmp_path: Path) -> None:
    moving = panning(20, sharp_every=1)
    path = write_video(tmp_path / "v.mp4", moving + [moving[-1]] * 20)
    prepared = prepare_video(path, tmp_path / "out", frames=40)
    assert 18 <= len(prepared.photos) <= 21
    assert "not moved" in prepared.notes[1]
    with pytest.raises(ReconError, match="same view"):
        prepare_video(write_video(tmp_path / "still.mp4", [moving[0]] * 20), tmp_path / "out2")


def test_people_walking_by_are_no_motion(captures: Path, tmp_path: Path) -> None:
    """The shared clip is from a camera on a wall; only the people in it move."""
    path = captures / "people" / "one-by-one-person-detection.mp4"
    facts = read_facts(path)
    assert facts.frames == 1394
    assert facts.duration_s == pytest.approx(139.4, abs=0.2)
    with pytest.raises(ReconError, match="camera that moves"):
        prepare_video(path, tmp_path / "out", frames=30)


def test_rotation_metadata_is_applied(tmp_path: Path) -> None:
    """Turns the display matrix of the track's header by a quarter clockwise, as phones held upright do."""
    frames = panning(12, sharp_every=1)
    path = write_video(tmp_path / "v.mp4", frames)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[place : place + 36])[0] == 0x10000
    data[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(bytes(data))
    prepared = prepare_video(path, tmp_path / "out", frames=12)
    assert (prepared.photos[0].width, prepared.photos[0].height) == (HEIGHT, WIDTH)
    upright = read_picture(tmp_path / "out" / "images" / prepared.photos[0].name).rgb
    assert np.abs(upright.astype(int) - np.rot90(frames[0], -1)).mean() < 12


def test_count_follows_the_duration() -> None:
    assert [frame_count_for(seconds) for seconds in (1, 20, 60, 1e5)] == [40, 40, 120, 300]


def test_motion_is_a_share_of_the_picture() -> None:
    wide = cv2.cvtColor(texture(), cv2.COLOR_RGB2GRAY)
    first = wide[:180, :320]
    assert motion(first, first) < 1e-4
    assert motion(first, wide[:180, 16:336]) == pytest.approx(0.05, abs=0.005)
    assert motion(first, wide[200:380, 900:1220]) > 0.02
    assert motion(first, first // 2 + 90) < 1e-3, "another exposure is no motion"
    flat = np.full((180, 320), 90, np.uint8)
    assert motion(flat, flat) == 0
    assert motion(flat, flat + 100) > 0.3


def test_masks_by_frame_name(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "masks").mkdir()
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "masks" / "frame_00002.png")
    path = write_video(tmp_path / "v.mp4", panning(20))
    prepared = prepare_video(path, tmp_path / "out", 5, Known(masks=MaskFolder(tmp_path / "masks")))
    assert [photo.masked for photo in prepared.photos[:3]] == [False, True, False]


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_audio_only(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="no pictures"):
        prepare_video(audio_only(tmp_path / "a.mp4"), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\0" * 5000, b"\x1aE\xdf\xa3" + b"\xff" * 900])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(ReconError, match=r"v\.mp4"):
        prepare_video(path, tmp_path / "out")


def test_missing_and_cut_before_its_index(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="no such file"):
        prepare_video(tmp_path / "none.mp4", tmp_path / "out")
    path = write_video(tmp_path / "v.mp4", panning())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ReconError, match="cannot be decoded"):
        prepare_video(path, tmp_path / "out")


def test_a_video_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", panning(sharp_every=1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    prepared = prepare_video(path, tmp_path / "out", frames=40)
    assert 10 <= len(prepared.photos) < 40


def test_one_frame_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="only 1 usable picture"):
        prepare_video(write_video(tmp_path / "v.mp4", panning(1)), tmp_path / "out")
