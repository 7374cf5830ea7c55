# SPDX-License-Identifier: Apache-2.0
"""The profile of a training's stages: what it sums, what it leaves out, and that it costs nothing while it is off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_scenes import small_scene

from recon.cli.main import main
from recon.methods import profile as module
from recon.methods.profile import OFF, REST, MachineLimits, Profile

LIMITS = MachineLimits(copy_bytes_per_s=1e9, flops_per_s=1e9, threads=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests move by hand: [wall seconds, processor seconds]."""
    now = [0.0, 0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module.time, "process_time", lambda: now[1])
    return now


def two_steps(clock: list[float]) -> Profile:
    profile = Profile(limits=LIMITS)
    for _ in range(2):
        with profile.stage("blend forward", bytes_moved=5e8):
            clock[0] += 2.0
            clock[1] += 4.0
        with profile.stage("loss", flops=3e9):
            clock[0] += 1.0
        if profile.counts_now():
            with profile.aside():
                clock[0] += 10.0
            profile.pairs("blend forward", 1e8, 5e7)
        profile.add_step(3.5 + (10.0 if profile._asked == 1 else 0.0), 4.0)
    return profile


def test_stages_of_one_name_are_summed_and_the_rest_is_shown(clock: list[float]) -> None:
    stages = {stage.name: stage for stage in two_steps(clock).stages()}
    assert list(stages) == ["blend forward", "loss", REST]
    blend = stages["blend forward"]
    assert (blend.seconds, blend.cpu_seconds, blend.calls, blend.bytes_moved) == (4.0, 8.0, 2, 1e9)
    # Counted in one of the two steps, it stands for both.
    assert (blend.pairs_evaluated, blend.pairs_blended) == (2e8, 1e8)
    # The time of counting is in no step: 2 × 3.5 − 2 × 3 are left.
    assert stages[REST].seconds == pytest.approx(1.0)


def test_the_floor_is_the_slower_of_memory_and_arithmetic(clock: list[float]) -> None:
    profile = two_steps(clock)
    blend, loss, rest = profile.stages()
    assert blend.floor_seconds(LIMITS) == pytest.approx(2e8 * 34 / 1e9)
    assert loss.floor_seconds(LIMITS) == pytest.approx(6.0)
    assert rest.floor_seconds(LIMITS) == 0
    header, *rows = profile.table()
    assert all(len(row) == len(header) for row in rows)
    cells = dict(zip(header, rows[0]))
    assert cells["ms"] == "2000.000"
    assert cells["GB/s"] == "0.2"
    assert cells["× floor"] == "0.6"
    assert rows[-1][0] == "whole step"


def test_pairs_are_counted_in_one_step_of_25_and_never_when_off() -> None:
    profile = Profile()
    assert [step for step in range(60) if profile.counts_now()] == [0, 25, 50]
    assert not any(OFF.counts_now() for _ in range(60))


def test_off_records_nothing() -> None:
    with OFF.stage("loss", 1.0, 1.0), OFF.aside():
        OFF.pairs("loss", 1, 1)
    assert OFF.stage("loss") is OFF.stage("blend forward")
    assert OFF.table() == []


def test_an_error_in_a_stage_is_passed_on() -> None:
    profile = Profile()
    with pytest.raises(ValueError, match="mine"), profile.stage("loss"):
        raise ValueError("mine")
    assert profile.stages()[0].calls == 1


def test_the_machine_is_measured() -> None:
    limits = module.measure_limits()
    assert 1e8 < limits.copy_bytes_per_s < 1e13
    assert 1e8 < limits.flops_per_s < 1e15


def test_the_command_prints_and_writes_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, run = small_scene(tmp_path), tmp_path / "run"
    words = ["train", str(scene), "--out", str(run), "--steps", "4", "--profile"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "whole step" in printed
    assert "blend backward" in printed
    assert "Floors: bytes over" in printed
    written = json.loads((run / "profile.json").read_text())
    assert written["schema"] == 1
    assert written["steps"] == 4
    by_name = {stage["name"]: stage for stage in written["stages"]}
    assert by_name["blend forward"]["calls"] == 4
    assert by_name["blend forward"]["pairs_evaluated"] >= by_name["blend forward"]["pairs_blended"] > 0
    total = sum(stage["seconds"] for stage in written["stages"])
    assert total == pytest.approx(written["seconds"], rel=1e-6)
    assert main([*words, "--replace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profile"]["steps"] == 4
    assert main([*words[:-1], "--replace"]) == 0
    assert not (run / "profile.json").exists()
