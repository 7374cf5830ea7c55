# SPDX-License-Identifier: Apache-2.0
"""`recon export`: every format by the output's name, edits applied, losses told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from formats.splat_cases import scene_splats

from recon.cli.main import main
from recon.edits import Box, Delete, EditList, edits_path, write_edits
from recon.formats.splat_files import read_splats, write_splats


def export(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert main(["export", *map(str, words), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("name", ["b.compressed.ply", "b.spz", "b.sog", "b.splat", "b.glb", "b.gltf", "sog/meta.json"])
def test_a_file_becomes_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_splats(scene_splats(60, 2, antialiased=True), tmp_path / "a.ply")
    report = export(capsys, tmp_path / "a.ply", "--out", tmp_path / name)
    assert (report["splats"], report["sh_degree"]) == (60, 2)
    lost = " ".join(report["lost"])  # type: ignore[arg-type]
    assert ("view-dependent" in lost) == (name in ("b.splat", "b.sog", "sog/meta.json"))
    assert ("anti-aliased" in lost) == (name == "b.splat")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.ply"]
    assert report["bytes"] == sum(path.stat().st_size for path in written)
    source = tmp_path / name if name != "sog/meta.json" else tmp_path / "sog"
    again = export(capsys, source, "--out", tmp_path / "c.ply")
    assert again["splats"] == 60


def test_edits_are_applied_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_splats(scene_splats(200, 0), tmp_path / "a.ply")
    kept = EditList().then(Delete(Box((0, 0, 0), (1.0, 1.0, 1.0)), outside=True))
    write_edits(edits_path(tmp_path / "a.ply"), kept)
    report = export(capsys, tmp_path / "a.ply", "--out", tmp_path / "b.spz")
    assert report["edits"] == 1
    assert 0 < len(read_splats(tmp_path / "b.spz")) == report["splats"] < 200
    assert export(capsys, tmp_path / "a.ply", "--out", tmp_path / "b.spz", "--no-edits")["splats"] == 200


def test_fewer_harmonics_and_other_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_splats(scene_splats(30, 3), tmp_path / "a.ply", up="+y")
    words = ["--out", tmp_path / "b.ply", "--sh-degree", "1", "--up", "world"]
    assert export(capsys, tmp_path / "a.ply", *words)["sh_degree"] == 1
    turned = export(capsys, tmp_path / "a.ply", *words, "--source-up", "-y")
    assert turned["up"] == "+Z"


def test_a_wrong_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_splats(scene_splats(3, 0), tmp_path / "a.ply")
    assert main(["export", str(tmp_path / "a.ply"), "--out", str(tmp_path / "b.obj")]) == 2
    assert ".spz" in capsys.readouterr().err
