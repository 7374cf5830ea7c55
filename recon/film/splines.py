# SPDX-License-Identifier: Apache-2.0
"""Curves through keyframes: twice continuously differentiable, closed where asked, broken where the camera rests.

A curve is a cubic spline over centripetal knots (their distances are the square roots of the points' distances: Lee,
"Choosing nodes in parametric curve interpolation", 1989), which neither loops nor swings far out where points are
unevenly spaced, as splines over the keyframes' times do.  When the camera is where on it is `recon.film.easing`'s.

Rotations go the same way.  Where every keyframe has a level horizon, the curve runs through heading and pitch, so that
the horizon stays level on the whole way; else through unit quaternions, as points of four-dimensional space that
are brought back to length one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

FloatArray = npt.NDArray[np.float64]

LEVEL_WITHIN = 1e-4
"""Sine of the roll below which a horizon counts as level."""

STEEPEST_LEVEL = 0.98
"""Sine of the pitch above which heading means little."""

SAMPLES_PER_SEGMENT = 64

_PADDING = 16
"""Knots that a closed curve is continued by at both ends; what its ends do fades by a factor of 3.7 per knot."""


@dataclass(frozen=True, eq=False)
class ClosedBy:
    """How a point comes back after a full round: multiplied by `sign`, then moved by `shift`."""

    sign: float = 1.0
    shift: FloatArray | float = 0.0


@dataclass(frozen=True, eq=False)
class _Run:
    """A piece without breaks: `spline` over the curve's parameter, None where all of it is one point."""

    first: int
    last: int
    start: float
    spline: CubicSpline | None


class Curve:
    """A curve through points.

    Attributes:
        knots: [S + 1] the parameter at which each of its S segments begins, and the end.  A segment between equal
            points has no length.
    """

    def __init__(self, points: FloatArray, breaks: Sequence[int] = (), closed: ClosedBy | None = None) -> None:
        """Lays the curve.

        Args:
            points: [M, D].
            breaks: points at which it may have a corner; the ends of an open curve are always among them.
            closed: how it comes back to its first point; None leaves it open (M - 1 segments instead of M).
        """
        self._points, self._closed = points, closed
        count = len(points)
        segments = count if closed is not None else count - 1
        self._size = np.abs(points - points.mean(0)).max() if count else 0.0
        chords = np.linalg.norm(np.diff(self._at(np.arange(segments + 1)), axis=0), axis=1)
        self._lengths = np.where(chords > 1e-9 * max(self._size, 1e-12), np.sqrt(chords), 0.0)
        self.knots = np.append(0.0, np.cumsum(self._lengths))
        at_rest = {k % count for i in np.flatnonzero(self._lengths == 0) for k in (int(i), int(i) + 1)}
        corners = sorted(at_rest | {index % count for index in breaks})
        self._runs: list[_Run] = []
        if segments == 0:
            return
        if closed is None:
            corners = sorted({0, *corners, segments})
            self._runs = [self._run(first, last) for first, last in itertools.pairwise(corners)]
        elif not corners:
            self._runs = [self._round(segments)]
        else:
            ends = [*corners, corners[0] + segments]
            self._runs = [self._run(first, last) for first, last in itertools.pairwise(ends)]

    def _at(self, indices: npt.NDArray[np.intp]) -> FloatArray:
        """Returns points [K, D] by index, going around a closed curve."""
        count = len(self._points)
        turns, index = np.divmod(indices, count)
        points = self._points[index]
        if self._closed is not None:
            points = points * (self._closed.sign**turns)[:, None] + turns[:, None] * self._closed.shift
        return np.asarray(points)

    def _run(self, first: int, last: int) -> _Run:
        """Returns the piece between two corners."""
        from scipy.interpolate import CubicSpline

        lengths = self._lengths[np.arange(first, last) % len(self._lengths)]
        start = self._parameter_at(first)
        if not lengths.all():
            return _Run(first, last, start, None)
        knots = start + np.append(0.0, np.cumsum(lengths))
        return _Run(first, last, start, CubicSpline(knots, self._at(np.arange(first, last + 1)), bc_type="natural"))

    def _round(self, segments: int) -> _Run:
        """Returns all of a closed curve without corners, as a part of a longer one that goes around further."""
        from scipy.interpolate import CubicSpline

        indices = np.arange(-_PADDING, segments + _PADDING + 1)
        lengths = self._lengths[indices[:-1] % segments]
        knots = np.append(0.0, np.cumsum(lengths))
        spline = CubicSpline(knots - knots[_PADDING], self._at(indices), bc_type="natural")
        return _Run(0, segments, 0.0, spline)

    def _parameter_at(self, index: int) -> float:
        """Returns the parameter of a point by index, going around a closed curve."""
        turns, within = divmod(index, len(self._lengths))
        return float(self.knots[within] + turns * self.knots[-1])

    def at(self, segment: npt.NDArray[np.intp], parameter: FloatArray) -> FloatArray:
        """Returns points [F, D] at parameters [F] that lie in the given segments [F]."""
        found = np.empty((len(parameter), self._points.shape[1]))
        if not self._runs:
            found[:] = self._points[0]
            return found
        segments = len(self._lengths)
        for run in self._runs:
            # A run that goes over the seam of a closed curve has its last segments at the list's beginning.
            for turn in (0, 1):
                chosen = (segment + turn * segments >= run.first) & (segment + turn * segments < run.last)
                if not chosen.any():
                    continue
                if run.spline is None:
                    found[chosen] = self._at(np.array([run.first]))
                else:
                    found[chosen] = run.spline(parameter[chosen] + turn * self.knots[-1])
                if turn and self._closed is not None:
                    # What was found belongs to the next round; this one is a round earlier.
                    found[chosen] = (found[chosen] - self._closed.shift) * self._closed.sign
        return found

    def distances(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns how long the way is.

        Returns:
            Parameters [S * SAMPLES_PER_SEGMENT + 1], the way's length up to each, and that up to each of the knots.
        """
        segments = len(self._lengths)
        if segments == 0:
            return np.zeros(1), np.zeros(1), np.zeros(1)
        steps = np.arange(SAMPLES_PER_SEGMENT + 1) / SAMPLES_PER_SEGMENT
        segment = np.repeat(np.arange(segments), SAMPLES_PER_SEGMENT + 1)
        parameter = (self.knots[:-1, None] + steps * self._lengths[:, None]).ravel()
        points = self.at(segment, parameter).reshape(segments, SAMPLES_PER_SEGMENT + 1, -1)
        chords = np.linalg.norm(np.diff(points, axis=1), axis=2)
        # A chord is shorter than its arc by a fourth-order share of its turn; Richardson's step takes most of it off.
        wide = np.linalg.norm(points[:, 2::2] - points[:, :-2:2], axis=2)
        exact = (4 * (chords[:, 0::2] + chords[:, 1::2]) - wide) / 3
        chords *= np.repeat(exact / np.maximum(chords[:, 0::2] + chords[:, 1::2], 1e-300), 2, axis=1)
        way = np.append(0.0, np.cumsum(chords))
        samples = np.append(0.0, parameter.reshape(segments, -1)[:, 1:].ravel())
        return samples, way, way[::SAMPLES_PER_SEGMENT]


class Turning:
    """A curve through rotations: level where all of them are."""

    def __init__(self, rotations: FloatArray, breaks: Sequence[int] = (), closed: bool = False) -> None:
        """Lays the curve.

        Args:
            rotations: [M, 3, 3] world_from_cam, OpenCV axes.
            breaks: as of `Curve`.
            closed: it comes back to the first one.
        """
        self.is_level = _all_level(rotations)
        if self.is_level:
            points = heading_and_pitch(rotations)
            points[:, 0] = np.unwrap(points[:, 0])
            closing = points[0, 0] - points[-1, 0]
            turn = 2 * np.pi * np.round(closing / (2 * np.pi))
            how = ClosedBy(shift=np.array([-turn, 0.0]))
        else:
            points = _quaternions(rotations)
            how = ClosedBy(sign=-1.0 if points[-1] @ points[0] < 0 else 1.0)
        self.curve = Curve(points, breaks, how if closed else None)

    def at(self, segment: npt.NDArray[np.intp], parameter: FloatArray) -> FloatArray:
        """Returns rotations [F, 3, 3]."""
        found = self.curve.at(segment, parameter)
        if self.is_level:
            return level_rotations(found)
        from scipy.spatial.transform import Rotation

        return Rotation.from_quat(found).as_matrix()


def heading_and_pitch(rotations: FloatArray) -> FloatArray:
    """Returns [M, 2] radians: the heading counter-clockwise from +x seen from above, and the pitch, up positive."""
    forward = rotations[..., 2]
    return np.stack([np.arctan2(forward[..., 1], forward[..., 0]), np.arcsin(np.clip(forward[..., 2], -1, 1))], axis=-1)


def level_rotations(heading_and_pitch_rad: FloatArray) -> FloatArray:
    """Returns world_from_cam rotations [M, 3, 3] without roll from heading and pitch [M, 2]."""
    heading, pitch = heading_and_pitch_rad[..., 0], heading_and_pitch_rad[..., 1]
    right = np.stack([np.sin(heading), -np.cos(heading), np.zeros_like(heading)], axis=-1)
    forward = np.stack([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)], axis=-1)
    return np.stack([right, np.cross(forward, right), forward], axis=-1)


def _all_level(rotations: FloatArray) -> bool:
    """Whether no rotation rolls or looks nearly straight up or down."""
    upright = rotations[:, 2, 1] < 0
    level = np.abs(rotations[:, 2, 0]) < LEVEL_WITHIN
    return bool((upright & level & (np.abs(rotations[:, 2, 2]) < STEEPEST_LEVEL)).all())


def _quaternions(rotations: FloatArray) -> FloatArray:
    """Returns unit quaternions [M, 4] xyzw, each on the side of the one before."""
    from scipy.spatial.transform import Rotation

    quaternions = Rotation.from_matrix(rotations).as_quat()
    flips = np.where(np.einsum("md,md->m", quaternions[1:], quaternions[:-1]) < 0, -1.0, 1.0)
    quaternions[1:] *= np.cumprod(flips)[:, None]
    return np.asarray(quaternions)
