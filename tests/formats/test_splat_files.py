# SPDX-License-Identifier: Apache-2.0
"""The one door to splat files: formats are told apart by what is in them, and what is written comes back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.splat_cases import difference, scene_splats

from recon.errors import ReconError
from recon.formats.splat_files import SPLAT_WRITE_SUFFIXES, is_splat_file, read_splats, write_splats, written_format
from recon.splats import Splats

# What is written can be read, but for USD.
NAMES = [*(f"s{suffix}" for suffix in SPLAT_WRITE_SUFFIXES if suffix != ".usda"), "folder/meta.json"]

# What each format may change: positions, degrees, log scales, opacities, base colour, harmonics.
TOLERANCES: dict[str, tuple[float, ...]] = {
    ".ply": (0, 1e-5, 0, 0, 0, 5e-7),
    "s.compressed.ply": (0.02, 0.3, 0.005, 0.0021, 0.02, 0.03),
    ".spz": (5e-4, 0.3, 0.033, 0.0021, 0.014, 0.07),
    ".sog": (0.004, 3.0, 0.0626, 0.0021, 0.0235, 0.06),
    ".json": (0.004, 3.0, 0.0626, 0.0021, 0.0235, 0.06),
    ".splat": (0, 1.2, 1e-5, 0.0021, 0.0075, float("inf")),
    ".glb": (0, 0.01, 1e-5, 1e-6, 0, 5e-7),
    ".gltf": (0, 0.01, 1e-5, 1e-6, 0, 5e-7),
}


def tolerance(name: str) -> tuple[float, ...]:
    return TOLERANCES.get(name) or TOLERANCES[Path(name).suffix]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_written_format_comes_back(tmp_path: Path, name: str, degree: int) -> None:
    splats = scene_splats(300, degree)
    splats = replace(splats, sh=torch.cat([splats.sh[:, :1].clamp(-1.7, 1.7), splats.sh[:, 1:]], 1))
    write_splats(splats, tmp_path / name)
    assert is_splat_file(tmp_path / name)
    found = read_splats(tmp_path / name)
    assert found.sh_degree == (0 if name.endswith(".splat") else degree)
    keeps_order = name.endswith((".glb", ".gltf", "s.ply"))
    for value, limit in zip(vars(difference(found, splats, keeps_order)).values(), tolerance(name)):
        assert value <= limit, difference(found, splats, keeps_order)
    assert [entry.name for entry in tmp_path.rglob("*recon-tmp*")] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_render_mode_travels(tmp_path: Path, name: str) -> None:
    for antialiased in (False, True):
        write_splats(scene_splats(50, 1, antialiased=antialiased), tmp_path / name)
        keeps = not name.endswith(".splat")
        assert read_splats(tmp_path / name).antialiased == (antialiased and keeps)
        told = written_format(tmp_path / name)
        assert told is not None
        lost = any("anti-aliased" in loss for loss in told.losses(scene_splats(5, 1, antialiased=True)))
        assert lost != keeps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("up", ["+y", "-y", "world", "-z"])
def test_another_axis_may_be_up(tmp_path: Path, name: str, up: Any) -> None:
    """Told on writing and reading it always comes back; formats with a place for it need no telling."""
    splats = scene_splats(40, 2)
    write_splats(splats, tmp_path / name, up=up)
    found = read_splats(tmp_path / name, up=up)
    assert difference(found, splats).means < 0.03
    assert difference(found, splats).rest < 0.1 or name.endswith(".splat")
    if not name.endswith((".splat", ".spz")):
        assert torch.equal(read_splats(tmp_path / name).means, found.means)


@pytest.mark.parametrize("name", [name for name in NAMES if "folder" not in name and not name.endswith("gltf")])
def test_the_suffix_does_not_matter_to_a_reader(tmp_path: Path, name: str) -> None:
    splats = scene_splats(30, 1)
    write_splats(splats, tmp_path / name)
    other = tmp_path / ("x.splat" if name == "s.splat" else "x.spz" if "ply" in name else "x.ply")
    shutil.move(tmp_path / name, other)
    assert is_splat_file(other)
    assert len(read_splats(other)) == 30


def test_one_splat(tmp_path: Path) -> None:
    for name in NAMES:
        write_splats(scene_splats(1, 3), tmp_path / name)
        assert len(read_splats(tmp_path / name)) == 1


def test_no_splats_are_refused_or_come_back(tmp_path: Path) -> None:
    for name in NAMES:
        try:
            write_splats(scene_splats(0, 3), tmp_path / name)
        except ReconError:
            assert not (tmp_path / name).exists()
        else:
            assert name.endswith((".ply", ".splat"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_not_written(tmp_path: Path, name: str) -> None:
    splats = scene_splats(20, 1)
    splats.sh[7, 2, 1] = float("nan")
    with pytest.raises(ReconError, match="1 of 20 splats"):
        write_splats(splats, tmp_path / name)
    assert not any(entry.is_file() for entry in tmp_path.rglob("*"))


def test_the_same_splats_give_the_same_file(tmp_path: Path) -> None:
    for name in NAMES:
        splats = scene_splats(200, 2)
        write_splats(splats, tmp_path / name)
        first = (tmp_path / name).read_bytes()
        write_splats(splats, tmp_path / name)
        assert (tmp_path / name).read_bytes() == first, name


def few_splats(count: int = 10) -> Splats:
    return scene_splats(count, 0)


def test_an_unknown_suffix_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"\.spz.*\.sog"):
        write_splats(few_splats(), tmp_path / "s.xyz")
    with pytest.raises(ReconError, match="up axis"):
        write_splats(few_splats(), tmp_path / "s.ply", up="y")  # type: ignore[arg-type]


def test_what_is_no_splat_file(tmp_path: Path) -> None:
    (tmp_path / "m.ply").write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n")
    (tmp_path / "picture.spz").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "text.txt").write_text("hello")
    assert not is_splat_file(tmp_path / "m.ply")
    assert not is_splat_file(tmp_path / "none.ply")
    assert not is_splat_file(tmp_path)
    assert not is_splat_file(tmp_path / "text.txt")
    for name in ("m.ply", "none.ply", "picture.spz", "text.txt", "."):
        with pytest.raises(ReconError):
            read_splats(tmp_path / name)
