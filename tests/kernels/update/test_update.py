# SPDX-License-Identifier: Apache-2.0
"""The projection's backward pass joined to Adam: against the references, and what it must leave alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from kernels.projection.projection_cases import CAMERA, TOLERANCE, make_splats, pose_of, weights_of

from recon.kernels.adam.op import AdamHyper, adam_step
from recon.kernels.native import native
from recon.kernels.projection.op import (
    Projected,
    ProjectedGradients,
    ProjectionOptions,
    empty_gradients,
    project_backward,
    project_forward,
    project_into,
)
from recon.kernels.update.op import TRAINED, Moment, Moments, UpdateRates, update_splats
from recon.kernels.update.reference import update_splats_reference
from recon.kernels.workspace import Workspace
from recon.splats import Splats

RATES = UpdateRates(
    means=1e-3,
    quats=3e-3,
    log_scales=2e-2,
    opacity_logits=5e-2,
    sh_constant=5e-3,
    sh_detail=5e-4,
    step=7,
    opacity_penalty=3e-2,
    scale_penalty=2e-2,
)
MOMENT_TOLERANCE = 1e-4
"""Relative, of what Adam adds: 1 - beta2 = 0.001 has an error of 5e-5 when beta2 is a float32."""
DEGREES = [(3, 16), (2, 16), (1, 16), (0, 16), (2, 9), (1, 9), (1, 4), (0, 4), (0, 1)]


@dataclass
class Case:
    """Everything that a step gets."""

    splats: Splats
    moments: Moments
    projected: Projected
    seen: torch.Tensor
    gradient: ProjectedGradients
    options: ProjectionOptions

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a step may change."""
        found: dict[str, torch.Tensor] = {}
        for name in TRAINED:
            moment = getattr(self.moments, name)
            found |= {name: getattr(self.splats, name), f"{name}.first": moment.first, f"{name}.second": moment.second}
        return found

    def copy(self, dtype: torch.dtype = torch.float32) -> Case:
        def copied(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(dtype, copy=True)

        outputs = ("means_px", "conics", "opacities", "colors")
        means, quats, log_scales, logits, sh = (copied(getattr(self.splats, name)) for name in TRAINED)
        return replace(
            self,
            splats=Splats(means, quats, log_scales, logits, sh),
            moments=Moments(**{n: Moment(*(copied(t) for t in getattr(self.moments, n))) for n in TRAINED}),
            gradient=ProjectedGradients(**{name: copied(getattr(self.gradient, name)) for name in outputs}),
        )

    def step(self, rates: UpdateRates = RATES, pose: bool = False, reference: bool = False) -> torch.Tensor | None:
        function = update_splats_reference if reference else update_splats
        given = (self.splats, self.moments, self.projected, self.seen, self.gradient)
        return function(*given, pose_of(CAMERA, self.splats.means.dtype), CAMERA, self.options, rates, pose)


def make_case(
    count: int, bases: int = 16, degree: int = 3, antialiased: bool = False, share: float = 0.7, seed: int = 0
) -> Case:
    """Random Gaussians in the middle of a training; a share of the visible ones is seen."""
    splats = make_splats(count, bases, seed)
    options = ProjectionOptions(sh_degree=degree, antialiased=antialiased)
    projected = project_into(splats, pose_of(CAMERA), CAMERA, options, Workspace())
    generator = torch.Generator().manual_seed(seed + 1)

    def moment(value: torch.Tensor) -> Moment:
        scale = torch.exp(2 * torch.randn(value.shape, generator=generator))
        return Moment(torch.randn(value.shape, generator=generator) * scale, scale.square())

    weights = weights_of(projected)
    return Case(
        splats,
        Moments(**{name: moment(getattr(splats, name)) for name in TRAINED}),
        projected,
        projected.visible * (torch.rand(count, generator=generator) < share).to(torch.uint8),
        ProjectedGradients(**{n: weights[n].float() for n in ("means_px", "conics", "opacities", "colors")}),
        options,
    )


def assert_equal_steps(before: Case, found: Case, expected: Case) -> None:
    """Compares what each tensor moved by, with the tolerance of the gradient that moved it."""
    start = before.tensors()
    for name, theirs in expected.tensors().items():
        mine, was = found.tensors()[name].double(), start[name].double()
        relative, absolute = TOLERANCE[name.split(".")[0]]
        step = theirs - was
        scale = float(step.square().mean().sqrt()) if step.numel() else 0.0
        # A gradient's error counts twice in its square, and in the direction through both moments.
        allowed = (3 * relative + MOMENT_TOLERANCE) * step.abs() + 6 * absolute * scale + 3e-7 * was.abs()
        excess = (mine - theirs).abs() - allowed
        assert bool((excess <= 0).all()), f"{name}: {float(excess.max())} beyond what is allowed"


# ---- against the references ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "bases"), DEGREES)
@pytest.mark.parametrize("antialiased", [False, True])
def test_a_step_equals_the_reference(isa: str, degree: int, bases: int, antialiased: bool) -> None:
    case = make_case(1003, bases, degree, antialiased)
    found, expected = case.copy(), case.copy(torch.float64)
    found.step()
    expected.step(reference=True)
    assert 200 < int(case.seen.sum()) < int(case.projected.visible.sum())
    assert_equal_steps(case, found, expected)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 15, 16, 17, 31, 33, 511, 512, 513, 1040])
def test_any_count_equals_backward_then_adam(isa: str, count: int) -> None:
    """The same kernels one after the other, through memory."""
    case = make_case(count, share=1.0)
    rates = replace(RATES, opacity_penalty=0.0, scale_penalty=0.0, sh_detail=RATES.sh_constant)
    expected = case.copy()
    pose = pose_of(CAMERA)
    gradients = project_backward(
        case.splats,
        pose,
        CAMERA,
        case.options,
        case.projected.visible,
        case.gradient,
        empty_gradients(case.splats, pose=True),
    )
    for name in TRAINED:
        rate = rates.sh_constant if name == "sh" else getattr(rates, name)
        moment = getattr(expected.moments, name)
        value, gradient = getattr(expected.splats, name), getattr(gradients, name)
        adam_step(value, gradient, moment.first, moment.second, AdamHyper(rate, rates.step), case.seen)
    found = case.copy()
    found_pose = found.step(rates, pose=True)
    assert_equal_steps(case, found, expected)
    torch.testing.assert_close(found_pose, gradients.cam_from_world, rtol=1e-5, atol=1e-4)


def test_penalties_alone_pull_opacity_and_size_down(isa: str) -> None:
    case = make_case(200, share=1.0)
    zeros = {n: torch.zeros_like(getattr(case.gradient, n)) for n in ("means_px", "conics", "opacities", "colors")}
    case = replace(case, gradient=ProjectedGradients(**zeros), moments=Moments.zeros(case.splats))
    found = case.copy()
    found.step(replace(RATES, step=1))
    seen = case.seen.bool()
    opacities, scales = case.splats.opacities[seen], case.splats.scales[seen]
    first = found.moments.opacity_logits.first[seen]
    torch.testing.assert_close(first, 0.1 * RATES.opacity_penalty * opacities * (1 - opacities), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(
        found.moments.log_scales.first[seen], 0.1 * RATES.scale_penalty * scales, rtol=1e-4, atol=1e-9
    )
    assert torch.equal(found.splats.means, case.splats.means)
    assert torch.equal(found.splats.sh, case.splats.sh)


# ---- what is left alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("bases", [1, 16])
def test_unseen_rows_keep_every_bit(isa: str, share: float, bases: int) -> None:
    """NaN payloads included, which nothing that computes would keep."""
    case = make_case(700, bases, degree=0 if bases == 1 else 3, share=share)
    unseen = ~case.seen.bool()
    payload = torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32)
    for tensor in case.tensors().values():
        tensor[unseen] = payload
    found = case.copy()
    found.step(pose=True)
    for name, before in case.tensors().items():
        after = found.tensors()[name]
        assert torch.equal(after[unseen].view(torch.int32), before[unseen].view(torch.int32)), name
        if share == 0.5:
            assert bool((after[~unseen] != before[~unseen]).any()), name


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_harmonics_beyond_the_degree_keep_every_bit(isa: str, degree: int) -> None:
    case = make_case(300, 16, degree)
    found = case.copy()
    found.step()
    used = (degree + 1) ** 2
    for name in ("sh", "sh.first", "sh.second"):
        before, after = case.tensors()[name], found.tensors()[name]
        assert torch.equal(before[:, used:], after[:, used:])
        assert bool((before[:, :used] != after[:, :used])[case.seen.bool()].any(0).all())


@pytest.mark.parametrize(("degree", "bases"), [(3, 16), (1, 9), (2, 16), (0, 1)])
def test_a_detail_rate_of_zero_leaves_the_detail_alone(isa: str, degree: int, bases: int) -> None:
    case = make_case(530, bases, degree)
    rates = replace(RATES, sh_detail=0.0)
    usual, found, expected = case.copy(), case.copy(), case.copy(torch.float64)
    usual.step()
    found.step(rates)
    expected.step(rates, reference=True)
    assert_equal_steps(case, found, expected)
    for name, after in found.tensors().items():
        if not name.startswith("sh"):
            torch.testing.assert_close(after, usual.tensors()[name], rtol=2e-6, atol=1e-6)
            continue
        assert torch.equal(after[:, 1:], case.tensors()[name][:, 1:])
        torch.testing.assert_close(after[:, :1], usual.tensors()[name][:, :1], rtol=2e-6, atol=1e-6)


def test_colour_rates_of_zero_leave_all_colours_alone(isa: str) -> None:
    case = make_case(530)
    rates = replace(RATES, sh_constant=0.0, sh_detail=0.0)
    found, expected = case.copy(), case.copy(torch.float64)
    found.step(rates)
    expected.step(rates, reference=True)
    assert_equal_steps(case, found, expected)
    for name in ("sh", "sh.first", "sh.second"):
        assert torch.equal(found.tensors()[name], case.tensors()[name])


def test_without_the_view_gradient_only_the_means_differ(isa: str) -> None:
    case = make_case(400)
    with_it, without = case.copy(), case.copy()
    with_it.step(replace(RATES, sh_detail=0.0))
    without.step(replace(RATES, sh_detail=0.0, view_gradient=False))
    for name, mine in with_it.tensors().items():
        if name.startswith("means"):
            assert not torch.equal(mine, without.tensors()[name])
        else:
            torch.testing.assert_close(mine, without.tensors()[name], rtol=2e-6, atol=1e-6)


# ---- invariants ----------------------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_no_bit(isa: str) -> None:
    module = native()
    threads = module.max_threads()
    case = make_case(5003)
    results = []
    try:
        for count in (1, 2, 5):
            module.set_threads(count)
            found = case.copy()
            pose = found.step(pose=True)
            assert pose is not None
            results.append(found.tensors() | {"pose": pose})
    finally:
        module.set_threads(threads)
    for other in results[1:]:
        for name, mine in results[0].items():
            assert torch.equal(mine, other[name]), name


def test_the_flags_may_be_booleans(isa: str) -> None:
    case = make_case(100)
    found, other = case.copy(), replace(case.copy(), seen=case.seen.bool())
    found.step()
    other.step()
    for name, mine in found.tensors().items():
        assert torch.equal(mine, other.tensors()[name])


def test_the_pose_gradient_is_that_of_the_seen(isa: str) -> None:
    """Rows that were not seen have a gradient of zero from blending."""
    case = make_case(1003)
    for name in ("means_px", "conics", "opacities", "colors"):
        getattr(case.gradient, name)[case.seen == 0] = 0
    found = case.copy().step(pose=True)
    expected = case.copy(torch.float64).step(pose=True, reference=True)
    assert found is not None
    assert expected is not None
    assert bool((found[3] == 0).all())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("field", ["means_px", "conics", "opacities", "colors"])
def test_broken_gradients_spoil_nothing(isa: str, field: str, value: float) -> None:
    case = make_case(300)
    broken = torch.arange(300) % 7 == 0
    getattr(case.gradient, field)[broken] = value
    found, expected = case.copy(), make_case(300).copy()
    found.step()
    expected.step()
    for name, mine in found.tensors().items():
        assert bool(mine.isfinite().all()), name
        assert torch.equal(mine[~broken], expected.tensors()[name][~broken]), name


def test_projecting_into_a_workspace_equals_projecting(isa: str) -> None:
    workspace = Workspace()
    for count in (700, 300, 701, 0):
        splats = make_splats(count)
        for options in (ProjectionOptions(), ProjectionOptions(sh_degree=1, antialiased=True)):
            found = project_into(splats, pose_of(CAMERA), CAMERA, options, workspace)
            expected = project_forward(splats, pose_of(CAMERA), CAMERA, options)
            for name in ("means_px", "conics", "opacities", "colors", "depths", "visible"):
                assert torch.equal(getattr(found, name), getattr(expected, name)), name
    before = workspace.bytes()
    project_into(make_splats(600), pose_of(CAMERA), CAMERA, ProjectionOptions(), workspace)
    assert workspace.bytes() == before
