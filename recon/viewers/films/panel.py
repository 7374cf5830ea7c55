# SPDX-License-Identifier: Apache-2.0
"""The tab "Film": keyframes, their timing, a preview, files of camera paths, and rendering to MP4.

The film is one for all browsers; views are taken from, and previews played in, the browser whose button was pressed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.cameras import Camera
from recon.errors import ReconError
from recon.film.easing import Easing
from recon.film.keyframes import film_through
from recon.film.motion import KeyframedFilm, Motion
from recon.film.paths import PathOptions, orbit_path, reshaped, train_path
from recon.film.saved import PICTURE_SIZES, FilmLibrary
from recon.scene import Similarity
from recon.viewers.exact import camera_of
from recon.viewers.films.editor import FilmEditor
from recon.viewers.films.player import FilmPlayer, stand
from recon.viewers.films.rendering import FilmRenderFolder
from recon.viewers.films.scene import FilmScene

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

EASING_LABELS: dict[str, Easing] = {
    "Smooth": "smooth",
    "Linear": "linear",
    "Ease in": "ease_in",
    "Ease out": "ease_out",
    "Ease in and out": "ease_in_out",
    "Hold, then cut": "hold",
}

SIZE_LABELS: dict[str, tuple[int, int]] = {
    "16:9 · 1080p": PICTURE_SIZES["1080p"],
    "16:9 · 720p": PICTURE_SIZES["720p"],
    "16:9 · 4K": PICTURE_SIZES["4k"],
    "16:9 · 360p draft": (640, 360),
    "9:16 · vertical": PICTURE_SIZES["vertical"],
    "1:1 · square": PICTURE_SIZES["square"],
}

RATES = ("24", "25", "30", "50", "60")

SHAPES = {"Smooth curve": "smooth", "Straight lines": "straight"}

ORBIT_KEYFRAMES = 12
MOST_RIDE_KEYFRAMES = 24

NOTHING_YET = "Move to a view and press **Add keyframe**. Two make a film. Or begin with an orbit."


class FilmPanel:
    """The tab, and what stands behind it."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.editor = FilmEditor(KeyframedFilm(()))
        self.player = FilmPlayer(viewer.server, viewer.stage)
        self.films = FilmLibrary(viewer.run_path / "paths") if viewer.run_path is not None else None
        self._scene = FilmScene(viewer, self._clicked, self._moved)
        self._lock = threading.RLock()
        self._name = "film"
        self._show_path = True
        self._with_gizmo = False
        self._at_s = 0.0
        with viewer.tabs["Film"]:
            self._add_keyframes()
            self._add_preview()
            self._add_timing()
            self._add_files()
            self.render = FilmRenderFolder(viewer, lambda: (self._name, self.editor.film))
        viewer.on_world(self.follow_world)
        self._refresh()

    def close(self) -> None:
        """Ends previews."""
        self.player.close()

    def follow_world(self, new_from_old: Similarity) -> None:
        """Moves the film along with the world."""
        with self._lock:
            self.player.stage = self._scene.stage = self._viewer.stage
            self.editor.move_world(new_from_old)
            self._refresh()

    # The controls ---------------------------------------------------------------------------------------------

    def _add_keyframes(self) -> None:
        gui: Any = self._viewer.server.gui
        self._status = gui.add_markdown(NOTHING_YET)
        self._add = gui.add_button("Add keyframe", icon="plus", hint="At the present view, behind the selected one (K)")
        self._on(self._add, lambda event: self.editor.add(self._camera(event.client)))
        has_cameras = self._viewer.scene is not None and bool(self._viewer.scene.frames)
        if has_cameras:
            begin = gui.add_button_group("Begin with", ("Orbit", "Photo ride"), hint="In place of the film so far")
            self._on(begin, lambda event: self._begin_with(event.target.value))
        steps = gui.add_button_group("Film", ("Undo", "Redo", "Clear"))
        self._on(steps, lambda event: self._step(event.target.value))
        self._keyframe = gui.add_folder("Keyframe", visible=False)
        with self._keyframe:
            self._selected = gui.add_dropdown("Selected", ("–",))
            self._on(self._selected, lambda event: self._select(event.target.value))
            at_view = gui.add_button_group("View", ("Go there", "Update", "Delete"), hint="Update: to the present view")
            self._on(at_view, lambda event: self._at_view(event))
            order = gui.add_button_group("Order", ("Earlier", "Later"))
            self._on(order, lambda event: self.editor.move(-1 if event.target.value == "Earlier" else 1))
            self._way = gui.add_number("Seconds to next", 2.0, min=0.05, max=3600.0, step=0.05)
            self._on(self._way, lambda event: self.editor.set_way(event.target.value))
            self._fov = gui.add_slider("Field of view", 10.0, 120.0, 0.5, 50.0, hint="Vertical, in degrees")
            self._on(self._fov, self._set_fov)
            self._easing = gui.add_dropdown("To the next", tuple(EASING_LABELS))
            self._on(self._easing, lambda event: self._set_easing(event.target.value))
            gizmo = gui.add_checkbox("Move by handles", False)
            self._on(gizmo, lambda event: setattr(self, "_with_gizmo", bool(event.target.value)))

    def _add_preview(self) -> None:
        gui: Any = self._viewer.server.gui
        self._preview = gui.add_folder("Preview", visible=False)
        with self._preview:
            self._time = gui.add_slider("Time (s)", 0.0, 1.0, 0.01, 0.0)
            self._on(self._time, self._scrub, refresh=False)
            play = gui.add_button_group("Preview", ("Play", "Stop"), hint="In this browser (P)")
            self._on(play, lambda event: self.toggle(event.client, event.target.value == "Play"), refresh=False)

    def _add_timing(self) -> None:
        gui: Any = self._viewer.server.gui
        with gui.add_folder("Picture and time"):
            self._size = gui.add_dropdown("Picture", tuple(SIZE_LABELS))
            self._on(self._size, lambda event: self._set_size(event.target.value))
            self._rate = gui.add_dropdown("Frames / s", RATES, initial_value="30")
            self._on(self._rate, lambda event: self._set_rate(event.target.value))
            self._duration = gui.add_number("Duration (s)", 0.0, min=0.0, max=3600.0, step=0.1)
            self._on(self._duration, lambda event: self.editor.set_duration(event.target.value))
            self._loop = gui.add_checkbox("Loop", False, hint="From the last keyframe back to the first")
            self._on(self._loop, lambda event: self.editor.change(loop=bool(event.target.value)))
            self._even = gui.add_checkbox("Constant speed", False, hint="Only the whole duration counts then")
            self._on(self._even, lambda event: self.editor.change(constant_speed=bool(event.target.value)))
            self._shape = gui.add_dropdown("Path", tuple(SHAPES))
            self._on(self._shape, lambda event: self._set_shape(event.target.value))
            shown = gui.add_checkbox("Show the path", True)
            self._on(shown, lambda event: setattr(self, "_show_path", bool(event.target.value)))

    def _add_files(self) -> None:
        gui: Any = self._viewer.server.gui
        with gui.add_folder("Save and open", expand_by_default=False):
            self._name_field = gui.add_text("Name", self._name)
            self._on(self._name_field, lambda event: setattr(self, "_name", str(event.target.value)), refresh=False)
            if self.films is None:
                gui.add_markdown("Only a training run has a place for camera paths.")
                return
            save = gui.add_button("Save", icon="device-floppy", hint="As paths/NAME.json, for recon render --path too")
            self._on(save, self._save)
            self._saved = gui.add_dropdown("Saved", ("–",))
            files = gui.add_button_group("Saved film", ("Open", "Delete"))
            self._on(files, lambda event: self._file(event))

    def _on(self, handle: Any, act: Callable[[Any], Any], refresh: bool = True) -> None:
        """Has a control do something, one at a time; what goes wrong is told to the browser that asked."""
        attach = handle.on_click if hasattr(handle, "on_click") else handle.on_update

        @attach
        def _(event: Any) -> None:
            # What the panel itself sets comes back without a browser.
            if event.client is None:
                return
            with self._lock:
                try:
                    act(event)
                except ReconError as error:
                    event.client.add_notification("That did not work", str(error), color="red")
                if refresh:
                    self._refresh()

    # What they do ---------------------------------------------------------------------------------------------

    def add_keyframe(self, client: Any) -> None:
        """Adds a keyframe at a browser's view."""
        with self._lock:
            self.editor.add(self._camera(client))
            self._refresh()

    def toggle(self, client: Any, play: bool | None = None) -> None:
        """Plays the film in a browser or stops it; None does what is not so now."""
        if play is None:
            play = not self.player.is_playing(client.client_id)
        if not play or len(self.editor) < 2:
            self.player.stop(client.client_id)
            return
        self.player.play(client, self.editor.film, self._at_s, self._tell_time, self._draw)
        self._draw()

    def _camera(self, client: Any) -> Camera:
        """Returns the camera of a browser."""
        try:
            return camera_of(client, self._viewer.stage)
        except AssertionError as error:
            raise ReconError("taking the present view", "the browser has not told it yet", "", "try again") from error

    def _begin_with(self, which: str) -> None:
        scene = self._viewer.scene
        if scene is None or not scene.frames:
            return
        film = self.editor.film
        cameras = [frame.camera for frame in sorted(scene.frames, key=lambda frame: frame.name)]
        if which == "Orbit":
            path = orbit_path(cameras, PathOptions(fps=30))
            through = film_through(path, len(path.cameras) // ORBIT_KEYFRAMES, loop=True)
        else:
            path = train_path(cameras, PathOptions(fps=30))
            count = min(MOST_RIDE_KEYFRAMES, max(2, len(cameras)))
            through = film_through(path, max(1, -(-len(path.cameras) // count)))
        lens = reshaped(path.cameras[0], film.width, film.height)
        fov_deg = float(np.degrees(2 * np.arctan(0.5 * lens.height / lens.fy)))
        frames = tuple(_with_fov(frame, fov_deg) for frame in through.keyframes)
        changes = {"loop": through.loop, "closing_s": None, "constant_speed": which == "Orbit"}
        self.editor.change(keyframes=frames, **changes)
        self.editor.select(0)

    def _step(self, which: str) -> None:
        if which == "Undo":
            self.editor.undo()
        elif which == "Redo":
            self.editor.redo()
        elif which == "Clear":
            self.editor.change(keyframes=())

    def _select(self, label: str) -> None:
        labels = self._labels()
        if label in labels:
            self.editor.select(labels.index(label))

    def _clicked(self, index: int) -> None:
        with self._lock:
            self.editor.select(index)
            self._refresh()

    def _moved(self, position: np.ndarray, rotation: np.ndarray) -> None:
        from recon.film.paths import pose_of

        with self._lock:
            if len(self.editor):
                self.editor.update(self.editor.camera(self.editor.selected).with_pose(pose_of(position, rotation)))
                self._refresh()

    def _at_view(self, event: Any) -> None:
        which = event.target.value
        if which == "Update":
            self.editor.update(self._camera(event.client))
        elif which == "Delete":
            self.editor.delete()
        elif len(self.editor):
            self.player.stop(event.client.client_id)
            film = self.editor.film
            time_s = film.keyframes[self.editor.selected].time_s
            with suppress(AssertionError):
                stand(event.client, self._viewer.stage, _still(film, self.editor.selected))
            self._at_s = time_s

    def _set_fov(self, event: Any) -> None:
        self.editor.set_fov(float(event.target.value))
        if len(self.editor):
            event.client.camera.fov = float(np.radians(self.editor.film.keyframes[self.editor.selected].fov_deg))

    def _set_easing(self, label: str) -> None:
        if label in EASING_LABELS:
            self.editor.set_easing(EASING_LABELS[label])

    def _set_size(self, label: str) -> None:
        if label in SIZE_LABELS:
            width, height = SIZE_LABELS[label]
            self.editor.change(width=width, height=height)

    def _set_rate(self, label: str) -> None:
        if label in RATES:
            self.editor.change(fps=float(label))

    def _set_shape(self, label: str) -> None:
        if label in SHAPES:
            self.editor.change(shape=SHAPES[label])

    def _scrub(self, event: Any) -> None:
        if len(self.editor) < 2 or not np.isfinite(event.target.value):
            return
        self.player.stop(event.client.client_id)
        film = self.editor.film
        self._at_s = float(np.clip(event.target.value, 0.0, film.duration_s))
        stand(event.client, self._viewer.stage, Motion(film).at([film.begin_s + self._at_s])[0])

    def _save(self, event: Any) -> None:
        if self.films is None:
            return
        if not len(self.editor):
            raise ReconError("saving the film", "it has no keyframes", "at least one")
        self._name = self.films.save(self._name, self.editor.film)
        event.client.add_notification("Saved", f"paths/{self._name}.json beside the run", auto_close_seconds=4)

    def _file(self, event: Any) -> None:
        if self.films is None or self._saved.value == "–":
            return
        name = str(self._saved.value)
        if event.target.value == "Delete":
            self.films.delete(name)
        else:
            self.editor.replace(self.films.load(name))
            self._name, self._at_s = name, 0.0

    # What is seen ---------------------------------------------------------------------------------------------

    def _labels(self) -> list[str]:
        return [f"{i + 1} · {frame.time_s:.1f} s" for i, frame in enumerate(self.editor.film.keyframes)]

    def _tell_time(self, at_s: float) -> None:
        """Moves the slider along with a preview, a few times a second."""
        if abs(at_s - self._at_s) > 0.25 or at_s == 0:
            self._at_s = at_s
            self._time.value = min(at_s, self._time.max)

    def _draw(self) -> None:
        editor = self.editor
        visible = self._show_path and self.player.playing == 0
        self._scene.show(editor.film, editor.selected, visible, self._with_gizmo)

    def _refresh(self) -> None:
        """Brings controls and drawing to what is so."""
        editor, film = self.editor, self.editor.film
        count, seconds = len(editor), film.duration_s
        with self._viewer.server.atomic():
            self._status.content = _summary(film) if count else NOTHING_YET
            self._keyframe.visible, self._preview.visible = count > 0, count > 1
            if count:
                self._set_options(self._selected, self._labels(), self._labels()[editor.selected])
                frame = film.keyframes[editor.selected]
                self._way.value = round(editor.ways_s()[editor.selected], 3)
                self._way.disabled = film.constant_speed or (editor.selected == count - 1 and not film.loop)
                self._fov.value = float(np.clip(frame.fov_deg, 10, 120))
                self._easing.value = next(k for k, v in EASING_LABELS.items() if v == frame.easing)
            self._duration.value, self._duration.disabled = round(seconds, 3), count < 2
            self._loop.value, self._even.value = film.loop, film.constant_speed
            self._shape.value = next(k for k, v in SHAPES.items() if v == film.shape)
            self._set_options(self._size, *_with_present(SIZE_LABELS, f"{film.width}×{film.height}", film))
            rate = f"{film.fps:g}"
            self._set_options(self._rate, RATES if rate in RATES else (*RATES, rate), rate)
            if count > 1:
                self._time.max = max(round(seconds, 2), 0.02)
                self._time.value = min(self._at_s, self._time.max)
            self._name_field.value = self._name
            if self.films is not None:
                names = self.films.names() or ["–"]
                chosen = self._name if self._name in names else self._saved.value
                self._set_options(self._saved, names, chosen if chosen in names else names[0])
        self._draw()

    @staticmethod
    def _set_options(dropdown: Any, options: Sequence[str], value: str) -> None:
        if tuple(dropdown.options) != tuple(options):
            dropdown.options = tuple(options)
        if dropdown.value != value:
            dropdown.value = value


def _summary(film: KeyframedFilm) -> str:
    """Returns what a film is in a few words."""
    count = len(film.keyframes)
    if count == 1:
        return "**1 keyframe**. Add another one from elsewhere."
    frames = round(film.duration_s * film.fps) + (0 if film.is_closed else 1)
    loop = " · loop" if film.is_closed else ""
    return f"**{count} keyframes · {film.duration_s:.1f} s** · {frames:,} frames of {film.width}×{film.height}{loop}"


def _with_present(labels: dict[str, tuple[int, int]], other: str, film: KeyframedFilm) -> tuple[list[str], str]:
    """Returns the sizes to choose from and the present one, which a file may have set to any."""
    present = next((label for label, size in labels.items() if size == (film.width, film.height)), None)
    return (list(labels), present) if present is not None else ([*labels, other], other)


def _with_fov(frame: Any, fov_deg: float) -> Any:
    from dataclasses import replace

    return replace(frame, fov_deg=fov_deg)


def _still(film: KeyframedFilm, index: int) -> Any:
    """Returns the view of a keyframe, wherever constant speed may have moved its time to."""
    from dataclasses import replace

    return Motion(replace(film, keyframes=(film.keyframes[index],))).at([0.0])[0]
