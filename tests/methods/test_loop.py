# SPDX-License-Identifier: Apache-2.0
"""The loop with a method that has nothing to do with splats."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy

from recon.errors import ReconError
from recon.methods import load_run, train
from recon.methods.checkpoint import list_checkpoints, newest_checkpoint
from recon.methods.loop import MetricsLog, ViewSampler
from recon.scene import Scene

pytestmark = pytest.mark.usefixtures("toy_method")


def color_of(out: Path) -> torch.Tensor:
    checkpoint = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    return checkpoint.trainer.tensors["color"]


def test_a_run_leaves_everything_it_should(toy_scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = train(toy_scene, out, toy.ToyConfig(steps=60, log_every=20, evaluate_every=30))
    assert (report.status, report.step, report.steps_made, report.resumed_from) == ("finished", 60, 60, 0)
    assert sorted(report.held_out_psnr_db) == [30, 60]
    assert (out / "toy.json").is_file()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 30, 40, 60]
    assert "held_out_psnr_db" in lines[1]
    document = json.loads((out / "config.json").read_text())
    assert document["held_out"] == ["00.png", "08.png"]
    assert document["config"]["rate"] == 0.05
    run = load_run(out, toy_scene)
    assert (run.step, run.config) == (60, toy.ToyConfig(steps=60, log_every=20, evaluate_every=30))
    assert torch.equal(run.renderer.color, color_of(out))


def test_held_out_photographs_are_not_trained_on(toy_scene: Scene, tmp_path: Path) -> None:
    seen = set()

    class Spy(toy.ToyTrainer):
        def step(self, step: int, view_index: int) -> dict[str, float]:
            seen.add(self.data.views[view_index].name)
            return dict(super().step(step, view_index))

    from recon.methods import registry

    registry._registered["toy"] = dataclasses.replace(toy.METHOD, start=Spy)
    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=40))
    assert seen == {f"{i:02d}.png" for i in range(10)} - {"00.png", "08.png"}


def test_resuming_is_bit_identical(toy_scene: Scene, tmp_path: Path) -> None:
    config = toy.ToyConfig(steps=50, checkpoint_s=0.0, evaluate_every=10)
    train(toy_scene, tmp_path / "whole", config)
    stops = iter([13, 14, 37])
    stop = [next(stops)]

    def hook(step: int, snapshot: object) -> str | None:
        return "stop" if step == stop[0] else None

    for _ in range(3):
        report = train(toy_scene, tmp_path / "parts", config, hooks=[hook], existing="resume")
        assert (report.status, report.step) == ("stopped", stop[0])
        stop[0] = next(stops, -1)
    report = train(toy_scene, tmp_path / "parts", config, existing="resume")
    assert (report.status, report.resumed_from, report.steps_made) == ("finished", 37, 13)
    assert torch.equal(color_of(tmp_path / "whole"), color_of(tmp_path / "parts"))
    logs = [
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("whole", "parts")
    ]
    for log in logs:
        for line in log:
            del line["seconds"]
    assert logs[0] == logs[1]
    again = train(toy_scene, tmp_path / "parts", config, existing="resume")
    assert (again.status, again.steps_made, again.step) == ("finished", 0, 50)


def test_a_run_killed_before_its_export_is_finished_by_resuming(toy_scene: Scene, tmp_path: Path) -> None:
    out, config = tmp_path / "run", toy.ToyConfig(steps=6)
    train(toy_scene, out, config)
    (out / "train.json").unlink()
    (out / "toy.json").unlink()
    report = train(toy_scene, out, config, existing="resume")
    assert (report.status, report.steps_made) == ("finished", 0)
    assert (out / "toy.json").is_file()
    assert (out / "train.json").is_file()


def test_a_finished_run_needs_no_checkpoint(toy_scene: Scene, tmp_path: Path) -> None:
    out, config = tmp_path / "run", toy.ToyConfig(steps=6, evaluate_every=3)
    first = train(toy_scene, out, config)
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    again = train(toy_scene, out, config, existing="resume")
    assert (again.status, again.steps_made, again.held_out_psnr_db) == ("finished", 0, first.held_out_psnr_db)


def test_the_callers_dice_are_left_alone(toy_scene: Scene, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=3))
    assert torch.equal(torch.rand(3), expected)


def test_pause_asks_again_without_a_step(toy_scene: Scene, tmp_path: Path) -> None:
    asked = []

    def hook(step: int, snapshot: object) -> str | None:
        asked.append(step)
        return "pause" if asked.count(2) in (1, 2) and step == 2 else None

    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=4), hooks=[hook])
    assert asked == [1, 2, 2, 2, 3, 4]


def test_a_snapshot_stays_as_it_was(toy_scene: Scene, tmp_path: Path) -> None:
    taken = []

    def hook(step: int, snapshot: object) -> None:
        taken.append(snapshot())  # type: ignore[operator]

    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=5), hooks=[hook])
    assert len({tuple(renderer.color.tolist()) for renderer in taken}) == 5


def test_ctrl_c_leaves_a_whole_checkpoint(toy_scene: Scene, tmp_path: Path) -> None:
    config = toy.ToyConfig(steps=40, interrupt_at=17)
    with pytest.raises(KeyboardInterrupt, match="step 17 of 40"):
        train(toy_scene, tmp_path / "run", config)
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 17
    train(toy_scene, tmp_path / "run", dataclasses.replace(config, interrupt_at=0), existing="resume")
    train(toy_scene, tmp_path / "whole", dataclasses.replace(config, interrupt_at=0))
    assert torch.equal(color_of(tmp_path / "run"), color_of(tmp_path / "whole"))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import toy
import numpy as np
from PIL import Image
from recon.cameras import Camera
from recon.methods import registry, train
from recon.scene import Frame, Scene
registry.register(toy.METHOD)
paths = sorted(Path(sys.argv[2]).glob("*.png"))
frames = tuple(Frame(p.name, p, Camera(24, 16, 24.0, 24.0, 12.0, 8.0)) for p in paths)
train(Scene(frames), Path(sys.argv[3]), toy.ToyConfig(steps=int(sys.argv[4]), checkpoint_s=0.0, evaluate_every=0,
      kill_at=int(sys.argv[5])), existing="resume")
print("finished", flush=True)
"""


def start(scene: Path, out: Path, steps: int, kill_at: int = 0) -> subprocess.Popen[str]:
    arguments = [str(Path(__file__).parent), str(scene), str(out), str(steps), str(kill_at)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_kill_9_loses_nothing_before_the_last_checkpoint(toy_scene: Scene, tmp_path: Path) -> None:
    scene, out, steps = toy_scene.frames[0].image_path.parent, tmp_path / "run", 400
    killed = start(scene, out, steps, kill_at=8)
    _, errors = killed.communicate(timeout=120)
    assert killed.returncode == -9, errors
    checkpoint = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 7
    reached = 7
    random = np.random.default_rng(int.from_bytes(os.urandom(4)))
    for _ in range(3):
        process = start(scene, out, steps)
        seconds = random.random() * 0.4
        before = time.monotonic()
        # The clock starts at the first new checkpoint, because importing torch takes longer than the moments to hit.
        while process.poll() is None and time.monotonic() - before < 60:
            if (list_checkpoints(out / "checkpoints") or [0])[-1] > reached:
                break
            time.sleep(0.005)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        checkpoint = newest_checkpoint(out / "checkpoints")
        assert checkpoint is not None
        assert checkpoint.step >= reached, f"lost steps when killed after {seconds} s"
        reached = checkpoint.step
    process = start(scene, out, steps)
    output, errors = process.communicate(timeout=120)
    assert "finished" in output, errors
    train(Scene(toy_scene.frames), tmp_path / "whole", toy.ToyConfig(steps=steps, evaluate_every=0))
    assert torch.equal(color_of(out), color_of(tmp_path / "whole"))
    assert not list(out.rglob(".recon-tmp-*"))


@pytest.mark.parametrize("victim", ["json_cut", "tensors_cut", "tensors_of_another", "json_gone", "empty_json"])
def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(toy_scene: Scene, tmp_path: Path, victim: str) -> None:
    out = tmp_path / "run"
    config = toy.ToyConfig(steps=10, checkpoint_s=0.0)
    train(toy_scene, out, config, hooks=[lambda step, snapshot: "stop" if step == 6 else None])
    folder = out / "checkpoints"
    assert list_checkpoints(folder) == [5, 6]
    newest = folder / "step-00000006"
    json_file, tensors = newest.with_suffix(".json"), newest.with_suffix(".safetensors")
    if victim == "json_cut":
        json_file.write_bytes(json_file.read_bytes()[:50])
    elif victim == "empty_json":
        json_file.write_bytes(b"")
    elif victim == "tensors_cut":
        tensors.write_bytes(tensors.read_bytes()[:-3])
    elif victim == "tensors_of_another":
        tensors.write_bytes((folder / "step-00000005.safetensors").read_bytes())
    else:
        json_file.unlink()
    report = train(toy_scene, out, config, existing="resume")
    assert report.resumed_from == 5
    train(toy_scene, tmp_path / "whole", config)
    assert torch.equal(color_of(out), color_of(tmp_path / "whole"))


def test_no_readable_checkpoint_is_said(toy_scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(toy_scene, out, toy.ToyConfig(steps=5))
    for path in (out / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"not tensors")
    with pytest.raises(ReconError, match="reading the checkpoint"):
        load_run(out, toy_scene)


def test_a_changed_option_is_refused_and_named(toy_scene: Scene, tmp_path: Path) -> None:
    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=5))
    with pytest.raises(ReconError, match=r"steps: 5 then, 6 now; rate: 0\.05 then, 0\.1 now"):
        train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=6, rate=0.1), existing="resume")
    report = train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=5, log_every=3, device="cpu"), existing="resume")
    assert report.status == "finished"


def test_a_changed_scene_is_refused(toy_scene: Scene, tmp_path: Path) -> None:
    config = toy.ToyConfig(steps=10)
    train(toy_scene, tmp_path / "run", config, hooks=[lambda step, snapshot: "stop" if step == 4 else None])
    moved = [dataclasses.replace(f, camera=f.camera.resized(24, 16)) for f in toy_scene.frames]
    pose = moved[3].camera.cam_from_world.copy()
    pose[0, 3] += 0.01
    moved[3] = dataclasses.replace(moved[3], camera=moved[3].camera.with_pose(pose))
    with pytest.raises(ReconError, match="scene has changed"):
        train(Scene(tuple(moved)), tmp_path / "run", config, existing="resume")


def test_a_run_is_not_overwritten_unless_told_so(toy_scene: Scene, tmp_path: Path) -> None:
    train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=5))
    with pytest.raises(ReconError, match="holds a run already"):
        train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=5))
    report = train(toy_scene, tmp_path / "run", toy.ToyConfig(steps=7), existing="replace")
    assert (report.step, report.resumed_from) == (7, 0)
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [7]


def test_other_peoples_files_are_left_alone(toy_scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "project"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "model.pt").write_text("mine")
    (out / "checkpoints" / "step-00000003.json").write_text("{}")
    train(toy_scene, out, toy.ToyConfig(steps=5))
    assert (out / "checkpoints" / "model.pt").read_text() == "mine"
    assert list_checkpoints(out / "checkpoints") == [5]
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"name": "mine"}')
    for existing in ("refuse", "resume", "replace"):
        with pytest.raises(ReconError):
            train(toy_scene, other, toy.ToyConfig(steps=5), existing=existing)  # type: ignore[arg-type]
    assert json.loads((other / "config.json").read_text()) == {"name": "mine"}


def test_a_loss_that_stays_nan_stops_the_run_and_keeps_the_good_checkpoint(toy_scene: Scene, tmp_path: Path) -> None:
    config = toy.ToyConfig(steps=100, nan_after=30, checkpoint_s=1000.0)
    with pytest.raises(ReconError, match="not a finite number for 20 steps"):
        train(toy_scene, tmp_path / "run", config)
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_too_few_photographs_are_refused(toy_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="at least 2 to train on"):
        train(Scene(toy_scene.frames[:2]), tmp_path / "run", toy.ToyConfig(steps=5))
    with pytest.raises(ReconError, match="0 posed photographs"):
        train(Scene(()), tmp_path / "run", toy.ToyConfig(steps=5))


def test_out_that_is_a_file_is_refused(toy_scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReconError, match="preparing the run folder"):
        train(toy_scene, tmp_path / "file", toy.ToyConfig(steps=5))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable JSON"),
        ("[]", "a list"),
        ('{"schema": 2}', "schema"),
        ('{"schema": 1, "method": "toy"}', "lacks config"),
        ('{"schema": 1, "method": "toy", "config": {}, "surprise": 1}', "unknown keys surprise"),
    ],
)
def test_a_broken_config_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ReconError, match=message):
        load_run(tmp_path)


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"no config\.json"):
        load_run(tmp_path)
    with pytest.raises(ReconError, match="no such folder"):
        load_run(tmp_path / "nowhere")


def test_the_sampler_shows_each_photograph_once_a_round() -> None:
    sampler = ViewSampler(7, np.random.default_rng(3))
    drawn = [sampler.next() for _ in range(10)]
    state = json.loads(json.dumps(sampler.state()))
    drawn += [sampler.next() for _ in range(11)]
    for start_index in (0, 7, 14):
        assert sorted(drawn[start_index : start_index + 7]) == list(range(7))
    other = ViewSampler(7, np.random.default_rng(99))
    other.restore(state)
    assert [other.next() for _ in range(11)] == drawn[10:]


def test_the_log_drops_cut_and_later_lines_when_resumed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 1}\n{"step": 20, "loss": 2}\n{"step": 30, "lo')
    log = MetricsLog(path, 10)
    log.write(20, {"loss": float("nan")})
    assert path.read_text() == '{"step": 10, "loss": 1}\n{"step": 20, "loss": null}\n'
