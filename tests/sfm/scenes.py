# SPDX-License-Identifier: Apache-2.0
"""Captures made on the spot, with exact poses: points with descriptors, and pictures of textured walls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from recon.cameras import Camera, CameraModel, look_at
from recon.sfm.contracts import CameraPrior, Features, SfmInput
from recon.sfm.mapping import MappingProblem, initial_cameras
from recon.sfm.matching import Matcher, MatchOptions, match_pairs
from recon.sfm.pairs import all_pairs


@dataclass(frozen=True, eq=False)
class PointCapture:
    """Points with descriptors, seen by cameras on an arc; no pictures."""

    photos: SfmInput
    cameras: tuple[Camera, ...]
    features: list[Features]
    points: np.ndarray

    def truth(self) -> dict[str, Camera]:
        return dict(zip(self.photos.names, self.cameras))


def arc_of_cameras(count: int, lens: Camera, radius: float = 4.0, degrees: float = 120.0) -> list[Camera]:
    """Cameras on an arc around the origin, at changing heights, all looking at it."""
    cameras = []
    for step, angle in enumerate(np.radians(np.linspace(-degrees / 2, degrees / 2, count))):
        eye = np.array([radius * np.sin(angle), -radius * np.cos(angle), 0.8 * np.sin(1.7 * step)])
        cameras.append(lens.with_pose(look_at(eye, np.array([0.0, 0.0, 0.1 * (step % 3)]), np.array([0.0, 0, 1]))))
    return cameras


def point_capture(
    lens: Camera,
    count: int = 8,
    points: int = 900,
    noise_px: float = 0.3,
    prior: CameraPrior | None = None,
    twins: int = 0,
) -> PointCapture:
    """Points in a box with random descriptors, projected into the cameras of an arc with pixel noise.

    The last `twins` points have the descriptors of the first, as repeated structures do.
    """
    generator = np.random.default_rng(5)
    positions = generator.uniform(-1.3, 1.3, (points, 3))
    histograms = generator.gamma(0.4, 1.0, (points, 128))
    base = np.sqrt(histograms / histograms.sum(1, keepdims=True)) * 512
    base[points - twins :] = base[:twins]
    cameras = arc_of_cameras(count, lens)
    features = []
    for camera in cameras:
        pixels, depth = camera.project(positions)
        seen = (depth > 0) & (pixels > 4).all(1) & (pixels < [lens.width - 4, lens.height - 4]).all(1)
        seen &= generator.random(points) < 0.85
        xy = pixels[seen] + generator.normal(0, noise_px, (int(seen.sum()), 2))
        scale = generator.uniform(1, 6, len(xy))
        order = np.argsort(-scale)
        keypoints = np.stack([xy[:, 0], xy[:, 1], scale, np.zeros(len(xy))], 1).astype(np.float32)
        descriptors = np.clip(base[seen] + generator.normal(0, 4, (len(xy), 128)), 0, 255).astype(np.uint8)
        features.append(Features(keypoints[order], descriptors[order]))
    photos = SfmInput(
        Path("nowhere"),
        tuple(f"{index:03d}.jpg" for index in range(count)),
        (prior or CameraPrior(lens.width, lens.height),),
        (0,) * count,
    )
    return PointCapture(photos, tuple(cameras), features, positions)


def problem_of(capture: PointCapture, folder: Path, options: MatchOptions | None = None) -> MappingProblem:
    """The capture, all pairs matched and verified."""
    from recon.progress import SILENT

    cameras = initial_cameras(capture.photos)
    matcher = Matcher(capture.features, [cameras[0]] * len(capture.features), options or MatchOptions())
    geometries, _ = match_pairs(matcher, all_pairs(len(capture.features)), "key", folder, 2, SILENT)
    return MappingProblem(capture.photos, capture.features, geometries, cameras)


def plain_lens() -> Camera:
    """A lens without surprises."""
    return Camera(640, 480, 600.0, 600.0, 320.0, 240.0)


def odd_lens() -> Camera:
    """A lens with an off-centre principal point and two radial coefficients."""
    return Camera(640, 480, 600.0, 600.0, 333.0, 229.0, CameraModel.OPENCV, (-0.12, 0.05, 0.0, 0.0))


def texture(seed: int, size: int = 512) -> np.ndarray:
    """Blobs of every scale, [size, size, 3] uint8."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((size, size, 3), np.float32)
    for step in (4, 8, 16, 32, 64):
        noise = generator.random((size // step + 2, size // step + 2, 3)).astype(np.float32)
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) * step**0.4
    picture -= picture.min()
    return (255 * picture / picture.max()).astype(np.uint8)


# Each wall: its corner and two edges in the world.
WALLS = (
    (np.array([-2.0, 2.0, -1.5]), np.array([4.0, 0, 0]), np.array([0, 0, 3.0])),
    (np.array([-2.0, -1.0, -1.5]), np.array([0.0, 3.0, 0]), np.array([0, 0, 3.0])),
    (np.array([-0.6, 0.5, -1.5]), np.array([1.2, 0.4, 0]), np.array([0, 0, 1.4])),
)


def wall_picture(camera: Camera, seed: int) -> np.ndarray:
    """What a distortion-free camera sees of three textured walls, far ones first, [H, W, 3] uint8."""
    picture = np.full((camera.height, camera.width, 3), 90, np.uint8)
    for index, (corner, right, up) in enumerate(WALLS):
        paper = texture(seed + index)
        size = paper.shape[0]
        corners = np.array([corner + up, corner + up + right, corner, corner + right])
        pixels, depth = camera.project(corners)
        assert (depth > 0).all()
        source = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32)
        # OpenCV counts pixel centres as whole numbers, we count them at halves.
        matrix = cv2.getPerspectiveTransform(source - 0.5, (pixels - 0.5).astype(np.float32))
        shape = (camera.width, camera.height)
        warped = cv2.warpPerspective(paper, matrix, shape, flags=cv2.INTER_AREA)
        inside = cv2.warpPerspective(np.full((size, size), 255, np.uint8), matrix, shape) > 250
        picture[inside] = warped[inside]
    return picture


def wall_cameras(count: int) -> list[Camera]:
    """Cameras along a gentle arc before the walls, held level."""
    lens = Camera(400, 300, 360.0, 360.0, 200.0, 150.0)
    cameras = []
    for step in np.linspace(-1, 1, count):
        eye = np.array([1.3 * step, -3.6 + 0.3 * step**2, 0.3 * np.cos(2 * step)])
        cameras.append(lens.with_pose(look_at(eye, np.array([0.2 * step, 1.0, 0.0]), np.array([0.0, 0, 1]))))
    return cameras


def write_walls(folder: Path, count: int, seed: int = 1, prefix: str = "") -> dict[str, Camera]:
    """Writes pictures of the walls and returns the true cameras by name."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for index, camera in enumerate(wall_cameras(count)):
        name = f"{prefix}{index:02d}.png"
        cv2.imwrite(str(folder / name), wall_picture(camera, seed))
        truth[name] = camera
    return truth


def wall_input(folder: Path, names: list[str], masks: Path | None = None, focal: bool = True) -> SfmInput:
    """The input for pictures that `write_walls` wrote."""
    prior = CameraPrior(400, 300, focal_px=360.0 if focal else None)
    return SfmInput(folder, tuple(names), (prior,), (0,) * len(names), masks)
