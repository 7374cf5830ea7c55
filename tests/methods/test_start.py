# SPDX-License-Identifier: Apache-2.0
"""Trainings that start from the surface of a trained run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ball_scene import RADIUS, BallRenderer, ball_scene

from recon.cli.main import main
from recon.errors import ReconError
from recon.methods import SplatConfig, load_run, registry, train
from recon.methods.checkpoint import newest_checkpoint
from recon.methods.config import TrainConfig
from recon.methods.method import Method, TrainerState, TrainingData
from recon.scene import Scene

QUICK = SplatConfig(steps=6, max_gaussians=5000, sh_degree=0, evaluate_every=0, device="cpu")


@dataclass(frozen=True)
class BallConfig(TrainConfig):
    """No options."""


class BallTrainer:
    """Knows the ball without training."""

    def __init__(self, data: TrainingData, config: BallConfig) -> None:
        pass

    def step(self, step: int, view_index: int) -> dict[str, float]:
        return {"loss": 0.0}

    def snapshot(self) -> BallRenderer:
        return BallRenderer()

    def state(self) -> TrainerState:
        return TrainerState({"nothing": torch.zeros(1)})

    def restore(self, state: TrainerState) -> None:
        pass

    def export(self, folder: Path) -> None:
        pass


@pytest.fixture(autouse=True)
def ball_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    registry.register(
        Method("ball", "knows it all", BallConfig, lambda *_: None, BallTrainer, lambda *_: BallRenderer(),
               uses_points=False)
    )  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return ball_scene(tmp_path / "ball", count=12, side=32)


@pytest.fixture
def known(scene: Scene, tmp_path: Path) -> Path:
    """A run that shows the ball."""
    train(scene, tmp_path / "known", BallConfig(steps=1))
    return tmp_path / "known"


def means_of(run: Path) -> torch.Tensor:
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    return checkpoint.trainer.tensors["means"]


def test_splats_start_on_the_surface_of_another_run(scene: Scene, known: Path, tmp_path: Path) -> None:
    out = tmp_path / "splats"
    train(scene, out, replace(QUICK, steps=1), init=known)
    radii = means_of(out).norm(dim=1)
    assert len(radii) > 500
    assert float((radii - RADIUS).abs().max()) < 0.1
    init = json.loads((out / "config.json").read_text())["init"]
    assert init == {"run": "../known", "method": "ball", "step": 1, "points": len(radii)}
    # The scene itself is as it was.
    assert len(load_run(out).scene.points) == 0


def test_a_resumed_training_starts_from_the_same_points(scene: Scene, known: Path, tmp_path: Path) -> None:
    train(scene, tmp_path / "whole", QUICK, init=f"ball:{known}")
    out = tmp_path / "parts"
    train(scene, out, QUICK, hooks=[lambda step, snapshot: "stop" if step == 3 else None], init=known)
    shutil.rmtree(known)
    assert train(scene, out, QUICK, existing="resume").resumed_from == 3
    assert torch.equal(means_of(tmp_path / "whole"), means_of(out))
    assert train(scene, out, QUICK, existing="resume", init=known).steps_made == 0
    with pytest.raises(ReconError, match=r"was begun from .*known, not from"):
        train(scene, out, QUICK, existing="resume", init=tmp_path / "whole")
    (out / "start.safetensors").unlink()
    with pytest.raises(ReconError, match="no such file"):
        train(scene, out, QUICK, existing="resume")
    # A run that is begun anew forgets where the one before it started.
    train(scene, out, replace(QUICK, random_points=300), existing="replace")
    assert "init" not in json.loads((out / "config.json").read_text())
    with pytest.raises(ReconError, match="points of its scene"):
        train(scene, out, replace(QUICK, random_points=300), existing="resume", init=tmp_path / "whole")


def test_splats_start_from_splats(scene: Scene, known: Path, tmp_path: Path) -> None:
    train(scene, tmp_path / "first", replace(QUICK, steps=40), init=known)
    train(scene, tmp_path / "second", replace(QUICK, steps=1), init=f"splat:{tmp_path / 'first'}")
    radii = means_of(tmp_path / "second").norm(dim=1)
    assert float((radii - RADIUS).abs().median()) < 0.15


def test_what_cannot_be_started_from_is_told(scene: Scene, known: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ReconError, match="no such folder"):
        train(scene, out, QUICK, init=tmp_path / "nowhere")
    with pytest.raises(ReconError, match=r"(?s)no config.json.*METHOD:FOLDER"):
        train(scene, out, QUICK, init=tmp_path)
    with pytest.raises(ReconError, match=r"(?s)--method ball.*a run of splat"):
        train(scene, out, QUICK, init=f"splat:{known}")
    with pytest.raises(ReconError, match="does not start from points"):
        train(scene, out, BallConfig(steps=1), init=known)
    assert not (out / "config.json").exists()
    with pytest.raises(ReconError, match="it is the run that is to be trained"):
        train(scene, known, QUICK, init=known, existing="replace")
    assert load_run(known).step == 1
    pose = np.eye(4)
    pose[0, 3] = 1.0
    moved = [replace(f, camera=f.camera.with_pose(f.camera.cam_from_world @ pose)) for f in scene.frames]
    with pytest.raises(ReconError, match="stand elsewhere"):
        train(Scene(tuple(moved)), out, QUICK, init=known)
    renamed = [replace(f, name=f"other {f.name}") for f in scene.frames]
    with pytest.raises(ReconError, match="other photographs"):
        train(Scene(tuple(renamed)), out, QUICK, init=known)


def test_the_command_line(scene: Scene, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["train", str(scene.root), "--out", str(out), "--steps", "2", "--json", "--init"]
    assert main([*words, f"ball:{known}"]) == 0
    assert json.loads((out / "config.json").read_text())["init"]["method"] == "ball"
    capsys.readouterr()
    assert main([*words, "ball:nowhere", "--replace"]) == 2
    assert "nowhere" in json.loads(capsys.readouterr().out)["error"]["doing"]
    assert load_run(out).step == 2
