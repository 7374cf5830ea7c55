# SPDX-License-Identifier: Apache-2.0
"""Pose recovery from end to end: a ladder of attempts, the best model of all, refined, checked and reported.

Each rung finds features, matches them and maps; the first is quick.  While photos stay unposed, the next rung tries
harder: more features with all pairs and guided matching, relaxed thresholds, the other mapper, affine features.
Whatever a rung finished lies in the work folder under a hash of all that affects it, so that a second call, also
after a kill at any moment, goes on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recon.errors import ReconError
from recon.files import atomic_directory, ensure_output_directory, fingerprint, remove_leftovers
from recon.progress import SILENT, Progress
from recon.sfm.contracts import Features, PairGeometry, RungReport, SfmConfig, SfmInput, SfmResult, StageTime
from recon.sfm.features import FeatureOptions, extract_features
from recon.sfm.guard import Suspect, find_suspects, remove_photos
from recon.sfm.mapping import MapperOptions, MappingProblem, initial_cameras, run_mapper
from recon.sfm.matching import Matcher, MatchOptions, match_pairs
from recon.sfm.observations import posed_image_ids, read_observations
from recon.sfm.pairs import all_pairs, choose_pairs
from recon.sfm.refine import refine
from recon.sfm.summary import explain_failure, load_result, save_result, summarize

DOING = "recovering the camera poses"
ALL_PAIRS_UP_TO = 60


@dataclass(frozen=True)
class Rung:
    """One attempt."""

    name: str
    features: FeatureOptions
    matches: MatchOptions
    mapper: MapperOptions
    more_pairs: bool = False


@dataclass(eq=False)
class Attempt:
    """What a rung found: its problem and its best model, already guarded."""

    rung: Rung
    problem: MappingProblem
    model: Any | None
    sizes: tuple[int, ...] = ()
    dropped: dict[int, Suspect] = field(default_factory=dict)

    @property
    def posed(self) -> int:
        """How many photos the model poses."""
        return self.model.num_reg_images() if self.model is not None else 0


class Clock:
    """Wall seconds by stage name, in the order in which the stages first ran."""

    def __init__(self) -> None:
        self.stages: dict[str, StageTime] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the block's time to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            old = self.stages.get(name, StageTime(name, 0.0))
            self.stages[name] = replace(old, seconds=old.seconds + time.perf_counter() - start)

    def mark_reused(self, name: str) -> None:
        """Says that a stage found its work done."""
        self.stages[name] = replace(self.stages[name], reused=True)


def reconstruct(
    photos: SfmInput, config: SfmConfig | None = None, work_dir: Path | str = "sfm", progress: Progress = SILENT
) -> SfmResult:
    """Recovers camera poses and sparse points from photos of one place.

    Args:
        photos: upright pictures with what is known of their cameras.
        config: how; the defaults suit most captures.
        work_dir: folder for features, matches and models; a later call with the same input goes on from there.
        progress: told of every stage.

    Returns:
        The poses in a +Z up world, with a report on every photo.

    Raises:
        ReconError: fewer than two photos, none with features, no two that overlap, or an unusable folder.
    """
    config = config or SfmConfig()
    if len(photos.names) < 2:
        raise ReconError(
            DOING,
            f"{len(photos.names)} photo{'s' if len(photos.names) != 1 else ''}",
            "at least two, better twenty, of the same place from different positions",
            "take more photos while walking around the scene, each overlapping the last by about two thirds",
        )
    work = ensure_output_directory(Path(work_dir), "preparing the work folder")
    for folder in (work, work / "features", work / "matches"):
        remove_leftovers(folder)
    target = work / f"result-{_result_key(photos, config)}"
    finished = load_result(target)
    if finished is not None:
        progress.log("Poses: found finished in the work folder")
        return finished
    clock = Clock()
    best, rungs = _climb(photos, config, work, progress, clock)
    if best.model is None or best.posed < 2:
        raise explain_failure(photos, best.problem)
    with clock.measure("refining"), progress.stage("refining", None):
        model, notes = refine(best.problem, best.model, config.refine_principal_point)
        best = _guarded(replace_attempt(best, model), config, progress, again=False)
    with clock.measure("reporting"), atomic_directory(target) as folder:
        result = summarize(best.problem, best.model, best.dropped, rungs, notes, folder)
        result = replace(result, stages=tuple(clock.stages.values()), model_dir=target / "sparse")
        save_result(result, folder)
    return result


def replace_attempt(attempt: Attempt, model: Any) -> Attempt:
    """Returns the attempt with another model."""
    return replace(attempt, model=model)


def ladder(photos: SfmInput, config: SfmConfig) -> list[Rung]:
    """Returns the attempts to make, in order, until enough photos are posed."""
    side = max(max(camera.width, camera.height) for camera in photos.cameras)
    count = len(photos.names)
    quick = FeatureOptions(config.max_features, config.max_image_side)
    many = FeatureOptions(
        max(8192, 2 * config.max_features),
        max(2400, config.max_image_side),
        min_side=min(1280, 2 * side),
        contrast=0.008,
        edge=16.0,
    )
    matches = MatchOptions(seed=config.seed)
    guided = replace(matches, guided=True)
    first = "global" if config.mapper == "global" else "incremental"
    mapper = MapperOptions(first, seed=config.seed)
    relaxed = replace(
        mapper,
        kind="incremental",
        init_inliers=40,
        init_angle_deg=8.0,
        pose_inliers=15,
        pose_inlier_ratio=0.12,
        two_view_points=True,
    )
    rungs = [Rung("quick", quick, matches, mapper)]
    # Mapping is cheap beside features and matches, so the other mapper has its turn before those are made anew.
    if config.mapper != "incremental":
        other = "incremental" if first == "global" else "global"
        rungs.append(Rung(f"{other} mapper", quick, matches, replace(mapper, kind=other)))
    rungs += [
        Rung("more features, guided matching", many, guided, mapper, more_pairs=True),
        Rung("relaxed thresholds", many, guided, relaxed, more_pairs=True),
    ]
    if config.mapper != "incremental":
        rungs.append(Rung(f"more features, {other} mapper", many, guided, replace(mapper, kind=other), more_pairs=True))
    if count <= 200:
        affine = replace(many, affine=True)
        rungs.append(Rung("affine features, relaxed thresholds", affine, guided, relaxed, more_pairs=True))
    return rungs if config.ladder else rungs[:1]


def _climb(
    photos: SfmInput, config: SfmConfig, work: Path, progress: Progress, clock: Clock
) -> tuple[Attempt, list[RungReport]]:
    """Goes up the ladder until enough photos are posed; returns the best attempt and what each rung did."""
    best: Attempt | None = None
    reports: list[RungReport] = []
    shared: dict[str, MappingProblem] = {}
    for rung in ladder(photos, config):
        start = time.perf_counter()
        attempt = _attempt(photos, config, rung, work, progress, clock, shared)
        better = best is None or _score(attempt) > _score(best)
        if better:
            best = attempt
        reports.append(_report(attempt, time.perf_counter() - start))
        progress.log(f"{rung.name}: {attempt.posed} of {len(photos.names)} photos posed")
        if attempt.posed >= config.enough_posed * len(photos.names):
            break
        if best is not None and _hopeless(best):
            break
    assert best is not None
    return best, [replace(report, chosen=report.name == best.rung.name) for report in reports]


def _score(attempt: Attempt) -> tuple[int, int]:
    return (attempt.posed, attempt.model.num_points3D() if attempt.model is not None else 0)


def _hopeless(attempt: Attempt) -> bool:
    """Whether no photo that is unposed has any feature left to try with."""
    unposed = set(range(len(attempt.problem.features)))
    if attempt.model is not None:
        unposed -= {image_id - 1 for image_id in posed_image_ids(attempt.model)}
    return attempt.posed >= 2 and all(len(attempt.problem.features[index]) < 8 for index in unposed)


def _attempt(
    photos: SfmInput,
    config: SfmConfig,
    rung: Rung,
    work: Path,
    progress: Progress,
    clock: Clock,
    shared: dict[str, MappingProblem],
) -> Attempt:
    key = fingerprint(rung.features, rung.matches, rung.more_pairs)
    if key not in shared:
        shared.clear()
        shared[key] = _prepare(photos, config, rung, work, progress, clock)
    problem = shared[key]
    with clock.measure("mapping"):
        models = run_mapper(problem, rung.mapper, progress)
        attempt = Attempt(rung, problem, models[0] if models else None, tuple(m.num_reg_images() for m in models))
        if attempt.model is not None:
            attempt = _guarded(attempt, config, progress, again=True)
    return attempt


def _prepare(
    photos: SfmInput, config: SfmConfig, rung: Rung, work: Path, progress: Progress, clock: Clock
) -> MappingProblem:
    """Finds features and verified pairs for one rung."""
    threads = config.threads or os.cpu_count() or 1
    with clock.measure("features"):
        features, key, reused = extract_features(photos, rung.features, work, threads, progress)
    if reused:
        clock.mark_reused("features")
    cameras = initial_cameras(photos)
    with clock.measure("pairs"):
        pairs = _pairs(photos, config, rung, features, threads, progress)
    with clock.measure("matching"):
        matcher = Matcher(features, [cameras[index] for index in photos.camera_indices], rung.matches)
        key = fingerprint(key, rung.matches, photos.cameras, photos.camera_indices)
        geometries, reused = match_pairs(matcher, pairs, key, work, threads, progress)
    if reused:
        clock.mark_reused("matching")
    return MappingProblem(photos, features, geometries, cameras)


def _pairs(
    photos: SfmInput, config: SfmConfig, rung: Rung, features: list[Features], threads: int, progress: Progress
) -> list[tuple[int, int]]:
    if rung.more_pairs and len(photos.names) <= ALL_PAIRS_UP_TO:
        return all_pairs(len(photos.names))
    pairs, how = choose_pairs(features, config.pairs, photos.kind == "video", threads, progress)
    progress.log(f"{len(pairs)} pairs of photos to compare ({how})")
    return pairs


def _guarded(attempt: Attempt, config: SfmConfig, progress: Progress, again: bool) -> Attempt:
    """Takes misplaced photos out, tries once to pose what is missing, and takes out what is misplaced again."""
    model = attempt.model
    assert model is not None
    problem = attempt.problem
    size = max(max(camera.width, camera.height) for camera in problem.photos.cameras)
    suspects = find_suspects(model, problem.features, problem.geometries, size)
    if suspects:
        remove_photos(model, suspects)
    dropped = {suspect.photo: suspect for suspect in suspects}
    if again and 2 <= model.num_reg_images() < len(problem.photos.names):
        gentle = replace(
            attempt.rung.mapper, kind="incremental", pose_inliers=20, pose_inlier_ratio=0.15, seed=config.seed
        )
        grown = run_mapper(problem, gentle, progress, start=model)
        if grown and grown[0].num_reg_images() > model.num_reg_images():
            model = grown[0]
            suspects = find_suspects(model, problem.features, problem.geometries, size)
            remove_photos(model, suspects)
            dropped.update({suspect.photo: suspect for suspect in suspects})
    posed = {image_id - 1 for image_id in posed_image_ids(model)}
    kept = {**attempt.dropped, **dropped}
    return replace(attempt, model=model, dropped={k: v for k, v in kept.items() if k not in posed})


def _report(attempt: Attempt, seconds: float) -> RungReport:
    if attempt.model is None:
        return RungReport(attempt.rung.name, 0, 0, float("nan"), attempt.sizes, seconds, note="no model")
    errors = read_observations(attempt.model, attempt.problem.features).errors_px
    errors = errors[np.isfinite(errors)]
    return RungReport(
        attempt.rung.name,
        attempt.posed,
        attempt.model.num_points3D(),
        float(errors.mean()) if len(errors) else float("nan"),
        attempt.sizes,
        seconds,
    )


def _result_key(photos: SfmInput, config: SfmConfig) -> str:
    from recon.files import file_fingerprint
    from recon.sfm.features import mask_path

    files = []
    for index, name in enumerate(photos.names):
        path = photos.image_dir / name
        if not path.is_file():
            raise ReconError(DOING, f"there is no photo {path}", "every listed file", "check the folder and its names")
        mask = mask_path(photos, index)
        files.append([name, file_fingerprint(path), file_fingerprint(mask) if mask else None])
    return fingerprint(
        "result 1", files, photos.cameras, photos.camera_indices, photos.kind, replace(config, threads=0)
    )


__all__ = ["Attempt", "PairGeometry", "Rung", "ladder", "reconstruct"]
