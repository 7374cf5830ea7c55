# SPDX-License-Identifier: Apache-2.0
"""The capture report: complete, self-contained, and safe with hostile names; and its advice in words."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recon.cameras import Camera, look_at
from recon.capture.advice import advice, look_target, thinnest_bridge
from recon.capture.photos import find_photos, prepare_photos
from recon.capture.prepared import SkippedFile
from recon.capture.report import page
from recon.capture.report_figures import (
    histogram_edges,
    histogram_figure,
    map_figure,
    matrix_figure,
    printable,
    thumbnail,
)
from recon.process import Outcome, ProcessReport, UnposedPhoto
from recon.scene import Frame, Scene, SparsePoints
from recon.sfm.contracts import SfmResult, Verdict
from tests.capture.fakes import fake_result, write_photos

HOSTILE = ["<script>alert(1)<", "\"'><img src=x onerror=1>.jpg", "&amp;.jpg", "‮gpj.exe.jpg", "a\nb.jpg", "ok.jpg"]


def outcome_of(tmp_path: Path, count: int, posed: int | None = None) -> tuple[ProcessReport, Outcome]:
    folder = write_photos(tmp_path / "in", count)
    prepared = prepare_photos(find_photos(folder), tmp_path / "work")
    photos = prepared.sfm_input(tmp_path / "work")
    result = fake_result(photos, tmp_path / "sfm", posed)
    outcome = Outcome(result.to_scene(photos), prepared, tmp_path / "work", "photos", result)
    bad = [photo for photo in result.photos if photo.verdict is not Verdict.POSED]
    report = ProcessReport(
        scene=tmp_path / "scene",
        source="photos",
        photos=count,
        posed=len(result.names),
        points=len(result.points),
        mean_error_px=result.mean_error_px,
        mean_track_length=result.mean_track_length,
        skipped=(),
        unposed=tuple(UnposedPhoto(photo.name, photo.verdict.value, photo.detail) for photo in bad),
        attention=("Look here.",) if bad else (),
        notes=("noted",),
        html=tmp_path / "scene" / "report" / "index.html",
        seconds=12.0,
    )
    return report, outcome


def renamed(report: ProcessReport, outcome: Outcome, names: list[str]) -> tuple[ProcessReport, Outcome]:
    """The same report with other, possibly hostile, names."""
    assert outcome.sfm is not None
    new = dict(zip([photo.name for photo in outcome.sfm.photos], names, strict=True))
    result = replace(
        outcome.sfm,
        names=tuple(new[name] for name in outcome.sfm.names),
        photos=tuple(replace(photo, name=new[photo.name]) for photo in outcome.sfm.photos),
        notes=tuple(names),
    )
    frames = tuple(replace(frame, name=new[frame.name]) for frame in outcome.scene.frames)
    unposed = tuple(replace(photo, name=new[photo.name], detail=names[0]) for photo in report.unposed)
    skipped = (SkippedFile(names[0], names[1]), SkippedFile("\udcff.jpg", "odd"))
    report = replace(
        report,
        scene=report.scene.with_name("<b>scene"),
        unposed=unposed,
        skipped=skipped,
        notes=tuple(names),
        attention=tuple(names),
    )
    return report, replace(outcome, sfm=result, scene=replace(outcome.scene, frames=frames))


class Checker(HTMLParser):
    """Collects tags and whatever would be loaded or run; notes tags that are closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.crossed: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in ("meta", "img", "link", "br", "hr", "input"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.sources.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data) -> None:
        self.text.append(data)


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.crossed
    assert not checker.open
    return checker


def test_the_page_is_whole_and_self_contained(tmp_path: Path) -> None:
    html = page(*outcome_of(tmp_path, 8, posed=6))
    checker = checked(html)
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert not re.search(r"url\(|@import|https?:", re.sub(r"base64,[^\"]*", "", html))
    text = " ".join(checker.text)
    for expected in ("6 of 8", "240", "0.50 px", "no verified pairs", "photo07.jpg", "quick", "Look here.", "noted"):
        assert expected in text, expected
    # Failed photos come first in the table.
    table = html[html.index("Every photo") :]
    assert table.index("photo06.jpg") < table.index("photo00.jpg")
    assert checker.tags["svg"] == 6
    assert len([source for source in checker.sources if source.startswith("data:image/jpeg")]) == 8


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    report, outcome = renamed(*outcome_of(tmp_path, 6, posed=5), HOSTILE)
    html = page(report, outcome)
    html.encode("utf-8")
    checker = checked(html)
    assert "script" not in checker.tags
    assert not checker.handlers
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert "<script>alert(1)<" in " ".join(checker.text)
    assert "\u202e" not in html, "a name may not turn the reading direction of what follows"


def test_imported_poses_and_no_points(tmp_path: Path) -> None:
    report, outcome = outcome_of(tmp_path, 3)
    scene = replace(outcome.scene, points=SparsePoints.empty())
    report = replace(report, mean_error_px=None, mean_track_length=None, points=0, source="transforms.json")
    text = " ".join(checked(page(report, replace(outcome, sfm=None, scene=scene))).text)
    assert "imported" in text
    assert "64 × 48" in text


def test_extreme_scenes_can_be_drawn() -> None:
    camera = Camera(10, 10, 9, 9, 5, 5)
    one = Scene((Frame("a", Path("a"), camera),))
    odd = SparsePoints(
        np.array([[1e30, 0, 0], [-1e9, 1e9, 3.0], [0, 0, 0]]),
        np.zeros((3, 3), np.uint8),
        np.zeros(3, np.float32),
        np.zeros(3, np.int32),
    )
    for scene in (one, replace(one, points=odd), replace(one, frames=one.frames * 3, points=odd)):
        for side in (False, True):
            checked(map_figure(scene, side))
            assert "nan" not in re.sub(r"base64,[^\"]*", "", map_figure(scene, side)).lower()


def test_figures_show_their_numbers() -> None:
    values = np.array([0.1, 0.1, 0.5, 7.0])
    html = histogram_figure(values, np.array([0.0, 0.25, 0.5, 1.0]), "px")
    assert "0 to 0.25 px: 2" in html
    assert "0.5 to 1 or more px: 2" in html
    assert histogram_edges(np.zeros(0))[-1] > 0
    assert histogram_edges(np.full(9, 0.73))[-1] == pytest.approx(0.8)
    assert "pairs of 900 photos" in matrix_figure(np.ones((900, 900), np.int64))
    assert thumbnail(Path("nowhere.jpg")) == ""
    assert printable("a\u200bb\ud800") == "a?b?"


def ring(degrees: float, count: int = 20) -> Scene:
    frames = []
    for index, angle in enumerate(np.linspace(0, np.radians(degrees), count)):
        eye = np.array([5 + 3 * np.cos(angle), 3 * np.sin(angle), 1.0])
        pose = look_at(eye, np.array([5.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]))
        frames.append(Frame(f"{index:02d}.jpg", Path("x"), Camera(10, 10, 9, 9, 5, 5, cam_from_world=pose)))
    return Scene(tuple(frames))


def test_advice_names_the_side_that_is_missing() -> None:
    scene = ring(270)
    assert look_target(scene) == pytest.approx([5, 0, 0], abs=1e-6)
    (sentence,) = advice(scene, None)
    assert "90° are unseen, beginning at 19.jpg" in sentence
    assert advice(ring(345), None) == []
    assert advice(ring(60), None) == [], "nobody can walk around a wall"


def result_with(tmp_path: Path, pairs: list[tuple[int, int, int]], **changes) -> tuple[Scene, SfmResult]:
    _, outcome = outcome_of(tmp_path, 20)
    assert outcome.sfm is not None
    result = replace(outcome.sfm, pairs=np.array(pairs, np.int64))
    photos = [replace(photo, **changes.get(f"p{index}", {})) for index, photo in enumerate(result.photos)]
    posed = tuple(photo.name for photo in photos if photo.verdict is Verdict.POSED)
    return outcome.scene, replace(result, photos=tuple(photos), names=posed)


def test_advice_names_the_thin_place(tmp_path: Path) -> None:
    chain = [(i, i + 1, 200) for i in range(19)]
    scene, result = result_with(tmp_path, chain)
    assert thinnest_bridge(result) is None
    chain[11] = (11, 12, 25)
    scene, result = result_with(tmp_path, chain)
    assert thinnest_bridge(result) == (25, "photo11.jpg", "photo12.jpg")
    assert any("only 25 matches between photo11.jpg and photo12.jpg" in sentence for sentence in advice(scene, result))
    # A way around makes it no bridge.
    assert thinnest_bridge(result_with(tmp_path, [*chain, (3, 15, 90)])[1]) is None


def test_advice_groups_neighbours_and_weak_photos(tmp_path: Path) -> None:
    failed = {"verdict": Verdict.NO_VERIFIED_PAIRS, "detail": "nothing in common; take more photos"}
    scene, result = result_with(
        tmp_path,
        [(i, i + 1, 200) for i in range(19)],
        p4=failed,
        p5=failed,
        p9={"verdict": Verdict.NO_FEATURES, "detail": "it is blurred"},
        p12={"features": 20},
        p14={"coverage": 0.1},
    )
    sentences = advice(scene, result)
    assert sentences[0].startswith("photo04.jpg to photo05.jpg (2 photos): no verified pairs")
    assert "between photo03.jpg and photo06.jpg" in sentences[0]
    assert sentences[1].startswith("photo09.jpg: no features – it is blurred")
    assert any(sentence.startswith("photo12.jpg: few details") for sentence in sentences)
    assert any(sentence.startswith("photo14.jpg: points cover") for sentence in sentences)
