# SPDX-License-Identifier: Apache-2.0
"""Density control that is ended, or given another budget, while splats are trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recon.methods import train
from recon.methods.splat.config import SplatConfig
from recon.scene import Scene


def once(answers: dict[int, Any]) -> Callable[[int, object], Any]:
    """A hook that gives an answer once after a step."""
    left = dict(answers)
    return lambda step, snapshot: left.pop(step, None)


def test_density_control_ends_and_budgets_change_while_splats_train(
    tmp_path: Path, make_scene: Callable[..., Scene]
) -> None:
    scene = make_scene()
    config = SplatConfig(steps=60, long_side=32, max_gaussians=3000, evaluate_every=0, log_every=1)

    def numbers(out: Path) -> dict[int, float]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["gaussians"] for line in lines}

    config = replace(config, density=replace(config.density, every=10))
    train(scene, tmp_path / "on", config)
    train(scene, tmp_path / "off", config, hooks=[once({15: {"density.stop": 15 / 60}})])
    train(scene, tmp_path / "more", config, hooks=[once({15: {"max_gaussians": 6000}})])
    on, off, more = (numbers(tmp_path / name) for name in ("on", "off", "more"))
    assert on[15] == off[15] == more[15]
    assert off[60] == off[15]
    assert on[60] > on[15]
    assert more[60] > on[60]
