# SPDX-License-Identifier: Apache-2.0
"""SIFT features, found once per photo and kept in the work folder.

OpenCV's detector is four times faster than VLFeat's at the same accuracy; the last rung of the ladder uses COLMAP's
affine-adapted, domain-size pooled features instead.  Both give COLMAP's descriptors (RootSIFT: the square root of
the L1-normalised histogram, times 512; Arandjelović and Zisserman 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.files import file_fingerprint, fingerprint, read_arrays, write_arrays
from recon.progress import Progress
from recon.sfm.contracts import Features, SfmInput


@dataclass(frozen=True)
class FeatureOptions:
    """How features are found.

    Attributes:
        max_features: the strongest are kept.
        max_side: longer photos are scaled down to it; pixels.
        min_side: shorter photos are scaled up to it, at most twofold; pixels.
        contrast: smallest response of an extremum of the scale space, where grey values span 0 to 1.
        edge: largest ratio of principal curvatures.
        affine: COLMAP's affine shape and domain-size pooling.
    """

    max_features: int = 4096
    max_side: int = 1600
    min_side: int = 0
    contrast: float = 0.02
    edge: float = 10.0
    affine: bool = False


def extract_features(
    photos: SfmInput, options: FeatureOptions, work_dir: Path, threads: int, progress: Progress
) -> tuple[list[Features], str, bool]:
    """Finds the features of every photo, or reads those that an earlier call left in `work_dir`.

    Returns:
        The features in the order of `photos.names`, a key that changes with whatever affects them, and whether all
        were read.

    Raises:
        ReconError: a photo cannot be read.
    """
    folder = work_dir / "features"
    keys = [_photo_key(photos, name, options) for name in photos.names]
    found: list[Features | None] = [_load(folder / f"{key}.safetensors") for key in keys]
    missing = [index for index, features in enumerate(found) if features is None]
    if missing:
        with progress.stage("finding features", len(missing), "photos") as stage, ThreadPoolExecutor(threads) as pool:

            def work(index: int) -> Features:
                features = detect(photos.image_dir / photos.names[index], mask_path(photos, index), options)
                write_arrays(
                    folder / f"{keys[index]}.safetensors",
                    {
                        "keypoints": features.keypoints,
                        "descriptors": features.descriptors,
                        "masked": np.array([features.masked], np.int64),
                    },
                )
                return features

            futures = [(index, pool.submit(work, index)) for index in missing]
            try:
                for index, future in futures:
                    found[index] = future.result()
                    stage.advance(1, photos.names[index])
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return [features for features in found if features is not None], fingerprint(keys), not missing


def mask_path(photos: SfmInput, index: int) -> Path | None:
    """Returns the mask of a photo, or None where there is none."""
    if photos.masks_dir is None:
        return None
    path = photos.masks_dir / f"{photos.names[index]}.png"
    return path if path.is_file() else None


def detect(image_path: Path, mask: Path | None, options: FeatureOptions) -> Features:
    """Finds the features of one photo.

    Raises:
        ReconError: the photo or its mask cannot be read, or the mask has another shape.
    """
    import cv2

    grey = cv2.imread(str(image_path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if grey is None:
        raise ReconError(f"reading the photo {image_path}", "it is not a readable picture", "a whole JPEG or PNG file")
    if grey.dtype != np.uint8:
        grey = cv2.convertScaleAbs(grey, alpha=255.0 / max(float(grey.max()), 1.0))
    height, width = grey.shape
    scale = min(1.0, options.max_side / max(width, height))
    if max(width, height) < options.min_side:
        scale = min(2.0, options.min_side / max(width, height))
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if min(grey.shape) < 16:
        return Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    count = options.max_features * (1 if mask is None else 2)
    detector = _affine_sift if options.affine else _sift
    keypoints, descriptors = detector(np.ascontiguousarray(grey, np.uint8), options, count)
    keypoints[:, 0] *= width / grey.shape[1]
    keypoints[:, 1] *= height / grey.shape[0]
    keypoints[:, 2] *= width / grey.shape[1]
    kept = _outside_mask(keypoints, mask, width, height)
    masked = int(len(kept) - kept.sum())
    keypoints, descriptors = keypoints[kept][: options.max_features], descriptors[kept][: options.max_features]
    # Largest scales first (they are what preselection compares), then a fixed order whatever the detector's was.
    order = np.lexsort((keypoints[:, 3], keypoints[:, 1], keypoints[:, 0], -keypoints[:, 2]))
    return Features(keypoints[order], descriptors[order], masked)


def _sift(
    grey: npt.NDArray[np.uint8], options: FeatureOptions, count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """OpenCV's SIFT on the doubled picture, strongest first."""
    import cv2

    # A mask may take some away, so more are described than are kept in the end.
    detector = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=count,
        nOctaveLayers=3,
        contrastThreshold=options.contrast,
        edgeThreshold=options.edge,
        enable_precise_upscale=True,
    )
    found, histograms = detector.detectAndCompute(grey, None)
    if not found:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8)
    order = sorted(range(len(found)), key=lambda i: (-found[i].response, found[i].pt, found[i].size, found[i].angle))
    found, histograms = [found[i] for i in order], histograms[order]
    keypoints = np.array([(p.pt[0] + 0.5, p.pt[1] + 0.5, 0.5 * p.size, np.radians(p.angle)) for p in found], np.float32)
    return keypoints, root_sift(histograms)


def _affine_sift(
    grey: npt.NDArray[np.uint8], options: FeatureOptions, count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """COLMAP's covariant SIFT with affine shape and domain-size pooling."""
    import pycolmap

    settings = pycolmap.FeatureExtractionOptions()
    settings.use_gpu = False
    settings.num_threads = 1
    settings.max_image_size = 2 * max(grey.shape)
    settings.sift.max_num_features = count
    settings.sift.peak_threshold = options.contrast / 3.0
    settings.sift.edge_threshold = options.edge
    settings.sift.estimate_affine_shape = True
    settings.sift.domain_size_pooling = True
    extractor = pycolmap.FeatureExtractor.create(settings, pycolmap.Device.cpu)
    found, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(grey))
    shapes = np.array([[p.x, p.y, p.compute_scale(), p.compute_orientation()] for p in found], np.float32)
    return shapes.reshape(-1, 4), np.asarray(descriptors.data, np.uint8).reshape(-1, 128)


def root_sift(histograms: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Returns RootSIFT descriptors [N, 128] as uint8 from gradient histograms [N, 128]."""
    total = np.maximum(histograms.sum(1, keepdims=True, dtype=np.float32), 1e-9)
    return np.clip(np.rint(512.0 * np.sqrt(histograms / total)), 0, 255).astype(np.uint8)


def _outside_mask(
    keypoints: npt.NDArray[np.float32], mask: Path | None, width: int, height: int
) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.ones(len(keypoints), bool)
    import cv2

    picture = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    doing = f"reading the mask {mask}"
    if picture is None:
        raise ReconError(doing, "it is not a readable picture", "an 8-bit PNG")
    if abs(picture.shape[1] * height - picture.shape[0] * width) > max(width, height):
        raise ReconError(
            doing,
            f"it is {picture.shape[1]}×{picture.shape[0]}",
            f"the photo's shape, {width}×{height}",
        )
    column = np.clip((keypoints[:, 0] * picture.shape[1] / width).astype(np.int64), 0, picture.shape[1] - 1)
    row = np.clip((keypoints[:, 1] * picture.shape[0] / height).astype(np.int64), 0, picture.shape[0] - 1)
    return picture[row, column] > 0


def _photo_key(photos: SfmInput, name: str, options: FeatureOptions) -> str:
    mask = photos.masks_dir / f"{name}.png" if photos.masks_dir is not None else None
    try:
        return fingerprint(
            "features 1",
            name,
            file_fingerprint(photos.image_dir / name),
            file_fingerprint(mask) if mask is not None and mask.is_file() else None,
            options,
        )
    except FileNotFoundError as error:
        raise ReconError(f"reading the photo {photos.image_dir / name}", "there is no such file") from error


def _load(path: Path) -> Features | None:
    if not path.is_file():
        return None
    try:
        arrays = read_arrays(path)
        return Features(arrays["keypoints"], arrays["descriptors"], int(arrays["masked"][0]))
    except (ReconError, KeyError):
        # A damaged file of ours is made again rather than reported.
        return None


def total_features(features: Sequence[Features]) -> int:
    """Returns how many there are in all photos."""
    return sum(len(item) for item in features)
