# SPDX-License-Identifier: Apache-2.0
"""A method of another package: what CONTRIBUTING.md says under "Add a method", followed to the letter.

`tests/methods/outside` is such a package.  It is installed here as pip would do it, is found by its entry point, and
goes through every command without recon knowing anything of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ball_scene import RADIUS, ball_scene

from recon.cli.main import main
from recon.errors import ReconError
from recon.methods import evaluate, get_method, load_run, method_names, train
from recon.methods.checkpoint import newest_checkpoint
from recon.methods.registry import BUILT_IN, ENTRY_POINT_GROUP
from recon.render import RenderOptions
from recon.scene import Scene

PACKAGE = Path(__file__).parent / "outside"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed into."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    points = project["entry-points"][ENTRY_POINT_GROUP]
    shutil.copytree(PACKAGE / "voxels", site / "voxels", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{ENTRY_POINT_GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is importable, here and in processes that are started."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return ball_scene(tmp_path_factory.mktemp("ball"), count=16, side=32)


@pytest.fixture(scope="module")
def run(scene: Scene, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command line trained."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        assert command("train", scene.root, "--out", out, "--method", "voxels", "--steps", 120, "--rate", 0.2) == 0
    return out


def command(*words: object) -> int:
    return main([str(word) for word in words])


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    """Runs a command and returns its JSON."""
    capsys.readouterr()
    assert command(*words, "--json") == code
    return dict(json.loads(capsys.readouterr().out))


def test_another_process_finds_it_without_importing_torch() -> None:
    code = "import sys; from recon.methods import get_method, method_names; "
    code += "print(method_names()[-1], get_method('voxels').summary, 'torch' in sys.modules, sep='|')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "voxels|a grid of densities and colours|False"


def test_its_options_have_their_help_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert method_names() == [*BUILT_IN, "voxels"]
    for name in ("train", "run"):
        with pytest.raises(SystemExit):
            command(name, "--method", "voxels", "--preset", "draft", "--help")
        words = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "Voxels along each axis; 4 to 256. (default: 16)" in words
        assert "(default: 60)" in words
        assert "auss" not in words


def test_it_learns_the_scene(run: Path, scene: Scene) -> None:
    opened = load_run(run)
    assert evaluate(opened).psnr_db > 18
    middle = opened.renderer.render(replace_size(scene, 3), RenderOptions(depth=True))
    eye = np.linalg.norm(scene.frames[0].camera.center_in_world)
    assert middle.median_depth is not None
    assert float(middle.median_depth[1, 1]) == pytest.approx(eye - RADIUS, abs=0.25)
    assert not (run / "splats.ply").exists()


def replace_size(scene: Scene, side: int) -> Any:
    """Returns the first camera with a picture of few pixels around its middle."""
    camera = scene.frames[0].camera
    return replace(camera, width=side, height=side, cx=side / 2, cy=side / 2)


def test_a_resumed_training_is_bit_identical(scene: Scene, tmp_path: Path) -> None:
    config = get_method("voxels").config_type.preset("draft")
    config = replace(config, steps=20, checkpoint_s=0.0, evaluate_every=0)
    train(scene, tmp_path / "whole", config)
    train(scene, tmp_path / "parts", config, hooks=[lambda step, snapshot: "stop" if step == 7 else None])
    assert train(scene, tmp_path / "parts", config, existing="resume").resumed_from == 7
    states = [newest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts")]
    first, second = (state.trainer.tensors for state in states if state is not None)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ReconError, match="resolution: 16 then, 8 now"):
        train(scene, tmp_path / "parts", replace(config, resolution=8), existing="resume")
    with pytest.raises(ReconError, match="trained by voxels"):
        train(scene, tmp_path / "parts", get_method("splat").config_type(), existing="resume")


def test_replacing_a_run_takes_its_exports_along(scene: Scene, tmp_path: Path) -> None:
    config = get_method("voxels").config_type(steps=2, evaluate_every=0)
    train(scene, tmp_path, config)
    (tmp_path / "notes.txt").write_text("mine")
    assert (tmp_path / "voxels.json").is_file()
    stop: list[bool] = []

    def hook(step: int, snapshot: object) -> str:
        stop.append((tmp_path / "voxels.json").exists())
        return "stop"

    train(scene, tmp_path, get_method("splat").config_type(steps=2, random_points=50), hooks=[hook], existing="replace")
    assert stop == [False]
    assert (tmp_path / "notes.txt").is_file()


def test_every_command_works_on_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = said(capsys, "eval", run)
    assert scores["psnr_db"] > 18
    for channel in ("rgb", "depth"):
        out = tmp_path / channel
        film = said(capsys, "render", run, "--out", out, "--channel", channel, "--seconds", 0.1, "--long-side", 32)
        assert film["frames"] == len(list(out.glob("*.png"))) == 3
    mesh = said(capsys, "mesh", run, "--out", tmp_path / "ball.ply", "--long-side", 48, "--confirmations", 1)
    assert mesh["faces"] > 100
    assert 2 * RADIUS * 0.8 < mesh["diagonal"] / 3**0.5 < 2 * RADIUS * 1.4
    options = ["--long-side", 48, "--confirmations", 1, "--method", "density", "--voxel-size", 0.08]
    assert said(capsys, "mesh", run, "--out", tmp_path / "dense.ply", *options)["faces"] > 100
    bench = said(capsys, "bench", "render", run, "--size", "24x24", "--repeats", 1, "--views", 1, "--threads", 1)
    assert bench["entries"][0]["facts"]["gaussians"] is None


def test_commands_for_splats_say_what_it_is_and_what_to_do(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["export", run, "--out", tmp_path / "a.ply"],
        ["share", run, "--out", tmp_path / "a.html"],
        ["edit", run, "--min-opacity", 0.1],
        ["bench", "formats", run],
    ):
        error = said(capsys, *words, code=2)["error"]
        assert "voxels" in error["found"]
        assert "splats" in error["expected"]
        assert "recon" in error["fix"]


def test_the_whole_way(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recon.formats.transforms_json import write_transforms

    write_transforms(scene, tmp_path / "posed" / "transforms.json")
    words: list[object] = ["run", tmp_path / "posed", "--out", tmp_path / "out", "--method", "voxels"]
    words += ["--preset", "draft", "--train.resolution", 12, "--max-faces", 2000]
    # The ball is too smooth for points to be found, which the user is told: exit code 3.
    report = said(capsys, *words, code=3)
    assert report["export"] is None
    assert report["mesh"]["faces"] > 50
    assert report["train"]["numbers"]["solid_voxels"] > 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Solid voxels" in page
    assert "Gaussians" not in page
    assert json.loads((tmp_path / "out" / "run" / "config.json").read_text())["config"]["resolution"] == 12
    assert said(capsys, *words, code=3)["train"] == report["train"]


def test_its_runs_are_looked_at_in_the_browser(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recon.cli.view import load_any
    from recon.viewers import open_viewer
    from recon.viewers.editing.edited import edited_renderer

    assert said(capsys, "view", run, "--port", 0, "--seconds", 0)["url"]
    content = load_any(run)
    with open_viewer(content, port=0) as viewer:
        assert list(viewer.pictures().values()) == ["exact", "nothing"]
        assert viewer.picture == "exact"
        assert "Edit" not in viewer.tabs
        assert all(name in viewer.tabs for name in ("Measure", "Film", "Export"))
        export = next(panel for panel in viewer.panels if type(panel).__name__ == "ExportPanel")
        assert export.kinds == ("Mesh", "Picture", "Cameras")  # type: ignore[attr-defined]
        assert edited_renderer(viewer) is content.renderer


def test_its_training_is_looked_at_in_the_browser(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon.methods.changes import LiveConfig
    from recon.viewers import LiveViewer

    monkeypatch.setattr(LiveViewer, "_is_watched", lambda self: True)
    monkeypatch.setattr("recon.viewers.training.live.STATUS_EVERY_S", 0.0)
    config = get_method("voxels").config_type(steps=12, log_every=1, evaluate_every=6)
    with LiveViewer.for_scene(scene, port=0, run=tmp_path, makes_splats=False) as live:
        train(scene, tmp_path, config, hooks=[live.hook(config.steps, tmp_path, LiveConfig(config, tmp_path))])
        assert type(live.viewer.exact.renderer).__name__ == "VoxelRenderer"
        assert live.viewer.exact.renderer is not load_run(tmp_path, scene).renderer
        panels = {type(panel).__name__: panel for panel in live.viewer.panels}
        assert "Splats" not in panels["ExportPanel"].kinds  # type: ignore[attr-defined]
        words = panels["TrainingPanel"]._words(12, _watch(tmp_path, config.steps))  # type: ignore[attr-defined]
        assert any(word.startswith("Solid voxels: ") for word in words)
        assert "solid_voxels" in panels["TrainingPanel"]._plots  # type: ignore[attr-defined]


def _watch(run: Path, steps: int) -> Any:
    from recon.viewers.training.metrics import Metrics
    from recon.viewers.training.panel import Watch

    return Watch(steps, Metrics(run / "metrics.jsonl"))
