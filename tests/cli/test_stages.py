# SPDX-License-Identifier: Apache-2.0
"""Finished stages are not redone, changed ones are."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.cli.stages import FILE_NAME, StageBook, locked
from recon.errors import ReconError


def worker(folder: Path, calls: list[str], name: str) -> dict[str, object]:
    calls.append(name)
    (folder / name).write_text("made")
    return {"name": name, "value": float("nan")}


def test_a_stage_runs_once_for_a_key(tmp_path: Path) -> None:
    calls: list[str] = []
    for key in ("a", "a", "b", "b"):
        report = StageBook(tmp_path).run("mesh", key, ["mesh"], lambda: worker(tmp_path, calls, "mesh"))
        assert report == {"name": "mesh", "value": None}
    assert calls == ["mesh", "mesh"]


def test_a_lost_output_is_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        StageBook(tmp_path).run("mesh", "a", ["mesh"], lambda: worker(tmp_path, calls, "mesh"))
        (tmp_path / "mesh").unlink()
    assert len(calls) == 2


def test_an_interrupted_stage_is_remembered_as_begun(tmp_path: Path) -> None:
    def fails() -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StageBook(tmp_path).run("train", "a", [], fails)
    again = StageBook(tmp_path)
    assert again.key_of("train") == "a"
    assert not again.is_done("train", "a", [])


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1, "stages": 3}', '{"schema": 9, "stages": {}}'])
def test_a_broken_book_is_begun_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    book = StageBook(tmp_path)
    assert not book.is_done("mesh", "a", [])
    book.finish("mesh", "a", {})
    assert StageBook(tmp_path).is_done("mesh", "a", [])


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ReconError, match="another recon"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
