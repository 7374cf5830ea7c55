# SPDX-License-Identifier: Apache-2.0
"""Options that change while a training runs: they act, they are written down, and a resumed run keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import toy

from recon.errors import ReconError
from recon.methods import load_run, train
from recon.methods.changes import LiveConfig, read_changes
from recon.methods.config import changed, live_options
from recon.methods.splat.config import SplatConfig
from recon.scene import Scene

pytestmark = pytest.mark.usefixtures("toy_method")

Hook = Callable[[int, object], Any]


def asking(answers: Mapping[int, Any]) -> Hook:
    """A hook that gives an answer once after a step."""
    left = dict(answers)
    return lambda step, snapshot: left.pop(step, None)


def color_of(out: Path) -> torch.Tensor:
    renderer: Any = load_run(out, Scene(())).renderer
    return renderer.color


def test_a_change_acts_from_the_next_step_on_and_is_written_down(tmp_path: Path, toy_scene: Scene) -> None:
    config = toy.ToyConfig(steps=8)
    train(toy_scene, tmp_path / "same", config)
    train(toy_scene, tmp_path / "other", config, hooks=[asking({3: {"rate": 0.5}})])
    assert not torch.equal(color_of(tmp_path / "same"), color_of(tmp_path / "other"))
    assert not (tmp_path / "same" / "changes.jsonl").exists()
    lines = (tmp_path / "other" / "changes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 3, "options": {"rate": 0.5}, "before": {"rate": 0.05}}]
    # What it was started with stays on record.
    assert load_run(tmp_path / "other").config == config


def test_a_resumed_run_keeps_its_changes_bit_for_bit(tmp_path: Path, toy_scene: Scene) -> None:
    config = toy.ToyConfig(steps=12)
    changes = {3: {"rate": 0.3}, 8: {"rate": 0.7}}
    train(toy_scene, tmp_path / "whole", config, hooks=[asking(changes)])
    train(toy_scene, tmp_path / "parts", config, hooks=[asking({**changes, 5: "stop"})])
    live = LiveConfig(config, tmp_path / "parts")
    assert [option.value for option in live.options()] == [0.3]
    train(toy_scene, tmp_path / "parts", config, hooks=[asking({8: {"rate": 0.7}})], existing="resume")
    assert torch.equal(color_of(tmp_path / "whole"), color_of(tmp_path / "parts"))
    assert [step for step, _ in read_changes(tmp_path / "parts" / "changes.jsonl")] == [3, 8]


def test_changes_after_the_checkpoint_are_forgotten_when_it_is_resumed(tmp_path: Path, toy_scene: Scene) -> None:
    config = toy.ToyConfig(steps=10)
    out = tmp_path / "run"
    train(toy_scene, out, config, hooks=[asking({3: {"rate": 0.3}, 5: "stop"})])
    with (out / "changes.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "options": {"rate": 0.9}}) + '\n{"step": 4, "opt')
    train(toy_scene, out, config, existing="resume")
    assert [options for _, options in read_changes(out / "changes.jsonl")] == [{"rate": 0.3}]
    train(toy_scene, out, config, existing="replace")
    assert not (out / "changes.jsonl").exists()


@pytest.mark.parametrize("values", [{"rate": 2.0}, {"rate": "much"}, {"steps": 3}, {"nothing": 1}])
def test_what_may_not_be_is_refused_and_training_goes_on(tmp_path: Path, toy_scene: Scene, values: Any) -> None:
    config = toy.ToyConfig(steps=6)
    report = train(toy_scene, tmp_path / "run", config, hooks=[asking({3: values})])
    assert report.status == "finished"
    assert not (tmp_path / "run" / "changes.jsonl").exists()
    with pytest.raises(ReconError):
        LiveConfig(config, tmp_path / "run").check(values)


def test_a_checkpoint_is_written_when_asked_for(tmp_path: Path, toy_scene: Scene) -> None:
    seen = []

    def hook(step: int, snapshot: object) -> str | None:
        if step == 4 and not seen:
            seen.append(step)
            return "save"
        if step == 5:
            seen.extend(path.name for path in sorted((tmp_path / "run" / "checkpoints").glob("*.json")))
        return None

    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=6), hooks=[hook])
    assert seen == [4, "step-00000004.json"]


def test_the_live_options_of_splats() -> None:
    config = SplatConfig()
    options = {option.name: option for option in live_options(config)}
    assert {"max_gaussians", "rates.position", "rates.opacity", "density.stop"} <= set(options)
    assert options["density.stop"].is_fraction
    assert "steps" not in options
    other = changed(config, {"rates.position": 0.002, "max_gaussians": 5000.0, "density.stop": 0.25})
    assert (other.rates.position, other.max_gaussians, other.density.stop) == (0.002, 5000, 0.25)
    assert other.rates.scale == config.rates.scale
