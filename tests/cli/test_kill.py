# SPDX-License-Identifier: Apache-2.0
"""`kill -9` at random moments of `recon run`: the next run finishes, and nothing is corrupt.

`RECON_KILLS=20 pytest tests/cli/test_kill.py` is the long form.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recon.data import CaptureConfig, make_capture
from recon.files import TEMPORARY_MARK
from recon.formats.mesh_files import read_mesh
from recon.formats.splat_ply import read_splat_ply
from recon.methods import load_run
from recon.scene_io import load_scene

KILLS = int(os.environ.get("RECON_KILLS", "2"))
STEPS = 120


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture small enough to be run again and again."""
    config = CaptureConfig(views=12, width=320, height=240, detail=0.3, light_samples=4, maps=False)
    return make_capture("object", tmp_path_factory.mktemp("capture"), config).photos_dir


def start(photos: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    options = ["--long-side", "160", "--steps", str(STEPS), "--train.max-gaussians", "3000", "--json", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "recon.cli.main", "run", str(photos), "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out.parent,  # In the repository, -m would take the sources in place of what is installed.
    )


def finish(photos: Path, out: Path, *more: str) -> dict[str, object]:
    process = start(photos, out, *more)
    printed, errors = process.communicate(timeout=240)
    # So short a training may score low enough to be told that it needs a look.
    assert process.returncode in (0, 3), errors
    return dict(json.loads(printed))


def check_whole(out: Path) -> None:
    """Every file that a run leaves can be read, and no half-written one lies about."""
    assert len(load_scene(out / "scene").frames) == 12
    run = load_run(out / "run")
    assert run.step == STEPS
    assert len(read_splat_ply(out / "splats.ply")) == len(run.splats or ())
    assert len(read_mesh(out / "mesh.glb").faces) > 100
    assert json.loads((out / "run" / "eval.json").read_text())["psnr_db"] > 12
    assert "</html>" in (out / "index.html").read_text()
    assert not list(out.glob(f"**/{TEMPORARY_MARK}*"))


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * KILLS)
def test_a_killed_run_is_finished_by_the_next(photos: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    finish(photos, tmp_path / "whole")
    whole_s = time.monotonic() - begun
    check_whole(tmp_path / "whole")
    generator = random.Random(0)
    for kill in range(KILLS):
        out = tmp_path / f"killed-{kill}"
        process = start(photos, out)
        # The moments are spread over the run, at a random place of each part.
        time.sleep(whole_s * (kill + generator.random()) / KILLS)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finish(photos, out)
        check_whole(out)


def test_a_finished_run_is_not_redone_and_a_changed_option_redoes_what_follows(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(photos, out)
    scene_before = (out / "scene" / "scene.json").stat().st_mtime_ns
    splats_before = (out / "run" / "splats.ply").stat().st_mtime_ns
    mesh_before = (out / "mesh.glb").stat().st_mtime_ns
    finish(photos, out)
    assert (out / "run" / "splats.ply").stat().st_mtime_ns == splats_before
    assert (out / "mesh.glb").stat().st_mtime_ns == mesh_before
    finish(photos, out, "--max-faces", "500")
    assert (out / "scene" / "scene.json").stat().st_mtime_ns == scene_before
    assert (out / "run" / "splats.ply").stat().st_mtime_ns == splats_before
    assert (out / "mesh.glb").stat().st_mtime_ns != mesh_before
    assert len(read_mesh(out / "mesh.glb").faces) <= 500
