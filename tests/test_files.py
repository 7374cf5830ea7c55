# SPDX-License-Identifier: Apache-2.0
"""Files are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from recon import files
from recon.errors import ReconError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError, match="power"), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for text in ("one", "two"):
        with files.atomic_directory(target) as temporary:
            (temporary / text).write_text(text)
    assert [entry.name for entry in target.iterdir()] == ["two"]
    with pytest.raises(RuntimeError, match="stop"), files.atomic_directory(target):
        raise RuntimeError("stop")
    assert [entry.name for entry in target.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": np.float32(2.0), "c": [float("nan"), 1], "d": tmp_path}, schema=3)
    document = files.read_json(path, schema=3, keys=["b", "c", "d"])
    assert document == {"b": 2.0, "c": [None, 1], "d": str(tmp_path)}
    with pytest.raises(ReconError, match="schema is 3"):
        files.read_json(path, schema=4)
    with pytest.raises(ReconError, match="unknown keys d"):
        files.read_json(path, schema=3, keys=["b", "c"])
    with pytest.raises(ReconError, match="no such file"):
        files.read_json(tmp_path / "none.json", schema=3)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000])
def test_broken_json_is_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ReconError):
        files.read_json(path, schema=1)


def test_arrays_round_trip_and_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2], "y": np.zeros(0, np.int64)}
    files.write_arrays(path, arrays)
    again = files.read_arrays(path)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ReconError, match="not a whole"):
        files.read_arrays(path)


def test_a_full_disk_under_arrays_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors wraps the system's refusal in an error of its own."""
    import safetensors.numpy

    def full(*args: object, **options: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(ReconError, match="disk is full"):
        files.write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReconError, match="preparing"):
        files.ensure_output_directory(tmp_path / "file")
    with pytest.raises(ReconError):
        files.ensure_output_directory(tmp_path / "file" / "below")


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(ReconError, match="disk is full"):
        files.raise_for_os_error("writing", OSError(28, "No space left on device", "x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ReconError, match="may be written"):
        files.ensure_output_directory(tmp_path / "out")


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{files.TEMPORARY_MARK}abc-x.json").write_text("")
    (tmp_path / f"{files.TEMPORARY_MARK}abc-folder").mkdir()
    (tmp_path / "kept").write_text("")
    assert files.remove_leftovers(tmp_path) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_fingerprints_tell_values_apart() -> None:
    assert files.fingerprint({"a": 1, "b": 2}) == files.fingerprint({"b": 2, "a": 1})
    assert files.fingerprint([1, 2]) != files.fingerprint([2, 1])


def test_an_error_tells_its_parts() -> None:
    error = ReconError("reading x", "it is empty", "a picture", "choose another")
    assert str(error).splitlines() == [
        "While reading x: it is empty",
        "Expected: a picture",
        "To fix it: choose another",
    ]
    assert json.loads(files.to_json_text(error.to_json()))["fix"] == "choose another"
