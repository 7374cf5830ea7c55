# SPDX-License-Identifier: Apache-2.0
"""From photos, a video or existing poses to a scene folder with a report.

What is finished is kept under a hash of everything that shapes it (files, options): the prepared photos in
`work/prepared-<hash>`, pose recovery in `work/sfm`, the whole in `report/process.json`, which is written last.  The
scene itself changes in one step (`recon.scene_io`), so a kill at any moment leaves the old scene or the new one, and
the next call goes on from the last finished stage.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recon.capture.calibration import read_calibration
from recon.capture.masks import MaskFolder
from recon.capture.photos import find_photos, prepare_photos, verify_photo
from recon.capture.prepared import (
    CameraGrouping,
    Known,
    LensKind,
    Prepared,
    SkippedFile,
    load_prepared,
    save_prepared,
)
from recon.capture.sources import Source, SourceKind, check_apart, identify_source
from recon.capture.video import prepare_video
from recon.errors import ReconError
from recon.files import (
    atomic_directory,
    ensure_output_directory,
    file_fingerprint,
    fingerprint,
    read_json,
    remove_leftovers,
    write_json,
)
from recon.formats.colmap import find_model, read_model
from recon.progress import SILENT, Progress
from recon.scene import Frame, Scene, SparsePoints
from recon.scene_io import is_scene, link_or_copy, load_scene, save_scene
from recon.sfm.contracts import SfmConfig, SfmResult

if TYPE_CHECKING:
    from recon.formats.colmap import ColmapModel

VERSION = 1
SCHEMA = 1
HIGH_ERROR_PX = 2.0
"""Mean reprojection error above which the poses are doubtful; good captures stay below one pixel."""


@dataclass(frozen=True)
class ProcessConfig:
    """How a capture becomes a scene.

    Attributes:
        masks: folder of masks named like the photos; black pixels are ignored.
        calibration: file with known intrinsics (JSON of ours, a 3×3 matrix K, or a COLMAP cameras.txt).
        frames: how many frames to take from a video; 0 chooses by its duration.
        cameras: which photos share a camera: those whose EXIF and size agree, all of one size, or none.
        lens: "fisheye" for lenses that bend straight lines strongly.
        poses: "ignore" recovers poses although the input has some.
        triangulate: whether imported poses without points get points, triangulated from the photos.
        least_posed: share of the photos, 0 to 1, below which the result needs a look.
        sfm: how poses are recovered.

    Raises:
        ReconError: a share outside of 0 to 1, or a negative number of frames.
    """

    masks: Path | None = None
    calibration: Path | None = None
    frames: int = 0
    cameras: CameraGrouping = "auto"
    lens: LensKind = "auto"
    poses: Literal["auto", "ignore"] = "auto"
    triangulate: bool = True
    least_posed: float = 0.8
    sfm: SfmConfig = field(default_factory=SfmConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.least_posed <= 1:
            raise ReconError("reading the options", f"least_posed is {self.least_posed}", "a share from 0 to 1")
        if self.frames < 0 or self.frames == 1:
            raise ReconError("reading the options", f"frames is {self.frames}", "0 (by duration), or at least 2")


@dataclass(frozen=True)
class UnposedPhoto:
    """A photo without a pose, and why."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ProcessReport:
    """What came out of a capture.

    Attributes:
        scene: the scene folder.
        source: what the input was.
        photos: usable photos; posed: those with a pose.
        points: sparse points; mean_error_px, mean_track_length: over them, None for imported poses without tracks.
        skipped: files that could not be used.
        unposed: photos without a pose.
        attention: reasons why a person should look at the result, in words; empty when all is well.
        notes: decisions worth knowing.
        html: the report page.
        seconds: wall time of the call that made it.
        reused: True when everything was found finished.
    """

    scene: Path
    source: SourceKind
    photos: int
    posed: int
    points: int
    mean_error_px: float | None
    mean_track_length: float | None
    skipped: tuple[SkippedFile, ...]
    unposed: tuple[UnposedPhoto, ...]
    attention: tuple[str, ...]
    notes: tuple[str, ...]
    html: Path
    seconds: float
    reused: bool = False

    @property
    def needs_attention(self) -> bool:
        """Whether a person should look at the result before going on."""
        return bool(self.attention)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON-able values."""
        return {**asdict(self), "scene": str(self.scene), "html": str(self.html)}

    @staticmethod
    def from_json(document: dict[str, Any], scene: Path) -> ProcessReport:
        """Returns the report that `to_json` gave, for a scene folder that may have moved since."""
        body = dict(document)
        body["skipped"] = tuple(SkippedFile(**entry) for entry in body["skipped"])
        body["unposed"] = tuple(UnposedPhoto(**entry) for entry in body["unposed"])
        body["attention"], body["notes"] = tuple(body["attention"]), tuple(body["notes"])
        body["scene"], body["html"] = scene, scene / "report" / "index.html"
        return ProcessReport(**body)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that a report can be made of."""

    scene: Scene
    prepared: Prepared
    photo_dir: Path
    source: SourceKind
    sfm: SfmResult | None = None
    model: ColmapModel | None = None


def process(
    input: Path | str, out: Path | str, config: ProcessConfig | None = None, progress: Progress = SILENT
) -> ProcessReport:
    """Makes a scene folder of photos, of a video, or of photos with poses (COLMAP, transforms.json, a scene).

    Args:
        input: a folder or a video file.
        out: the scene folder; called again, it goes on from what is finished there.
        config: how.
        progress: told of every stage.

    Raises:
        ReconError: nothing usable, photos that do not overlap, or a folder that cannot be written.
    """
    start = time.perf_counter()
    config = config or ProcessConfig()
    source_path, out = Path(input), Path(out)
    source = identify_source(source_path, out, ignore_poses=config.poses == "ignore")
    check_apart(source_path, out)
    ensure_output_directory(out)
    key = _key(source, config)
    finished = _finished(out, key)
    if finished is not None:
        progress.log(f"{out} is up to date: {finished.posed} of {finished.photos} photos posed")
        return replace(finished, reused=True, seconds=time.perf_counter() - start)
    ensure_output_directory(out / "work")
    for folder in (out, out / "work", out / "report"):
        remove_leftovers(folder)
    before = _names_before(out)
    if source.kind in ("photos", "video"):
        outcome = _recover(source, out, config, progress)
    else:
        outcome = _import(source, out, config, progress)
    save_scene(outcome.scene, out, outcome.model)
    _remove_outdated(out, before, outcome)
    report = _report(outcome, out, config, time.perf_counter() - start)
    from recon.capture.report import write_report

    with progress.stage("Writing the report"):
        write_report(report, outcome, out / "report")
    write_json(out / "report" / "process.json", _document(key, report, outcome), SCHEMA)
    return report


def _input_key(source: Source, config: ProcessConfig) -> str:
    """Returns a hash of the input's files and of the options that shape the prepared photos."""
    files = [photo.path for photo in source.photos]
    if source.kind in ("video", "transforms.json"):
        files.append(source.path)
    if source.kind not in ("photos", "video"):
        folder = source.path.parent if source.path.is_file() else source.path
        model = find_model(folder)
        files += sorted(path for path in model.iterdir() if path.is_file()) if model is not None else []
        files += [photo.path for photo in find_photos(folder)] + [p for p in [folder / "scene.json"] if p.is_file()]
    masks = MaskFolder(config.masks).files() if config.masks is not None else []
    calibration = config.calibration
    if calibration is not None and not calibration.is_file():
        read_calibration(calibration)  # Says what is wrong with it.
    return fingerprint(
        VERSION,
        source.kind,
        source.path.resolve(),
        [photo.name for photo in source.photos],
        [file_fingerprint(path) for path in files],
        [file_fingerprint(path) for path in masks],
        file_fingerprint(calibration) if calibration is not None else None,
        config.frames if source.kind == "video" else 0,
        config.cameras,
        config.lens,
    )


def _key(source: Source, config: ProcessConfig) -> str:
    """Returns a hash of everything that shapes the result."""
    return fingerprint(
        _input_key(source, config), config.triangulate, config.least_posed, replace(config.sfm, threads=0)
    )


def _finished(out: Path, key: str) -> ProcessReport | None:
    """Returns the report of an earlier call with the same key whose scene is still whole, or None."""
    try:
        document = read_json(out / "report" / "process.json", SCHEMA)
        if document.get("key") != key:
            return None
        report = ProcessReport.from_json(document["report"], out)
        scene = load_scene(out) if is_scene(out) else None
    except (ReconError, KeyError, TypeError):
        return None
    if scene is None or len(scene.frames) != report.posed or not report.html.is_file():
        return None
    return report if all(frame.image_path.is_file() for frame in scene.frames) else None


def _names_before(out: Path) -> set[str]:
    """Returns the frames of the scene that stands in `out` now."""
    try:
        return {frame.name for frame in load_scene(out).frames} if is_scene(out) else set()
    except ReconError:
        return set()


def _remove_outdated(out: Path, before: set[str], outcome: Outcome) -> None:
    """Removes photos of an earlier scene that this one does not have, and prepared photos of other inputs."""
    kept = {frame.name for frame in outcome.scene.frames}
    masked = {frame.name for frame in outcome.scene.frames if frame.mask_path is not None}
    for name in before:
        if name not in kept:
            (out / "images" / name).unlink(missing_ok=True)
        if name not in masked:
            (out / "masks" / f"{name}.png").unlink(missing_ok=True)
    for folder in (out / "work").glob("prepared-*"):
        if folder != outcome.photo_dir:
            shutil.rmtree(folder, ignore_errors=True)


def _recover(source: Source, out: Path, config: ProcessConfig, progress: Progress) -> Outcome:
    """Prepares photos and recovers their poses."""
    from recon.sfm import reconstruct

    folder = out / "work" / f"prepared-{_input_key(source, config)}"
    prepared = _prepared(source, folder, config, progress)
    photos = prepared.sfm_input(folder)
    result = reconstruct(photos, config.sfm, out / "work" / "sfm", progress)
    scene = result.to_scene(photos)
    known = {photo.name: photo for photo in prepared.photos}
    frames = tuple(
        replace(frame, time_s=known[frame.name].time_s, exposure_log2=known[frame.name].exposure_log2)
        for frame in scene.frames
    )
    scene, model = replace(scene, frames=frames), None
    if result.model_dir is not None:
        model = read_model(result.model_dir)
        scene = replace(scene, points=_in_order_of(model, scene.points))
    return Outcome(scene, prepared, folder, source.kind, result, model)


def _in_order_of(model: ColmapModel, points: SparsePoints) -> SparsePoints:
    """Returns the points of a result in the order in which its COLMAP model lists them, so that tracks fit."""
    theirs, ours = (np.lexsort(positions.T) for positions in (model.points.positions, points.positions))
    assert np.array_equal(model.points.positions[theirs], points.positions[ours])
    order = np.empty(len(points), np.int64)
    order[theirs] = ours
    return SparsePoints(
        points.positions[order], points.colors[order], points.errors_px[order], points.track_lengths[order]
    )


def _prepared(source: Source, folder: Path, config: ProcessConfig, progress: Progress) -> Prepared:
    record = load_prepared(folder / "prepared.json")
    if record is not None and all((folder / "images" / photo.name).is_file() for photo in record[1].photos):
        progress.log(f"{len(record[1].photos)} photos: found prepared in the work folder")
        return record[1]
    known = Known(
        masks=MaskFolder(config.masks) if config.masks is not None else None,
        calibration=read_calibration(config.calibration) if config.calibration is not None else None,
        grouping=config.cameras,
        lens=config.lens,
    )
    with atomic_directory(folder) as staging:
        if source.kind == "video":
            prepared = prepare_video(source.path, staging, config.frames, known, progress)
        else:
            prepared = prepare_photos(list(source.photos), staging, known, progress)
        save_prepared(staging / "prepared.json", folder.name, prepared)
    return prepared


def _import(source: Source, out: Path, config: ProcessConfig, progress: Progress) -> Outcome:
    """Takes existing poses; photos that are missing or damaged are left out and reported."""
    if config.masks is not None:
        raise ReconError(
            "reading the masks",
            "the input has poses and --masks is for photos without",
            "masks named in the input (`mask_path`, or a folder masks/)",
            "put them there, or recover the poses anew with --poses ignore",
        )
    scene, model, skipped = _read_posed(source)
    frames = []
    with progress.stage("Checking photos", len(scene.frames), "photos") as stage, ThreadPoolExecutor(2) as pool:
        for frame, found in zip(scene.frames, pool.map(lambda f: verify_photo(f.image_path), scene.frames)):
            stage.advance()
            if isinstance(found, str):
                skipped.append(SkippedFile(frame.name, found))
            else:
                frames.append(_at_size(frame, found))
    if len(frames) < 2:
        raise ReconError(
            f"reading the photos of {source.path}",
            f"{len(frames)} of {len(frames) + len(skipped)} photos can be used"
            + (f" ({skipped[0].name}: {skipped[0].reason})" if skipped else ""),
            "at least 2",
        )
    for file in skipped:
        progress.log(f"Left out {file.name}: {file.reason}")
    if frames != list(scene.frames) or (model is not None and len(model.images) != len(frames)):
        # Tracks would refer to images that are gone, or to pixels of another size.
        model = None
    scene = replace(scene, frames=tuple(frames))
    notes = [f"{len(frames)} poses taken from the {source.kind}"]
    if len(scene.points) == 0 and config.triangulate:
        scene, model = _triangulated(scene, out, config, progress, notes)
    return Outcome(scene, Prepared((), (), tuple(skipped), notes=tuple(notes)), source.path, source.kind, None, model)


def _read_posed(source: Source) -> tuple[Scene, ColmapModel | None, list[SkippedFile]]:
    """Reads a scene with poses, its COLMAP model where it has one, and what is listed but not there."""
    if source.kind == "transforms.json":
        from recon.formats.transforms_json import read_transforms

        result = read_transforms(source.path)
        return result.scene, None, [SkippedFile(name, "the file does not exist") for name in result.missing]
    scene = load_scene(source.path)
    folder = find_model(source.path)
    model = read_model(folder) if folder is not None else None
    there = {frame.name for frame in scene.frames}
    gone = sorted(image.name for image in model.images if image.name not in there) if model is not None else []
    return scene, model, [SkippedFile(name, "the file does not exist") for name in gone]


def _at_size(frame: Frame, size: tuple[int, int]) -> Frame:
    """Returns the frame with its camera at the size of its photo, where that is a scaled copy."""
    camera = frame.camera
    if size == (camera.width, camera.height):
        return frame
    if abs(camera.width * size[1] - camera.height * size[0]) > 0.02 * camera.width * size[1]:
        raise ReconError(
            f"reading the photo {frame.image_path}",
            f"it has {size[0]}×{size[1]} pixels",
            f"{camera.width}×{camera.height} as its camera says, or the same shape",
        )
    return replace(frame, camera=camera.resized(*size))


def _triangulated(
    scene: Scene, out: Path, config: ProcessConfig, progress: Progress, notes: list[str]
) -> tuple[Scene, ColmapModel | None]:
    """Gives a scene without points some, since training begins from them."""
    from recon.capture.triangulate import triangulate

    with atomic_directory(out / "work" / "prepared-imported") as staging:
        for frame in scene.frames:
            link_or_copy(frame.image_path, staging / "images" / frame.name)
            if frame.mask_path is not None:
                link_or_copy(frame.mask_path, staging / "masks" / f"{frame.name}.png")
    result = triangulate(scene, out / "work" / "prepared-imported", config.sfm, out / "work" / "sfm", progress)
    if result is None:
        notes.append("No points could be triangulated with these poses: they may not fit the photos")
        return scene, None
    notes.append(f"{len(result[0].points)} points triangulated with the poses as given")
    return result


def _report(outcome: Outcome, out: Path, config: ProcessConfig, seconds: float) -> ProcessReport:
    result, scene = outcome.sfm, outcome.scene
    points = scene.points
    photos = len(result.photos) if result is not None else len(scene.frames)
    tracked = bool(len(points)) and bool((points.track_lengths > 0).any())
    unposed: list[UnposedPhoto] = []
    error = float(points.errors_px.mean()) if tracked else None
    length = float(points.track_lengths.mean()) if tracked else None
    notes = list(outcome.prepared.notes)
    if result is not None:
        posed = set(result.names)
        unposed = [UnposedPhoto(p.name, p.verdict.value, p.detail) for p in result.photos if p.name not in posed]
        error = result.mean_error_px if math.isfinite(result.mean_error_px) else None
        length = result.mean_track_length if math.isfinite(result.mean_track_length) else None
        notes += result.notes
    return ProcessReport(
        scene=out,
        source=outcome.source,
        photos=photos,
        posed=len(scene.frames),
        points=len(points),
        mean_error_px=error,
        mean_track_length=length,
        skipped=outcome.prepared.skipped,
        unposed=tuple(unposed),
        attention=tuple(_attention(outcome, photos, error, config)),
        notes=tuple(notes),
        html=out / "report" / "index.html",
        seconds=seconds,
    )


def _attention(outcome: Outcome, photos: int, error_px: float | None, config: ProcessConfig) -> list[str]:
    """Returns what a person should look at."""
    reasons = []
    posed, skipped = len(outcome.scene.frames), len(outcome.prepared.skipped)
    if posed < config.least_posed * photos:
        reasons.append(
            f"Only {posed} of {photos} photos were posed. The scene shows only the part that those see; the report says"
            " why the others failed and what to photograph again."
        )
    if skipped > posed:
        reasons.append(f"{skipped} files were left out, more than the {posed} that were used.")
    if error_px is not None and error_px > HIGH_ERROR_PX:
        reasons.append(
            f"The mean reprojection error is {error_px:.1f} px (good captures stay below 1): expect blur. Blurred"
            " photos, moving things or a wrong --calibration are the usual causes."
        )
    if outcome.sfm is None and not len(outcome.scene.points) and config.triangulate:
        reasons.append(
            "No points fit the given poses and the photos: the poses may be wrong, or belong to other photos."
        )
    if outcome.sfm is not None and len(outcome.scene.points) < 20 * posed:
        reasons.append(
            f"Only {len(outcome.scene.points)} points were found for {posed} photos: the surfaces have little texture,"
            " or the photos overlap little."
        )
    return reasons


def _document(key: str, report: ProcessReport, outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {"key": key, "report": report.to_json()}
    if outcome.sfm is not None:
        document["sfm"] = outcome.sfm.to_json()
    return document


class _CallableModule(ModuleType):
    """Lets `recon.process(...)` work whether the name means this module (once it is imported) or its function."""

    def __call__(self, *args: Any, **options: Any) -> ProcessReport:
        return process(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
