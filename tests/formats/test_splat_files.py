# SPDX-License-Identifier: Apache-2.0
"""The one door to splat files: formats are told apart by what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recon.errors import ReconError
from recon.formats.splat_files import is_splat_file, read_splats, write_splats
from recon.splats import Splats


def few_splats(count: int = 10) -> Splats:
    generator = torch.Generator().manual_seed(0)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, 1, 3)]
    return Splats(*(torch.randn(shape, generator=generator) for shape in shapes))


def test_a_ply_comes_back(tmp_path: Path) -> None:
    splats = few_splats()
    write_splats(splats, tmp_path / "s.ply")
    assert is_splat_file(tmp_path / "s.ply")
    assert torch.equal(read_splats(tmp_path / "s.ply").means, splats.means)


def test_an_unknown_suffix_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"\.ply"):
        write_splats(few_splats(), tmp_path / "s.xyz")


def test_a_mesh_is_no_splat_file(tmp_path: Path) -> None:
    (tmp_path / "m.ply").write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n")
    assert not is_splat_file(tmp_path / "m.ply")
    assert not is_splat_file(tmp_path / "none.ply")
    assert not is_splat_file(tmp_path)
