# SPDX-License-Identifier: Apache-2.0
"""Bad input at the command line: exit code 2, a message that says what was found, and no traceback."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.cli.main import main


def photo(path: Path, seed: int, size: tuple[int, int] = (160, 120)) -> Path:
    """Writes a picture of blurred noise: many corners, none of them in any other seed's picture."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (size[1] // 4, size[0] // 4, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Runs a command that must refuse and returns what was found."""
    assert main([*map(str, words), "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert "Traceback" not in printed.err
    assert error["doing"]
    assert error["found"]
    assert error["found"].split()[0] in printed.err
    return str(error["found"])


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such" in refused(capsys, "run", tmp_path / "none", "--out", tmp_path / "out")


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    assert "empty" in refused(capsys, "run", tmp_path / "photos", "--out", tmp_path / "out")


def test_text_files_named_like_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_text("these are words")
    refused(capsys, "run", tmp_path / "photos", "--out", tmp_path / "out")


def test_one_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "photos" / "a.jpg", 0)
    refused(capsys, "run", tmp_path / "photos", "--out", tmp_path / "out")
    refused(capsys, "run", tmp_path / "photos" / "a.jpg", "--out", tmp_path / "out")


def test_photographs_without_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        photo(tmp_path / "photos" / f"{seed}.jpg", seed)
    refused(capsys, "run", tmp_path / "photos", "--out", tmp_path / "out")


def test_a_video_without_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    refused(capsys, "run", tmp_path / "clip.mp4", "--out", tmp_path / "out")


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "photos" / "a.jpg", 0)
    (tmp_path / "file").write_text("")
    refused(capsys, "run", tmp_path / "photos", "--out", tmp_path / "file")
    refused(capsys, "run", tmp_path / "photos", "--out", "/proc/recon-output")


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from recon import files

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    for seed in range(2):
        photo(tmp_path / "photos" / f"{seed}.jpg", seed)
    monkeypatch.setattr(files.os, "fsync", full)
    assert "disk is full" in refused(capsys, "run", tmp_path / "photos", "--out", tmp_path / "out")


def splat_ply(path: Path, properties: list[str], rows: int, promised: int | None = None) -> Path:
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {rows if promised is None else promised}"]
    header += [f"property float {name}" for name in properties]
    body = struct.pack(f"<{rows * len(properties)}f", *[0.1] * (rows * len(properties)))
    path.write_bytes("\n".join([*header, "end_header\n"]).encode() + body)
    return path


SPLAT = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
SPLAT += ["rot_0", "rot_1", "rot_2", "rot_3"]


def test_a_whole_splat_file_is_taken(tmp_path: Path) -> None:
    assert (
        main(["export", str(splat_ply(tmp_path / "a.ply", SPLAT, 3)), "--out", str(tmp_path / "b.ply"), "--json"]) == 0
    )


@pytest.mark.parametrize("promised", [4, 10**18])
def test_a_splat_file_with_a_lying_count(tmp_path: Path, capsys: pytest.CaptureFixture[str], promised: int) -> None:
    refused(capsys, "export", splat_ply(tmp_path / "a.ply", SPLAT, 3, promised), "--out", tmp_path / "b.ply")


@pytest.mark.parametrize("missing", ["opacity", "x", "rot_3", "f_dc_1"])
def test_a_splat_file_without_a_property(tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    names = [name for name in SPLAT if name != missing]
    found = refused(capsys, "export", splat_ply(tmp_path / "a.ply", names, 3), "--out", tmp_path / "b.ply")
    assert missing in found


def test_a_splat_file_with_nan_and_one_with_a_wrong_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = splat_ply(tmp_path / "a.ply", SPLAT, 3).read_bytes()
    nan = tmp_path / "nan.ply"
    nan.write_bytes(whole[:-8] + struct.pack("<f", float("nan")) + whole[-4:])
    refused(capsys, "export", nan, "--out", tmp_path / "b.ply")
    wrong = tmp_path / "wrong.ply"
    wrong.write_bytes(whole.replace(b"property float opacity", b"property quark opacity"))
    refused(capsys, "export", wrong, "--out", tmp_path / "b.ply")


def test_a_colmap_model_that_was_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from small_scenes import small_scene

    scene = small_scene(tmp_path / "whole")
    points = scene / "sparse" / "0" / "points3D.bin"
    points.write_bytes(points.read_bytes()[:-5])
    (scene / "scene.json").unlink()
    refused(capsys, "process", scene, "--out", tmp_path / "out")
    refused(capsys, "train", scene, "--out", tmp_path / "run")


def test_a_run_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("eval", "view"):
        refused(capsys, command, tmp_path)
    refused(capsys, "mesh", tmp_path, "--out", tmp_path / "mesh.glb")
    refused(capsys, "render", tmp_path, "--out", tmp_path / "film.mp4")
    refused(capsys, "train", tmp_path, "--out", tmp_path / "run", "--method", "splat")
