# SPDX-License-Identifier: Apache-2.0
"""Matching and verifying, choosing pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.progress import SILENT
from recon.sfm import pairs as pairs_module
from recon.sfm.contracts import Features
from recon.sfm.mapping import initial_cameras
from recon.sfm.matching import Matcher, MatchOptions, match_descriptors, match_pairs, verify
from recon.sfm.pairs import all_pairs, choose_pairs, looks_alike, preview, sequential_pairs
from tests.sfm.scenes import plain_lens, point_capture


def reference_matches(first: np.ndarray, second: np.ndarray, options: MatchOptions) -> np.ndarray:
    """The obvious way: all angles, mutual nearest neighbours, the ratio test both ways."""
    angles = np.arccos(np.clip(first.astype(np.float64) @ second.T.astype(np.float64) / 512**2, 0, 1))
    found = []
    for i in range(len(first)):
        j = int(angles[i].argmin())
        if int(angles[:, j].argmin()) != i or angles[i, j] > options.max_angle_rad:
            continue
        if angles[i, j] < options.max_ratio * min(np.delete(angles[i], j).min(), np.delete(angles[:, j], i).min()):
            found.append((i, j))
    return np.array(found, np.uint32).reshape(-1, 2)


@pytest.mark.parametrize(("one", "two"), [(0, 1), (2, 6), (7, 3)])
def test_matches_are_those_of_the_reference(one: int, two: int) -> None:
    capture = point_capture(plain_lens(), points=420)
    first, second = (capture.features[i].descriptors.astype(np.float32) for i in (one, two))
    found = match_descriptors(first, second, MatchOptions())
    assert len(found) > 30
    np.testing.assert_array_equal(found, reference_matches(first, second, MatchOptions()))


def test_swapping_the_photos_swaps_the_matches() -> None:
    capture = point_capture(plain_lens(), points=300)
    first, second = (capture.features[i].descriptors.astype(np.float32) for i in (1, 2))
    there = match_descriptors(first, second, MatchOptions())
    back = match_descriptors(second, first, MatchOptions())
    assert {tuple(m) for m in there} == {(b, a) for a, b in back}


def test_no_features_no_matches() -> None:
    some = np.full((4, 128), 45.0, np.float32)
    none = np.zeros((0, 128), np.float32)
    assert match_descriptors(none, some, MatchOptions()).shape == (0, 2)
    assert match_descriptors(some, none, MatchOptions()).shape == (0, 2)
    # Identical descriptors tell nothing apart.
    assert len(match_descriptors(some, some, MatchOptions())) == 0


def test_a_gate_keeps_matches_out() -> None:
    capture = point_capture(plain_lens(), points=300)
    first, second = (capture.features[i].descriptors.astype(np.float32) for i in (0, 1))
    free = match_descriptors(first, second, MatchOptions())
    banned = int(free[0, 1])

    def allowed(rows: slice) -> np.ndarray:
        gate = np.ones((len(first[rows]), len(second)), bool)
        gate[:, banned] = False
        return gate

    gated = match_descriptors(first, second, MatchOptions(), allowed)
    assert banned not in gated[:, 1]
    assert len(gated) >= len(free) - 1


def test_random_matches_are_not_verified_and_true_ones_are() -> None:
    capture = point_capture(plain_lens())
    camera = initial_cameras(capture.photos)[0]
    points = tuple(f.keypoints[:, :2].astype(np.float64) for f in capture.features[:2])
    generator = np.random.default_rng(1)
    random = np.stack([generator.permutation(200), generator.permutation(200)], 1).astype(np.uint32)
    assert verify((camera, camera), (points[0], points[1]), random, MatchOptions()) is None
    descriptors = [f.descriptors.astype(np.float32) for f in capture.features[:2]]
    true = match_descriptors(descriptors[0], descriptors[1], MatchOptions())
    geometry = verify((camera, camera), (points[0], points[1]), true, MatchOptions())
    assert geometry is not None
    assert len(geometry.inlier_matches) > 0.8 * len(true)


def test_guided_matching_finds_more() -> None:
    capture = point_capture(plain_lens(), points=900, twins=400)
    cameras = initial_cameras(capture.photos) * 2
    # The ratio test refuses whatever has a twin; along the epipolar line the twin seldom competes.
    plain = Matcher(capture.features, cameras, MatchOptions()).match((0, 1))
    guided = Matcher(capture.features, cameras, MatchOptions(guided=True)).match((0, 1))
    assert plain is not None
    assert guided is not None
    assert len(guided.matches) > 2 * len(plain.matches)


def test_matches_are_read_back_and_damaged_files_are_made_again(tmp_path: Path) -> None:
    capture = point_capture(plain_lens(), count=4, points=400)
    matcher = Matcher(capture.features, initial_cameras(capture.photos) * 4, MatchOptions())
    first, reused = match_pairs(matcher, all_pairs(4), "key", tmp_path, 2, SILENT)
    assert not reused
    again, reused = match_pairs(matcher, all_pairs(4), "key", tmp_path, 1, SILENT)
    assert reused
    (file,) = (tmp_path / "matches").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    redone, reused = match_pairs(matcher, all_pairs(4), "key", tmp_path, 1, SILENT)
    assert not reused
    for other in (again, redone):
        assert [(g.first, g.second, g.config) for g in other] == [(g.first, g.second, g.config) for g in first]
        for a, b in zip(other, first):
            np.testing.assert_array_equal(a.matches, b.matches)
            np.testing.assert_array_equal(a.matrices, b.matrices)


def test_pairs_of_few_photos_are_all() -> None:
    features = point_capture(plain_lens(), count=5, points=200).features
    assert choose_pairs(features, "auto", False, 1, SILENT) == (all_pairs(5), "exhaustive")


def two_places() -> list[Features]:
    """Two captures that have nothing in common, interleaved."""
    one = point_capture(plain_lens(), count=8, points=500).features
    other = [Features(f.keypoints, f.descriptors[:, ::-1].copy()) for f in one]
    return [item for both in zip(one, other) for item in both]


def test_what_looks_alike_belongs_together() -> None:
    found = looks_alike(two_places(), 4)
    same = [pair for pair in found if pair[0] % 2 == pair[1] % 2]
    assert len(same) > 0.9 * len(found)


def test_a_preview_keeps_the_pairs_that_match(monkeypatch: pytest.MonkeyPatch) -> None:
    features = two_places()
    chosen = preview(features, all_pairs(16), 5, 2, SILENT)
    assert all(a % 2 == b % 2 for a, b in chosen)
    assert {index for pair in chosen for index in pair} == set(range(16))
    monkeypatch.setattr(pairs_module, "EXHAUSTIVE_UP_TO", 5)
    monkeypatch.setattr(pairs_module, "PREVIEW_ALL_UP_TO", 10)
    large, how = choose_pairs(features, "auto", False, 2, SILENT)
    assert how == "retrieval"
    assert {index for pair in large for index in pair} == set(range(16))


def test_a_photo_that_matches_nothing_keeps_candidates() -> None:
    features = two_places()[::2]
    blank = Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    chosen = preview([*features, blank], all_pairs(9), 6, 1, SILENT)
    assert any(8 in pair for pair in chosen)


def test_a_video_is_matched_along_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "EXHAUSTIVE_UP_TO", 5)
    pairs = set(sequential_pairs(100))
    assert all((i, i + 1) in pairs for i in range(99))
    assert (0, 64) in pairs
    assert all(a < b < 100 for a, b in pairs)
    features = two_places()
    found, how = choose_pairs(features, "auto", True, 1, SILENT)
    assert how == "sequential and loops"
    assert {(i, i + 1) for i in range(15)} <= set(found)
