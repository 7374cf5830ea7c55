# SPDX-License-Identifier: Apache-2.0
"""Splats are trained on a scene that they can fit, resumed, and trained with each option."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.errors import ReconError
from recon.formats.splat_ply import read_splat_ply
from recon.methods import SplatConfig, evaluate, load_run, train
from recon.methods.checkpoint import newest_checkpoint
from recon.methods.splat.config import DensityConfig, RateConfig
from recon.scene import Scene

SceneMaker = Callable[..., Scene]
QUICK = SplatConfig(steps=250, max_gaussians=500, sh_degree=1, evaluate_every=0, log_every=10, device="cpu")


def score(scene: Scene, out: Path, config: SplatConfig) -> float:
    """Trains and returns the held-out PSNR."""
    train(scene, out, config, existing="replace")
    return evaluate(load_run(out, scene)).psnr_db


@pytest.fixture
def one_thread() -> Iterator[None]:
    from recon.kernels.native import native

    before, kernels = torch.get_num_threads(), native().max_threads()
    torch.set_num_threads(1)
    native().set_threads(1)
    yield
    torch.set_num_threads(before)
    native().set_threads(kernels)


def test_splats_recover_a_scene_of_gaussians(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene, out = make_scene(), tmp_path / "run"
    report = train(scene, out, QUICK)
    assert report.numbers["gaussians"] == 500
    result = evaluate(load_run(out, scene))
    assert result.psnr_db > 27
    assert result.ssim > 0.93
    assert [image.name for image in result.images] == ["000.png", "008.png", "016.png"]
    document = json.loads((out / "eval.json").read_text())
    assert document["step"] == 250
    assert "each 8th by sorted name" in document["protocol"]
    assert document["lpips"] is None
    assert "RECON_LPIPS_WEIGHTS" in document["notes"][0]
    for name in document["worst"]:
        assert (out / name).is_file()


def test_the_exported_splats_are_the_trained_ones(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene, out = make_scene(), tmp_path / "run"
    train(scene, out, replace(QUICK, steps=30))
    run = load_run(out, scene)
    assert run.splats is not None
    from recon.render import RenderOptions

    view = run.renderer.render(scene.frames[3].camera, RenderOptions()).rgb
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    exported = load_run(out, scene)
    assert exported.step == 0
    again = exported.renderer.render(scene.frames[3].camera, RenderOptions()).rgb
    torch.testing.assert_close(again, view, atol=2e-4, rtol=0)
    assert len(read_splat_ply(out / "splats.ply")) == len(run.splats)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("strategy", ["classic", "mcmc"])
def test_a_resumed_run_is_bit_identical(make_scene: SceneMaker, tmp_path: Path, strategy: str) -> None:
    scene = make_scene(gain=[1.0 + 0.01 * i for i in range(17)])
    density = DensityConfig(strategy=strategy, every=10, opacity_penalty=0.01)  # type: ignore[arg-type]
    config = replace(
        QUICK, steps=60, density=density, refine_poses=True, exposure=True, background="random", checkpoint_s=0.0
    )
    train(scene, tmp_path / "whole", config)
    for stop in (17, 20, 41):
        train(scene, tmp_path / "parts", config, hooks=[lambda step, _, s=stop: "stop" if step == s else None],
              existing="resume")  # fmt: skip
    report = train(scene, tmp_path / "parts", config, existing="resume")
    assert report.resumed_from == 41
    states = [newest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts")]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0].sampler == states[1].sampler
    first, second = states[0].trainer.tensors, states[1].trainer.tensors
    assert sorted(first) == sorted(second)
    assert {"means", "sh.second_moment", "pose", "exposure"} <= set(first)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert (tmp_path / "whole/splats.ply").read_bytes() == (tmp_path / "parts/splats.ply").read_bytes()


def test_the_seed_decides(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene, runs = make_scene(), []
    for i, seed in enumerate((0, 0, 1)):
        train(scene, tmp_path / str(i), replace(QUICK, steps=12, seed=seed))
        runs.append((tmp_path / str(i) / "splats.ply").read_bytes())
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_random_points_where_there_are_none(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene = make_scene(points=False)
    config = replace(QUICK, steps=400, random_points=800, max_gaussians=1500)
    assert score(scene, tmp_path / "run", config) > 21


@pytest.mark.parametrize("strategy", ["mcmc", "none"])
def test_other_strategies_fit_too(make_scene: SceneMaker, tmp_path: Path, strategy: str) -> None:
    density = DensityConfig(strategy=strategy, opacity_penalty=0.01, scale_penalty=0.01)  # type: ignore[arg-type]
    assert score(make_scene(), tmp_path / "run", replace(QUICK, density=density)) > 24


def test_antialiased_runs_are_shown_antialiased(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene = make_scene()
    assert score(scene, tmp_path / "run", replace(QUICK, antialiased=True)) > 26
    splats = load_run(tmp_path / "run", scene).splats
    assert splats is not None
    assert splats.antialiased


def test_alpha_masks_leave_empty_space_empty(make_scene: SceneMaker, tmp_path: Path) -> None:
    from recon.render import RenderOptions

    scene = make_scene(masked=True)
    emptiness = {}
    for masks in ("alpha", "off"):
        config = replace(QUICK, masks=masks, background="random", steps=200)
        train(scene, tmp_path / masks, config)
        out = load_run(tmp_path / masks, scene).renderer.render(scene.frames[5].camera, RenderOptions())
        from PIL import Image

        assert scene.frames[5].mask_path is not None
        outside = torch.from_numpy(np.array(Image.open(scene.frames[5].mask_path))) == 0
        emptiness[masks] = float(out.alpha[outside].mean())
    assert emptiness["alpha"] < 0.15
    assert emptiness["off"] > 0.3


def test_masked_pixels_do_not_count(make_scene: SceneMaker, tmp_path: Path) -> None:
    """The masked part of the photographs is noise, which would spoil the score if it were trained on."""
    scene = make_scene(masked=True)
    good = score(scene, tmp_path / "ignore", replace(QUICK, masks="ignore"))
    assert good > 25
    report = evaluate(load_run(tmp_path / "ignore", scene))
    assert all(image.counted < 0.9 for image in report.images)
    assert "masked pixels, which are left out" in report.protocol


def test_exposure_compensation_keeps_its_gauge(make_scene: SceneMaker, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    gains = np.exp(0.25 * random.normal(size=17))
    gains[[0, 8, 16]] = 1.0
    trained = np.delete(gains, [0, 8, 16])
    gains /= trained.mean()
    gains[[0, 8, 16]] = 1.0
    scene = make_scene(gain=(0.8 * gains).tolist())
    config = replace(QUICK, rates=RateConfig(exposure=0.01))
    without = score(scene, tmp_path / "without", config)
    with_it = score(scene, tmp_path / "with", replace(config, exposure=True))
    assert with_it > without + 0.8
    state = newest_checkpoint(tmp_path / "with" / "checkpoints")
    assert state is not None
    assert state.trainer.tensors["exposure"].mean(0).abs().max() < 1e-5


def test_pose_refinement_brings_cameras_back(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene = make_scene(shift=0.03)
    config = replace(QUICK, held_out_every=0, steps=400, rates=RateConfig(pose=5e-4))
    losses = {}
    for refine in (False, True):
        out = tmp_path / str(refine)
        train(scene, out, replace(config, refine_poses=refine))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses[refine] = np.mean([line["loss"] for line in lines[-10:]])
    assert losses[True] < 0.75 * losses[False]


def test_too_little_memory_is_said_before_the_start(
    make_scene: SceneMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon.methods import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9)
    with pytest.raises(ReconError, match=r"(?s)5,000,000 Gaussians.*lower --max-gaussians"):
        train(make_scene(), tmp_path / "run", replace(QUICK, max_gaussians=5_000_000))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_scene_with_broken_points_is_refused(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene = make_scene()
    scene.points.positions[3, 1] = np.nan
    with pytest.raises(ReconError, match="NaN"):
        train(scene, tmp_path / "run", QUICK)


def test_a_gaussian_that_turns_nan_does_not_spread(make_scene: SceneMaker, tmp_path: Path) -> None:
    from recon.methods.method import TrainingData
    from recon.methods.splat.train import SplatTrainer
    from recon.views import load_views

    scene = make_scene()
    views = tuple(load_views(scene, None))
    data = TrainingData(scene, views, (), torch.device("cpu"), np.random.default_rng(0))
    trainer = SplatTrainer(data, QUICK)
    with torch.no_grad():
        trainer._parameters.means[5] = float("nan")
        trainer._parameters.sh[6] = float("inf")
        trainer._parameters.log_scales[7] = 1e30
    for step in range(1, 6):
        assert np.isfinite(trainer.step(step, step)["loss"])
    for name in ("means", "quats", "opacity_logits"):
        rows = torch.isfinite(trainer._parameters[name].value.reshape(240, -1)).all(1)
        assert int((~rows).sum()) <= 1, name


def test_the_reference_backend_trains_the_same(make_scene: SceneMaker, tmp_path: Path) -> None:
    """What the GPU path shares with it: every operation but rasterization runs in plain torch."""
    scene = make_scene()
    density = DensityConfig(start=0.0, stop=1.0, every=3)
    results = {}
    for backend in ("cpu", "reference"):
        config = replace(QUICK, steps=5, backend=backend, density=density)
        train(scene, tmp_path / backend, config)
        splats = load_run(tmp_path / backend, scene).splats
        assert splats is not None
        results[backend] = splats
    assert len(results["cpu"]) == len(results["reference"])
    for name in ("means", "log_scales", "opacity_logits", "sh"):
        first, second = getattr(results["cpu"], name), getattr(results["reference"], name)
        close = torch.isclose(first, second, rtol=1e-2, atol=1e-2).float().mean()
        assert close > 0.97, name
