# SPDX-License-Identifier: Apache-2.0
"""The room's photographs alone give its cameras back: synthetic captures can be solved like real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.data import CaptureConfig, make_capture
from recon.sfm.alignment import pose_errors
from recon.sfm.contracts import CameraPrior, SfmInput
from recon.sfm.recovery import reconstruct


@pytest.mark.slow
def test_the_room_is_posed_within_a_thousandth_of_its_extent(tmp_path: Path) -> None:
    config = CaptureConfig(views=20, width=480, height=360, detail=0.7, light_samples=12, maps=False)
    capture = make_capture("room", tmp_path / "room", config)
    frames = capture.scene.frames
    # Three per cent beside the true focal length, as a photograph's EXIF may be.
    prior = CameraPrior(config.width, config.height, focal_px=1.03 * frames[0].camera.fx)
    names = tuple(frame.name for frame in frames)
    result = reconstruct(SfmInput(capture.photos_dir, names, (prior,), (0,) * len(names)), work_dir=tmp_path / "sfm")
    assert result.names == names
    true = {frame.name: frame.camera for frame in frames}
    errors = pose_errors(dict(zip(result.names, result.cameras)), true)
    assert errors.center_rms < 0.001 * errors.extent
    assert errors.center_max < 0.003 * errors.extent
    assert errors.rotation_max_deg < 0.4
    assert result.mean_error_px < 0.5
    assert result.cameras[0].fx == pytest.approx(frames[0].camera.fx, rel=0.003)
    assert result.cameras[0].distortion[0] == pytest.approx(config.distortion[0], abs=0.005)
