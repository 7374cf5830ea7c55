# SPDX-License-Identifier: Apache-2.0
"""Films are saved and loaded as they are, under names that lead nowhere else; hostile files are refused at once."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recon.errors import ReconError
from recon.film.keyframes import SCHEMA, film_document, read_film
from recon.film.motion import Keyframe, KeyframedFilm
from recon.film.saved import LONGEST_NAME, FilmLibrary, clean_name

FILM = KeyframedFilm(
    (
        Keyframe(0.0, (3.0, 0.0, 1.0), (0.5, -0.5, 0.5, -0.5), 50.0),
        Keyframe(1.5, (0.0, 3.0, 1.0), (0.5, 0.5, -0.5, 0.5), 35.0, "ease_in_out"),
        Keyframe(2.0, (0.0, 3.0, 2.0), (1.0, 0.0, 0.0, 0.0), 35.0, "hold"),
    ),
    fps=25,
    width=1080,
    height=1920,
    shape="straight",
    constant_speed=True,
    loop=True,
    closing_s=0.75,
)


def test_a_film_comes_back_as_it_was(tmp_path: Path) -> None:
    library = FilmLibrary(tmp_path / "paths")
    assert library.names() == []
    assert library.save("my film", FILM) == "my film"
    assert library.save("Другой", replace(FILM, loop=False, closing_s=None)) == "Другой"
    assert library.names() == ["my film", "Другой"]
    assert library.load("my film") == FILM
    assert library.load("Другой") == replace(FILM, loop=False, closing_s=None)
    library.delete("Другой")
    assert [entry.name for entry in (tmp_path / "paths").iterdir()] == ["my film.json"]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\x",
        "/tmp/x",
        "C:\\x",
        "a/b",
        "a\0b",
        "con",
        "NUL",
        ".hidden",
        "a" * 9999,
        "x.json",
        "😀x",
    ],
)
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    library = FilmLibrary(tmp_path / "run" / "paths")
    saved = library.save(name, FILM)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")] == [f"run/paths/{saved}.json"]
    assert clean_name(saved) == saved
    assert len(saved) <= LONGEST_NAME + 5
    assert not set(saved) & set("/\\.:\0")
    (tmp_path / "secret.json").write_text("{}")
    for other in ("../../secret", "../../../secret", str(tmp_path / "secret"), "no such film"):
        with pytest.raises(ReconError, match="none called"):
            library.load(other)
        with pytest.raises(ReconError, match="none called"):
            library.delete(other)
    assert (tmp_path / "secret.json").exists()


@pytest.mark.parametrize("name", ["", "...", "///", "- _ -"])
def test_names_of_nothing_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReconError, match="letters or digits"):
        FilmLibrary(tmp_path).save(name, FILM)


ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1e308, -1e308, 10**400, float("nan"), float("inf"), "", "30", "x" * 10000, [], {}, [[]], [1, 2],
    [1, 2, 3, 4, 5], [None] * 3, [10**400] * 3, [0, 0, 0, 0], {"a": 1}, [[1, 2, 3]], "hold",
]  # fmt: skip


def test_hostile_files_are_refused_quickly_or_are_films(tmp_path: Path) -> None:
    path = tmp_path / "film.json"
    good = json.dumps({"schema": SCHEMA, **film_document(FILM)})
    refused = 0
    for seed in range(240):
        choose = random.Random(seed)
        document = json.loads(good)
        if seed % 3 == 0:
            data = bytearray(good.encode())
            for _ in range(choose.randint(1, 8)):
                data[choose.randrange(len(data))] = choose.randrange(256)
            path.write_bytes(bytes(data[: choose.randrange(len(data))] if seed % 2 else data))
        else:
            target = document if seed % 3 == 1 else choose.choice(document["keyframes"])
            target[choose.choice([*target, "surprise"])] = choose.choice(ODD_VALUES)
            path.write_text(json.dumps(document))
        started = time.perf_counter()
        try:
            # What is accepted must also be playable.
            cameras = replace(read_film(path), fps=1, closing_s=None).path().cameras
            assert len(cameras) <= 100_000
        except ReconError:
            refused += 1
        assert time.perf_counter() - started < 5
    assert refused > 150


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 1, "keyframes": [' + "{}," * 50_000 + "{}]}", "1" * 5000])
def test_deep_long_and_endless_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "film.json").write_text(text)
    with pytest.raises(ReconError):
        read_film(tmp_path / "film.json")


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "film.json").open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(ReconError, match="too large"):
        read_film(tmp_path / "film.json")
