# SPDX-License-Identifier: Apache-2.0
"""The projection under broken, extreme and wrong input, and at its limits."""

from __future__ import annotations

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
)

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.projection.op import (
    ProjectedGradients,
    ProjectionOptions,
    empty_gradients,
    project,
    project_backward,
    project_forward,
)
from recon.splats import Splats


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
    with pytest.raises(ReconError, match="needs an NVIDIA GPU"):
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
