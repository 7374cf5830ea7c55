# SPDX-License-Identifier: Apache-2.0
"""Matching features between photos and verifying the matches by two-view geometry.

Descriptors are integers below 256 with norms near 512, so their inner products are integers below 2²⁴ and float32
matrix products give them exactly, in whatever order the library sums.  Matches therefore never depend on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.files import fingerprint, read_arrays, write_arrays
from recon.progress import Progress, Stage
from recon.sfm.blas import single_threaded_blas
from recon.sfm.contracts import Features, PairGeometry

FloatArray = npt.NDArray[np.float64]
Pair = tuple[int, int]

LEAST_INLIER_SHARE = 0.12
_ROWS = 256
_SQUARED_NORM = 512.0**2
_PAIRS_PER_FILE = 256


@dataclass(frozen=True)
class MatchOptions:
    """How features are matched and matches verified.

    Attributes:
        max_ratio: largest ratio of the angles to the best and second best descriptor (Lowe's test).
        max_angle_rad: largest angle to the best descriptor.
        guided: match once more along the epipolar lines of what was verified.
        min_inliers: fewest inliers of a verified pair.
        max_error_px: largest epipolar error of an inlier.
        seed: of the random samples.
    """

    max_ratio: float = 0.8
    max_angle_rad: float = 0.7
    guided: bool = False
    min_inliers: int = 15
    max_error_px: float = 4.0
    seed: int = 0


def match_descriptors(
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
    options: MatchOptions,
    allowed: Any = None,
) -> npt.NDArray[np.uint32]:
    """Returns mutual nearest neighbours [M, 2] that pass the ratio test.

    Args:
        first, second: descriptors [N, 128] and [M, 128] as float32.
        options: the thresholds.
        allowed: a function from a slice of rows of `first` to a boolean [rows, M] of pairs that may match; None
            allows all.
    """
    if len(first) == 0 or len(second) == 0:
        return np.zeros((0, 2), np.uint32)
    count = len(first)
    best = np.empty(count, np.int64)
    best_value, next_value = np.empty(count, np.float32), np.empty(count, np.float32)
    column_best = np.full(len(second), -1.0, np.float32)
    transposed = np.ascontiguousarray(second.T)
    for start in range(0, count, _ROWS):
        rows = slice(start, min(start + _ROWS, count))
        products = first[rows] @ transposed
        if allowed is not None:
            products *= allowed(rows)
        index = np.arange(len(products))
        nearest = products.argmax(1)
        best[rows], best_value[rows] = nearest, products[index, nearest]
        np.maximum(column_best, products.max(0), out=column_best)
        products[index, nearest] = -1.0
        next_value[rows] = products.max(1)
    good = _distinct(best_value, next_value, options) & (column_best[best] <= best_value) & (best_value > 0)
    rows_left = np.nonzero(good)[0]
    if len(rows_left) == 0:
        return np.zeros((0, 2), np.uint32)
    # The ratio must hold the other way round too; few columns are left, so their products are made once more.
    back = second[best[rows_left]] @ np.ascontiguousarray(first.T)
    if allowed is not None:
        for start in range(0, count, _ROWS):
            rows = slice(start, min(start + _ROWS, count))
            back[:, rows] *= allowed(rows)[:, best[rows_left]].T
    back[np.arange(len(rows_left)), rows_left] = -1.0
    kept = rows_left[_distinct(best_value[rows_left], back.max(1), options)]
    return np.stack([kept, best[kept]], 1).astype(np.uint32)


def _distinct(
    best: npt.NDArray[np.float32], second_best: npt.NDArray[np.float32], options: MatchOptions
) -> npt.NDArray[np.bool_]:
    """Whether the best inner product is near enough, and clearly nearer than the second best."""
    angle = np.arccos(np.clip(best / _SQUARED_NORM, 0.0, 1.0))
    next_angle = np.arccos(np.clip(second_best / _SQUARED_NORM, 0.0, 1.0))
    return (angle <= options.max_angle_rad) & (angle < options.max_ratio * next_angle)


def verify(
    cameras: tuple[Any, Any],
    points: tuple[FloatArray, FloatArray],
    matches: npt.NDArray[np.uint32],
    options: MatchOptions,
) -> Any | None:
    """Returns pycolmap's two-view geometry of the matches, or None where too few of them agree.

    Args:
        cameras: the two `pycolmap.Camera`.
        points: pixel positions of the features of either photo, [N, 2] and [M, 2].
        matches: [K, 2] feature indices.
        options: the thresholds.
    """
    import pycolmap

    if len(matches) < options.min_inliers:
        return None
    settings = pycolmap.TwoViewGeometryOptions()
    settings.min_num_inliers = options.min_inliers
    settings.ransac.max_error = options.max_error_px
    settings.ransac.random_seed = options.seed
    geometry = pycolmap.estimate_two_view_geometry(cameras[0], points[0], cameras[1], points[1], matches, settings)
    kind = pycolmap.TwoViewGeometryConfiguration
    useless = (int(kind.UNDEFINED), int(kind.DEGENERATE), int(kind.WATERMARK))
    # Among very many wrong matches some always lie near the lines of some geometry.
    least = max(options.min_inliers, LEAST_INLIER_SHARE * len(matches))
    if int(geometry.config) in useless or len(geometry.inlier_matches) < least:
        return None
    return geometry


class Matcher:
    """Matches and verifies pairs of photos; holds the descriptors as float32 once."""

    def __init__(self, features: Sequence[Features], cameras: Sequence[Any], options: MatchOptions) -> None:
        """`cameras` holds a `pycolmap.Camera` for each photo."""
        self._features = features
        self._cameras = cameras
        self._options = options
        self._points = [item.keypoints[:, :2].astype(np.float64) for item in features]

    def match(self, pair: Pair) -> PairGeometry | None:
        """Returns the verified geometry of one pair, or None."""
        first, second = pair
        descriptors = [self._features[index].descriptors.astype(np.float32) for index in pair]
        matches = match_descriptors(descriptors[0], descriptors[1], self._options)
        cameras = (self._cameras[first], self._cameras[second])
        points = (self._points[first], self._points[second])
        geometry = verify(cameras, points, matches, self._options)
        if geometry is None:
            return None
        if self._options.guided:
            guided = match_descriptors(
                descriptors[0], descriptors[1], self._options, self._epipolar_gate(cameras, points, geometry)
            )
            again = verify(cameras, points, guided, self._options)
            if again is not None and len(again.inlier_matches) > len(geometry.inlier_matches):
                geometry = again
        matrices = np.full((3, 3, 3), np.nan)
        for index, matrix in enumerate((geometry.E, geometry.F, geometry.H)):
            if matrix is not None:
                matrices[index] = matrix
        return PairGeometry(
            first, second, int(geometry.config), np.asarray(geometry.inlier_matches, np.uint32), matrices
        )

    def _epipolar_gate(self, cameras: tuple[Any, Any], points: tuple[FloatArray, FloatArray], geometry: Any) -> Any:
        """Returns the function that allows the pairs near each other's epipolar line, or homography for planes."""
        limit = 2.0 * self._options.max_error_px
        first, second = (np.concatenate([p, np.ones((len(p), 1))], 1) for p in points)
        fundamental = geometry.F
        if fundamental is None and geometry.E is not None:
            inverse = [np.linalg.inv(camera.calibration_matrix()) for camera in cameras]
            fundamental = inverse[1].T @ geometry.E @ inverse[0]
        if fundamental is None:
            moved = first @ np.asarray(geometry.H).T
            moved = moved[:, :2] / moved[:, 2:]

            def near_point(rows: slice) -> npt.NDArray[np.bool_]:
                offset = moved[rows, None, :] - points[1][None]
                return (offset**2).sum(-1) <= (2 * limit) ** 2

            return near_point
        lines_two = first @ np.asarray(fundamental).T
        lines_two /= np.maximum(np.linalg.norm(lines_two[:, :2], axis=1, keepdims=True), 1e-12)
        transposed = np.ascontiguousarray(second.T.astype(np.float32))

        def near_line(rows: slice) -> npt.NDArray[np.bool_]:
            return np.abs(lines_two[rows].astype(np.float32) @ transposed) <= limit

        return near_line


def match_pairs(
    matcher: Matcher, pairs: Sequence[Pair], key: str, work_dir: Path, threads: int, progress: Progress
) -> tuple[list[PairGeometry], bool]:
    """Matches and verifies `pairs`, a few hundred to a file, reading the files that an earlier call finished.

    Args:
        matcher: does the work.
        pairs: photo indices (first < second).
        key: changes with whatever affects the matches, except for the list of pairs.
        work_dir: the files go to its folder `matches`.
        threads: how many pairs are matched at a time.
        progress: told of each pair.

    Returns:
        The verified pairs, and whether all were read.
    """
    geometries: list[PairGeometry] = []
    reused = True
    with (
        single_threaded_blas(),
        progress.stage("matching", len(pairs), "pairs") as stage,
        ThreadPoolExecutor(threads) as pool,
    ):
        for start in range(0, len(pairs), _PAIRS_PER_FILE):
            block = list(pairs[start : start + _PAIRS_PER_FILE])
            path = work_dir / "matches" / f"{fingerprint('matches 1', key, block)}.safetensors"
            found = _load(path)
            if found is None:
                reused = False
                found = _match_block(matcher, block, pool, stage)
                write_arrays(path, _pack(found))
            else:
                stage.advance(len(block))
            geometries += found
    return geometries, reused


def _match_block(matcher: Matcher, block: Sequence[Pair], pool: ThreadPoolExecutor, stage: Stage) -> list[PairGeometry]:
    futures = [pool.submit(matcher.match, pair) for pair in block]
    found = []
    try:
        for future in futures:
            geometry = future.result()
            stage.advance(1)
            if geometry is not None:
                found.append(geometry)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return found


def _pack(geometries: Sequence[PairGeometry]) -> dict[str, np.ndarray]:
    return {
        "pairs": np.array([(g.first, g.second, g.config, len(g.matches)) for g in geometries], np.int64).reshape(-1, 4),
        "matches": np.concatenate([g.matches for g in geometries] or [np.zeros((0, 2), np.uint32)]),
        "matrices": np.array([g.matrices for g in geometries]).reshape(-1, 3, 3, 3),
    }


def _load(path: Path) -> list[PairGeometry] | None:
    if not path.is_file():
        return None
    try:
        arrays = read_arrays(path)
        pairs, matches, matrices = arrays["pairs"], arrays["matches"], arrays["matrices"]
    except (ReconError, KeyError):
        # A damaged file of ours is made again rather than reported.
        return None
    bounds = np.concatenate([[0], np.cumsum(pairs[:, 3])])
    if bounds[-1] != len(matches) or len(matrices) != len(pairs):
        return None
    return [
        PairGeometry(int(a), int(b), int(config), matches[bounds[i] : bounds[i + 1]], matrices[i])
        for i, (a, b, config, _) in enumerate(pairs)
    ]
