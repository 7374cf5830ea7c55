# SPDX-License-Identifier: Apache-2.0
"""What goes into pose recovery, what steers it and what comes out, as plain frozen dataclasses.

Nothing here imports pycolmap, so the command line may read these without paying for it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recon.cameras import Camera
from recon.errors import ReconError
from recon.scene import Frame, Scene, SparsePoints, WorldFrame

PairStrategy = Literal["auto", "exhaustive", "retrieval", "sequential"]
MapperKind = Literal["auto", "incremental", "global"]
CaptureKind = Literal["photos", "video"]


@dataclass(frozen=True)
class CameraPrior:
    """What is known about one physical camera and lens before any photo is looked at.

    Attributes:
        width, height: size of its pictures in pixels, upright.
        focal_px: focal length in pixels (from EXIF, say), a starting value that is refined; None if unknown.
        model: COLMAP's name of a camera model, or None for our choice.  Without `params` it is only the choice of
            the model (OPENCV_FISHEYE for a fisheye lens).
        params: that model's parameters in COLMAP's order; given, they are a known calibration.
        fixed: whether `params` are held fixed to the end; False refines them from there.
    """

    width: int
    height: int
    focal_px: float | None = None
    model: str | None = None
    params: tuple[float, ...] = ()
    fixed: bool = True

    @property
    def is_calibrated(self) -> bool:
        """Whether all parameters were given and must not be touched."""
        return bool(self.params) and self.fixed


@dataclass(frozen=True)
class SfmInput:
    """Upright photos of one place, decoded into files that need no more interpretation.

    Attributes:
        image_dir: folder of the pictures.
        names: their paths relative to `image_dir`, with forward slashes, in capture order for a video.
        cameras: the physical cameras.
        camera_indices: for each name, which of `cameras` took it.
        masks_dir: folder of masks named `<name>.png`, black where pixels are to be ignored; a photo without a mask
            file is used whole.
        kind: "video" means that neighbours in `names` overlap.
    """

    image_dir: Path
    names: tuple[str, ...]
    cameras: tuple[CameraPrior, ...]
    camera_indices: tuple[int, ...]
    masks_dir: Path | None = None
    kind: CaptureKind = "photos"

    def __post_init__(self) -> None:
        doing = "recovering the camera poses"
        if len(self.names) != len(self.camera_indices):
            raise ReconError(
                doing, f"{len(self.names)} photos but {len(self.camera_indices)} camera indices", "one each"
            )
        if len(set(self.names)) != len(self.names):
            raise ReconError(doing, "a photo is listed twice", "every name once")
        bad = [i for i in self.camera_indices if not 0 <= i < len(self.cameras)]
        if bad:
            raise ReconError(doing, f"camera index {bad[0]}", f"0 to {len(self.cameras) - 1}")


@dataclass(frozen=True)
class SfmConfig:
    """How poses are recovered.  The defaults are quick; the ladder goes on to slower settings where they fail.

    Attributes:
        pairs: which photos are compared: all with all, those that look alike, or neighbours in time with loops.
        mapper: "auto" is incremental first, global as a later rung of the ladder.
        max_features: SIFT features kept per photo on the first rung.
        max_image_side: photos are scaled down to this longer side (pixels) for feature detection on the first rung.
        ladder: whether to retry with slower settings while photos stay unposed.
        enough_posed: share of the photos, 0 to 1, at which the ladder stops.
        refine_principal_point: None decides by how well it is constrained.
        seed: of every random choice; the same input and seed give the same poses.
        threads: 0 takes all cores.  The poses do not depend on it.
    """

    pairs: PairStrategy = "auto"
    mapper: MapperKind = "auto"
    max_features: int = 4096
    max_image_side: int = 1600
    ladder: bool = True
    enough_posed: float = 1.0
    refine_principal_point: bool | None = None
    seed: int = 0
    threads: int = 0


class Verdict(str, Enum):
    """Whether a photo was posed, and if not, why."""

    POSED = "posed"
    NO_FEATURES = "no features"
    MASKED_OUT = "masked out"
    NO_VERIFIED_PAIRS = "no verified pairs"
    NOT_CONNECTED = "not connected to the model"
    TOO_FEW_POINTS = "matches but not enough 3D points"
    OUTLIER = "dropped as an outlier"


@dataclass(frozen=True)
class PhotoReport:
    """What happened to one photo.

    Attributes:
        name: as in the input.
        verdict: posed, or why not.
        detail: one sentence for people, with what to re-shoot when it was not posed.
        features: SIFT features found (on the rung that the result came from).
        verified_pairs: photos that it shares a verified two-view geometry with.
        inlier_matches: their inlier matches together.
        points: 3D points that it sees.
        mean_error_px: mean reprojection error at the photo's own size; NaN if not posed.
        mean_track_length: mean number of photos that see its points; NaN if not posed.
        coverage: share of an 8×8 grid over the photo with at least one 3D point.
    """

    name: str
    verdict: Verdict
    detail: str
    features: int
    verified_pairs: int
    inlier_matches: int
    points: int = 0
    mean_error_px: float = float("nan")
    mean_track_length: float = float("nan")
    coverage: float = 0.0


@dataclass(frozen=True)
class RungReport:
    """One rung of the ladder: what was tried and how many photos it posed."""

    name: str
    posed: int
    points: int
    mean_error_px: float
    models: tuple[int, ...]
    seconds: float
    chosen: bool = False
    note: str = ""


@dataclass(frozen=True)
class StageTime:
    """Wall seconds of one stage; `reused` where a finished one was found in the work folder."""

    name: str
    seconds: float
    reused: bool = False


@dataclass(frozen=True, eq=False)
class SfmResult:
    """Recovered poses with everything that a report wants to say about them.

    Attributes:
        names: the posed photos, in the input's order.
        cameras: for each, its camera in the normalised world (+Z up), lens kept as it was estimated.
        camera_ids: for each, the number of its physical camera (an index into the input's cameras).
        points: the sparse points in that world.
        world: how the mapper's world became this one.
        photos: a report for every photo of the input, in its order.
        pairs: [P, 3] int64 of photo indices i < j (into `photos`) and their verified inlier matches.
        rungs: the ladder as it ran.
        stages: seconds by stage.
        notes: decisions worth knowing (principal point refined, photos dropped ...).
        mean_error_px: mean reprojection error over all observations.
        mean_track_length: observations per point.
        observations: number of observations.
        model_dir: a COLMAP model (bin) of the same poses and points with all tracks, in the same world.
    """

    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    camera_ids: tuple[int, ...]
    points: SparsePoints
    world: WorldFrame
    photos: tuple[PhotoReport, ...]
    pairs: npt.NDArray[np.int64]
    rungs: tuple[RungReport, ...]
    stages: tuple[StageTime, ...]
    notes: tuple[str, ...] = ()
    mean_error_px: float = float("nan")
    mean_track_length: float = float("nan")
    observations: int = 0
    model_dir: Path | None = None

    @property
    def posed_share(self) -> float:
        """Posed photos over all photos."""
        return len(self.names) / max(len(self.photos), 1)

    def matches_matrix(self) -> npt.NDArray[np.int64]:
        """Returns the symmetric [F, F] matrix of verified inlier matches between all photos of the input."""
        matrix = np.zeros((len(self.photos), len(self.photos)), np.int64)
        i, j, count = self.pairs.T
        matrix[i, j] = count
        matrix[j, i] = count
        return matrix

    def to_scene(self, source: SfmInput) -> Scene:
        """Returns the posed photos as a `Scene` whose frames point at the files of `source`."""
        frames = []
        for name, camera, camera_id in zip(self.names, self.cameras, self.camera_ids):
            mask = source.masks_dir / f"{name}.png" if source.masks_dir is not None else None
            frames.append(
                Frame(
                    name=name,
                    image_path=source.image_dir / name,
                    camera=camera,
                    camera_id=camera_id,
                    mask_path=mask if mask is not None and mask.is_file() else None,
                )
            )
        return Scene(tuple(frames), self.points, self.world)

    def to_json(self) -> dict[str, Any]:
        """Returns the report (no poses, no points) as JSON-able values; NaN becomes None."""
        document = {
            "posed": len(self.names),
            "photos_in_all": len(self.photos),
            "points": len(self.points),
            "observations": self.observations,
            "mean_error_px": self.mean_error_px,
            "mean_track_length": self.mean_track_length,
            "photos": [dataclasses.asdict(photo) for photo in self.photos],
            "pairs": self.pairs.tolist(),
            "rungs": [dataclasses.asdict(rung) for rung in self.rungs],
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "notes": list(self.notes),
        }
        return _without_nan(document)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


@dataclass(frozen=True, eq=False)
class Features:
    """SIFT features of one photo, strongest-scale first.

    Attributes:
        keypoints: [N, 4] float32 of x, y (pixels, centre of the top left pixel at 0.5), scale in pixels and
            orientation in radians.
        descriptors: [N, 128] uint8, square root of the L1-normalised histogram times 512 (RootSIFT).
        masked: how many features the mask took away.
    """

    keypoints: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]
    masked: int = 0

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """Two photos with verified matches.

    Attributes:
        first, second: photo indices, first < second.
        config: COLMAP's number of the two-view configuration.
        matches: [M, 2] uint32 inlier matches as feature indices.
        matrices: [3, 3, 3] float64, E, F and H; all NaN where not estimated.
    """

    first: int
    second: int
    config: int
    matches: npt.NDArray[np.uint32]
    matrices: npt.NDArray[np.float64] = field(default_factory=lambda: np.full((3, 3, 3), np.nan))
