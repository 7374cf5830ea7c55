# SPDX-License-Identifier: Apache-2.0
"""Keyframes, and the camera's motion through them.

`Motion(film).at(times)` is all that a player needs: the camera's position, rotation and vertical field of view at any
time.  `film.path()` gives the same as a list of cameras, one per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.film.easing import ENDS_AT_REST, STARTS_AT_REST, Easing, eased, segment_of
from recon.film.paths import CameraPath, PathOptions, pose_of, with_vertical_fov
from recon.film.splines import ClosedBy, Curve, Turning

FloatArray = npt.NDArray[np.float64]

Shape = Literal["smooth", "straight"]


@dataclass(frozen=True)
class Keyframe:
    """One view that the camera takes.

    Attributes:
        time_s: when.
        position: optical centre in the world, [3].
        rotation_wxyz: unit quaternion of world_from_cam, OpenCV axes.
        fov_deg: vertical field of view.
        easing: how the camera goes from here to the next keyframe.
    """

    time_s: float
    position: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]
    fov_deg: float
    easing: Easing = "smooth"

    @property
    def rotation(self) -> FloatArray:
        """The world_from_cam rotation, [3, 3]."""
        from scipy.spatial.transform import Rotation

        w, x, y, z = self.rotation_wxyz
        return np.asarray(Rotation.from_quat([x, y, z, w]).as_matrix())


@dataclass(frozen=True)
class KeyframedFilm:
    """A camera's way through keyframes, and the picture's size and rate.

    Attributes:
        keyframes: in the order of their times; at least one, but for a film that is only begun.
        fps: frames per second.
        width, height: pixels.
        shape: a smooth curve through the keyframes, or straight from one to the next.
        constant_speed: the camera moves at one speed; the times of the keyframes between the first and the last are
            not kept.  An easing of the first keyframe that starts from rest, and one that ends at rest before the
            last, ease the film as a whole.
        loop: from the last keyframe the camera goes on to the first, so that the film can be played in a circle.
        closing_s: how long that last way takes; None takes the mean of the others.
    """

    keyframes: tuple[Keyframe, ...]
    fps: float = 30.0
    width: int = 1920
    height: int = 1080
    shape: Shape = "smooth"
    constant_speed: bool = False
    loop: bool = False
    closing_s: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether there is a way back to the first keyframe."""
        return self.loop and len(self.keyframes) > 1

    @property
    def begin_s(self) -> float:
        """The time of the first keyframe."""
        return self.keyframes[0].time_s

    @property
    def duration_s(self) -> float:
        """How long one round takes."""
        if len(self.keyframes) < 2:
            return 0.0
        open_s = self.keyframes[-1].time_s - self.begin_s
        if not self.is_closed:
            return open_s
        return open_s + (self.closing_s or open_s / (len(self.keyframes) - 1))

    def path(self, options: PathOptions | None = None) -> CameraPath:
        """Returns one camera for each frame.

        The frames of an open film include the last keyframe (n steps have n + 1 ends); those of a loop end one step
        before the first one comes again.

        Args:
            options: rate and length win over the film's own (a given length stretches its times).
        """
        options = options or PathOptions()
        fps = options.fps or self.fps
        count = options.frame_count(options.seconds or self.duration_s, fps)
        if len(self.keyframes) > 1 and not self.is_closed:
            shares = np.arange(count + 1) / count
        else:
            shares = np.arange(count) / count
        views = Motion(self).at(self.begin_s + self.duration_s * shares)
        lens = Camera(self.width, self.height, 1.0, 1.0, self.width / 2, self.height / 2)
        return CameraPath(tuple(with_vertical_fov(lens, view.fov_rad).with_pose(view.pose) for view in views), fps)


class View(NamedTuple):
    """Where the camera is at one time: position [3], world_from_cam rotation [3, 3], vertical field of view."""

    position: FloatArray
    rotation: FloatArray
    fov_rad: float

    @property
    def pose(self) -> FloatArray:
        """The matrix cam_from_world, [4, 4]."""
        return pose_of(self.position, self.rotation)


class Motion:
    """The motion of a film's camera, prepared so that asking for a time is quick."""

    def __init__(self, film: KeyframedFilm) -> None:
        self._film = film
        frames, closed = film.keyframes, film.is_closed
        self._easings: list[Easing] = [frame.easing for frame in (frames if closed else frames[:-1])]
        # A jump is a cut between two takes: neither knows where the other one goes.
        cuts = [index for index, easing in enumerate(self._easings) if easing == "hold"]
        corners = tuple(range(len(frames)) if film.shape == "straight" else (c for i in cuts for c in (i, i + 1)))
        positions = np.array([frame.position for frame in frames])
        self._way = Curve(positions, corners, ClosedBy() if closed else None)
        self._turning = Turning(np.array([frame.rotation for frame in frames]), corners, closed)
        self._fovs = np.radians([frame.fov_deg for frame in (*frames, *frames[: int(closed)])])
        self._times = np.array([frame.time_s for frame in frames] + [film.begin_s + film.duration_s] * closed)
        self._clock: Easing = "linear"
        self._even = film.constant_speed and len(self._times) > 1
        if self._even:
            self._retime()

    def at(self, times: FloatArray | list[float]) -> list[View]:
        """Returns the views at `times` [F] in seconds; before the first keyframe is the first view, after it the last.

        A loop goes around: any time lies within one of its rounds.
        """
        film = self._film
        times = np.asarray(times, dtype=np.float64)
        if film.is_closed:
            times = film.begin_s + np.mod(times - film.begin_s, film.duration_s)
        times = np.clip(times, self._times[0], self._times[-1])
        if self._even:
            ends = self._times[[0, -1]]
            times = eased(ends, ends, [self._clock], times)
        segment = segment_of(self._times, times)
        parameter = self._evenly(segment, times) if self._even else self._eased(self._way.knots, times)
        positions = self._way.at(segment, parameter)
        rotations = self._turning.at(segment, self._eased(self._turning.curve.knots, times))
        fovs = self._eased(self._fovs, times)
        return [View(*view) for view in zip(positions, rotations, fovs.tolist())]

    def _eased(self, values: FloatArray, times: FloatArray) -> FloatArray:
        return eased(self._times, values, self._easings, times, self._film.is_closed)

    def _retime(self) -> None:
        """Sets the keyframes' times so that the way between any two takes as long as it is."""
        from scipy.interpolate import PchipInterpolator

        first, last = self._easings[0], self._easings[-1]
        starts, ends = first in STARTS_AT_REST, last in ENDS_AT_REST
        self._clock = "ease_in_out" if starts and ends else "ease_in" if starts else "ease_out" if ends else "linear"
        samples, ways, self._ways = self._way.distances()
        rising = np.append(True, np.diff(ways) > 0)
        if rising.sum() > 1:
            self._parameter_after = PchipInterpolator(ways[rising], samples[rising])
        else:
            self._parameter_after = np.zeros_like
        moved, turned = np.diff(self._ways), np.diff(self._turning.curve.distances()[2])
        # Where the camera turns without moving, it turns as fast as it does on the average of the whole way.
        stands = moved < 1e-3 * moved.mean()
        per_turn = moved.sum() / turned.sum() if moved.sum() > 0 and turned.sum() > 0 else 1.0
        shares = np.where(stands, turned * per_turn, moved)
        holds = np.array([easing == "hold" for easing in self._easings])
        shares[holds] = 0.0
        durations = np.diff(self._times)
        free_s = durations[~holds].sum()
        # What neither moves nor turns still takes a moment: times must increase.
        shares[~holds] = np.maximum(shares[~holds], max(1e-6 * shares.sum(), 1e-12))
        durations = np.where(holds, durations, free_s * shares / max(shares.sum(), 1e-300))
        self._times = self._times[0] + np.append(0.0, np.cumsum(durations))
        self._easings = ["hold" if hold else "smooth" for hold in holds]

    def _evenly(self, segment: npt.NDArray[np.intp], times: FloatArray) -> FloatArray:
        """Returns the curve's parameter at which the way is as long as the time since the segment's beginning says."""
        begins, length = self._times[:-1][segment], np.diff(self._times)[segment]
        holds = np.array([easing == "hold" for easing in self._easings])[segment]
        share = np.where(holds, 0.0, np.clip((times - begins) / length, 0, 1))
        way = self._ways[:-1][segment] + share * np.diff(self._ways)[segment]
        knots = self._way.knots
        return np.clip(self._parameter_after(way), knots[:-1][segment], knots[1:][segment])
