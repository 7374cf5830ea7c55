# SPDX-License-Identifier: Apache-2.0
"""A stand-in for pose recovery that takes no time: cameras on a ring, with a COLMAP model as the real one writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from recon.cameras import Camera, look_at
from recon.files import atomic_directory, remove_leftovers
from recon.formats.colmap import ColmapImage, ColmapModel, write_model
from recon.formats.colmap_types import NO_POINT
from recon.scene import SparsePoints, WorldFrame
from recon.sfm.contracts import PhotoReport, RungReport, SfmInput, SfmResult, StageTime, Verdict


def write_photos(folder: Path, count: int, size: tuple[int, int] = (64, 48), names: list[str] | None = None) -> Path:
    """Writes textured photos with distinct contents."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        random = np.random.default_rng(index)
        pixels = random.integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
        name = names[index] if names else f"photo{index:02d}.jpg"
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / name, quality=95)
    return folder


def fake_result(photos: SfmInput, work: Path, posed: int | None = None, error_px: float = 0.5) -> SfmResult:
    """Returns a result in which the first `posed` photos have poses (all by default)."""
    remove_leftovers(work)
    posed = len(photos.names) if posed is None else posed
    random = np.random.default_rng(0)
    count = 40 * posed
    # Out of order on purpose: a result need not list its points as its model does.
    positions, order = random.normal(size=(count, 3)), random.permutation(count)
    points = SparsePoints(
        positions,
        random.integers(0, 255, (count, 3)).astype(np.uint8),
        np.full(count, error_px, np.float32),
        np.full(count, 2, np.int32),
    )
    cameras, images = [], []
    for index in range(posed):
        prior = photos.cameras[photos.camera_indices[index]]
        angle = 2 * np.pi * index / max(posed, 1)
        pose = look_at(np.array([4 * np.cos(angle), 4 * np.sin(angle), 1.5]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
        focal = prior.focal_px or 1.1 * prior.width
        camera = Camera(prior.width, prior.height, focal, focal, prior.width / 2, prior.height / 2, cam_from_world=pose)
        cameras.append(camera)
        images.append(
            ColmapImage(
                index + 1,
                photos.names[index],
                photos.camera_indices[index] + 1,
                pose,
                np.zeros((count, 2)),
                # Every point is seen by the first two photos.
                np.arange(1, count + 1) if index < 2 else np.full(count, NO_POINT),
            )
        )
    shuffled = SparsePoints(
        positions[order], points.colors[order], points.errors_px[order], points.track_lengths[order]
    )
    tracks = np.stack([np.tile([1, 2], count), np.repeat(order, 2)], 1).astype(np.int32)
    lenses = {image.camera_id: camera for image, camera in zip(images, cameras)}
    model = ColmapModel(lenses, tuple(images), shuffled, order + 1, 2 * np.arange(count + 1), tracks)
    with atomic_directory(work / "result") as folder:
        write_model(model, folder / "sparse")
    reports = [
        PhotoReport(
            name,
            Verdict.POSED if index < posed else Verdict.NO_VERIFIED_PAIRS,
            "posed" if index < posed else "no other photo shows enough of the same things; take more photos",
            features=1000,
            verified_pairs=2 if index < posed else 0,
            inlier_matches=300,
            points=40,
            mean_error_px=error_px if index < posed else float("nan"),
            mean_track_length=2.0 if index < posed else float("nan"),
            coverage=0.8 if index < posed else 0.0,
        )
        for index, name in enumerate(photos.names)
    ]
    pairs = np.array([(i, i + 1, 150) for i in range(posed - 1)], np.int64).reshape(-1, 3)
    return SfmResult(
        names=photos.names[:posed],
        cameras=tuple(cameras),
        camera_ids=photos.camera_indices[:posed],
        points=points,
        world=WorldFrame(source="sfm"),
        photos=tuple(reports),
        pairs=pairs,
        rungs=(RungReport("quick", posed, count, error_px, (posed,), 1.0, True),),
        stages=(StageTime("features", 1.0),),
        notes=("a note",),
        mean_error_px=error_px,
        mean_track_length=2.0,
        observations=2 * count,
        model_dir=work / "result" / "sparse",
    )
