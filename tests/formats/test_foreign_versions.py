# SPDX-License-Identifier: Apache-2.0
"""Formats and versions that recon only reads, from writers made for the test."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from formats.foreign_writers import ksplat_bytes, spz_bytes, spz_payload
from formats.splat_cases import difference, scene_splats

from recon.errors import ReconError
from recon.formats.splat_files import is_splat_file, read_splats
from recon.splats import Splats


class Heard:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def cloud(count: int, degree: int) -> Splats:
    splats = scene_splats(count, degree)
    colors = splats.sh[:, :1].clamp(-1.7, 1.7)
    return replace(splats, means=splats.means.clamp(-8, 8), sh=torch.cat([colors, splats.sh[:, 1:]], 1))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_level_of_ksplat(tmp_path: Path, level: int, degree: int) -> None:
    splats = cloud(75, degree)
    (tmp_path / "a.ksplat").write_bytes(ksplat_bytes(splats, level))
    found = read_splats(tmp_path / "a.ksplat", up="world")
    assert found.sh_degree == degree
    apart = difference(found, splats, ordered=True)
    limits = (0, 0.01, 1e-5, 0.002, 0.007, 0) if level == 0 else (4e-4, 0.15, 1e-3, 0.002, 0.007, 0.004)
    for value, limit in zip(vars(apart).values(), limits):
        assert value <= limit, apart


def test_ksplat_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(ksplat_bytes(cloud(40, 1), 1))
    assert is_splat_file(tmp_path / "a.bin")
    assert len(read_splats(tmp_path / "a.bin")) == 40


def test_half_a_ksplat_says_what_it_lacks(tmp_path: Path) -> None:
    data = bytearray(ksplat_bytes(cloud(40, 0), 0))
    struct.pack_into("<I", data, 4096, 10)
    (tmp_path / "a.ksplat").write_bytes(data)
    heard = Heard()
    assert len(read_splats(tmp_path / "a.ksplat", progress=heard)) == 30  # type: ignore[arg-type]
    assert "40" in heard.lines[0]
    assert "30" in heard.lines[0]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("degree", [0, 1, 3, 4])
def test_older_versions_of_spz(tmp_path: Path, version: int, degree: int) -> None:
    splats = cloud(60, min(degree, 3))
    (tmp_path / "a.spz").write_bytes(spz_bytes(splats, version, degree, flags=1))
    heard = Heard()
    found = read_splats(tmp_path / "a.spz", up="world", progress=heard)  # type: ignore[arg-type]
    assert found.antialiased
    assert any("degree 3" in line for line in heard.lines) == (degree == 4)
    apart = difference(found, splats, ordered=True)
    limits = (0.005 if version == 1 else 1.3e-4, 8.0 if version < 3 else 0.3, 0.032, 0.002, 0.0131, 0.004)
    for value, limit in zip(vars(apart).values(), limits):
        assert value <= limit, apart


@pytest.mark.parametrize(("code", "up"), [(4, "+y"), (6, "-y"), (12, "world"), (14, "-z")])
def test_records_of_spz_tell_the_axes(tmp_path: Path, code: int, up: str) -> None:
    splats = cloud(10, 1)
    record = struct.pack("<II8s", 0x12340001, 8, b"whatever") + struct.pack("<III", 0xADBE0003, 4, code)
    (tmp_path / "a.spz").write_bytes(spz_bytes(splats, 3, 1, flags=2, records=record))
    (tmp_path / "plain.spz").write_bytes(spz_payload(splats, 3, 1))
    told, plain = read_splats(tmp_path / "a.spz"), read_splats(tmp_path / "plain.spz", up=up)  # type: ignore[arg-type]
    assert torch.equal(told.means, plain.means)
    mirrored = struct.pack("<III", 0xADBE0003, 4, 1)
    (tmp_path / "a.spz").write_bytes(spz_bytes(splats, 3, 1, flags=2, records=mirrored))
    with pytest.raises(ReconError, match="mirrored"):
        read_splats(tmp_path / "a.spz")


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    rows = np.zeros((3, 8), "<f4")
    rows[:, 3:6] = 0.1
    rows[1, 0] = np.nan
    rows[2, 4] = -1
    (tmp_path / "a.splat").write_bytes(rows.tobytes())
    with pytest.raises(ReconError, match="2 of 3 splats"):
        read_splats(tmp_path / "a.splat")
    heard = Heard()
    assert len(read_splats(tmp_path / "a.splat", "drop", heard)) == 1  # type: ignore[arg-type]
    assert "left out" in heard.lines[0]
