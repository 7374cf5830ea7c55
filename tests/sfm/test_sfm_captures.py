# SPDX-License-Identifier: Apache-2.0
"""Real captures with known poses, made smaller so that the tests stay quick."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.cameras import Camera
from recon.sfm import CameraPrior, SfmConfig, SfmInput, pose_errors, reconstruct


def shrink(source: Path, names: list[str], target: Path, factor: float) -> tuple[int, int]:
    """Writes smaller copies and returns their width and height."""
    target.mkdir()
    for name in names:
        picture = cv2.imread(str(source / name))
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(target / f"{Path(name).stem}.png"), small)
    return small.shape[1], small.shape[0]


def strecha_camera(path: Path) -> Camera:
    """A true camera of the Herz-Jesu capture: K, zeros, R, C, size; x = K·Rᵀ·(X − C)."""
    rows = [[float(v) for v in line.split()] for line in path.read_text().splitlines() if line.strip()]
    pose = np.eye(4)
    u, _, vt = np.linalg.svd(np.array(rows[4:7]).T)
    pose[:3, :3] = u @ vt
    pose[:3, 3] = -pose[:3, :3] @ np.array(rows[7])
    return Camera(100, 100, 100.0, 100.0, 50.0, 50.0, cam_from_world=pose)


@pytest.mark.parametrize("calibrated", [False, True])
def test_herz_jesu_at_a_quarter(captures: Path, tmp_path: Path, calibrated: bool) -> None:
    folder = captures / "herzjesu_P8_half"
    names = sorted(path.name for path in (folder / "images").iterdir())
    width, height = shrink(folder / "images", names, tmp_path / "images", 0.5)
    prior = CameraPrior(width, height)
    if calibrated:
        prior = CameraPrior(width, height, model="PINHOLE", params=(689.87, 691.04, 380.3, 251.8))
    photos = SfmInput(tmp_path / "images", tuple(f"{Path(n).stem}.png" for n in names), (prior,), (0,) * 8)
    result = reconstruct(photos, SfmConfig(ladder=False), tmp_path / "work")
    truth = {f"{Path(n).stem}.png": strecha_camera(folder / "gt_fullres_cameras" / f"{n}.camera") for n in names}
    errors = pose_errors(dict(zip(result.names, result.cameras)), truth)
    assert errors.cameras == 8
    assert errors.center_rms < (0.007 if calibrated else 0.012)
    assert errors.rotation_mean_deg < (0.2 if calibrated else 0.5)
    if calibrated:
        camera = result.cameras[0]
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == prior.params
