# SPDX-License-Identifier: Apache-2.0
"""Hostile splat files: an error or sound splats, in little time and memory, and never a file written elsewhere.

A hundred mutations of each format belong to the suite; `RECON_FUZZ=1000 pytest --timeout=3000
tests/formats/test_fuzz_formats.py` tries as many as you like, and then also watches the clock and the memory.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from formats.hostile_files import Hostile

from recon.errors import ReconError
from recon.formats.splat_files import is_splat_file, read_splats
from recon.splats import Splats

COUNT = int(os.environ.get("RECON_FUZZ", "100"))
KINDS = ["ply", "compressed", "spz4", "spz", "sog", "sog-folder", "splat", "ksplat", "glb", "gltf"]

MOST_SECONDS = 1.0
MOST_MEGABYTES = 1024


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    return Hostile(tmp_path_factory.mktemp("sound"))


def place(folder: Path, name: str, content: bytes | dict[str, bytes]) -> Path:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
        return folder / name
    for member, data in content.items():
        (folder / member).write_bytes(data)
    return folder / "x.gltf" if "x.gltf" in content else folder


def sound(splats: Splats) -> bool:
    parts = (splats.means, splats.quats, splats.log_scales, splats.opacity_logits, splats.sh)
    return all(bool(torch.isfinite(part).all()) for part in parts) and bool(splats.quats.any(1).all())


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_give_an_error_or_splats(hostile: Hostile, tmp_path: Path, kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, refused = (0.0, -1), 0
    for seed in range(COUNT):
        inside = tmp_path / "outside" / "inside"
        inside.mkdir(parents=True)
        path = place(inside, *hostile.make(kind, seed))
        there = {entry: entry.stat().st_mtime_ns for entry in tmp_path.rglob("*")}
        start = time.perf_counter()
        try:
            splats = read_splats(path, not_finite="drop" if seed % 2 else "refuse")
            assert sound(splats), f"{kind} {seed} gave splats that are not sound"
        except ReconError:
            refused += 1
        is_splat_file(path)
        slowest = max(slowest, (time.perf_counter() - start, seed))
        assert {entry: entry.stat().st_mtime_ns for entry in tmp_path.rglob("*")} == there, f"{kind} {seed} wrote"
        shutil.rmtree(tmp_path / "outside")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{kind}: {refused} of {COUNT} refused, slowest {slowest[0]:.3f} s (number {slowest[1]}), {grown:.0f} MB")
    # Most mutations do harm; a reader that takes nearly all of them checks nothing.
    assert refused > COUNT // 10
    assert grown < MOST_MEGABYTES
    if "RECON_FUZZ" in os.environ:
        assert slowest[0] < MOST_SECONDS, f"{kind} {slowest[1]}"


def test_the_sound_files_are_read(hostile: Hostile, tmp_path: Path) -> None:
    for name, data in hostile.sound.items():
        if not name.endswith("gltf"):
            (tmp_path / name).write_bytes(data)
            assert len(read_splats(tmp_path / name)) == 40
    assert sorted(hostile.formats()) == sorted(KINDS)
