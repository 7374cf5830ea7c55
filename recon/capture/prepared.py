# SPDX-License-Identifier: Apache-2.0
"""What preparing a capture gives: upright photos in a scene folder, their cameras, and what was left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from recon.capture.calibration import Calibration
from recon.capture.masks import MaskFolder
from recon.errors import ReconError
from recon.files import read_json, write_json
from recon.sfm.contracts import CameraPrior, CaptureKind, SfmInput

SCHEMA = 1


CameraGrouping = Literal["auto", "single", "per-image"]
LensKind = Literal["auto", "fisheye"]


@dataclass(frozen=True, eq=False)
class Known:
    """What the user says about a capture.

    Attributes:
        masks: masks of the photos.
        calibration: their intrinsics.
        grouping: which photos share a camera: those whose EXIF and size agree, all of one size, or none.
        lens: "fisheye" for lenses that bend straight lines strongly.
    """

    masks: MaskFolder | None = None
    calibration: Calibration | None = None
    grouping: CameraGrouping = "auto"
    lens: LensKind = "auto"

    def prior(self, width: int, height: int, focal_px: float | None, source: str) -> CameraPrior:
        """Returns what is known of the camera of the photo or video `source`.

        Raises:
            ReconError: a calibration for other sizes.
        """
        if self.calibration is not None:
            prior = self.calibration.prior_for(width, height)
            if prior is None:
                raise ReconError(
                    f"applying the calibration {self.calibration.path}",
                    f"{source} has {width}×{height} pixels",
                    "one of " + ", ".join(f"{camera.width}×{camera.height}" for camera in self.calibration.cameras),
                    "calibrate at the photos' own size, or leave --calibration out",
                )
            return prior
        return CameraPrior(width, height, focal_px, "OPENCV_FISHEYE" if self.lens == "fisheye" else None)


@dataclass(frozen=True)
class PreparedPhoto:
    """One photo in the scene's `images/` folder.

    Attributes:
        name: path relative to `images/`, with forward slashes.
        source: the file that it came from, relative to the input (or the video's name).
        width, height: upright size in pixels.
        camera: index into `Prepared.cameras`.
        time_s: seconds since the first photo; None if unknown.
        exposure_log2: exposure relative to the mean of all, in stops; None if unknown.
        masked: whether `masks/<name>.png` was written.
    """

    name: str
    source: str
    width: int
    height: int
    camera: int = 0
    time_s: float | None = None
    exposure_log2: float | None = None
    masked: bool = False


@dataclass(frozen=True)
class SkippedFile:
    """A file that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A capture that is ready for pose recovery."""

    photos: tuple[PreparedPhoto, ...]
    cameras: tuple[CameraPrior, ...]
    skipped: tuple[SkippedFile, ...] = ()
    kind: CaptureKind = "photos"
    notes: tuple[str, ...] = ()

    def sfm_input(self, folder: Path) -> SfmInput:
        """Returns the input of pose recovery, for the scene folder that holds the photos."""
        return SfmInput(
            image_dir=folder / "images",
            names=tuple(photo.name for photo in self.photos),
            cameras=self.cameras,
            camera_indices=tuple(photo.camera for photo in self.photos),
            masks_dir=folder / "masks" if any(photo.masked for photo in self.photos) else None,
            kind=self.kind,
        )


def save_prepared(path: Path, key: str, prepared: Prepared) -> None:
    """Writes what was prepared, with the key of everything that it depends on."""
    write_json(path, {"key": key, "prepared": asdict(prepared)}, SCHEMA)


def load_prepared(path: Path) -> tuple[str, Prepared] | None:
    """Returns the key and what was prepared, or None where there is no such record or it is damaged."""
    try:
        document = read_json(path, SCHEMA, ("key", "prepared"))
        body: dict[str, Any] = document["prepared"]
        prepared = Prepared(
            photos=tuple(PreparedPhoto(**entry) for entry in body["photos"]),
            cameras=tuple(CameraPrior(**{**entry, "params": tuple(entry["params"])}) for entry in body["cameras"]),
            skipped=tuple(SkippedFile(**entry) for entry in body["skipped"]),
            kind=body["kind"],
            notes=tuple(body["notes"]),
        )
        return str(document["key"]), prepared
    except (ReconError, KeyError, TypeError):
        return None
