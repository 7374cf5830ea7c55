# SPDX-License-Identifier: Apache-2.0
"""The film under the artist's hands: keyframes added, changed, put in another order, and every step undone again.

A film is a value (`recon.film.KeyframedFilm`), so a step back is the film before.  Artists think of how long the way
from one keyframe to the next takes; the keyframes' times follow from that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recon.cameras import Camera
from recon.film.easing import Easing
from recon.film.keyframes import keyframe_of
from recon.film.motion import Keyframe, KeyframedFilm, Motion
from recon.scene import Similarity

USUAL_SECONDS = 2.0
"""The way to a new keyframe takes so long."""

LEAST_SECONDS = 0.05
MOST_SECONDS = 3600.0
MOST_KEYFRAMES = 500
MOST_STEPS = 200


class FilmEditor:
    """A film, which keyframe is selected, and what was before.

    Attributes:
        film: as it is now; it may have no keyframes yet.
        selected: index of the selected keyframe; 0 where there is none.
    """

    def __init__(self, film: KeyframedFilm | None = None) -> None:
        self.film = film or KeyframedFilm(())
        self.selected = 0
        self._before: list[tuple[KeyframedFilm, int]] = []
        self._after: list[tuple[KeyframedFilm, int]] = []

    # Looking at it --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.film.keyframes)

    @property
    def keyframe(self) -> Keyframe | None:
        """The selected keyframe."""
        return self.film.keyframes[self.selected] if len(self) else None

    def ways_s(self) -> list[float]:
        """Returns how long each keyframe's way to the next one takes; the last one's is the way around."""
        times = [frame.time_s for frame in self.film.keyframes]
        ways = np.diff(times).tolist()
        if not times:
            return []
        usual = float(np.mean(ways)) if ways else USUAL_SECONDS
        return [*ways, self.film.closing_s or usual]

    def camera(self, index: int) -> Camera:
        """Returns the camera of a keyframe, at the film's size."""
        from recon.film.paths import with_vertical_fov

        view = Motion(replace(self.film, keyframes=(self.film.keyframes[index],))).at([0.0])[0]
        lens = Camera(self.film.width, self.film.height, 1.0, 1.0, self.film.width / 2, self.film.height / 2)
        return with_vertical_fov(lens, view.fov_rad).with_pose(view.pose)

    # Keyframes ------------------------------------------------------------------------------------------------

    def add(self, camera: Camera) -> None:
        """Adds a keyframe at a camera's view behind the selected one, and selects it."""
        if len(self) >= MOST_KEYFRAMES:
            return
        frames, ways = list(self.film.keyframes), self.ways_s()
        place = self.selected + 1 if frames else 0
        easing: Easing = frames[self.selected].easing if frames else "smooth"
        if not frames:
            ways = [USUAL_SECONDS]
        elif place < len(frames):
            # Between two keyframes it shares their way.
            ways[place - 1] /= 2
            ways.insert(place, ways[place - 1])
        else:
            ways[place - 1 : place] = [USUAL_SECONDS]
            ways.append(self.film.closing_s or USUAL_SECONDS)
        frames.insert(place, replace(keyframe_of(camera, 0.0), easing=easing))
        self._put(self._timed(frames, ways), place)

    def update(self, camera: Camera, index: int | None = None) -> None:
        """Moves a keyframe (the selected one) to a camera's view."""
        index = self.selected if index is None else index
        if not 0 <= index < len(self):
            return
        old = self.film.keyframes[index]
        frame = replace(keyframe_of(camera, old.time_s), easing=old.easing)
        self._put(self._with(index, frame), index)

    def delete(self) -> None:
        """Deletes the selected keyframe; its neighbours' way takes as long as both ways did."""
        frames, ways = list(self.film.keyframes), self.ways_s()
        if not frames:
            return
        index = self.selected
        del frames[index]
        if 0 < index < len(frames):
            ways[index - 1] += ways[index]
        del ways[index if index < len(frames) else index - 1]
        self._put(self._timed(frames, ways), min(index, len(frames) - 1))

    def move(self, by: int) -> None:
        """Puts the selected keyframe earlier (-1) or later (+1) in the order; the times of the places stay."""
        other = self.selected + by
        if not 0 <= other < len(self) or by == 0:
            return
        frames = list(self.film.keyframes)
        frames.insert(other, frames.pop(self.selected))
        self._put(self._timed(frames, self.ways_s()), other)

    def select(self, index: int) -> None:
        """Selects a keyframe, going around."""
        self.selected = index % len(self) if len(self) else 0

    def set_way(self, seconds: float) -> None:
        """Sets how long the way from the selected keyframe to the next takes; the later ones move along."""
        ways = self.ways_s()
        if ways:
            ways[self.selected] = _bounded(seconds)
            self._put(self._timed(list(self.film.keyframes), ways), self.selected)

    def set_fov(self, fov_deg: float) -> None:
        """Sets the vertical field of view of the selected keyframe."""
        if math.isfinite(fov_deg):
            self._change_selected(fov_deg=float(np.clip(fov_deg, 5, 150)))

    def set_easing(self, easing: Easing, everywhere: bool = False) -> None:
        """Sets the easing of the selected keyframe, or of all."""
        if everywhere:
            self.change(keyframes=tuple(replace(frame, easing=easing) for frame in self.film.keyframes))
        else:
            self._change_selected(easing=easing)

    def set_duration(self, seconds: float) -> None:
        """Stretches or squeezes the film to a length."""
        if len(self) < 2 or not math.isfinite(seconds):
            return
        now = self.film.duration_s
        factor = float(np.clip(seconds, LEAST_SECONDS * len(self), MOST_SECONDS)) / now
        ways = [way * factor for way in self.ways_s()]
        self._put(self._timed(list(self.film.keyframes), ways), self.selected)

    # The film as a whole --------------------------------------------------------------------------------------

    def change(self, **changes: Any) -> None:
        """Replaces fields of the film: its size, rate, shape, loop or constant speed."""
        self._put(replace(self.film, **changes), self.selected)

    def replace(self, film: KeyframedFilm) -> None:
        """Puts another film in place of this one, which a step back brings again."""
        self._put(film, 0)

    def move_world(self, new_from_old: Similarity) -> None:
        """Moves all keyframes, and those of earlier steps, along with a world that is moved."""
        self._before = [(moved_film(film, new_from_old), selected) for film, selected in self._before]
        self._after = [(moved_film(film, new_from_old), selected) for film, selected in self._after]
        self.film = moved_film(self.film, new_from_old)

    def undo(self) -> bool:
        """Goes a step back; returns whether there was one."""
        return self._step(self._before, self._after)

    def redo(self) -> bool:
        """Takes back a step back; returns whether there was one."""
        return self._step(self._after, self._before)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._before)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step that was taken back."""
        return bool(self._after)

    def _step(self, source: list[tuple[KeyframedFilm, int]], target: list[tuple[KeyframedFilm, int]]) -> bool:
        if not source:
            return False
        target.append((self.film, self.selected))
        self.film, self.selected = source.pop()
        return True

    def _put(self, film: KeyframedFilm, selected: int) -> None:
        """Makes a step, unless nothing changes."""
        if film != self.film:
            self._before = [*self._before[-MOST_STEPS + 1 :], (self.film, self.selected)]
            self._after = []
            self.film = film
        self.selected = max(0, min(selected, len(film.keyframes) - 1))

    def _change_selected(self, **changes: Any) -> None:
        if len(self):
            frame = replace(self.film.keyframes[self.selected], **changes)
            self._put(self._with(self.selected, frame), self.selected)

    def _with(self, index: int, frame: Keyframe) -> KeyframedFilm:
        frames = list(self.film.keyframes)
        frames[index] = frame
        return replace(self.film, keyframes=tuple(frames))

    def _timed(self, frames: Sequence[Keyframe], ways: Sequence[float]) -> KeyframedFilm:
        """Returns the film of keyframes whose ways take `ways` seconds; the last one's is the way around."""
        times = np.append(0.0, np.cumsum(ways))
        timed = tuple(replace(frame, time_s=float(time)) for frame, time in zip(frames, times))
        return replace(self.film, keyframes=timed, closing_s=float(ways[-1]) if len(frames) else None)


def moved_film(film: KeyframedFilm, new_from_old: Similarity) -> KeyframedFilm:
    """Returns the film in a world that was moved, turned and scaled."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(np.asarray(new_from_old.rotation))
    frames = []
    for frame in film.keyframes:
        position = new_from_old.scale * turn.apply(frame.position) + np.asarray(new_from_old.translation)
        x, y, z, w = (turn * Rotation.from_matrix(frame.rotation)).as_quat().tolist()
        px, py, pz = position.tolist()
        frames.append(replace(frame, position=(px, py, pz), rotation_wxyz=(w, x, y, z)))
    return replace(film, keyframes=tuple(frames))


def _bounded(seconds: float) -> float:
    return float(np.clip(seconds, LEAST_SECONDS, MOST_SECONDS)) if math.isfinite(seconds) else USUAL_SECONDS
