# SPDX-License-Identifier: Apache-2.0
"""What to photograph again, in words, from what pose recovery saw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recon.scene import Scene
from recon.sfm.contracts import PhotoReport, SfmResult

FEW_FEATURES = 300
LOW_COVERAGE = 0.25
AROUND_DEG = 150.0
GAP_DEG = 45.0


def advice(scene: Scene, result: SfmResult | None) -> list[str]:
    """Returns sentences for the photographer, the most important first; none if the capture is good."""
    sentences: list[str] = []
    if result is not None:
        posed = set(result.names)
        sentences += _unposed(result.photos, posed)
        sentences += _weak(result, posed)
    sentences += _gaps(scene)
    if len(scene.frames) < 15:
        sentences.append(
            f"Only {len(scene.frames)} photos have poses. Splats and meshes get solid from about 20 and good from 50."
        )
    return sentences


def _unposed(photos: Sequence[PhotoReport], posed: set[str]) -> list[str]:
    """One sentence for each run of neighbouring photos that failed."""
    sentences = []
    run: list[PhotoReport] = []
    before: str | None = None
    for photo in [*photos, None]:
        if photo is not None and photo.name not in posed:
            run.append(photo)
            continue
        if run:
            sentences.append(_run_sentence(run, before, None if photo is None else photo.name))
        run = []
        before = None if photo is None else photo.name
    return sentences


def _run_sentence(run: Sequence[PhotoReport], before: str | None, after: str | None) -> str:
    names = run[0].name if len(run) == 1 else f"{run[0].name} to {run[-1].name} ({len(run)} photos)"
    if before is not None and after is not None:
        where = f" They lie between {before} and {after}."
    else:
        where = f" They come after {before}." if before is not None else f" They come before {after}." if after else ""
    where = where if len(run) > 1 else ""
    verdicts = {photo.verdict for photo in run}
    if len(verdicts) == 1:
        return f"{names}: {run[0].verdict.value} – {run[0].detail}.{where}".replace("..", ".")
    reasons = ", ".join(sorted(verdict.value for verdict in verdicts))
    return (
        f"{names}: {reasons}.{where} Photograph this part again, sharp, with more overlap and textured things in view."
    )


def _weak(result: SfmResult, posed: set[str]) -> list[str]:
    """Says which posed photos hang by little, and whether the capture has a thin place."""
    sentences = []
    photos = [photo for photo in result.photos if photo.name in posed]
    bare = [photo.name for photo in photos if photo.features < FEW_FEATURES]
    if bare:
        sentences.append(
            f"{_list(bare)}: few details to hold on to. Dark, blurred or bare views pose poorly; take them brighter and"
            " closer to something with texture."
        )
    narrow = [photo.name for photo in photos if photo.coverage < LOW_COVERAGE and photo.name not in bare]
    if narrow:
        sentences.append(
            f"{_list(narrow)}: points cover less than a quarter of the picture, so the poses lean on a corner of it."
            " One more photo from a step to each side would steady them."
        )
    bridge = thinnest_bridge(result)
    if bridge is not None:
        count, left, right = bridge
        sentences.append(
            f"The capture holds together by only {count} matches between {left} and {right}. Take photos on the way"
            " from one to the other, each overlapping the last by about two thirds."
        )
    return sentences


def thinnest_bridge(result: SfmResult, few: int = 60) -> tuple[int, str, str] | None:
    """Returns matches and ends of the weakest link that everything hangs by, or None if all hang by `few` or more.

    It is the weakest edge of the maximum spanning tree of the posed photos' matches: no way around it is stronger.
    """
    posed = set(result.names)
    index = [i for i, photo in enumerate(result.photos) if photo.name in posed]
    if len(index) < 3:
        return None
    matrix = result.matches_matrix()[np.ix_(index, index)]
    reached = np.zeros(len(index), bool)
    best, parent = matrix[0].copy(), np.zeros(len(index), np.int64)
    reached[0] = True
    weakest: tuple[int, int, int] | None = None
    for _ in range(len(index) - 1):
        candidates = np.where(reached, -1, best)
        new = int(candidates.argmax())
        if weakest is None or candidates[new] < weakest[0]:
            weakest = (int(candidates[new]), int(parent[new]), new)
        reached[new] = True
        closer = matrix[new] > best
        best[closer], parent[closer] = matrix[new][closer], new
    if weakest is None or not 0 < weakest[0] < few:
        return None
    names = [result.photos[i].name for i in index]
    return weakest[0], names[weakest[1]], names[weakest[2]]


def _gaps(scene: Scene) -> list[str]:
    """For captures that go around something: the directions from which no photo was taken."""
    centers = scene.camera_centers
    if len(centers) < 8:
        return []
    target = look_target(scene)
    offsets = centers - target
    forward = np.array([frame.camera.forward_in_world for frame in scene.frames])
    inward = (-(offsets * forward).sum(1) / np.maximum(np.linalg.norm(offsets, axis=1), 1e-9) > 0.5).mean()
    if inward < 0.7:
        return []
    angles = np.sort(np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0])))
    gaps = np.diff(np.append(angles, angles[0] + 360))
    widest = int(gaps.argmax())
    if 360 - gaps[widest] < AROUND_DEG or gaps[widest] < GAP_DEG:
        return []
    before = int(np.argmin(np.abs(np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0])) - angles[widest])))
    return [
        f"The photos go {360 - gaps[widest]:.0f}° around the subject; {gaps[widest]:.0f}° are unseen, beginning at"
        f" {scene.frames[before].name}. If that side can be reached, photograph it too."
    ]


def look_target(scene: Scene) -> npt.NDArray[np.float64]:
    """Returns the point that is closest to all optical axes, or the mean centre where they are parallel."""
    centers = scene.camera_centers
    forward = np.array([frame.camera.forward_in_world for frame in scene.frames]).reshape(-1, 3)
    projectors = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = projectors.sum(0)
    if len(centers) == 0 or np.linalg.cond(normal) > 1e6:
        return centers.mean(0) if len(centers) else np.zeros(3)
    return np.linalg.solve(normal, np.einsum("fij,fj->i", projectors, centers))


def _list(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def share_in_words(share: float) -> str:
    """Returns a share as a percentage without false precision."""
    return f"{math.floor(100 * share + 0.5)}%"
