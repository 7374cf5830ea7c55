# SPDX-License-Identifier: Apache-2.0
"""Photos out of a video: the sharpest frame of each interval, without those that show nothing new.

Sharpness is the variance of the Laplacian of the grey picture (Pech-Pacheco et al., ICPR 2000), which compares frames
of one moment well.  Two frames show the same if a quarter of the corners of one are found in the other in the same
place (sparse Lucas-Kanade tracks), so a camera that stands still gives one photo however long it stands, and people who
walk through the picture do not count as its motion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.capture.masks import write_mask
from recon.capture.prepared import Known, Prepared, PreparedPhoto
from recon.errors import ReconError
from recon.files import atomic_path
from recon.progress import SILENT, Progress

VIDEO_SUFFIXES = {
    ".mp4",
    ".mov",
    ".m4v",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".mts",
    ".m2ts",
    ".ts",
    ".3gp",
    ".wmv",
}

FRAMES_PER_SECOND = 2.0
FEWEST_FRAMES, MOST_FRAMES = 40, 300
LEAST_MOTION = 0.005
"""Share of the picture's longer side by which corners must move for a frame to be new."""

LEAST_CORNER = 5e-5
"""Smaller eigenvalue of the gradients' covariance that makes a corner; noise on a wall stays below."""

SHARPNESS_SIDE_PX, MOTION_SIDE_PX = 960, 320
JPEG_QUALITY = 97


@dataclass(frozen=True)
class VideoFacts:
    """What a video's header says; `frames` is estimated from the duration where it is not stated."""

    duration_s: float
    frames: int


@dataclass(eq=False)
class _Candidate:
    """The sharpest frame of an interval so far."""

    frame: Any
    time_s: float
    sharpness: float


def is_video(path: Path) -> bool:
    """Whether a file is named like a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def frame_count_for(duration_s: float) -> int:
    """Returns how many photos to take from a video: two a second, at least 40, at most 300."""
    return int(np.clip(round(duration_s * FRAMES_PER_SECOND), FEWEST_FRAMES, MOST_FRAMES))


def prepare_video(
    path: Path, out: Path, frames: int = 0, known: Known | None = None, progress: Progress = SILENT
) -> Prepared:
    """Writes the chosen frames of a video into `out/images` as JPEG, upright, with masks where given.

    Args:
        path: the video.
        out: the scene folder.
        frames: how many to take at most; 0 chooses by the duration.
        known: masks (named like the frames, `frame_00001`), calibration, lens.
        progress: told of each second.

    Raises:
        ReconError: not a video, no pictures in it, or fewer than two that differ.
    """
    known = known or Known()
    facts = read_facts(path)
    target = frames if frames > 0 else frame_count_for(facts.duration_s)
    interval_s = facts.duration_s / max(1, min(target, facts.frames))
    photos: list[PreparedPhoto] = []
    last: npt.NDArray[np.uint8] | None = None
    dropped = 0
    for candidate in _sharpest(path, interval_s, facts, progress):
        pixels = _pixels(candidate.frame)
        small = _small_gray(pixels)
        if last is not None and motion(last, small) < LEAST_MOTION:
            dropped += 1
            continue
        last = small
        photos.append(_write(pixels, candidate.time_s, len(photos), path.name, out, known))
    if len(photos) < 2:
        raise ReconError(
            f"reading the video {path}",
            f"all {dropped + len(photos)} moments that were looked at show the same view"
            if dropped
            else f"it holds only {len(photos)} usable picture",
            "a camera that moves around the scene",
            "film while walking around the scene; a camera on a tripod sees no depth",
        )
    first = photos[0]
    prior = known.prior(first.width, first.height, None, path.name)
    notes = [f"{len(photos)} of {facts.frames} video frames taken, the sharpest of each {interval_s:.2f} s"]
    if dropped:
        notes.append(f"{dropped} frames dropped because the camera had not moved since the one before")
    masked = sum(photo.masked for photo in photos)
    if known.masks is not None and not masked:
        raise known.masks.none_fits(first.name)
    start = first.time_s or 0.0
    return Prepared(
        tuple(replace(photo, time_s=(photo.time_s or 0.0) - start) for photo in photos),
        (prior,),
        (),
        "video",
        tuple(notes),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a video's first picture stream; what FFmpeg cannot read becomes a `ReconError`."""
    import av
    import av.logging

    doing = f"reading the video {path}"
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise ReconError(doing, f"it holds no pictures (only {kinds})", "a video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = 2
            yield container
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise ReconError(
            doing,
            f"it cannot be decoded ({error})",
            "a whole video that FFmpeg can play",
            "copy it again, or convert it with `ffmpeg -i FILE out.mp4`",
        ) from error


def read_facts(path: Path) -> VideoFacts:
    """Returns how long a video is.

    Raises:
        ReconError: not a video, or one that does not say and cannot be counted.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 30)
        rate = rate if math.isfinite(rate) and 0.1 <= rate <= 1000 else 30.0
        duration = 0.0
        if stream.duration and stream.time_base:
            duration = float(stream.duration * stream.time_base)
        elif container.duration:
            duration = container.duration / 1e6
        elif stream.frames:
            duration = stream.frames / rate
        if not 0 < duration < 1e6:
            # Live recordings state no duration; their last packet does.
            times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
            duration = float((max(times) - min(times)) * stream.time_base) + 1 / rate if times else 0.0
        if duration <= 0:
            raise ReconError(f"reading the video {path}", "it holds no frames", "a video with pictures")
        return VideoFacts(duration, max(1, stream.frames or round(duration * rate)))


def _sharpest(path: Path, interval_s: float, facts: VideoFacts, progress: Progress) -> Iterator[_Candidate]:
    """Yields the sharpest frame of each interval; a video that breaks off gives what came before."""
    slack_s = 1e-3 * interval_s  # The times of frames are rounded, and fall on either side of a border.
    best: _Candidate | None = None
    interval = 0
    count = 0
    with progress.stage("Looking for sharp frames", facts.frames, "frames") as stage:
        for frame, time_s in _frames(path, progress):
            count += 1
            stage.advance()
            if best is not None and int((time_s + slack_s) / interval_s) > interval:
                yield best
                best = None
            if best is None:
                interval = int((time_s + slack_s) / interval_s)
            value = _sharpness(frame)
            if best is None or value > best.sharpness:
                best = _Candidate(frame, time_s, value)
    if best is not None:
        yield best
    if count == 0:
        raise ReconError(f"reading the video {path}", "not one frame can be decoded", "a video with pictures")


def _frames(path: Path, progress: Progress) -> Iterator[tuple[Any, float]]:
    """Yields decoded frames with their times since the first."""
    start: float | None = None
    count = 0
    try:
        with _opened(path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 30)
            for frame in container.decode(stream):
                time_s = frame.time if frame.time is not None else count / rate
                start = time_s if start is None else start
                count += 1
                yield frame, max(0.0, time_s - start)
    except ReconError as error:
        if count == 0:
            raise
        progress.log(f"The video breaks off after {count} frames: {error.found}")


def _sharpness(frame: Any) -> float:
    import cv2

    scale = min(1.0, SHARPNESS_SIDE_PX / max(frame.width, frame.height))
    gray = frame.reformat(max(16, round(frame.width * scale)), max(16, round(frame.height * scale)), "gray")
    return float(cv2.Laplacian(gray.to_ndarray(), cv2.CV_32F).var())


def _pixels(frame: Any) -> npt.NDArray[np.uint8]:
    """Returns a frame as upright square pixels, [H, W, 3]."""
    import cv2

    pixels = frame.to_ndarray(format="rgb24")
    aspect = getattr(frame, "sample_aspect_ratio", None)
    if aspect is not None and aspect > 0 and aspect != 1 and 0.2 < float(aspect) < 5:
        pixels = cv2.resize(pixels, (round(frame.width * float(aspect)), frame.height), interpolation=cv2.INTER_CUBIC)
    # FFmpeg's angle is how far the picture must be turned counterclockwise to be upright.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _small_gray(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, MOTION_SIDE_PX / max(width, height))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    gray = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return np.asarray(gray, dtype=np.uint8)


def motion(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> float:
    """Returns how far the camera moved between two small grey pictures, as a share of their longer side.

    A quarter of the picture that stayed where it was says that the camera did not move, whatever walked through it:
    so it is the lower quartile over corners spread evenly, lost ones counted as far away (1).  Where there is nothing
    to track it is the change of brightness.
    """
    import cv2

    corners = _spread_corners(before)
    if len(corners) < 8:
        return float(np.abs(before.astype(np.float32) - after).mean() / 255)
    tracked, found, _ = cv2.calcOpticalFlowPyrLK(
        _even_contrast(before), _even_contrast(after), corners, np.empty_like(corners), winSize=(21, 21), maxLevel=3
    )
    shift = np.linalg.norm((tracked - corners).reshape(-1, 2), axis=1) / max(before.shape)
    return float(np.quantile(np.where(found.reshape(-1) == 1, np.minimum(shift, 1.0), 1.0), 0.25))


def _even_contrast(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Takes out brightness and contrast of each neighbourhood, because cameras change their exposure as they film."""
    import cv2

    detail = gray.astype(np.float32)
    detail -= cv2.GaussianBlur(detail, (0, 0), 6)
    spread = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 6))
    return np.clip(128 + 40 * detail / (spread + 4), 0, 255).astype(np.uint8)


def _spread_corners(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns the best corners of each cell of a grid, [N, 1, 2]; a textured object must not take them all."""
    import cv2

    response = cv2.cornerMinEigenVal(cv2.GaussianBlur(gray, (0, 0), 1.0), 5)
    rows, columns = 6, 10
    height, width = gray.shape[0] // rows, gray.shape[1] // columns
    corners = []
    for row in range(rows):
        for column in range(columns):
            cell = response[row * height : (row + 1) * height, column * width : (column + 1) * width]
            y, x = np.unravel_index(int(np.argmax(cell)), cell.shape)
            if cell[y, x] > LEAST_CORNER:
                corners.append((column * width + x, row * height + y))
    return np.array(corners, dtype=np.float32).reshape(-1, 1, 2)


def _write(
    pixels: npt.NDArray[np.uint8], time_s: float, index: int, source: str, out: Path, known: Known
) -> PreparedPhoto:
    from PIL import Image

    name = f"frame_{index + 1:05d}.jpg"
    with atomic_path(out / "images" / name) as temporary:
        Image.fromarray(pixels).save(temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    height, width = pixels.shape[:2]
    mask = known.masks.mask_for(name, name, (width, height), 1) if known.masks is not None else None
    if mask is not None:
        write_mask(out / "masks" / f"{name}.png", mask)
    return PreparedPhoto(name, source, width, height, time_s=time_s, masked=mask is not None)
