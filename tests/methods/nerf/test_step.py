# SPDX-License-Identifier: Apache-2.0
"""The fused step, the step by autograd and finite differences give the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ball import SceneMaker

from recon.kernels.occupancy.op import OccupancyGrid
from recon.methods.cameras import Exposure, PoseDeltas
from recon.methods.nerf.config import FieldConfig, LossConfig, NerfConfig
from recon.methods.nerf.field import FieldParameters
from recon.methods.nerf.pixels import PixelBank, rays_of
from recon.methods.nerf.space import choose_space
from recon.methods.nerf.step import AutogradStep, FusedStep, Stage, StepRequest
from recon.methods.nerf.trained import TrainedField
from recon.methods.profile import OFF
from recon.scene import Scene, View
from recon.views import load_views

RAYS = 48


class Bench:
    """A field with some density, a batch of rays, and cameras and exposures that require gradients."""

    def __init__(self, scene: Scene, config: NerfConfig, cameras: bool = True) -> None:
        self.config = config
        views: list[View] = load_views(scene, config.long_side)
        self.stage = Stage.of(config, choose_space(scene, views, config))
        fresh = FieldParameters.fresh(self.stage.shape, len(views), 3)
        generator = torch.Generator().manual_seed(1)
        table = torch.randn(fresh.table.shape, generator=generator) * 0.5
        appearance = torch.randn(fresh.appearance.shape, generator=generator)
        self.field = TrainedField(replace(fresh, table=table, appearance=appearance))
        self.grid = OccupancyGrid.full(config.space.grid)
        self.poses = PoseDeltas(len(views), 1.0, torch.device("cpu")) if cameras else None
        self.exposure = Exposure(len(views), torch.device("cpu")) if cameras else None
        self.given = torch.from_numpy(np.stack([view.camera.cam_from_world for view in views]).astype(np.float32))
        self.pixels = PixelBank(views, config, torch.device("cpu")).draw(RAYS, np.random.default_rng(2))
        self.jitter = torch.rand(RAYS, generator=generator)
        self.background = torch.rand(RAYS, 3, generator=generator)

    def request(self) -> StepRequest:
        poses = self.given if self.poses is None else self.poses.apply_all(self.given)
        batch = rays_of(self.pixels, poses)
        correction = None
        if self.exposure is not None:
            exposure = self.exposure

            def correction(rgb: torch.Tensor) -> torch.Tensor:
                return exposure.apply(self.pixels.photographs, rgb)

        return StepRequest(batch, self.background, self.jitter, self.stage.proposal(32), correction, self.config.loss)

    def gradients(self) -> dict[str, torch.Tensor]:
        found = {"table": self.field.table_gradient.clone()}
        for name in FieldParameters.names()[1:]:
            gradient = getattr(self.field.parameters(), name).grad
            if gradient is not None:
                found[name] = gradient.clone()
        for name, part in (("pose", self.poses), ("exposure", self.exposure)):
            if part is not None:
                found[name] = part._parameter.gradient.clone()
                part._parameter.value.grad = None
        self.field.forget_gradients()
        return found


@pytest.fixture
def config(small: NerfConfig) -> NerfConfig:
    field = FieldConfig(
        levels=4, features=4, log2_entries=10, coarsest=4, finest=32, density_width=16, color_width=32, appearance=4
    )
    return replace(small, field=field, loss=LossConfig(distortion=0.05, opacity=0.05, near_scale=0.0))


@pytest.mark.parametrize("kind", ["bounded", "contracted"])
def test_the_fused_step_is_the_step_by_autograd(make_ball: SceneMaker, config: NerfConfig, kind: str) -> None:
    config = replace(config, space=replace(config.space, kind=kind))  # type: ignore[arg-type]
    bench = Bench(make_ball(masked=True), config)
    results, gradients = [], []
    for step in (FusedStep(bench.stage, config, OFF), AutogradStep(bench.stage, "reference")):
        results.append(step.make(bench.field, bench.grid, bench.request()))
        gradients.append(bench.gradients())
    fused, auto = results
    assert fused.samples > 500
    assert (fused.rays, fused.marched) == (auto.rays, auto.marched)
    assert abs(fused.samples - auto.samples) <= 2
    assert fused.loss == pytest.approx(auto.loss, rel=1e-4)
    assert fused.squared_error == pytest.approx(auto.squared_error, rel=1e-4)
    assert set(gradients[0]) == set(gradients[1]) == {*FieldParameters.names(), "pose", "exposure"}
    for name, expected in gradients[1].items():
        # Far out a position of the lattice differs in its last places, and a rough field with it.
        error = float((gradients[0][name] - expected).norm() / expected.norm())
        assert error < (2e-3 if kind == "bounded" else 2e-2), (name, error)


def test_finite_differences_through_the_whole_step(make_ball: SceneMaker, config: NerfConfig) -> None:
    bench = Bench(make_ball(masked=True), config, cameras=False)
    step = AutogradStep(bench.stage, "reference")
    step.make(bench.field, bench.grid, bench.request())
    gradients = bench.gradients()
    generator = torch.Generator().manual_seed(5)
    for name in FieldParameters.names():
        value = getattr(bench.field.parameters(), name)
        way = torch.randn(value.shape, generator=generator)
        expected = float((gradients[name].double() * way).sum())
        losses = []
        size = 2e-3 / float(way.abs().max())
        for sign in (1, -1):
            with torch.no_grad():
                value += sign * size * way
            losses.append(step.make(bench.field, bench.grid, bench.request()).loss)
            bench.field.forget_gradients()
            with torch.no_grad():
                value -= sign * size * way
        found = (losses[0] - losses[1]) / (2 * size)
        assert found == pytest.approx(expected, rel=0.05, abs=2e-5 / size), name


def test_gradients_near_cameras_are_damped(make_ball: SceneMaker, config: NerfConfig) -> None:
    found = []
    for near_scale in (0.0, 100.0):
        bench = Bench(make_ball(masked=True), replace(config, loss=replace(config.loss, near_scale=near_scale)))
        FusedStep(bench.stage, bench.config, OFF).make(bench.field, bench.grid, bench.request())
        found.append(float(bench.field.table_gradient.abs().sum()))
    assert 0 < found[1] < 0.1 * found[0]


def test_a_grid_in_which_nothing_can_be(make_ball: SceneMaker, config: NerfConfig) -> None:
    bench = Bench(make_ball(masked=True), config)
    bench.grid.densities.fill_(-1)
    bench.grid.bits.zero_()
    for step in (FusedStep(bench.stage, config, OFF), AutogradStep(bench.stage, "reference")):
        assert np.isfinite(step.make(bench.field, bench.grid, bench.request()).loss)
        assert all(bool(torch.isfinite(gradient).all()) for gradient in bench.gradients().values())


def test_a_field_that_is_no_number_leaves_no_gradient(make_ball: SceneMaker, config: NerfConfig) -> None:
    bench = Bench(make_ball(masked=True), config)
    with torch.no_grad():
        bench.field.parameters().density.fill_(torch.nan)
    result = FusedStep(bench.stage, config, OFF).make(bench.field, bench.grid, bench.request())
    assert not np.isfinite(result.loss)
    assert float(bench.field.table_gradient.abs().max()) == 0
