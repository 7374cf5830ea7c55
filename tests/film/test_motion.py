# SPDX-License-Identifier: Apache-2.0
"""Camera motion through keyframes is smooth, does not swing out, closes, eases, and keeps to one speed when asked."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from recon.cameras import look_at
from recon.film.easing import EASINGS, eased
from recon.film.motion import Keyframe, KeyframedFilm, Motion
from recon.film.splines import ClosedBy, Curve

UP = np.array([0.0, 0.0, 1.0])


def keyframe(
    time_s: float,
    position: Any,
    target: Any = (0, 0, 0.5),
    easing: Any = "smooth",
    roll_deg: float = 0.0,
    fov: float = 50,
) -> Keyframe:
    rotation = look_at(np.array(position, float), np.array(target, float), UP)[:3, :3].T
    rotation = rotation @ Rotation.from_euler("z", roll_deg, degrees=True).as_matrix()
    x, y, z, w = Rotation.from_matrix(rotation).as_quat().tolist()
    px, py, pz = (float(value) for value in position)
    return Keyframe(float(time_s), (px, py, pz), (w, x, y, z), fov, easing)


def ring(count: int = 8, **changes: Any) -> tuple[Keyframe, ...]:
    angles = np.arange(count) * 2 * np.pi / count
    return tuple(keyframe(i, (3 * np.cos(a), 3 * np.sin(a), 1.5), **changes) for i, a in enumerate(angles))


UNEVEN = (
    keyframe(0, (3, 0, 1)),
    keyframe(1, (2.9, 0.3, 1)),
    keyframe(2, (0, 3, 1), fov=30),
    keyframe(3, (-3, 0, 2)),
    keyframe(4.5, (-3, -0.4, 2), (0, 1, 1)),
)


class Sampled:
    """Positions [F, 3], rotations [F, 3, 3], and their first and second differences by time."""

    def __init__(self, film: KeyframedFilm, count: int = 1601) -> None:
        self.times = np.linspace(film.begin_s, film.begin_s + film.duration_s, count)
        views = Motion(film).at(self.times if not film.is_closed else self.times - 1e-12)
        self.positions = np.array([view.position for view in views])
        self.rotations = np.array([view.rotation for view in views])
        self.fovs = np.array([view.fov_rad for view in views])
        step_s = self.times[1] - self.times[0]
        self.velocity = np.diff(self.positions, axis=0) / step_s
        turns = np.einsum("nji,njk->nik", self.rotations[:-1], self.rotations[1:])
        self.turning = Rotation.from_matrix(turns).as_rotvec() / step_s
        self.acceleration = np.diff(self.velocity, axis=0) / step_s
        self.turning_change = np.diff(self.turning, axis=0) / step_s

    @property
    def speed(self) -> np.ndarray:
        return np.linalg.norm(self.velocity, axis=1)


def jump(values: np.ndarray) -> float:
    """The largest step between neighbouring samples, as a share of the values' size."""
    return float(np.abs(np.diff(values, axis=0)).max() / max(np.abs(values).max(), 1e-3))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("frames", [ring(), UNEVEN, ring(roll_deg=25)], ids=["ring", "uneven", "rolled"])
def test_keyframes_are_met_and_the_second_derivative_has_no_steps(frames: Any, loop: bool) -> None:
    film = KeyframedFilm(frames, loop=loop)
    for frame, view in zip(frames, Motion(film).at([frame.time_s for frame in frames])):
        np.testing.assert_allclose(view.position, frame.position, atol=1e-9)
        np.testing.assert_allclose(view.rotation, frame.rotation, atol=1e-9)
        assert math.isclose(math.degrees(view.fov_rad), frame.fov_deg, rel_tol=1e-9)
    coarse, fine = Sampled(film, 801), Sampled(film, 3201)
    # What is continuous changes by a quarter over a quarter of the time; a step stays as high as it is.
    assert jump(fine.acceleration) < 0.4 * jump(coarse.acceleration) + 1e-4
    assert jump(fine.acceleration) < 0.03
    assert jump(fine.turning_change) < 0.4 * jump(coarse.turning_change) + 2e-3


def test_the_measure_sees_a_step() -> None:
    corners = replace(KeyframedFilm(tuple(replace(frame, easing="linear") for frame in ring())), shape="straight")
    assert jump(Sampled(corners, 3201).acceleration) > 0.3


def test_a_ring_stays_a_ring_and_closes_without_a_jump() -> None:
    film = KeyframedFilm(ring(), loop=True)
    assert film.duration_s == 8
    sampled = Sampled(film)
    np.testing.assert_allclose(np.linalg.norm(sampled.positions[:, :2], axis=1), 3, rtol=2e-3)
    np.testing.assert_allclose(sampled.speed, sampled.speed.mean(), rtol=5e-3)
    motion = Motion(film)
    before, after = motion.at([8 - 1e-6]), motion.at([8 + 1e-6])
    np.testing.assert_allclose(before[0].position, after[0].position, atol=1e-4)
    np.testing.assert_allclose(sampled.velocity[0], sampled.velocity[-1], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(sampled.turning[0], sampled.turning[-1], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(motion.at([3.3])[0].pose, motion.at([3.3 + 16])[0].pose, atol=1e-9)
    # The film has no frame twice where it comes around.
    path = film.path()
    assert len(path.cameras) == 240
    gap = np.linalg.norm(path.cameras[-1].center_in_world - path.cameras[0].center_in_world)
    assert 0.9 < gap / np.linalg.norm(path.cameras[1].center_in_world - path.cameras[0].center_in_world) < 1.1


@pytest.mark.parametrize("closed", [False, True])
def test_curves_do_not_swing_out_between_unevenly_spaced_points(closed: bool) -> None:
    rng = np.random.default_rng(0)
    worst, worst_by_time = 0.0, 0.0
    for _ in range(300):
        points = np.cumsum(rng.normal(size=(6, 3)) * 10 ** rng.uniform(-1, 0.5, size=(6, 1)), axis=0)
        curve = Curve(points, closed=ClosedBy() if closed else None)
        by_time = CubicSpline(np.arange(6), points)
        for index in range(5):
            share = np.linspace(0, 1, 33)
            chord = points[index + 1] - points[index]
            near = max(np.linalg.norm(np.diff(points[max(index - 1, 0) : index + 3], axis=0), axis=1))
            parameter = curve.knots[index] + share * (curve.knots[index + 1] - curve.knots[index])
            for kind, found in enumerate((curve.at(np.full(33, index), parameter), by_time(index + share))):
                along = np.clip((found - points[index]) @ chord / (chord @ chord), 0, 1)
                away = np.linalg.norm(found - points[index] - along[:, None] * chord, axis=1).max() / near
                worst, worst_by_time = (
                    (max(worst, away), worst_by_time) if kind == 0 else (worst, max(worst_by_time, away))
                )
    assert worst < 0.35
    assert worst_by_time > 1.3 * worst


def test_a_straight_row_of_points_gives_a_straight_way_that_never_turns_back() -> None:
    frames = tuple(keyframe(i, (x, 0, 1), (x, 9, 1)) for i, x in enumerate([0, 0.02, 1.0, 1.05, 5.0]))
    sampled = Sampled(KeyframedFilm(frames))
    assert np.abs(sampled.positions[:, 1:] - [0, 1]).max() < 1e-9
    assert sampled.velocity[:, 0].min() > -1e-9


def test_a_camera_that_turns_in_place_stays_there() -> None:
    frames = (
        keyframe(0, (3, 0, 1)),
        keyframe(2, (0, 3, 1)),
        keyframe(4, (0, 3, 1), (2, 0, 0)),
        keyframe(6, (-3, 0, 1)),
    )
    for even in (False, True):
        film = KeyframedFilm(frames, constant_speed=even)
        sampled = Sampled(film)
        there = np.linalg.norm(sampled.positions - [0, 3, 1], axis=1) < 1e-9
        assert there.sum() > (300 if not even else 50)
        assert not jump(sampled.positions) > 0.01
    resting = (Sampled(KeyframedFilm(frames)).times > 2) & (Sampled(KeyframedFilm(frames)).times < 4)
    assert np.linalg.norm(Sampled(KeyframedFilm(frames)).positions[resting] - [0, 3, 1], axis=1).max() < 1e-9


def test_the_horizon_stays_level_and_pans_go_the_short_way() -> None:
    frames = (
        keyframe(0, (0, 0, 1), (5, 0, -1)),
        keyframe(2, (1, 0, 1), (-5, 3, 2)),
        keyframe(3, (1, 1, 1), (-5, -3, 0)),
    )
    sampled = Sampled(KeyframedFilm(frames))
    assert np.abs(sampled.rotations[:, 2, 0]).max() < 1e-9
    assert (sampled.rotations[:, 2, 1] < 0).all()
    turned = np.linalg.norm(sampled.turning, axis=1).sum() * (sampled.times[1] - sampled.times[0])
    assert turned < np.radians(250)
    rolled = Sampled(KeyframedFilm(tuple(replace(frame) for frame in ring(roll_deg=30))))
    assert np.abs(rolled.rotations[:, 2, 0]).min() > 0.2


@pytest.mark.parametrize("frames", [ring(), UNEVEN], ids=["ring", "uneven"])
@pytest.mark.parametrize("loop", [False, True])
def test_constant_speed_is_constant(frames: Any, loop: bool) -> None:
    film = KeyframedFilm(frames, constant_speed=True, loop=loop)
    sampled = Sampled(film, 4001)
    # A chord over a corner is a little shorter than the way around it.
    np.testing.assert_allclose(sampled.speed, np.median(sampled.speed), rtol=0.03)
    motion = Motion(film)
    path = np.array([view.position for view in motion.at(sampled.times)])
    for frame in frames:
        assert np.linalg.norm(path - frame.position, axis=1).min() < 0.01
    assert np.abs(np.linalg.norm(sampled.turning, axis=1)).max() < 8
    gentle = KeyframedFilm(
        (
            replace(frames[0], easing="ease_in_out"),
            *frames[1:-1],
            replace(frames[-2], time_s=frames[-1].time_s - 1e-3, easing="ease_out"),
            frames[-1],
        ),
        constant_speed=True,
    )
    assert Sampled(gentle).speed[[0, -1]].max() < 0.05 * Sampled(gentle).speed.max()


def test_easings_start_and_end_at_rest_or_in_motion() -> None:
    knots, values = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0])
    times = np.linspace(0, 3, 3001)
    pace = {}
    for easing in EASINGS:
        found = eased(knots, values, ["smooth", easing, "smooth"], times)
        pace[easing] = np.diff(found) / np.diff(times)
        np.testing.assert_allclose(eased(knots, values, ["smooth", easing, "smooth"], knots), values, atol=1e-12)
        assert np.diff(found).min() > -1e-12
    at_1, at_2, at_half = 1001, 1998, 1500
    assert pace["smooth"][at_1] == pytest.approx(1, abs=1e-6)
    assert pace["linear"][at_half] == pytest.approx(1, abs=1e-6)
    assert pace["ease_in"][at_1] < 0.01 < pace["ease_in"][at_2]
    assert pace["ease_out"][at_2] < 0.01 < pace["ease_out"][at_1]
    assert max(pace["ease_in_out"][[at_1, at_2]]) < 0.01
    assert pace["ease_in_out"][at_half] > 1.5
    assert pace["hold"][at_half] == 0
    assert pace["hold"].max() > 100


def test_values_never_overshoot_and_their_pace_has_no_steps() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        knots = np.cumsum(10 ** rng.uniform(-1, 1, 7))
        values = np.cumsum(10 ** rng.uniform(-2, 1, 7))
        times = np.linspace(knots[0], knots[-1], 6001)
        easings = [str(rng.choice(["smooth", "ease_in", "ease_out", "ease_in_out", "linear"])) for _ in range(6)]
        assert np.diff(eased(knots, values, easings, times)).min() > -1e-9 * values[-1]  # type: ignore[arg-type]
        up_and_down = values * rng.choice([-1, 1], 7)
        found = eased(knots, up_and_down, ["smooth"] * 6, times)
        assert found.max() <= up_and_down.max() + 1e-9
        assert found.min() >= up_and_down.min() - 1e-9


def test_a_hold_is_a_cut() -> None:
    frames = [replace(frame, fov_deg=40 + 5 * i) for i, frame in enumerate(ring(5))]
    frames[1] = replace(frames[1], easing="hold")
    for even in (False, True):
        motion = Motion(KeyframedFilm(tuple(frames), constant_speed=even))
        times = np.linspace(0, 4, 4001)
        positions = np.array([view.position for view in motion.at(times)])
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        assert (steps > 1).sum() == 1
        cut = int(np.argmax(steps))
        np.testing.assert_allclose(positions[cut - 500 : cut + 1], [frames[1].position] * 501, atol=1e-9)
        np.testing.assert_allclose(positions[cut + 1], frames[2].position, atol=5e-3)
        assert motion.at([times[cut]])[0].fov_rad == pytest.approx(math.radians(45))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("even", [False, True])
def test_few_equal_and_opposite_keyframes(count: int, loop: bool, even: bool) -> None:
    opposite = keyframe(1, (-3, 0, 1), (-9, 0, 1), roll_deg=180)
    for frames in (ring()[:count], (ring()[0],) * count, (ring()[0], opposite, ring()[2])[:count]):
        timed = tuple(replace(frame, time_s=float(i)) for i, frame in enumerate(frames))
        for easing, shape in itertools.product(("smooth", "linear", "hold"), ("smooth", "straight")):
            film = KeyframedFilm(tuple(replace(f, easing=easing) for f in timed), 5, 64, 36, shape, even, loop)
            views = Motion(film).at(np.linspace(-1, count + 1, 13))
            turns = np.array([view.rotation for view in views])
            np.testing.assert_allclose(np.einsum("nij,nkj->nik", turns, turns), [np.eye(3)] * 13, atol=1e-9)
            assert np.linalg.norm([view.position for view in views], axis=1).max() < 8
            assert len(film.path().cameras) >= 1
