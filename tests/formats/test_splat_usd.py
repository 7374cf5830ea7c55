# SPDX-License-Identifier: Apache-2.0
"""OpenUSD text: every number is there, in the order that the schema wants."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from formats.splat_cases import scene_splats

from recon.errors import ReconError
from recon.formats.splat_files import write_splats


def array(text: str, name: str) -> np.ndarray:
    found = re.search(rf"{re.escape(name)} = \[(.*)\]", text)
    assert found is not None
    return np.array([float(word) for word in re.findall(r"[-+0-9.e]+", found[1])], np.float32)


@pytest.mark.parametrize("degree", [0, 2])
def test_every_number_is_there(tmp_path: Path, degree: int) -> None:
    splats = scene_splats(5000, degree, antialiased=True)
    write_splats(splats, tmp_path / "a.usda")
    text = (tmp_path / "a.usda").read_text()
    assert text.startswith("#usda 1.0\n")
    assert 'upAxis = "Z"' in text
    assert "bool antialiased = 1" in text
    assert f"int radiance:sphericalHarmonicsDegree = {degree}\n" in text
    assert np.array_equal(array(text, "point3f[] positions"), splats.means.numpy().reshape(-1))
    harmonics = array(text, "float3[] radiance:sphericalHarmonicsCoefficients")
    assert np.array_equal(harmonics, splats.sh.numpy().reshape(-1))
    assert np.allclose(array(text, "float3[] scales"), splats.scales.numpy().reshape(-1))
    assert np.allclose(array(text, "float[] opacities"), splats.opacities.numpy())
    quats = array(text, "quatf[] orientations").reshape(-1, 4)
    assert np.allclose(quats * np.linalg.norm(splats.quats.numpy(), axis=1, keepdims=True), splats.quats, atol=1e-5)
    low, high = array(text, "float3[] extent").reshape(2, 3)
    assert (low < splats.means.numpy()).all()
    assert (high > splats.means.numpy()).all()


def test_only_two_axes_can_be_up(tmp_path: Path) -> None:
    write_splats(scene_splats(5, 0), tmp_path / "a.usda", up="+y")
    assert 'upAxis = "Y"' in (tmp_path / "a.usda").read_text()
    with pytest.raises(ReconError, match="up axis"):
        write_splats(scene_splats(5, 0), tmp_path / "b.usda", up="-y")
