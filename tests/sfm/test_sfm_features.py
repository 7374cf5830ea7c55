# SPDX-License-Identifier: Apache-2.0
"""Features: their places, masks, scales and files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.errors import ReconError
from recon.progress import SILENT
from recon.sfm.features import FeatureOptions, detect, extract_features, root_sift
from tests.sfm.scenes import texture, wall_input, write_walls


def blob_picture(path: Path, scale: int = 1) -> np.ndarray:
    """A picture of smooth blobs at known places, [N, 2] in pixels with centres at halves."""
    places = np.array([(50.0, 40.0), (150.5, 60.25), (90.0, 160.75), (200.0, 180.0)]) * scale
    y, x = np.mgrid[: 240 * scale, : 260 * scale] + 0.5
    grey = np.full(x.shape, 60.0)
    for px, py in places:
        grey += 150 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (5.0 * scale) ** 2))
    cv2.imwrite(str(path), grey.astype(np.uint8))
    return places


@pytest.mark.parametrize(
    "options",
    [FeatureOptions(), FeatureOptions(max_side=130), FeatureOptions(min_side=500), FeatureOptions(affine=True)],
)
def test_blobs_are_found_where_they_are(tmp_path: Path, options: FeatureOptions) -> None:
    places = blob_picture(tmp_path / "blobs.png")
    found = detect(tmp_path / "blobs.png", None, options)
    for place in places:
        assert np.linalg.norm(found.keypoints[:, :2] - place, axis=1).min() < 0.25


def test_masks_take_features_away_and_are_counted(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), texture(3))
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 128:] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    everything = detect(tmp_path / "a.png", None, FeatureOptions())
    half = detect(tmp_path / "a.png", tmp_path / "m.png", FeatureOptions())
    assert (half.keypoints[:, 0] >= 256).all()
    assert len(half) + half.masked == len(everything)
    assert min(len(half), half.masked) > 50


def test_the_strongest_are_kept_largest_first(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), texture(3))
    few = detect(tmp_path / "a.png", None, FeatureOptions(max_features=40))
    assert len(few) == 40
    assert (np.diff(few.keypoints[:, 2]) <= 0).all()


def test_descriptors_have_the_norm_of_512() -> None:
    histograms = np.random.default_rng(0).gamma(0.5, 30, (50, 128)).astype(np.float32)
    norms = np.linalg.norm(root_sift(histograms).astype(float), axis=1)
    np.testing.assert_allclose(norms, 512, rtol=0.02)
    assert (root_sift(np.zeros((1, 128), np.float32)) == 0).all()


@pytest.mark.parametrize("picture", [np.full((200, 200), 77, np.uint8), np.zeros((9, 9), np.uint8)])
def test_a_picture_of_nothing_has_no_features(tmp_path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    found = detect(tmp_path / "a.png", None, FeatureOptions())
    assert (len(found), found.keypoints.shape, found.descriptors.shape) == (0, (0, 4), (0, 128))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(ReconError, match=r"a\.jpg"):
        detect(tmp_path / "a.jpg", None, FeatureOptions())
    cv2.imwrite(str(tmp_path / "b.png"), texture(1, 128))
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((128, 300), np.uint8))
    with pytest.raises(ReconError, match="300×128"):
        detect(tmp_path / "b.png", tmp_path / "m.png", FeatureOptions())
    (tmp_path / "n.png").write_bytes(b"\x89PNG")
    with pytest.raises(ReconError, match="mask"):
        detect(tmp_path / "b.png", tmp_path / "n.png", FeatureOptions())


def test_features_are_read_back_and_follow_the_photo(tmp_path: Path) -> None:
    truth = write_walls(tmp_path / "images", 3)
    photos = wall_input(tmp_path / "images", sorted(truth))
    first, key, reused = extract_features(photos, FeatureOptions(), tmp_path, 2, SILENT)
    assert not reused
    again, same_key, reused = extract_features(photos, FeatureOptions(), tmp_path, 1, SILENT)
    assert reused
    assert same_key == key
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
        np.testing.assert_array_equal(a.descriptors, b.descriptors)
    damaged = sorted((tmp_path / "features").iterdir())[0]
    damaged.write_bytes(b"half a file")
    cv2.imwrite(str(tmp_path / "images" / "01.png"), texture(9)[:300, :400])
    changed, new_key, reused = extract_features(photos, FeatureOptions(), tmp_path, 1, SILENT)
    assert not reused
    assert new_key != key
    np.testing.assert_array_equal(changed[0].keypoints, first[0].keypoints)
    assert len(changed[1]) != len(first[1])
