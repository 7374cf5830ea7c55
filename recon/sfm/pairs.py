# SPDX-License-Identifier: Apache-2.0
"""Choosing which photos to compare.

A few photos are compared all with all, but first on a few hundred large-scale features each, which costs a hundredth
and tells which pairs are worth the whole (preemptive matching; Wu, "Towards linear-time incremental structure from
motion", 3DV 2013).  Large sets are narrowed down before by a global descriptor trained on the scene's own features
(VLAD; Jégou et al., "Aggregating local descriptors into a compact image representation", CVPR 2010).  A video is
compared with its neighbours in time at doubling distances, and with what looks alike elsewhere to close loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from recon.progress import Progress
from recon.sfm.blas import single_threaded_blas
from recon.sfm.contracts import Features, PairStrategy
from recon.sfm.matching import MatchOptions, Pair, match_descriptors

PREVIEW_FEATURES = 768
PREVIEW_MIN_MATCHES = 6
NEIGHBOURS = 20
EXHAUSTIVE_UP_TO = 32
PREVIEW_ALL_UP_TO = 160
SEQUENTIAL_WINDOW = 6
LOOP_NEIGHBOURS = 6
VLAD_WORDS = 48


def choose_pairs(
    features: Sequence[Features], strategy: PairStrategy, video: bool, threads: int, progress: Progress
) -> tuple[list[Pair], str]:
    """Returns the pairs to match (first < second, sorted) and the name of the way they were chosen."""
    count = len(features)
    if strategy == "auto":
        strategy = "exhaustive" if count <= EXHAUSTIVE_UP_TO else "sequential" if video else "retrieval"
    if strategy == "exhaustive":
        return all_pairs(count), "exhaustive"
    if strategy == "sequential":
        pairs = set(sequential_pairs(count))
        near = looks_alike(features, LOOP_NEIGHBOURS, min_gap=2 * SEQUENTIAL_WINDOW)
        return sorted(pairs | set(preview(features, near, LOOP_NEIGHBOURS, threads, progress))), "sequential and loops"
    if count <= PREVIEW_ALL_UP_TO:
        return preview(features, all_pairs(count), NEIGHBOURS, threads, progress), "preview of all pairs"
    candidates = looks_alike(features, 2 * NEIGHBOURS)
    return preview(features, candidates, NEIGHBOURS, threads, progress), "retrieval"


def all_pairs(count: int) -> list[Pair]:
    """Returns every pair of `count` photos."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def sequential_pairs(count: int) -> list[Pair]:
    """Returns each photo with its next few and with those at doubling distances."""
    steps = sorted({*range(1, SEQUENTIAL_WINDOW + 1), *(2**k for k in range(2, 7))})
    return sorted((i, i + step) for i in range(count) for step in steps if i + step < count)


def preview(
    features: Sequence[Features], candidates: Sequence[Pair], neighbours: int, threads: int, progress: Progress
) -> list[Pair]:
    """Returns the candidates that match best on their largest-scale features: `neighbours` for each photo at least.

    A photo whose candidates all fail keeps its best few, so that no photo is given up unseen.
    """
    small = [item.descriptors[:PREVIEW_FEATURES].astype(np.float32) for item in features]
    options = MatchOptions()
    with (
        single_threaded_blas(),
        progress.stage("choosing pairs", len(candidates), "pairs") as stage,
        ThreadPoolExecutor(threads) as pool,
    ):

        def count(pair: Pair) -> int:
            return len(match_descriptors(small[pair[0]], small[pair[1]], options))

        scores = []
        for score in pool.map(count, candidates, chunksize=1):
            scores.append(score)
            stage.advance(1)
    return _best_of_each(len(features), candidates, scores, neighbours)


def _best_of_each(count: int, candidates: Sequence[Pair], scores: Sequence[int], neighbours: int) -> list[Pair]:
    """Returns the pairs that are among the best of either photo, and above the noise unless nothing is."""
    by_photo: list[list[tuple[int, Pair]]] = [[] for _ in range(count)]
    for pair, score in zip(candidates, scores):
        for index in pair:
            by_photo[index].append((score, pair))
    chosen: set[Pair] = set()
    for ranked in by_photo:
        ranked.sort(key=lambda item: (-item[0], item[1]))
        strong = [pair for score, pair in ranked[:neighbours] if score >= PREVIEW_MIN_MATCHES]
        chosen.update(strong if len(strong) >= 4 else [pair for _, pair in ranked[: neighbours // 2]])
    return sorted(chosen)


def looks_alike(features: Sequence[Features], neighbours: int, min_gap: int = 1) -> list[Pair]:
    """Returns for each photo the `neighbours` most similar by VLAD that are at least `min_gap` apart in order."""
    vectors = vlad(features)
    similarity = vectors @ vectors.T
    index = np.arange(len(features))
    similarity[np.abs(index[:, None] - index[None, :]) < min_gap] = -np.inf
    chosen: set[Pair] = set()
    for i, row in enumerate(similarity):
        for j in np.argsort(-row, kind="stable")[:neighbours]:
            if np.isfinite(row[j]):
                chosen.add((min(i, int(j)), max(i, int(j))))
    return sorted(chosen)


def vlad(features: Sequence[Features], words: int = VLAD_WORDS, seed: int = 0) -> npt.NDArray[np.float32]:
    """Returns unit vectors [F, words·128] that are alike where photos share local descriptors."""
    generator = np.random.default_rng(seed)
    sample = [
        item.descriptors[np.sort(generator.choice(len(item), min(len(item), 200), replace=False))]
        for item in features
        if len(item)
    ]
    if not sample:
        return np.zeros((len(features), words * 128), np.float32)
    centers = _k_means(np.concatenate(sample).astype(np.float32), words, generator)
    vectors = np.zeros((len(features), len(centers), 128), np.float32)
    for index, item in enumerate(features):
        if len(item) == 0:
            continue
        data = item.descriptors[:2048].astype(np.float32)
        nearest = _nearest(data, centers)
        for word in range(len(centers)):
            members = data[nearest == word]
            if len(members):
                vectors[index, word] = (members - centers[word]).sum(0)
    # Normalising per word and then taking signed square roots keeps repeated texture from drowning the rest.
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-6)
    flat = vectors.reshape(len(features), -1)
    flat = np.sign(flat) * np.sqrt(np.abs(flat))
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _k_means(data: npt.NDArray[np.float32], words: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    words = min(words, len(data))
    if len(data) > 20000:
        data = data[np.sort(generator.choice(len(data), 20000, replace=False))]
    centers = data[np.sort(generator.choice(len(data), words, replace=False))].copy()
    for _ in range(12):
        nearest = _nearest(data, centers)
        for word in range(words):
            members = data[nearest == word]
            if len(members):
                # Whole numbers keep the inner products exact, so that words never depend on threads.
                centers[word] = np.rint(members.mean(0, dtype=np.float64))
    return centers


def _nearest(data: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return (data @ centers.T - 0.5 * (centers**2).sum(1)).argmax(1)
