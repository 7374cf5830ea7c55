# SPDX-License-Identifier: Apache-2.0
"""The projection: values and gradients against the reference, and what must hold for any input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from kernels.projection.projection_cases import (
    CAMERA,
    FIELDS,
    INPUTS,
    assert_close,
    forward,
    inner_splats,
    make_splats,
    pose_of,
    run,
    weights_of,
)

from recon.cameras import Camera, look_at
from recon.kernels.native import native
from recon.kernels.projection.op import (
    ProjectedGradients,
    ProjectionOptions,
    empty_gradients,
    project,
    project_backward,
    project_forward,
)
from recon.splats import Splats

DEGREES = [(3, 16), (2, 16), (1, 16), (0, 16), (2, 9), (1, 9), (1, 4), (0, 4), (0, 1)]


# ---- against the reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "bases"), DEGREES)
@pytest.mark.parametrize("antialiased", [False, True])
def test_values_and_gradients_equal_the_reference(isa: str, degree: int, bases: int, antialiased: bool) -> None:
    splats = make_splats(1003, bases)
    options = ProjectionOptions(sh_degree=degree, antialiased=antialiased)
    mine, theirs = run(splats, options, "cpu"), run(splats, options, "reference", torch.float64)
    assert torch.equal(mine.projected.visible, theirs.projected.visible)
    assert 300 < int(mine.projected.visible.sum()) < 900
    for name in FIELDS:
        assert_close(name, getattr(mine.projected, name), getattr(theirs.projected, name))
    for name in (*INPUTS, "cam_from_world"):
        assert_close(name, mine.gradient(name), theirs.gradient(name))
    assert bool((mine.gradient("sh")[:, (degree + 1) ** 2 :] == 0).all())
    assert bool((mine.gradient("cam_from_world")[3] == 0).all())


@pytest.mark.parametrize("output", FIELDS)
def test_each_output_alone_has_the_reference_gradient(isa: str, output: str) -> None:
    splats = make_splats(301)
    options = ProjectionOptions(antialiased=True)
    mine = run(splats, options, "cpu", outputs=(output,))
    theirs = run(splats, options, "reference", torch.float64, outputs=(output,))
    for name in (*INPUTS, "cam_from_world"):
        assert_close(name, mine.gradient(name), theirs.gradient(name))


def test_the_reference_also_runs_in_float32() -> None:
    splats = make_splats(400)
    options = ProjectionOptions(antialiased=True)
    single, double = run(splats, options, "reference"), run(splats, options, "reference", torch.float64)
    for name in FIELDS:
        assert_close(name, getattr(single.projected, name), getattr(double.projected, name))


def test_a_wide_view_with_clamped_neighbours_equals_the_reference(isa: str) -> None:
    camera = Camera(200, 120, 40.0, 45.0, 30.0, 100.0, cam_from_world=look_at([0.0, -1, 0], [0, 0, 0], [0, 0, 1]))
    splats = replace(make_splats(2000), log_scales=make_splats(2000).log_scales + 1)
    mine = run(splats, ProjectionOptions(), "cpu", camera=camera)
    theirs = run(splats, ProjectionOptions(), "reference", torch.float64, camera=camera)
    pose = pose_of(camera)
    points = splats.means @ pose[:3, :3].T + pose[:3, 3]
    beyond = (points[:, 0] / points[:, 2] > 1.3 * 170 / 40) & theirs.projected.visible.bool()
    assert int(beyond.sum()) > 10, "no visible Gaussian is beyond the clamp"
    assert torch.equal(mine.projected.visible, theirs.projected.visible)
    for name in FIELDS:
        assert_close(name, getattr(mine.projected, name), getattr(theirs.projected, name))
    for name in (*INPUTS, "cam_from_world"):
        assert_close(name, mine.gradient(name), theirs.gradient(name))


# ---- against independent truths ------------------------------------------------------------------------------------


def test_centres_and_depths_are_those_of_the_camera(isa: str) -> None:
    splats = make_splats(500)
    found = forward(splats)
    visible = found["visible"].bool()
    pixels, depths = CAMERA.project(splats.means[visible].double().numpy())
    torch.testing.assert_close(found["means_px"][visible].double(), torch.from_numpy(pixels), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found["depths"][visible].double(), torch.from_numpy(depths), rtol=1e-5, atol=1e-5)


def test_the_conic_is_the_linearised_camera_applied_to_the_covariance(isa: str) -> None:
    splats = inner_splats(50)
    found = forward(splats)
    step = 1e-5
    for i in range(50):
        mean = splats.means[i].double()
        columns = []
        for axis in range(3):
            offset = torch.zeros(3, dtype=torch.float64)
            offset[axis] = step
            ahead, _ = CAMERA.project((mean + offset).numpy())
            behind, _ = CAMERA.project((mean - offset).numpy())
            columns.append(torch.from_numpy(ahead - behind) / (2 * step))
        jacobian = torch.stack(columns, -1)
        w, x, y, z = (splats.quats[i].double() / splats.quats[i].double().norm()).tolist()
        # The rotation of v by q is v + 2 r × (r × v + w v), r the vector part.
        r = torch.tensor([x, y, z], dtype=torch.float64)
        eye = torch.eye(3, dtype=torch.float64)
        turned = [v + 2 * torch.linalg.cross(r, torch.linalg.cross(r, v) + w * v) for v in eye]
        spread = torch.stack(turned, -1) * splats.scales[i].double()
        covariance = jacobian @ spread @ spread.T @ jacobian.T + 0.3 * torch.eye(2)
        conic = torch.linalg.inv(covariance)
        expected = torch.stack([conic[0, 0], conic[0, 1], conic[1, 1]])
        torch.testing.assert_close(
            found["conics"][i].double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())
        )


def test_what_is_culled_touches_no_pixel(isa: str) -> None:
    """Nothing is lost: a culled Gaussian reaches alpha 1/255 at no pixel centre, and few are kept for nothing."""
    splats = make_splats(4000)
    usual = forward(splats)["visible"].bool()
    generous = forward(splats, ProjectionOptions(alpha_cutoff=1e-9))
    pixels = torch.from_numpy(CAMERA.pixel_grid()).float().reshape(-1, 2)

    def largest_alpha(index: torch.Tensor) -> torch.Tensor:
        rows = []
        for i in index.tolist():
            dx, dy = (pixels - generous["means_px"][i]).unbind(-1)
            a, b, c = generous["conics"][i].tolist()
            rows.append(
                generous["opacities"][i] * torch.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy)).max()
            )
        return torch.stack(rows)

    culled = (generous["visible"].bool() & ~usual).nonzero().squeeze(1)
    assert len(culled) > 100
    assert float(largest_alpha(culled).max()) <= 1 / 255 * 1.0001
    kept = usual.nonzero().squeeze(1)[:500]
    assert float((largest_alpha(kept) > 1 / 255).float().mean()) > 0.9


def test_antialiasing_conserves_the_light_of_a_small_gaussian(isa: str) -> None:
    """Opacity × area is what it would be without the blur, whatever the size."""
    splats = inner_splats(40)
    splats = replace(splats, log_scales=splats.log_scales - 1, opacity_logits=torch.full((40,), 3.0))
    sharp = forward(splats, ProjectionOptions(blur_px2=1e-12))
    filtered = forward(splats, ProjectionOptions(antialiased=True))

    def light(found: dict[str, torch.Tensor]) -> torch.Tensor:
        a, b, c = found["conics"].double().unbind(-1)
        return found["opacities"].double() / (a * c - b * b).sqrt()

    kept = (sharp["visible"] & filtered["visible"]).bool() & (filtered["opacities"] > 0.01)
    assert int(kept.sum()) > 20
    torch.testing.assert_close(light(filtered)[kept], light(sharp)[kept], rtol=2e-3, atol=0)


# ---- differentiation -----------------------------------------------------------------------------------------------


def differentiable(options: ProjectionOptions, backend: str, camera: Camera) -> Callable[..., tuple[torch.Tensor, ...]]:
    def function(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        projected = project(Splats(*inputs[:-1]), inputs[-1], camera, options, backend)  # type: ignore[arg-type]
        return tuple(getattr(projected, name) for name in FIELDS)

    return function


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(("degree", "bases"), [(3, 16), (1, 9), (0, 1)])
def test_gradients_equal_finite_differences_in_double(backend: str, antialiased: bool, degree: int, bases: int) -> None:
    """For the reference, and for the very math of the kernel run in double."""
    splats = inner_splats(4, bases)
    # Colours away from the clamp at 0, where no derivative exists.
    splats = replace(splats, sh=splats.sh * 0.2)
    inputs = [getattr(splats, name).double().requires_grad_() for name in INPUTS]
    inputs.append(pose_of(CAMERA, torch.float64).requires_grad_())
    options = ProjectionOptions(sh_degree=degree, antialiased=antialiased)
    assert torch.autograd.gradcheck(differentiable(options, backend, CAMERA), inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_equal_finite_differences_beyond_the_clamp(backend: str) -> None:
    """Big Gaussians beside the picture on each side, where J's x/z and y/z stand still."""
    camera = Camera(100, 80, 100.0, 90.0, 30.0, 60.0)
    directions = torch.tensor([[1.4, 0.0, 1], [-0.9, 0.0, 1], [0.1, 1.0, 1], [0.1, -1.2, 1], [1.4, 1.0, 1]])
    splats = replace(
        make_splats(5, 4),
        means=directions * 3,
        log_scales=torch.tensor([0.5, 0.3, 0.1]).expand(5, 3).contiguous(),
        opacity_logits=torch.ones(5),
    )
    options = ProjectionOptions(sh_degree=1, antialiased=True)
    visible = project(splats, pose_of(camera), camera, options).visible
    assert bool(visible.all())
    inputs = [getattr(splats, name).double().requires_grad_() for name in INPUTS]
    inputs.append(pose_of(camera, torch.float64).requires_grad_())
    assert torch.autograd.gradcheck(differentiable(options, backend, camera), inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_the_double_scheduler_equals_the_reference_to_twelve_digits(isa: str) -> None:
    splats = make_splats(200)
    options = ProjectionOptions(antialiased=True)
    mine = run(splats, options, "cpu", torch.float64)
    theirs = run(splats, options, "reference", torch.float64)
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(mine.projected, name), getattr(theirs.projected, name), rtol=1e-12, atol=1e-12
        )
    for name in (*INPUTS, "cam_from_world"):
        scale = float(theirs.gradient(name).abs().max())
        torch.testing.assert_close(mine.gradient(name), theirs.gradient(name), rtol=1e-10, atol=1e-12 * scale)


def test_only_what_is_asked_for_is_differentiated(isa: str) -> None:
    splats = make_splats(100)
    options = ProjectionOptions()
    everything = run(splats, options, "cpu")
    for wanted in (*INPUTS, "cam_from_world"):
        inputs = {name: getattr(splats, name).clone().requires_grad_(name == wanted) for name in INPUTS}
        pose = pose_of(CAMERA).requires_grad_(wanted == "cam_from_world")
        projected = project(Splats(**inputs), pose, CAMERA, options)
        assert not projected.visible.requires_grad

        weights = weights_of(projected)
        torch.stack([(getattr(projected, f) * weights[f].float()).sum() for f in FIELDS]).sum().backward()
        found = {**{name: tensor.grad for name, tensor in inputs.items()}, "cam_from_world": pose.grad}
        for name, gradient in found.items():
            assert (gradient is not None) == (name == wanted)
        gradient = found[wanted]
        assert gradient is not None
        assert torch.equal(gradient, everything.gradient(wanted))


# ---- invariants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_gaussians_give_empty_results_and_a_zero_pose_gradient(backend: str) -> None:
    result = run(make_splats(0), ProjectionOptions(), backend)  # type: ignore[arg-type]
    assert result.projected.means_px.shape == (0, 2)
    assert result.projected.visible.shape == (0,)
    assert result.gradient("sh").shape == (0, 16, 3)
    assert bool((result.gradient("cam_from_world") == 0).all())


def test_a_slice_is_projected_as_in_the_whole(isa: str) -> None:
    """Any count and any offset give the same bits: no lane knows its neighbours."""
    splats = make_splats(1100)
    options = ProjectionOptions(antialiased=True)
    whole = run(splats, options, "cpu")
    grads = ProjectedGradients(
        **{
            f: torch.randn(getattr(whole.projected, f).shape, generator=torch.Generator().manual_seed(3))
            for f in FIELDS
        }
    )
    full = project_backward(
        splats, pose_of(CAMERA), CAMERA, options, whole.projected.visible, grads, empty_gradients(splats)
    )
    spans = [(0, n) for n in range(1, 36)] + [(7, 529), (511, 513), (500, 1100), (1099, 1100)]
    for first, last in spans:
        part = slice(first, last)
        some = splats.select(torch.arange(first, last))
        projected = project_forward(some, pose_of(CAMERA), CAMERA, options)
        for name in (*FIELDS, "visible"):
            assert torch.equal(getattr(projected, name), getattr(whole.projected, name)[part]), (name, first, last)
        given = ProjectedGradients(**{f: getattr(grads, f)[part] for f in FIELDS})
        out = project_backward(some, pose_of(CAMERA), CAMERA, options, projected.visible, given, empty_gradients(some))
        for name in INPUTS:
            assert torch.equal(getattr(out, name), getattr(full, name)[part]), (name, first, last)


def test_the_order_of_the_gaussians_does_not_matter(isa: str) -> None:
    splats = make_splats(333)
    order = torch.randperm(333, generator=torch.Generator().manual_seed(1))
    straight, shuffled = forward(splats), forward(splats.select(order))
    for name in (*FIELDS, "visible"):
        assert torch.equal(straight[name][order], shuffled[name])


@pytest.mark.parametrize("cutoff", [1 / 255, 1e-6, 0.9])
def test_neighbours_that_are_all_culled_change_nothing(isa: str, cutoff: float) -> None:
    """A whole pack is culled by bounds alone: the same Gaussians among visible ones must be culled too."""
    splats = make_splats(6000)
    splats = replace(splats, means=splats.means * 3, log_scales=splats.log_scales * 2 + 3)
    options = ProjectionOptions(alpha_cutoff=cutoff)
    pose = pose_of(CAMERA)
    mixed = forward(splats, options)
    # Sixteen times the same Gaussian makes a pack, or several, of it alone.
    alone = forward(splats.select(torch.arange(6000).repeat_interleave(16)), options)
    for name in (*FIELDS, "visible"):
        assert torch.equal(alone[name].view(6000, 16, -1)[:, 3], mixed[name].view(6000, -1)), name
    depths = splats.means @ pose[2, :3] + pose[2, 3]
    culled_in_front = (depths > 0.01) & (mixed["visible"] == 0)
    assert int(culled_in_front.sum()) > 500
    assert int(mixed["visible"].sum()) > 100


def test_the_number_of_threads_changes_no_bit(isa: str) -> None:
    splats = make_splats(5000)
    module = native()
    threads = module.max_threads()
    results = []
    try:
        for count in (1, 2, 5):
            module.set_threads(count)
            results.append(run(splats, ProjectionOptions(), "cpu"))
    finally:
        module.set_threads(threads)
    for other in results[1:]:
        for name in FIELDS:
            assert torch.equal(getattr(results[0].projected, name), getattr(other.projected, name))
        for name in (*INPUTS, "cam_from_world"):
            assert torch.equal(results[0].gradient(name), other.gradient(name))


def test_layout_in_memory_does_not_matter(isa: str) -> None:
    splats = make_splats(70)
    strided = replace(
        splats,
        means=splats.means.T.contiguous().T,
        sh=splats.sh.transpose(1, 2).contiguous().transpose(1, 2),
    )
    straight, other = run(splats, ProjectionOptions(), "cpu"), run(strided, ProjectionOptions(), "cpu")
    for name in FIELDS:
        assert torch.equal(getattr(straight.projected, name), getattr(other.projected, name))
    for name in INPUTS:
        assert torch.equal(straight.gradient(name), other.gradient(name))
    weights = torch.randn(2, 70, generator=torch.Generator().manual_seed(2)).T
    means = splats.means.clone().requires_grad_()
    project(replace(splats, means=means), pose_of(CAMERA), CAMERA, ProjectionOptions()).means_px.backward(weights)
    again = splats.means.clone().requires_grad_()
    projected = project(replace(splats, means=again), pose_of(CAMERA), CAMERA, ProjectionOptions())
    projected.means_px.backward(weights.contiguous())
    assert means.grad is not None
    assert again.grad is not None
    assert torch.equal(means.grad, again.grad)


def test_the_quaternion_counts_by_direction_only(isa: str) -> None:
    splats = make_splats(200)
    straight = forward(splats)
    for factor in (-1.0, 4.0, 0.0625):
        scaled = forward(replace(splats, quats=splats.quats * factor))
        for name in FIELDS:
            assert torch.equal(straight[name], scaled[name])
    gradient = run(splats, ProjectionOptions(), "cpu").gradient("quats")
    along = (gradient * splats.quats).sum(-1).abs()
    assert float((along / (gradient.norm(dim=-1) * splats.quats.norm(dim=-1) + 1e-20)).max()) < 1e-3


def test_buffers_are_reused_and_culled_rows_may_be_left(isa: str) -> None:
    splats = make_splats(600)
    options = ProjectionOptions()
    expected = project_forward(splats, pose_of(CAMERA), CAMERA, options)
    out = project_forward(make_splats(600, seed=9), pose_of(CAMERA), CAMERA, options)
    assert project_forward(splats, pose_of(CAMERA), CAMERA, options, out) is out
    for name in (*FIELDS, "visible"):
        assert torch.equal(getattr(out, name), getattr(expected, name))
    given = ProjectedGradients(**{f: torch.ones_like(getattr(out, f)) for f in FIELDS})
    full = project_backward(splats, pose_of(CAMERA), CAMERA, options, out.visible, given, empty_gradients(splats, True))
    lazy = empty_gradients(splats, True)
    for name in INPUTS:
        getattr(lazy, name).fill_(7.0)
    project_backward(splats, pose_of(CAMERA), CAMERA, options, out.visible, given, lazy, zero_culled=False)
    visible = out.visible.bool()
    for name in INPUTS:
        assert torch.equal(getattr(full, name)[visible], getattr(lazy, name)[visible])
        assert bool((getattr(full, name)[~visible] == 0).all())
        assert set(getattr(lazy, name)[~visible].unique().tolist()) <= {0.0, 7.0}
    assert torch.equal(full.cam_from_world, lazy.cam_from_world)  # type: ignore[arg-type]
