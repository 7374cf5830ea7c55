# SPDX-License-Identifier: Apache-2.0
"""Presets choose the defaults, and whatever is given beside one comes first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_scenes import small_scene

from recon.cli.main import main
from recon.cli.pipeline import PipelineConfig, _Pipeline
from recon.errors import ReconError
from recon.methods import SplatConfig
from recon.methods.config import TrainConfig
from recon.methods.splat.config import PRESETS, DensityConfig
from recon.progress import SILENT


def test_the_presets_are_ordered_by_effort() -> None:
    draft, normal, best = (SplatConfig.preset(name) for name in ("draft", "normal", "best"))
    assert draft.steps < normal.steps < best.steps
    assert draft.max_gaussians < normal.max_gaussians < best.max_gaussians
    assert list(PRESETS) == ["draft", "normal", "best"]


def test_normal_is_what_a_python_user_gets() -> None:
    assert SplatConfig.preset("normal") == SplatConfig()


def test_a_preset_reaches_into_groups() -> None:
    @dataclass(frozen=True)
    class Grouped(TrainConfig):
        PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
            "x": {"density.every": 7, "density.stop": 0.5, "steps": 9}
        }
        density: DensityConfig = field(default_factory=DensityConfig)

    assert Grouped.preset("x") == Grouped(steps=9, density=replace(DensityConfig(), every=7, stop=0.5))


@pytest.mark.parametrize("words", [["--preset", "fastest"], ["--preset=fastest"], ["--method", "fastest"]])
def test_an_unknown_preset_or_method_is_bad_input(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run"), "--json", *words]) == 2
    printed = capsys.readouterr()
    assert "fastest" in json.loads(printed.out)["error"]["found"]
    assert "Traceback" not in printed.err


def test_the_help_shows_the_values_of_the_chosen_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--preset", "draft", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"(default: {SplatConfig.preset('draft').steps})" in words
    assert f"best: steps {SplatConfig.preset('best').steps}" in words


def test_the_chosen_values_stand_in_the_run(tmp_path: Path) -> None:
    scene, run = small_scene(tmp_path), tmp_path / "run"
    assert main(["train", str(scene), "--out", str(run), "--preset=draft", "--steps", "2", "--json"]) == 0
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["steps"] == 2
    assert config["max_gaussians"] == SplatConfig.preset("draft").max_gaussians


def test_the_pipeline_starts_from_the_preset(tmp_path: Path) -> None:
    def config(**options: Any) -> TrainConfig:
        return _Pipeline(tmp_path, tmp_path, PipelineConfig(**options), SILENT)._train_config()

    assert config(preset="best", steps=5) == replace(SplatConfig.preset("best"), steps=5)
    assert config() == SplatConfig()
    with pytest.raises(ReconError, match="draft, normal, best"):
        config(preset="quick")
