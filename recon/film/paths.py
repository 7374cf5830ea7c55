# SPDX-License-Identifier: Apache-2.0
"""Camera paths: around a scene, along the photographs that made it, or through keyframes.

Every path is a list of PINHOLE cameras of one lens at equal time steps, in the +Z up world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera, look_at
from recon.errors import ReconError

FloatArray = npt.NDArray[np.float64]

UP = np.array([0.0, 0.0, 1.0])

MAX_FRAMES = 100_000


@dataclass(frozen=True)
class PathOptions:
    """How a path becomes frames.

    Attributes:
        seconds: length; None takes what suits the path (an orbit 10, the training cameras 0.75 each, at least 6;
            keyframes their own).
        fps: frames per second; None takes 30, or what a keyframe file says.
        long_side: longer side of the picture in pixels, made even.
    """

    seconds: float | None = None
    fps: float | None = None
    long_side: int = 1280

    def __post_init__(self) -> None:
        doing = "planning a camera path"
        if self.seconds is not None and not 0 < self.seconds < 86400:
            raise ReconError(doing, f"its length is {self.seconds} s", "more than 0 and less than a day")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ReconError(doing, f"its rate is {self.fps} frames per second", "more than 0, at most 1000")
        if not 2 <= self.long_side <= 16384:
            raise ReconError(doing, f"its long side is {self.long_side} pixels", "2 to 16384")

    def frame_count(self, seconds: float, fps: float) -> int:
        """Returns how many frames `seconds` take.

        Raises:
            ReconError: more than a film may have.
        """
        count = max(1, round(seconds * fps))
        if count > MAX_FRAMES:
            raise ReconError(
                "planning a camera path", f"it has {count} frames", f"at most {MAX_FRAMES}", "lower fps or seconds"
            )
        return count


@dataclass(frozen=True, eq=False)
class CameraPath:
    """F cameras and the rate at which they follow each other."""

    cameras: tuple[Camera, ...]
    fps: float


def load_path(name: str, cameras: Sequence[Camera], options: PathOptions) -> CameraPath:
    """Returns the path called `name`: "orbit", "train" or a keyframe file ending in .json.

    Args:
        name: which path.
        cameras: the training cameras in the order of their photographs.
        options: length, rate, size.

    Raises:
        ReconError: no such path, no cameras, or a broken keyframe file.
    """
    if name == "orbit":
        return orbit_path(cameras, options)
    if name == "train":
        return train_path(cameras, options)
    if name.lower().endswith(".json"):
        from recon.film.keyframes import read_keyframes

        return read_keyframes(Path(name), options, film_lens(cameras, options.long_side) if cameras else None)
    raise ReconError("planning a camera path", f"there is no path {name!r}", "orbit, train or a FILE.json of keyframes")


def film_lens(cameras: Sequence[Camera], long_side: int) -> Camera:
    """Returns a PINHOLE camera at the origin with the median lens of `cameras` and an even size.

    The picture has the shape of the most frequent training picture; its field of view is the median one along the
    long side, at most 100°.

    Raises:
        ReconError: there are no cameras.
    """
    if not cameras:
        raise ReconError("planning a camera path", "there are no training cameras", "at least one")
    sizes = [(camera.width, camera.height) for camera in cameras]
    width, height = max(sorted(set(sizes)), key=sizes.count)
    relative = [
        camera.fx / camera.width if camera.width >= camera.height else camera.fy / camera.height for camera in cameras
    ]
    scale = min(1.0, long_side / max(width, height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    focal = max(float(np.median(relative)), 0.5 / np.tan(np.radians(50))) * max(width, height)
    return Camera(width, height, focal, focal, width / 2, height / 2)


def reshaped(lens: Camera, width: int, height: int) -> Camera:
    """Returns a lens for a picture of another size and shape that sees as large a part of the scene.

    The focal length keeps its share of the square root of the picture's area, so that neither a wide film of upright
    photographs nor an upright one of wide photographs cuts much off or shows far more than was seen.
    """
    focal = lens.fy * float(np.sqrt(width * height / (lens.width * lens.height)))
    return replace(lens, width=width, height=height, fx=focal, fy=focal, cx=width / 2, cy=height / 2)


def resized_path(path: CameraPath, width: int, height: int, keep_vertical_fov: bool) -> CameraPath:
    """Returns a path with pictures of another size and shape.

    Args:
        path: the path.
        width, height: pixels.
        keep_vertical_fov: as keyframes prescribe it; False sees as large a part of the scene (see `reshaped`).
    """
    cameras = []
    for camera in path.cameras:
        if keep_vertical_fov:
            focal = camera.fy * height / camera.height
            lens = Camera(width, height, focal, focal, width / 2, height / 2)
            cameras.append(lens.with_pose(camera.cam_from_world))
        else:
            cameras.append(reshaped(camera, width, height))
    return CameraPath(tuple(cameras), path.fps)


# The orbit ------------------------------------------------------------------------------------------------------


def scene_focus(cameras: Sequence[Camera]) -> FloatArray:
    """Returns the point that the cameras look at, [3].

    It is the least squares intersection of the optical axes.  Where the axes hardly meet in front of the cameras (a
    room photographed from its middle, a wall photographed square on) the mean of the points at a typical distance
    before the cameras serves instead.
    """
    centers = np.array([camera.center_in_world for camera in cameras])
    axes = np.array([camera.forward_in_world for camera in cameras])
    spread = max(float(np.linalg.norm(centers - centers.mean(0), axis=1).mean()), 1e-3)
    before = (centers + axes * spread).mean(0)
    # One axis counts a little as a point at the typical distance, so that parallel axes have an answer as well.
    systems = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    matrix = systems.sum(0) + 1e-3 * len(cameras) * np.eye(3)
    vector = np.einsum("nij,nj->i", systems, centers) + 1e-3 * len(cameras) * before
    focus = np.linalg.solve(matrix, vector)
    distances = np.einsum("ni,ni->n", focus - centers, axes)
    return focus if np.mean(distances > 0.25 * spread) >= 0.7 else centers.mean(0)


def orbit_path(cameras: Sequence[Camera], options: PathOptions) -> CameraPath:
    """Returns a ride around the scene with a level horizon, at the height and distance of the training cameras.

    Where the photographs go around, the ride is a full circle.  Where they cover only a part (a gap of more than 120°
    is left), it swings to and fro within the part that was seen.  Either way its end meets its beginning.

    Raises:
        ReconError: there are no cameras.
    """
    lens = film_lens(cameras, options.long_side)
    centers = np.array([camera.center_in_world for camera in cameras])
    focus = scene_focus(cameras)
    offsets = centers - focus
    radii = np.linalg.norm(offsets[:, :2], axis=1)
    # A little further away than most: close-ups cut the subject off.
    radius = max(float(np.percentile(radii, 70)), 0.02 * float(np.linalg.norm(offsets, axis=1).max()), 1e-3)
    height = float(np.median(offsets[:, 2]))
    fps = options.fps or 30.0
    count = options.frame_count(options.seconds or 10.0, fps)
    phases = np.arange(count) / count
    steady = radii > 0.1 * radius
    start, width = _covered_arc(np.arctan2(offsets[steady, 1], offsets[steady, 0]))
    if width >= np.radians(240):
        angles = start + 2 * np.pi * phases
    else:
        angles = start + width * (0.5 - 0.5 * np.cos(2 * np.pi * phases))
    eyes = focus + np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(count, height)], 1)
    return CameraPath(tuple(lens.with_pose(look_at(eye, focus, UP)) for eye in eyes), fps)


def _covered_arc(angles_rad: FloatArray) -> tuple[float, float]:
    """Returns where the shortest arc that holds all angles begins, and its width, in radians."""
    if len(angles_rad) < 2:
        # One photograph: look around it a little.
        return (float(angles_rad[0]) if len(angles_rad) else 0.0) - 0.15, 0.3
    ordered = np.sort(np.mod(angles_rad, 2 * np.pi))
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    widest = int(np.argmax(gaps))
    return float(ordered[(widest + 1) % len(ordered)]), float(2 * np.pi - gaps[widest])


# Along the training cameras -------------------------------------------------------------------------------------


def train_path(cameras: Sequence[Camera], options: PathOptions) -> CameraPath:
    """Returns a smooth ride through the poses of the training cameras at an even pace.

    Positions follow a cubic spline through all of them and rotations a spline of unit quaternions.  The cameras are
    taken in the given order, unless a ride from neighbour to neighbour is less than half as long (photo collections
    are not named in the order of a walk).

    Raises:
        ReconError: there are no cameras.
    """
    lens = film_lens(cameras, options.long_side)
    ordered = _in_riding_order(cameras)
    fps = options.fps or 30.0
    count = options.frame_count(options.seconds or max(6.0, 0.75 * len(ordered)), fps)
    positions = np.array([camera.center_in_world for camera in ordered])
    rotations = np.array([camera.cam_from_world[:3, :3].T for camera in ordered])
    steps = _steps(positions, rotations)
    # Photographs from one and the same place with the same view would be knots at the same time.
    keep = np.append(True, steps > 1e-6 * max(float(steps.sum()), 1e-12))
    knots = np.append(0.0, np.cumsum(steps))[keep]
    times = np.linspace(0.0, knots[-1], count)
    poses = interpolate_poses(knots, positions[keep], rotations[keep], times)
    return CameraPath(tuple(lens.with_pose(pose) for pose in poses), fps)


def _steps(positions: FloatArray, rotations: FloatArray) -> FloatArray:
    """Returns the lengths of the steps from pose to pose, [F - 1]: the way as a share of the extent, and the turn."""
    extent = max(float(np.linalg.norm(positions - positions.mean(0), axis=1).max(initial=0.0)), 1e-9)
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=1) / extent
    cosines = (np.einsum("nij,nij->n", rotations[:-1], rotations[1:]) - 1) / 2
    return np.hypot(moved, np.arccos(np.clip(cosines, -1, 1)) / 2)


def _in_riding_order(cameras: Sequence[Camera]) -> list[Camera]:
    """Returns the cameras in the given order, or from neighbour to neighbour where that is less than half as long."""
    positions = np.array([camera.center_in_world for camera in cameras])
    given = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    best = list(range(len(cameras)))
    # The walk begins at the camera farthest from the middle: starting inside would leave one side for the end.
    start = int(np.argmax(np.linalg.norm(positions - positions.mean(0), axis=1)))
    left, tour = set(best) - {start}, [start]
    while left:
        candidates = np.fromiter(left, int)
        nearest = int(candidates[np.argmin(np.linalg.norm(positions[candidates] - positions[tour[-1]], axis=1))])
        tour.append(nearest)
        left.remove(nearest)
    if float(np.linalg.norm(np.diff(positions[tour], axis=0), axis=1).sum()) < 0.5 * given:
        best = tour
    return [cameras[i] for i in best]


def interpolate_poses(
    knots: FloatArray, positions: FloatArray, rotations: FloatArray, times: FloatArray, smooth: bool = True
) -> list[FloatArray]:
    """Returns cam_from_world [4, 4] at each of `times`.

    Args:
        knots: [M] strictly increasing.
        positions: [M, 3] optical centres at the knots.
        rotations: [M, 3, 3] world_from_cam rotations at the knots.
        times: [F] within the knots.
        smooth: splines with continuous acceleration; False moves and turns evenly from knot to knot.
    """
    from scipy.interpolate import CubicSpline, interp1d
    from scipy.spatial.transform import Rotation, RotationSpline, Slerp

    if len(knots) == 1:
        at, turned = np.repeat(positions, len(times), 0), np.repeat(rotations, len(times), 0)
    else:
        turns = Rotation.from_matrix(rotations)
        if smooth and len(knots) > 2:
            at, turned = CubicSpline(knots, positions)(times), RotationSpline(knots, turns)(times).as_matrix()
        else:
            at, turned = interp1d(knots, positions, axis=0)(times), Slerp(knots, turns)(times).as_matrix()
    return [pose_of(center, world_from_cam) for center, world_from_cam in zip(at, turned)]


def pose_of(position: FloatArray, world_from_cam: FloatArray) -> FloatArray:
    """Returns the matrix cam_from_world [4, 4] of an optical centre [3] and a rotation [3, 3]."""
    pose = np.eye(4)
    pose[:3, :3] = world_from_cam.T
    pose[:3, 3] = -world_from_cam.T @ position
    return pose


def with_vertical_fov(lens: Camera, fov_rad: float) -> Camera:
    """Returns the lens with another vertical field of view, its principal point in the middle."""
    focal = 0.5 * lens.height / np.tan(fov_rad / 2)
    return replace(lens, fx=focal, fy=focal, cx=lens.width / 2, cy=lens.height / 2)
