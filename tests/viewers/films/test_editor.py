# SPDX-License-Identifier: Apache-2.0
"""Editing a film, jobs that run one at a time and can be cancelled, and where their files go."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.cameras import Camera, look_at
from recon.errors import ReconError
from recon.film.motion import KeyframedFilm
from recon.scene import Similarity
from recon.viewers.content import Content
from recon.viewers.downloads import ExportsFolder
from recon.viewers.films.editor import MOST_KEYFRAMES, FilmEditor
from recon.viewers.films.panel import FilmPanel
from recon.viewers.jobs import Job, Jobs
from recon.viewers.viewer import Viewer


def camera(angle: float, fov_px: float = 300.0) -> Camera:
    eye = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.0])
    pose = look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))
    return Camera(320, 240, fov_px, fov_px, 160, 120, cam_from_world=pose)


def editor_of(count: int) -> FilmEditor:
    editor = FilmEditor()
    for index in range(count):
        editor.add(camera(index))
    return editor


def times(editor: FilmEditor) -> list[float]:
    return [frame.time_s for frame in editor.film.keyframes]


def eyes(editor: FilmEditor) -> list[int]:
    return [round(float(np.arctan2(f.position[1], f.position[0]))) for f in editor.film.keyframes]


def test_keyframes_are_added_behind_the_selected_one() -> None:
    editor = editor_of(3)
    assert times(editor) == [0, 2, 4]
    assert editor.selected == 2
    np.testing.assert_allclose(editor.camera(1).cam_from_world, camera(1).cam_from_world, atol=1e-9)
    editor.select(0)
    editor.add(camera(-1))
    assert eyes(editor) == [0, -1, 1, 2]
    assert times(editor) == [0, 1, 2, 4]
    assert editor.selected == 1


def test_keyframes_are_changed_moved_and_deleted() -> None:
    editor = editor_of(4)
    editor.select(1)
    editor.set_way(5)
    assert times(editor) == [0, 2, 7, 9]
    editor.set_easing("ease_in_out")
    editor.set_fov(33)
    editor.update(camera(-2))
    assert editor.keyframe is not None
    assert editor.keyframe.easing == "ease_in_out"
    assert eyes(editor) == [0, -2, 2, 3]
    editor.move(1)
    assert eyes(editor) == [0, 2, -2, 3]
    assert times(editor) == [0, 2, 7, 9]
    editor.delete()
    assert eyes(editor) == [0, 2, 3]
    assert times(editor) == [0, 2, 9]
    editor.set_duration(18)
    assert times(editor) == [0, 4, 18]
    editor.change(loop=True)
    assert editor.film.duration_s > 18
    editor.select(-1)
    editor.set_way(3)
    assert editor.film.duration_s == pytest.approx(21)
    for _ in range(5):
        editor.delete()
    assert len(editor) == 0
    editor.set_way(2)
    editor.set_fov(40)
    editor.set_duration(4)
    editor.move(1)
    editor.update(camera(0))
    assert editor.keyframe is None


def test_every_step_is_undone_and_done_again() -> None:
    editor = editor_of(1)
    rng = np.random.default_rng(0)
    films = [editor.film]
    for _ in range(120):
        acts: list[Any] = [
            lambda: editor.add(camera(float(rng.uniform(0, 6)))),
            editor.delete,
            lambda: editor.move(int(rng.choice([-1, 1]))),
            lambda: editor.set_way(float(rng.uniform(0.1, 5))),
            lambda: editor.change(loop=bool(rng.integers(2))),
            lambda: editor.set_duration(float(rng.uniform(1, 20))),
            lambda: editor.update(camera(float(rng.uniform(0, 6)))),
            lambda: editor.set_duration(float("nan")),
        ]
        editor.select(int(rng.integers(100)))
        acts[rng.integers(len(acts))]()
        if editor.film != films[-1]:
            films.append(editor.film)
        if len(editor) > 1:
            assert min(np.diff(times(editor))) > 0
    for film in films[-2::-1]:
        assert editor.undo()
        assert editor.film == film
    for film in films[1:]:
        assert editor.redo()
        assert editor.film == film
    assert not editor.redo()


def test_a_film_moves_along_with_its_world() -> None:
    editor = editor_of(3)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved = Similarity(2.0, turn, np.array([1.0, 2.0, 3.0]))
    expected = moved.apply_to_pose(camera(1).cam_from_world)
    editor.move_world(moved)
    np.testing.assert_allclose(editor.camera(1).cam_from_world, expected, atol=1e-9)
    editor.undo()
    np.testing.assert_allclose(editor.camera(1).cam_from_world, expected, atol=1e-9)


def test_keyframes_have_a_limit() -> None:
    editor = FilmEditor()
    for index in range(MOST_KEYFRAMES + 3):
        editor.add(camera(index))
    assert len(editor) == MOST_KEYFRAMES


# Jobs -----------------------------------------------------------------------------------------------------------


def finished(job: Job) -> Job:
    deadline = time.monotonic() + 20
    while job.state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return job


def test_one_job_at_a_time_with_progress_and_an_end() -> None:
    jobs, go, told = Jobs(), threading.Event(), []

    def work(job: Job) -> int:
        with job.stage("half", 2) as stage:
            stage.advance()
            go.wait(10)
            stage.advance()
        return 7

    job = jobs.start("a", work, lambda job: told.append((job.state, job.share)))
    with pytest.raises(ReconError, match="still under way"):
        jobs.start("b", work, lambda job: None)
    go.set()
    assert finished(job).state == "done"
    assert job.result == 7
    deadline = time.monotonic() + 10
    while told[-1] != ("done", 1.0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (
        finished(jobs.start("c", lambda job: 1 / 0, lambda job: None)).problem == "ZeroDivisionError: division by zero"
    )
    jobs.close()
    with pytest.raises(ReconError):
        jobs.start("d", work, lambda job: None)


def test_a_cancelled_job_stops_at_its_next_sign_of_life() -> None:
    jobs, started = Jobs(), threading.Event()

    def work(job: Job) -> None:
        with job.stage("endless", 10**9) as stage:
            while True:
                stage.advance()
                started.set()
                time.sleep(0.001)

    job = jobs.start("a", work, lambda job: None)
    assert started.wait(10)
    job.cancel()
    assert finished(job).state == "cancelled"
    job = jobs.start("b", work, lambda job: None)
    jobs.close()
    assert job.state == "cancelled"


def test_a_job_leaves_time_to_what_goes_on_beside_it() -> None:
    jobs = Jobs(lambda: 0.25)

    def work(job: Job) -> float:
        rested = time.monotonic()
        with job.stage("steps", 3) as stage:
            for _ in range(3):
                time.sleep(0.05)
                stage.advance()
        return time.monotonic() - rested

    assert finished(jobs.start("a", work, lambda job: None)).result > 4 * 0.15 - 0.02


def test_exports_stay_in_their_folder(tmp_path: Path) -> None:
    kept = ExportsFolder(tmp_path / "run")
    assert kept.path("../../film", ".mp4") == tmp_path / "run" / "exports" / "film.mp4"
    passing = ExportsFolder(None)
    place = passing.path("film", ".mp4")
    place.write_bytes(b"x")
    assert not passing.is_kept
    passing.close()
    assert not place.parent.exists()


def test_the_film_panel_stands_in_every_viewer(world: Any, tmp_path: Path) -> None:
    for content in (
        Content("splats", splats=world.splats),
        Content("scene", scene=world.scene),
        Content("run", splats=world.splats, scene=world.scene, run_path=tmp_path),
    ):
        with Viewer(content, port=0) as viewer:
            panel = next(panel for panel in viewer._panels if isinstance(panel, FilmPanel))
            assert panel.editor.film == KeyframedFilm(())
            assert (panel.films is not None) == (content.run_path is not None)
            with pytest.raises(ReconError):
                panel.render.start()
            if content.scene is not None:
                panel._begin_with("Orbit")
                assert len(panel.editor) >= 10
                assert panel.editor.film.loop
                panel._begin_with("Photo ride")
                assert len(panel.editor) >= 5
                panel._refresh()
    assert not list(tmp_path.iterdir())


def test_exports_and_films_are_made_of_what_is_edited(world: Any, tmp_path: Path) -> None:
    from recon.edits import Delete, Select, Sphere, Transform
    from recon.formats.splat_files import read_splats
    from recon.viewers.editing.edited import edited_renderer, edited_splats
    from recon.viewers.editing.panel import EditPanel
    from recon.viewers.exports.work import camera_work, mesh_note, splat_note, splat_work

    content = Content("run", world.splats, world.scene, run_path=tmp_path, edits_path=tmp_path / "edits.json")
    with Viewer(content, port=0, picture="nothing") as viewer:
        session = next(panel.session for panel in viewer.panels if isinstance(panel, EditPanel))
        assert session is not None
        film = next(panel for panel in viewer.panels if isinstance(panel, FilmPanel))
        film.editor.add(camera(0.5))
        assert edited_splats(viewer) is not None
        session.editor.do(Delete(Sphere((0.0, 0.0, 0.5), 0.7)))
        # What is selected is lit up in the browsers, but nowhere else.
        session.editor.do(Select(Sphere((1.1, 0.3, 0.4), 0.6)))
        left = edited_splats(viewer)
        assert left is not None
        assert 1000 < len(left) < 1600
        assert "about" in splat_note(left, ".ply")
        renderer = edited_renderer(viewer)
        assert len(renderer.splats) == len(left)  # type: ignore[union-attr]
        job = finished(viewer.jobs.start("a", lambda job: splat_work(viewer, ".ply")(job, tmp_path / "a.ply"), print))
        assert job.state == "done", job.problem
        assert len(read_splats(tmp_path / "a.ply")) == len(left)
        session.editor.do(Transform.of(Similarity(2.0, np.eye(3), np.array([1.0, 0.0, 0.0]))))
        deadline = time.monotonic() + 20
        while viewer.world.scale != 2.0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        deadline = time.monotonic() + 20
        expected = 2.0 * camera(0.5).center_in_world + [1.0, 0.0, 0.0]
        while not np.allclose(film.editor.camera(0).center_in_world, expected):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        work = camera_work(viewer, ".json")
        assert finished(viewer.jobs.start("b", lambda job: work(job, tmp_path / "c.json"), print)).state == "done"
        first = np.array(json.loads((tmp_path / "c.json").read_text())["frames"][0]["transform_matrix"])[:3, 3]
        np.testing.assert_allclose(first, 2.0 * world.cameras[0].center_in_world + [1.0, 0.0, 0.0], atol=1e-6)
        assert "anew" not in mesh_note(viewer, True)


def test_what_a_browser_sends_cannot_break_the_film() -> None:
    editor = editor_of(2)
    before = editor.film
    for value in (float("nan"), float("inf"), -float("inf")):
        editor.set_fov(value)
        editor.set_duration(value)
    assert editor.film == before
    editor.set_way(float("nan"))
    editor.set_way(-5.0)
    editor.set_way(1e300)
    assert 0 < editor.film.duration_s < 1e5
