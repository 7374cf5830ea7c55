# SPDX-License-Identifier: Apache-2.0
"""Whole steps of training on the emulated CUDA kernels make the numbers that the CPU's kernels make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.cuda.conftest import emulated, emulation  # noqa: F401, fixtures
from kernels.cuda.fake_driver import FakeDriver
from kernels.cuda.test_sequence import fake_gpu  # noqa: F401, a fixture
from splat_steps import CONFIG, STEPS, VARIANTS, compare, trained, trainer

from recon.kernels.cuda.program import CudaProgram, install_program
from recon.methods.profile import OFF
from recon.methods.splat.config import SplatConfig
from recon.methods.splat.cuda_step import CudaStep
from recon.methods.splat.train import SplatTrainer
from recon.scene import Scene

_FEW = ("antialiased", "random background", "seldom detail", "penalties", "poses and exposure")


def cuda_trainer(
    scene: Scene, config: SplatConfig, masked: bool = False, timed: bool = False
) -> tuple[SplatTrainer, CudaStep]:
    """As `trainer`; the step is replayed, or `timed` launch by launch."""
    made = trainer(scene, replace(config, backend="cuda"), masked)
    assert isinstance(made._step, CudaStep)
    if not timed:
        made._step._profile = OFF
    return made, made._step


def on_cuda(
    scene: Scene, config: SplatConfig, masked: bool = False, timed: bool = False
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """As `trained`; the losses are those of the steps but for the last."""
    made, _ = cuda_trainer(scene, config, masked, timed)
    losses = [made.step(step, step % 4)["loss"] for step in range(1, STEPS + 1)]
    assert losses[0] == losses[1]
    return losses[1:], dict(made.state().tensors)


@pytest.mark.parametrize("name", _FEW)
def test_the_cuda_step_equals_the_fused_step(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
    name: str,
) -> None:
    scene = make_scene()
    losses, found = on_cuda(scene, VARIANTS[name], timed=name in ("antialiased", "poses and exposure"))
    expected_losses, expected = trained(scene, VARIANTS[name])
    assert losses == pytest.approx(expected_losses[:-1], rel=2e-4)
    compare(found, expected)
    assert {"blend_forward_3", "blend_backward_3", "ssim_backward", "sort_pass"} <= set(emulated.launches)


@pytest.mark.parametrize("masks", ["ignore", "alpha"])
def test_masks_count_alike(make_scene: Callable[..., Scene], emulated: EmulatedProgram, masks: str) -> None:  # noqa: F811
    scene, config = make_scene(), replace(CONFIG, masks=masks, background="random")
    losses, found = on_cuda(scene, config, masked=True)
    expected_losses, expected = trained(scene, config, masked=True)
    assert losses == pytest.approx(expected_losses[:-1], rel=2e-4)
    compare(found, expected)


def test_statistics_and_density_control(make_scene: Callable[..., Scene], emulated: EmulatedProgram) -> None:  # noqa: F811
    """Several rounds of density control, which rests on the statistics, change the number of Gaussians alike."""
    scene = make_scene()
    density = replace(CONFIG.density, start=0.0, stop=1.0, every=2)
    config = replace(CONFIG, density=density, coarse=0.0)
    gathered = []
    for backend in ("cuda", "cpu"):
        made = trainer(scene, replace(config, backend=backend))
        made.step(1, 0)
        gathered.append(made._density.state())
        counts = [made.step(step, step % 4)["gaussians"] for step in range(2, 5)]
        gathered[-1]["counts"] = torch.tensor(counts)
    for name, found in gathered[0].items():
        torch.testing.assert_close(found, gathered[1][name], rtol=1e-3, atol=1e-6, msg=name)


def test_a_step_without_room_changes_nothing_and_makes_room(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
) -> None:
    made, step = cuda_trainer(make_scene(), replace(CONFIG, coarse=0.0))
    loss = made.step(1, 0)["loss"]
    step._binner._capacity = 10
    before = {name: tensor.clone() for name, tensor in made.state().tensors.items() if not name.startswith("density")}
    made.step(2, 0)
    after = made.state().tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    made.step(3, 0)  # by now it is known, and step 2 is made again
    assert (step.repeated_steps, step.lost_steps) == (1, 0)
    assert step._binner.capacity > 1000
    assert not torch.equal(made.state().tensors["means"], before["means"])
    made.step(4, 0)
    assert made.step(5, 0)["loss"] < loss
    assert (step.repeated_steps, step.lost_steps) == (1, 0)


def test_a_training_without_room_at_first_learns_the_same(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
) -> None:
    """Each step is made once in the end; of one photograph their order does not matter but for Adam's step numbers."""
    config = replace(CONFIG, backend="cuda", coarse=0.0)
    means = []
    for capacity in (None, 10):
        made, step = cuda_trainer(make_scene(), config)
        made.step(1, 0)
        if capacity is not None:
            step._binner._capacity = capacity
        for number in range(2, 6):
            made.step(number, 0)
        step._settle(made._parameters, step._sent)  # type: ignore[arg-type]
        assert step.repeated_steps == (0 if capacity is None else 1)
        means.append(made.state().tensors["means"].clone())
    start = trainer(make_scene(), config)._parameters.means.detach()
    moved = float((means[0] - means[1]).norm() / (means[0] - start).norm())
    assert 0 < moved < 0.2


def test_density_control_between_a_step_and_its_repetition(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
) -> None:
    density = replace(CONFIG.density, start=0.3, stop=0.5, every=3)
    made, step = cuda_trainer(make_scene(), replace(CONFIG, coarse=0.0, density=density))
    made.step(1, 0)
    step._binner._capacity = 10
    before = len(made._parameters)
    made.step(2, 1)
    assert len(made._parameters) != before
    made.step(3, 2)
    assert (step.repeated_steps, step.lost_steps) == (0, 1)
    made.step(4, 2)
    assert math.isfinite(made.step(5, 0)["loss"])


# ---- recorded steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random background", "seldom detail", "poses and exposure"])
def test_a_replayed_step_is_what_would_be_recorded(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
    name: str,
) -> None:
    """A plan that was recorded for another step, with this step's request in it, to the last byte."""
    made, step = cuda_trainer(make_scene(), replace(VARIANTS[name], steps=60), masked=name == "seldom detail")
    parameters = made._parameters
    kinds = set()
    for number in (1, 2, 20, 21, 22, 23, 40, 41, 60):
        made.step(number, number % 4)
        request = made._request(number, (number + 1) % 4)
        plan = step._plan(parameters, request)
        plan.set(request)
        fresh = step._record(parameters, request)
        fresh.set(request)  # holds on to the pose
        kinds.add(id(plan))
        for part, other in zip((plan.picture, plan.loss, plan.back), (fresh.picture, fresh.loss, fresh.back)):
            assert (part is None) == (other is None)
            if part is None or other is None:
                continue
            assert [one.kernel.name for one in part.launches] == [one.kernel.name for one in other.launches]
            for one, wanted in zip(part.launches, other.launches):
                assert one.blocks == wanted.blocks, one.kernel.name
                assert bytes(one.params) == bytes(wanted.params), one.kernel.name
    assert 1 < len(kinds) < 7


def test_steps_are_one_graph_each(
    make_scene: Callable[..., Scene],
    fake_gpu: tuple[CudaProgram, FakeDriver],  # noqa: F811
) -> None:
    """On a driver that only pretends: few graphs are made, each step starts one, and the numbers are the same."""
    program, driver = fake_gpu
    install_program(torch.device("cpu"), program)
    losses, found = on_cuda(make_scene(), CONFIG)
    expected_losses, expected = trained(make_scene(), CONFIG)
    assert losses == pytest.approx(expected_losses[:-1], rel=2e-4)
    compare(found, expected)
    assert driver.calls.count("cuGraphLaunch") == STEPS
    assert 2 <= driver.calls.count("cuGraphInstantiate") <= 4  # two sizes, harmonics of growing degree
    for names in driver.started:
        assert names[:2] == ["put_numbers", "project_forward"]
        assert names.count("blend_forward_3") == names.count("blend_backward_3") == names.count("ssim_backward") == 1
        assert names[-1].startswith("update_")
    updated = [*driver.calls].count("cuGraphExecKernelNodeSetParams")
    assert updated <= 5 * STEPS, "more launches are changed than those that tell of the view, the photograph, the rates"


def test_a_loss_that_is_no_number_changes_nothing(
    make_scene: Callable[..., Scene],
    emulated: EmulatedProgram,  # noqa: F811
) -> None:
    made, _ = cuda_trainer(make_scene(), replace(CONFIG, coarse=0.0, background="white"))
    made.step(1, 0)
    usual = made._request
    made._request = lambda *at: replace(usual(*at), background=(float("nan"),) * 3)  # type: ignore[method-assign]
    before = {name: tensor.clone() for name, tensor in made.state().tensors.items() if not name.startswith("density")}
    made.step(2, 1)
    after = made.state().tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
