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
    inner_splats,
    make_splats,
    pose_of,
    run,
    weights_of,
)

from recon.cameras import Camera, look_at
from recon.errors import ReconError
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


def forward(
    splats: Splats, options: ProjectionOptions | None = None, camera: Camera = CAMERA
) -> dict[str, torch.Tensor]:
    options = options or ProjectionOptions(sh_degree=splats.sh_degree)
    projected = project_forward(splats, pose_of(camera), camera, options)
    return {name: getattr(projected, name) for name in (*FIELDS, "visible")}


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


# ---- hostile input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_broken_rows_are_culled_and_poison_nothing(isa: str, value: float, backend: str, antialiased: bool) -> None:
    clean = make_splats(400)
    options = ProjectionOptions(antialiased=antialiased)
    expected = run(clean, options, backend)  # type: ignore[arg-type]
    broken = {name: getattr(clean, name).clone() for name in INPUTS}
    hit = torch.zeros(400, dtype=torch.bool)
    generator = torch.Generator().manual_seed(11)
    for name in INPUTS:
        flat = broken[name].reshape(400, -1)
        for row in torch.randint(0, 400, (20,), generator=generator).tolist():
            flat[row, int(torch.randint(0, flat.shape[1], (), generator=generator))] = value
            hit[row] = True
    found = run(Splats(**broken), options, backend)  # type: ignore[arg-type]
    assert not bool(found.projected.visible[hit].any())
    for name in FIELDS:
        assert bool((getattr(found.projected, name)[hit] == 0).all())
        same = getattr(found.projected, name)[~hit], getattr(expected.projected, name)[~hit]
        torch.testing.assert_close(*same, rtol=1e-5, atol=1e-5)
    for name in INPUTS:
        assert bool((found.gradient(name)[hit] == 0).all())
        assert bool(found.gradient(name).isfinite().all())
    assert bool(found.gradient("cam_from_world").isfinite().all())


def test_broken_gradients_of_culled_rows_go_nowhere(isa: str) -> None:
    splats = make_splats(300)
    options = ProjectionOptions(antialiased=True)
    projected = project_forward(splats, pose_of(CAMERA), CAMERA, options)
    culled = ~projected.visible.bool()
    gradients = {f: torch.ones_like(getattr(projected, f)) for f in FIELDS}
    clean, dirty = (empty_gradients(splats, pose=True) for _ in range(2))
    given = ProjectedGradients(**gradients)
    project_backward(splats, pose_of(CAMERA), CAMERA, options, projected.visible, given, clean)
    for gradient in gradients.values():
        gradient[culled] = float("nan")
    project_backward(splats, pose_of(CAMERA), CAMERA, options, projected.visible, given, dirty)
    for name in (*INPUTS, "cam_from_world"):
        assert torch.equal(getattr(clean, name), getattr(dirty, name))


def extreme_splats() -> Splats:
    """1e4 rows whose fields are drawn from what no scene should hold, but some will."""
    count = 10_000
    generator = torch.Generator().manual_seed(4)

    def pick(values: list[float], *shape: int) -> torch.Tensor:
        index = torch.randint(0, len(values), shape, generator=generator)
        return torch.tensor(values)[index]

    usual = make_splats(count)
    keep = torch.rand(count, 5, generator=generator) < 0.6
    means = pick([0.0, 1e-30, -4.0, 0.3, 1e4, -1e10, 3e38], count, 3)
    quats = pick([0.0, 1e-30, 1.0, -1.0, 1e-10, 1e12, 3e38], count, 4)
    log_scales = pick([-1e30, -200.0, -40.0, -3.0, 2.0, 20.0, 60.0, 1e10], count, 3)
    logits = pick([-1e30, -90.0, -5.53, 0.0, 20.0, 100.0, 1e30], count)
    sh = pick([0.0, 1.0, -1e10, 1e25, 3e38, -3e38], count, 16, 3)
    return Splats(
        means=torch.where(keep[:, :1], usual.means, means),
        quats=torch.where(keep[:, 1:2], usual.quats, quats),
        log_scales=torch.where(keep[:, 2:3], usual.log_scales, log_scales),
        opacity_logits=torch.where(keep[:, 3], usual.opacity_logits, logits),
        sh=torch.where(keep[:, 4:, None], usual.sh, sh),
    )


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("blur_px2", [0.3, 0.0])
def test_extreme_rows_stay_finite(isa: str, antialiased: bool, blur_px2: float) -> None:
    splats = extreme_splats()
    options = ProjectionOptions(antialiased=antialiased, blur_px2=blur_px2)
    result = run(splats, options, "cpu")
    visible = result.projected.visible.bool()
    assert 500 < int(visible.sum()) < 9000
    for name in FIELDS:
        values = getattr(result.projected, name)
        assert bool(values.isfinite().all()), name
        assert bool((values[~visible] == 0).all()), name
    a, b, c = result.projected.conics[visible].double().unbind(-1)
    assert bool(((a > 0) & (c > 0) & (a * c >= b * b * (1 - 1e-6))).all())
    assert bool((result.projected.opacities <= 1).all())
    reference = project(splats, pose_of(CAMERA), CAMERA, options, backend="reference")
    # Rows at the very limits may fall on either side.
    assert int((reference.visible != result.projected.visible).sum()) <= 20
    # A gradient may overflow where the values are at the limits of float32; elsewhere it may not.
    moderate = (
        visible
        & (splats.sh.abs().amax((1, 2)) < 1e3)
        & (splats.log_scales.amax(-1) < 10)
        & (splats.quats.norm(dim=-1) > 1e-6)
        & (result.projected.conics.amax(-1) < 1e8)
    )
    assert int(moderate.sum()) > 500
    for name in INPUTS:
        assert bool(result.gradient(name)[moderate].isfinite().all()), name
        assert bool((result.gradient(name)[~visible] == 0).all()), name


def test_depth_limits_and_the_camera_plane(isa: str) -> None:
    camera = Camera(64, 48, 50.0, 50.0, 32.0, 24.0)
    depths = torch.tensor([-1.0, 0.0, 0.0099, 0.0101, 1.0, 9.99, 10.01])
    splats = replace(make_splats(7, 1), means=torch.stack([depths * 0, depths * 0, depths], -1))
    splats = replace(splats, log_scales=torch.full((7, 3), -3.0), opacity_logits=torch.full((7,), 2.0))
    found = forward(splats, ProjectionOptions(near=0.01, far=10.0, sh_degree=0), camera)
    assert found["visible"].tolist() == [0, 0, 0, 1, 1, 1, 0]
    # At the camera's very centre there is no direction to look along.
    found = forward(splats, ProjectionOptions(near=0.0, sh_degree=0), camera)
    assert found["visible"].tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_a_gaussian_at_the_border_is_seen_as_far_as_it_reaches(isa: str) -> None:
    camera = Camera(64, 48, 50.0, 50.0, 32.0, 24.0)
    # A round Gaussian of 2 pixels and opacity 1/2 reaches sqrt(2 ln(127.5) (4 + 0.3)) = 6.46 pixels.
    x_px = torch.tensor([-6.6, -6.3, 0.0, 64.0, 70.3, 70.6])
    means = torch.stack([(x_px - 32) / 50, torch.zeros(6), torch.ones(6)], -1)
    sizes = torch.full((6, 3), 2.0 / 50)
    sizes[:, 2] = 1e-6
    for axis in (0, 1):
        there = means if axis == 0 else torch.stack([means[:, 1], means[:, 0] - 8 / 50 * (x_px > 32), means[:, 2]], -1)
        splats = Splats(
            there, torch.tensor([[1.0, 0, 0, 0]]).expand(6, 4), sizes.log(), torch.zeros(6), torch.zeros(6, 1, 3)
        )
        if axis == 1:
            there[:, 1] = (torch.where(x_px > 32, x_px - 16, x_px) - 24) / 50
        found = forward(splats, ProjectionOptions(sh_degree=0), camera)
        assert found["visible"].tolist() == [0, 1, 1, 1, 1, 0]


def test_too_faint_gaussians_are_culled(isa: str) -> None:
    splats = inner_splats(4)
    opacity = torch.tensor([1.1 / 255, 0.9 / 255, 0.5, 1e-12])
    splats = replace(splats, opacity_logits=torch.logit(opacity))
    assert forward(splats)["visible"].tolist()[1:] == [0, 1, 0]


def test_dark_colours_stop_at_zero_and_get_no_gradient(isa: str) -> None:
    splats = inner_splats(32)
    sh = splats.sh * 0.1
    sh[::2, 0] = -5.0
    result = run(replace(splats, sh=sh), ProjectionOptions(), "cpu")
    assert bool((result.projected.colors[::2] == 0).all())
    assert bool((result.projected.colors[1::2] > 0).all())
    assert bool((result.gradient("sh")[::2] == 0).all())
    assert bool((result.gradient("sh")[1::2] != 0).any())


def test_needles_have_finite_antialiased_gradients(isa: str) -> None:
    """The factor's root is kept off zero, where its slope is infinite."""
    splats = inner_splats(64)
    log_scales = splats.log_scales.clone()
    log_scales[:32] = -30.0
    log_scales[32:, :2] = -12.0
    splats = replace(splats, log_scales=log_scales, opacity_logits=torch.full((64,), 6.0))
    result = run(splats, ProjectionOptions(antialiased=True), "cpu")
    assert int(result.projected.visible.sum()) == 64
    assert float(result.projected.opacities.min()) >= 0.00498
    reference = run(splats, ProjectionOptions(antialiased=True), "reference", torch.float64)
    for name in INPUTS:
        assert_close(name, result.gradient(name), reference.gradient(name))


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_wrong_arguments_are_refused(backend: str) -> None:
    splats, options, pose = make_splats(5, 4), ProjectionOptions(sh_degree=1), pose_of(CAMERA)
    with pytest.raises(ReconError, match="degree"):
        project(splats, pose, CAMERA, ProjectionOptions(sh_degree=2), backend)  # type: ignore[arg-type]
    for wrong in (pose[:3], pose[None], pose[0]):
        with pytest.raises(ReconError, match="cam_from_world has shape"):
            project(splats, wrong, CAMERA, options, backend)  # type: ignore[arg-type]
    with pytest.raises(ReconError, match="means has shape"):
        Splats(splats.means[:, :2], splats.quats, splats.log_scales, splats.opacity_logits, splats.sh)


def test_wrong_types_and_gradients_are_refused() -> None:
    splats, options, pose = make_splats(5, 4), ProjectionOptions(sh_degree=1), pose_of(CAMERA)
    with pytest.raises(ReconError, match="quats is"):
        project(replace(splats, quats=splats.quats.double()), pose, CAMERA, options)
    with pytest.raises(ReconError, match="float16"):
        project(replace(splats, means=splats.means.half()), pose, CAMERA, options)
    with pytest.raises(ReconError, match="does not have it"):
        project(splats, pose, CAMERA, options, backend="cuda")
    visible = torch.ones(5, dtype=torch.uint8)
    for wrong in (
        ProjectedGradients(means_px=torch.zeros(5, 3)),
        ProjectedGradients(conics=torch.zeros(4, 3)),
        ProjectedGradients(depths=torch.zeros(5, dtype=torch.float64)),
    ):
        with pytest.raises(ReconError, match="gradient of"):
            project_backward(splats, pose, CAMERA, options, visible, wrong, empty_gradients(splats))
    with pytest.raises(ReconError, match="visible"):
        project_backward(splats, pose, CAMERA, options, visible[:4], ProjectedGradients(), empty_gradients(splats))


@pytest.mark.parametrize(
    "wrong",
    [
        {"near": -1.0},
        {"near": 2.0, "far": 1.0},
        {"near": float("nan")},
        {"blur_px2": -0.1},
        {"blur_px2": float("inf")},
        {"sh_degree": 4},
        {"sh_degree": -1},
        {"alpha_cutoff": 0.0},
        {"alpha_cutoff": 1.0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ReconError, match="projection options"):
        ProjectionOptions(**wrong)  # type: ignore[arg-type]
