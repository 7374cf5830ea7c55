# SPDX-License-Identifier: Apache-2.0
"""The result and its report: what was posed, how well, and why the rest was not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import read_arrays, read_json, write_arrays, write_json
from recon.scene import Similarity, SparsePoints, WorldFrame
from recon.sfm.contracts import Features, PairGeometry, PhotoReport, RungReport, SfmInput, SfmResult, StageTime, Verdict
from recon.sfm.guard import Suspect
from recon.sfm.mapping import MappingProblem
from recon.sfm.normalize import normalizing_similarity
from recon.sfm.observations import Observations, core_camera, posed_image_ids, read_observations

SCHEMA = 1
GRID = 8
RESHOOT = "take more photos between it and its neighbours, each overlapping the last by about two thirds"


def summarize(
    problem: MappingProblem,
    model: Any,
    dropped: Mapping[int, Suspect],
    rungs: Sequence[RungReport],
    notes: Sequence[str],
    folder: Path,
) -> SfmResult:
    """Brings the model into the normalised world, colours it, writes it to `folder`/sparse and reports on it."""
    import pycolmap

    photos = problem.photos
    ids = posed_image_ids(model)
    raw = read_observations(model, problem.features)
    cameras = [core_camera(model, image_id) for image_id in ids]
    similarity = normalizing_similarity(cameras, raw.positions, _depths(cameras, ids, raw))
    model.transform(pycolmap.Sim3d(similarity.scale, pycolmap.Rotation3d(similarity.rotation), similarity.translation))
    model.extract_colors_for_all_images(photos.image_dir, 1)
    observations = read_observations(model, problem.features)
    (folder / "sparse").mkdir(parents=True)
    model.write_binary(folder / "sparse")
    finite = observations.errors_px[np.isfinite(observations.errors_px)]
    colors = np.array([model.point3D(int(i)).color for i in observations.point_ids], np.uint8).reshape(-1, 3)
    lengths = observations.track_lengths()
    return SfmResult(
        names=tuple(photos.names[i - 1] for i in ids),
        cameras=tuple(core_camera(model, image_id) for image_id in ids),
        camera_ids=tuple(photos.camera_indices[i - 1] for i in ids),
        points=SparsePoints(
            observations.positions,
            colors,
            np.nan_to_num(observations.point_errors(), posinf=0.0).astype(np.float32),
            lengths.astype(np.int32),
        ),
        world=WorldFrame(world_from_source=similarity, source="sfm", up_is_known=False),
        photos=_photo_reports(problem, set(ids), observations, dropped),
        pairs=np.array([(g.first, g.second, len(g.matches)) for g in problem.geometries], np.int64).reshape(-1, 3),
        rungs=tuple(rungs),
        stages=(),
        notes=tuple(notes),
        mean_error_px=float(finite.mean()) if len(finite) else float("nan"),
        mean_track_length=float(lengths.mean()) if len(lengths) else float("nan"),
        observations=len(observations.photo),
    )


def _depths(cameras: Sequence[Camera], ids: Sequence[int], observations: Observations) -> npt.NDArray[np.float64]:
    depths = [
        camera.project(observations.positions[observations.point[observations.photo == image_id - 1]])[1]
        for camera, image_id in zip(cameras, ids)
    ]
    return np.concatenate(depths) if depths else np.zeros(0)


def _photo_reports(
    problem: MappingProblem, posed_ids: set[int], observations: Observations, dropped: Mapping[int, Suspect]
) -> tuple[PhotoReport, ...]:
    count = len(problem.photos.names)
    partners, inliers = np.zeros(count, np.int64), np.zeros(count, np.int64)
    linked = np.zeros(count, np.int64)
    for geometry in problem.geometries:
        for one, other in ((geometry.first, geometry.second), (geometry.second, geometry.first)):
            partners[one] += 1
            inliers[one] += len(geometry.matches)
            linked[one] += other + 1 in posed_ids
    lengths = observations.track_lengths()
    reports = []
    for index, name in enumerate(problem.photos.names):
        features = problem.features[index]
        verdict, detail = _verdict(
            index + 1 in posed_ids, features, int(partners[index]), int(linked[index]), dropped.get(index)
        )
        mine = observations.photo == index
        errors = observations.errors_px[mine]
        errors = errors[np.isfinite(errors)]
        reports.append(
            PhotoReport(
                name=name,
                verdict=verdict,
                detail=detail,
                features=len(features),
                verified_pairs=int(partners[index]),
                inlier_matches=int(inliers[index]),
                points=int(mine.sum()),
                mean_error_px=float(errors.mean()) if len(errors) else float("nan"),
                mean_track_length=float(lengths[observations.point[mine]].mean()) if mine.any() else float("nan"),
                coverage=_coverage(problem, index, observations.feature[mine]),
            )
        )
    return tuple(reports)


def _coverage(problem: MappingProblem, index: int, indices: npt.NDArray[np.int64]) -> float:
    camera = problem.photos.cameras[problem.photos.camera_indices[index]]
    xy = problem.features[index].keypoints[indices, :2] / [camera.width, camera.height]
    cells = np.clip((xy * GRID).astype(np.int64), 0, GRID - 1)
    return len(np.unique(cells[:, 0] * GRID + cells[:, 1])) / GRID**2


def _verdict(
    posed: bool, features: Features, partners: int, linked: int, suspect: Suspect | None
) -> tuple[Verdict, str]:
    """Returns whether a photo was posed, and one sentence on why not and what to re-shoot."""
    if posed:
        return Verdict.POSED, "posed"
    if len(features) < 8:
        if features.masked > len(features):
            return Verdict.MASKED_OUT, (
                f"the mask hides {features.masked} of its {features.masked + len(features)} features: "
                "use a smaller mask or a photo that shows more of the rest"
            )
        return Verdict.NO_FEATURES, (
            f"only {len(features)} features: it is blurred, too dark or shows nothing but bare surfaces; "
            "re-shoot it sharp, with textured things in view"
        )
    if suspect is not None:
        return Verdict.OUTLIER, f"{suspect.reason}; {RESHOOT}"
    if partners == 0:
        return Verdict.NO_VERIFIED_PAIRS, f"no other photo shows enough of the same things; {RESHOOT}"
    if linked == 0:
        return Verdict.NOT_CONNECTED, (
            f"it matches {partners} other photos, but none that was posed; re-shoot the way from there to here"
        )
    return Verdict.TOO_FEW_POINTS, (f"it matches {linked} posed photos, but too few of their 3D points; {RESHOOT}")


def explain_failure(photos: SfmInput, problem: MappingProblem) -> ReconError:
    """Returns the error for a capture from which no two photos could be posed."""
    doing = "recovering the camera poses"
    counts = [len(features) for features in problem.features]
    masked = sum(features.masked for features in problem.features)
    if max(counts, default=0) < 8:
        if masked:
            return ReconError(doing, "the masks hide nearly all features", "masks that leave the scene visible")
        return ReconError(
            doing,
            "no photo has features: they are blurred, dark, or show bare surfaces only",
            "sharp photos of textured things",
            "re-shoot with more light, a short exposure and textured things in view (put newspapers on bare surfaces)",
        )
    if not problem.geometries:
        return ReconError(
            doing,
            f"no two of the {len(photos.names)} photos show enough of the same things",
            "photos that overlap by about two thirds",
            "re-shoot while walking slowly around the scene, a step between photos, and keep the same things in view",
        )
    best = max(len(geometry.matches) for geometry in problem.geometries)
    return ReconError(
        doing,
        f"{len(problem.geometries)} pairs of photos match (the best with {best} matches), but none gives depth",
        "photos from positions that differ",
        "move sideways between photos instead of turning on the spot, and show things at different distances",
    )


def save_result(result: SfmResult, folder: Path) -> None:
    """Writes a result into `folder`, whose `sparse` model is already there."""
    document = result.to_json()
    document.pop("photos_in_all"), document.pop("points")
    similarity = result.world.world_from_source
    write_arrays(
        folder / "arrays.safetensors",
        {
            "positions": result.points.positions,
            "colors": result.points.colors,
            "errors_px": result.points.errors_px,
            "track_lengths": result.points.track_lengths,
            "poses": np.array([camera.cam_from_world for camera in result.cameras]),
            "rotation": np.asarray(similarity.rotation),
            "translation": np.asarray(similarity.translation),
        },
    )
    document["scale"] = similarity.scale
    document["posed"] = list(result.names)
    document["camera_ids"] = list(result.camera_ids)
    document["lenses"] = [
        [c.width, c.height, c.fx, c.fy, c.cx, c.cy, c.model.value, list(c.distortion)] for c in result.cameras
    ]
    write_json(folder / "result.json", document, SCHEMA)


def load_result(folder: Path) -> SfmResult | None:
    """Reads a result that an earlier call finished; None where there is none or it is damaged."""
    needed = ("result.json", "sparse/cameras.bin", "sparse/images.bin", "sparse/points3D.bin")
    if not all((folder / name).is_file() for name in needed):
        return None
    try:
        document = read_json(folder / "result.json", SCHEMA)
        arrays = read_arrays(folder / "arrays.safetensors")
        return _from_document(document, arrays, folder)
    except (ReconError, KeyError, TypeError, ValueError, json.JSONDecodeError):
        return None


def _camera(lens: Sequence[Any], pose: npt.NDArray[np.float64]) -> Camera:
    width, height, fx, fy, cx, cy, model, distortion = lens
    return Camera(int(width), int(height), fx, fy, cx, cy, model, tuple(distortion), pose)


def _from_document(document: dict[str, Any], arrays: Mapping[str, np.ndarray], folder: Path) -> SfmResult:
    def number(value: float | None) -> float:
        return float("nan") if value is None else float(value)

    cameras = tuple(_camera(lens, pose) for lens, pose in zip(document["lenses"], arrays["poses"]))
    photos = tuple(
        PhotoReport(
            **{
                **photo,
                "verdict": Verdict(photo["verdict"]),
                "mean_error_px": number(photo["mean_error_px"]),
                "mean_track_length": number(photo["mean_track_length"]),
            }
        )
        for photo in document["photos"]
    )
    rungs = tuple(
        RungReport(**{**rung, "models": tuple(rung["models"]), "mean_error_px": number(rung["mean_error_px"])})
        for rung in document["rungs"]
    )
    similarity = Similarity(float(document["scale"]), arrays["rotation"], arrays["translation"])
    return SfmResult(
        names=tuple(document["posed"]),
        cameras=cameras,
        camera_ids=tuple(document["camera_ids"]),
        points=SparsePoints(arrays["positions"], arrays["colors"], arrays["errors_px"], arrays["track_lengths"]),
        world=WorldFrame(world_from_source=similarity, source="sfm", up_is_known=False),
        photos=photos,
        pairs=np.array(document["pairs"], np.int64).reshape(-1, 3),
        rungs=rungs,
        stages=tuple(StageTime(s["name"], s["seconds"], True) for s in document["stages"]),
        notes=tuple(document["notes"]),
        mean_error_px=number(document["mean_error_px"]),
        mean_track_length=number(document["mean_track_length"]),
        observations=int(document["observations"]),
        model_dir=folder / "sparse",
    )


__all__ = ["PairGeometry", "explain_failure", "load_result", "save_result", "summarize"]
