# SPDX-License-Identifier: Apache-2.0
"""The benchmarks on tiny scenes, through the command line: what they report adds up, and nothing names the machine."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from small_scenes import small_scene

from recon.bench import ablation, kernels, scaling, stages
from recon.bench import train as training
from recon.bench.kernels import FIELD_STAGES, STAGES
from recon.bench.record import record, stem
from recon.bench.results import Samples, read_report
from recon.bench.scenes import random_scene
from recon.bench.worker import call_worker
from recon.cli import train as train_command
from recon.cli.main import main
from recon.errors import ReconError
from recon.kernels.native import active_isa, native, supported_isas
from recon.methods import SplatConfig

TINY = ["--picture", "64x48", "--repeats", "1"]
NO_FIELD = ["--samples", ""]


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """The benchmarks change how many threads there are, and must change it back."""
    before = (native().max_threads(), torch.get_num_threads())
    yield
    assert (native().max_threads(), torch.get_num_threads()) == before
    native().set_threads(before[0])
    torch.set_num_threads(before[1])


def run_json(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
    assert main(["bench", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_random_scenes_blend_as_much_as_trained_ones_and_repeat() -> None:
    scene, again = random_scene(3000, (160, 120)), random_scene(3000, (160, 120))
    assert scene.blended_per_pixel == pytest.approx(50, rel=0.15)
    assert torch.equal(scene.splats.means, again.splats.means)
    assert torch.equal(scene.splats.log_scales, again.splats.log_scales)
    assert not torch.equal(scene.splats.means, random_scene(3000, (160, 120), seed=1).splats.means)


def test_the_chain_of_stages_does_what_a_step_does() -> None:
    scene = random_scene(500, (64, 48), sh_degree=1)
    chain = stages.StepChain(scene)
    samples = {name: Samples() for name in stages.KERNELS}
    chain.run(samples)
    assert all(len(sample.wall) == 1 and sample.wall[0] > 0 for sample in samples.values())
    assert 0 < chain.seen <= 500
    assert all(moved > 0 for moved in chain.bytes_moved().values())
    before = scene.splats.means.clone()
    chain.run(samples)
    assert torch.equal(scene.splats.means, before)  # the update works on a copy


def test_the_trainer_in_the_benchmark_shows_the_scene_itself() -> None:
    scene = random_scene(500, (64, 48), sh_degree=1)
    case = stages.StepCase(scene)
    case.run()
    trained = case._trainer.snapshot().splats  # type: ignore[attr-defined]
    assert len(trained) == 500
    torch.testing.assert_close(trained.means, scene.splats.means, rtol=0, atol=1e-5)
    # Rates of nothing would let the update leave the higher harmonics out, which is most of its work.
    assert case._trainer.state().tensors["sh.second_moment"][:, 1:].abs().sum() > 0


def test_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kernels.json"
    words = ["kernels", "--sizes", "300", "--only", "project,blend-forward,render,step", *TINY]
    document = run_json([*words, "--no-reference", "--out", str(out)], capsys)
    facts = [entry["facts"] for entry in document["entries"]]
    assert {fact["stage"] for fact in facts} == {"project", "blend forward", "render", "step"}
    assert {fact["threads"] for fact in facts} == {1, 2}
    assert all(entry["low"] <= entry["median"] <= entry["high"] for entry in document["entries"])
    assert all(entry["samples"] == 1 for entry in document["entries"])
    blend = next(fact for fact in facts if fact["stage"] == "blend forward" and fact["threads"] == 2)
    assert blend["evaluated_per_blended"] >= 1
    assert blend["speedup"] > 0
    assert blend["gb_per_s"] > 0
    assert "gsplat was not measured" in document["more"]["notes"][0] or torch.cuda.is_available()
    assert len(read_report(out).entries) == len(document["entries"])
    assert_names_no_machine(json.dumps(document), tmp_path)


def test_kernels_of_other_instruction_sets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "_ROUNDS", 1)
    isas = supported_isas()[-2:]
    words = ["kernels", "--sizes", "200", "--only", "loss", "--threads", "1", "--isa", ",".join(isas), *TINY]
    document = run_json([*words, "--no-reference"], capsys)
    assert {entry["facts"]["isa"] for entry in document["entries"]} == set(isas)
    if len(isas) > 1:
        slower = next(e["facts"] for e in document["entries"] if e["facts"]["isa"] == isas[0])
        assert slower["ratio_to_best_isa"] > 0


def test_plain_torch_is_measured_beside_the_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "REFERENCE_GAUSSIANS", 60)
    monkeypatch.setattr(kernels, "REFERENCE_SIZE", (32, 32))
    document = run_json(["kernels", "--sizes", "200", *TINY, *NO_FIELD, "--threads", "1"], capsys)
    torch_entries = [entry for entry in document["entries"] if entry["facts"]["isa"] == "torch"]
    assert {entry["facts"]["stage"] for entry in torch_entries} == set(STAGES) - {"render", "step"}
    assert all(entry["facts"]["times_slower"] > 0 for entry in torch_entries)


def test_kernels_of_a_nerf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "REFERENCE_SAMPLES", 300)
    words = ["kernels", "--sizes", "", "--samples", "500", *TINY, "--threads", "1,2"]
    document = run_json(words, capsys)
    facts = [entry["facts"] for entry in document["entries"]]
    for isa in (active_isa(), "torch"):
        assert {fact["stage"] for fact in facts if fact["isa"] == isa} == set(FIELD_STAGES)
    ours = [fact for fact in facts if fact["isa"] != "torch"]
    assert all(0 < fact["reached"] < fact["samples"] for fact in ours)
    assert all(fact["msamples_per_s"] > 0 and fact["gb_per_s"] > 0 for fact in ours)
    assert 250 < ours[0]["samples"] < 1000
    assert_names_no_machine(json.dumps(document), tmp_path)
    words = ["kernels", "--only", "composite,table-adam", "--samples", "300", *TINY, "--threads", "1", "--no-reference"]
    document = run_json(words, capsys)
    assert [entry["facts"]["stage"] for entry in document["entries"]] == ["composite", "table adam"]


def test_rendering(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recon.formats.splat_ply import write_splat_ply

    write_splat_ply(random_scene(100, (64, 48), 0).splats, tmp_path / "a.ply")
    for source in ("200", str(tmp_path / "a.ply")):
        document = run_json(["render", source, "--size", "48x32", "--repeats", "1"], capsys)
        assert [entry["unit"] for entry in document["entries"]] == ["pictures/s"] * 2
        assert_names_no_machine(json.dumps(document), tmp_path)


def test_training_to_a_quality_and_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = small_scene(tmp_path / "noise")
    # The held-out photograph is noise: 1 dB is reached by anything, 90 dB by nothing.
    words = ["train", str(scene), "--target-psnr", "1,90", "--seeds", "1", "--budgets", "3"]
    document = run_json([*words, "--out", str(tmp_path / "t.json"), "--options=--sh-degree 0"], capsys, code=3)
    assert document["attention"] == ["No budget reached 90 dB."]
    curve = document["more"]["curve"]
    assert [run["steps"] for run in curve] == [3]
    assert all(run["seconds"] > run["training_s"] > 0 for run in curve)
    assert all(run["gaussians"] == 200 and 0 < run["ssim"] < 1 for run in curve)
    reached = next(entry for entry in document["entries"] if entry["name"] == "to 1 dB")
    assert reached["facts"]["steps"] == 3
    assert "held-out PSNR" in (tmp_path / "t.svg").read_text()
    assert not (scene / "cache").exists()  # a run must not profit from an earlier one
    assert_names_no_machine(json.dumps(document), tmp_path)
    place = record(read_report(tmp_path / "t.json"), {"train-noise": "<svg/>"}, tmp_path / "records")
    page = (place / "README.md").read_text()
    assert "| 1 dB |" in page
    assert "| 90 dB | not reached |" in page
    assert "](train-noise.svg)" in page
    assert_names_no_machine(page, tmp_path)
    report = read_report(tmp_path / "t.json")
    assert stem(replace(report, settings={"name": "../a b/c"})) == "train-a-b-c"


def test_budgets_are_tried_until_the_median_reaches_all_targets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores = {100: (24.0, 29.0, 25.0), 200: (27.0, 26.0, 25.5), 400: (30.0, 29.0, 20.0), 800: (31.0, 31.0, 31.0)}
    tried = []

    def run(scene: Path, out: Path, steps: int, seed: int, settings: training.TrainSettings) -> training.FinishedRun:
        tried.append(steps)
        return training.FinishedRun(steps, seed, steps / 10 + seed, 1.0, 1.0, scores[steps][seed], 0.9, 5, 6, (1.0,))

    monkeypatch.setattr(training, "train_once", run)
    settings = training.TrainSettings(tmp_path, (26.0, 29.0), budgets=tuple(scores), cached=True)
    outcome = training.measure_training(settings)
    assert outcome.reached == {26.0: 200, 29.0: 400}  # 29 dB by one of three seeds is not reached
    assert tried == [100] * 3 + [200] * 3 + [400] * 3
    times = {entry.name: entry.median for entry in outcome.entries}
    assert (times["to 26 dB"], times["to 29 dB"]) == (21.0, 41.0)


def test_scaling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scaling, "call_worker", lambda task, request: scaling.sample_point(request))
    words = ["scaling", "--gaussians", "500,1000", "--megapixels", "", "--threads", "1", "--repeats", "1"]
    document = run_json([*words, "--fixed-megapixels", "0.005", "--out", str(tmp_path / "s.json")], capsys)
    assert {entry["facts"]["work"] for entry in document["entries"]} == {"step", "render", "peak_bytes", "buffer_bytes"}
    assert "step over Gaussians, 1 threads" in document["more"]["fits"]
    buffers = [entry["median"] for entry in document["entries"] if entry["facts"]["work"] == "buffer_bytes"]
    # Parameters and moments alone are 3 × 59 floats for each Gaussian.
    assert buffers[1] - buffers[0] > 500 * 3 * 59 * 4
    assert "Time over Gaussians" in (tmp_path / "s.svg").read_text()


def test_fits_find_what_grows_and_what_stays() -> None:
    line = scaling.fit([(count, 3.0 + 0.5 * count) for count in (1, 10, 100, 1000)])
    assert (line.fixed, line.each) == pytest.approx((3.0, 0.5))
    assert line.worst < 1e-9
    square = scaling.fit([(count, 2.0 * count**2) for count in (1.0, 2.0, 4.0)])
    assert (square.slope, square.slope_end) == pytest.approx((2.0, 2.0))
    with pytest.raises(ReconError, match="at least two"):
        scaling.fit([(1.0, 1.0), (1.0, 2.0)])


@pytest.mark.parametrize(
    "words",
    [
        ["kernels", "--only", "fly"],
        ["kernels", "--isa", "sse9"],
        ["kernels", "--sizes", "many"],
        ["kernels", "--threads", "0"],
        ["kernels", "--picture", "big"],
        ["kernels", "--sizes", "100", "--no-reference", "--run", "nowhere.ply"],
        ["train", "nowhere"],
        ["train", ".", "--seeds", "0"],
        ["scaling", "--gaussians", "", "--megapixels", ""],
        ["render", "nowhere.ply"],
        ["compare", "nowhere.json", "nowhere.json"],
    ],
)
def test_bad_options_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(words, capsys, code=2)
    assert document["error"]["found"]


def test_a_failing_worker_is_told() -> None:
    request = {"gaussians": 10, "size": [8, 8], "threads": [1], "repeats": 1, "sh_degree": 0}
    with pytest.raises(ReconError, match="sse9"):
        call_worker("scaling", request, {"RECON_ISA": "sse9"})


def assert_names_no_machine(text: str, folder: Path) -> None:
    assert str(folder) not in text
    assert str(Path.home()) + "/" not in text
    if len(platform.node()) > 4:
        assert platform.node() not in text


def test_an_ablation_names_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, out = small_scene(tmp_path / "noise"), tmp_path / "a.json"
    words = ["ablate", str(scene), "--steps", "3", "--names", "tiny", "--only", "colour without harmonics"]
    document = run_json([*words, "--out", str(out)], capsys)
    assert [entry["facts"]["difference"] == 0 for entry in document["entries"][:2]] == [True, True]
    header, rows = ablation.table_rows(read_report(out).entries)
    assert header[:2] == ["variant", "tiny: PSNR dB"]
    assert [row[0] for row in rows] == [ablation.DEFAULT, "colour without harmonics"]
    assert_names_no_machine(json.dumps(document), tmp_path)
    assert main(["bench", "ablate", str(scene), "--only", "magic"]) == 2


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_every_variant_changes_options_that_exist(variant: str) -> None:
    words = ["scene", "--out", "run", *shlex.split(ablation._options(variant, "normal"))]
    parsed: Any = tyro.cli(train_command.options_type(words), args=words)
    changed = parsed.config != SplatConfig.preset("normal")
    assert changed or variant in (ablation.DEFAULT, "higher harmonics in every step")


def test_formats_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recon.formats.splat_ply import write_splat_ply

    write_splat_ply(random_scene(400, (64, 48), 1).splats, tmp_path / "a.ply")
    words = ["formats", str(tmp_path / "a.ply"), "--long-side", "48", "--repeats", "1", "--copies", "2"]
    report = run_json([*words, "--out", str(tmp_path / "r.json")], capsys)
    by_name = {entry["facts"]["format"]: entry for entry in report["entries"]}
    assert set(by_name) == {".ply", ".compressed.ply", ".spz", ".sog", ".splat", ".glb"}
    assert by_name[".ply"]["low"] > 100
    assert all(entry["facts"]["splats"] == 800 and entry["median"] > 20 for entry in report["entries"])
    assert all(by_name[name]["facts"]["ratio"] > 3 for name in (".compressed.ply", ".spz", ".sog", ".splat"))
    assert str(tmp_path) not in (tmp_path / "r.json").read_text()
    assert main(["bench", "compare", str(tmp_path / "r.json"), str(tmp_path / "r.json")]) == 0
