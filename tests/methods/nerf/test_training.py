# SPDX-License-Identifier: Apache-2.0
"""A field is trained on a scene that it can fit, resumed, opened, and trained with each option."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ball import SIDE, SceneMaker, ball_camera, see_ball

from recon.errors import ReconError
from recon.methods import load_run, train
from recon.methods.checkpoint import newest_checkpoint
from recon.methods.nerf.config import FieldConfig, NerfConfig
from recon.methods.nerf.files import FIELD_FILE
from recon.render import RenderOptions


@pytest.fixture
def one_thread() -> Iterator[None]:
    from recon.kernels.native import native

    before, kernels = torch.get_num_threads(), native().max_threads()
    torch.set_num_threads(1)
    native().set_threads(1)
    yield
    torch.set_num_threads(before)
    native().set_threads(kernels)


def test_a_ball_is_learned_in_colour_and_in_depth(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    scene, out = make_ball(masked=True), tmp_path / "run"
    report = train(scene, out, small)
    assert report.numbers["samples"]
    run = load_run(out, scene)
    camera = ball_camera(0.3, 0.8, side=48)
    picture, depth = see_ball(camera)
    shown = run.renderer.render(camera, RenderOptions(depth=True, normal=True))
    assert shown.depth is not None
    assert shown.median_depth is not None
    assert shown.normal is not None
    error = np.square(shown.rgb.numpy() - picture).mean()
    assert -10 * np.log10(error) > 22
    sure = (depth > 0) & (shown.alpha.numpy() > 0.9)
    assert sure.sum() > 0.85 * (depth > 0).sum()
    assert np.median(np.abs(shown.median_depth.numpy() - depth)[sure]) < 0.1
    assert np.median(np.abs(shown.depth.numpy() - depth)[sure]) < 0.15
    rays = camera.ray_directions_in_cam(camera.pixel_grid()) @ camera.world_from_cam[:3, :3].T
    points = camera.center_in_world + depth[..., None] * rays
    cosines = (shown.normal.numpy() * points).sum(-1) / np.linalg.norm(points, axis=-1).clip(1e-9)
    assert np.median(cosines[sure]) > 0.5
    # Around the ball there is nothing: the grid lets rays pass.
    assert float(shown.alpha[depth == 0].mean()) < 0.1


def test_a_contracted_space_is_learned(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    """On its own photographs: so few and small ones leave open what stands between them."""
    scene, out = make_ball(), tmp_path / "run"
    train(scene, out, replace(small, masks="ignore"))
    renderer = load_run(out, scene).renderer
    assert renderer.stage.space.contracted  # type: ignore[attr-defined]
    for index in (1, 5, 11):
        shown = renderer.render(scene.frames[index].camera, RenderOptions()).rgb.numpy()
        expected = see_ball(scene.frames[index].camera, sky=True)[0]
        assert -10 * np.log10(np.square(shown - expected).mean()) > 18


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_is_bit_identical(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    scene = make_ball(masked=True, gain=[1.0 - 0.01 * i for i in range(16)])
    config = replace(
        small, steps=44, refine_poses=True, exposure=True, checkpoint_s=0.0,
        field=replace(small.field, appearance=4), space=replace(small.space, grid_every=5),
    )  # fmt: skip
    train(scene, tmp_path / "whole", config)
    for stop in (13, 20):
        train(scene, tmp_path / "parts", config, hooks=[lambda step, _, s=stop: "stop" if step == s else None],
              existing="resume")  # fmt: skip
    assert train(scene, tmp_path / "parts", config, existing="resume").resumed_from == 20
    states = [newest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts")]
    assert states[0] is not None
    assert states[1] is not None
    first, second = states[0].trainer.tensors, states[1].trainer.tensors
    assert sorted(first) == sorted(second)
    assert {"table", "color.second_moment", "occupancy", "pose", "exposure", "appearance"} <= set(first)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert (tmp_path / "whole" / FIELD_FILE).read_bytes() == (tmp_path / "parts" / FIELD_FILE).read_bytes()


def test_the_exported_field_is_the_trained_one(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    scene, out = make_ball(masked=True), tmp_path / "run"
    train(scene, out, replace(small, steps=30))
    camera = scene.frames[3].camera
    view = load_run(out, scene).renderer.render(camera, RenderOptions()).rgb
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    exported = load_run(out, scene)
    assert exported.step == 0
    assert torch.equal(exported.renderer.render(camera, RenderOptions()).rgb, view)


def test_options_that_shape_the_field_are_kept(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    scene, out = make_ball(masked=True), tmp_path / "run"
    train(scene, out, replace(small, steps=4), hooks=[lambda step, _: "stop" if step == 2 else None])
    other = replace(small, steps=4, field=replace(small.field, finest=128))
    with pytest.raises(ReconError, match=r"field\.finest"):
        train(scene, out, other, existing="resume")


def test_cameras_and_exposures_are_fitted(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    gain = [1.0, 0.6] * 8
    # Colours that depend on the direction could tell the photographs apart, too.
    config = replace(small, field=replace(small.field, direction_degree=0), rates=replace(small.rates, exposure=0.01))
    plain = train(make_ball(masked=True, gain=gain), tmp_path / "plain", config).numbers["loss"]
    fitted = train(make_ball(masked=True, gain=gain), tmp_path / "fitted", replace(config, exposure=True))
    assert (fitted.numbers["loss"] or 1) < 0.6 * (plain or 0)
    looks = train(
        make_ball(masked=True, gain=gain),
        tmp_path / "looks",
        replace(config, field=replace(config.field, appearance=4)),
    )
    assert (looks.numbers["loss"] or 1) < 0.6 * (plain or 0)


def test_learning_rates_change_while_it_trains(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    scene, out = make_ball(masked=True), tmp_path / "run"
    answers = iter([{"rates.table": 0.0, "rates.network": 0.0}])
    tables = []

    def hook(step: int, snapshot: object) -> object:
        if step >= 10:
            tables.append(snapshot().parameters.table)  # type: ignore[operator]
        return next(answers, None) if step == 10 else None

    train(scene, out, replace(small, steps=14), hooks=[hook])  # type: ignore[list-item]
    assert torch.equal(tables[-1], tables[1])
    assert "rates.table" in (out / "changes.jsonl").read_text()


def test_a_profile_names_every_stage(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    from recon.methods.profile import Profile

    profile = Profile()
    train(make_ball(masked=True), tmp_path / "run", replace(small, steps=20), profile=profile)
    document = json.loads((tmp_path / "run" / "profile.json").read_text())
    names = {stage["name"] for stage in document["stages"]}
    assert {"march", "encode", "density network", "colour network backward", "update", "occupancy"} <= names


@pytest.mark.parametrize(
    ("field", "what"),
    [(FieldConfig(levels=3, features=2), "multiple of 16"), (FieldConfig(coarsest=64, finest=32), "finest")],
)
def test_fields_that_cannot_be(
    make_ball: SceneMaker, small: NerfConfig, tmp_path: Path, field: FieldConfig, what: str
) -> None:
    with pytest.raises(ReconError, match=what):
        train(make_ball(), tmp_path / "run", replace(small, field=field))


def test_masks_that_leave_nothing(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    from PIL import Image

    scene = make_ball(masked=True)
    for frame in scene.frames:
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(frame.mask_path)
    with pytest.raises(ReconError, match="masks"):
        train(scene, tmp_path / "alpha", small)
    with pytest.raises(ReconError, match="no pixel"):
        train(scene, tmp_path / "ignore", replace(small, masks="ignore"))


def test_a_run_that_does_not_fit_is_refused(make_ball: SceneMaker, small: NerfConfig, tmp_path: Path) -> None:
    huge = replace(small, samples=1 << 22, field=FieldConfig(levels=16, features=8, log2_entries=22, finest=65_536))
    import recon.methods.memory as memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_device_bytes", lambda _device: 1 << 30)
        patch.setattr("recon.methods.nerf.plan.available_device_bytes", lambda _device: 1 << 30)
        with pytest.raises(ReconError, match=r"log2-entries"):
            train(make_ball(), tmp_path / "run", huge)
