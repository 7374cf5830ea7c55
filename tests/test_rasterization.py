# SPDX-License-Identifier: Apache-2.0
"""The whole renderer: against its reference, against finite differences, and what it promises to its users."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.cameras import Camera, CameraModel, look_at
from recon.errors import ReconError
from recon.rasterization import RasterizeOptions, SplatRenderer, facing_normals, rasterize
from recon.render import Renderer, RenderOptions
from recon.splats import Splats

TENSORS = ("means", "quats", "log_scales", "opacity_logits", "sh")
EVERYTHING = RasterizeOptions(background=(1.0, 0.5, 0.2), depth=True, median_depth=True, normal=True, features=True)


def make_splats(
    count: int, seed: int = 0, features: int = 0, dtype: torch.dtype = torch.float32, scale: float = 0.05
) -> Splats:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Splats(
        means=normal(count, 3),
        quats=normal(count, 4),
        log_scales=math.log(scale) + 0.5 * normal(count, 3),
        opacity_logits=normal(count),
        sh=0.3 * normal(count, 16, 3),
        features=normal(count, features) if features else None,
    )


def make_camera(width: int = 97, height: int = 70, distance: float = 4.0) -> Camera:
    pose = look_at(np.array([0.3, -distance, 1.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    return Camera(width, height, 0.9 * width, 0.9 * width, 0.52 * width, 0.47 * height, cam_from_world=pose)


def as_leaves(splats: Splats, names: tuple[str, ...] = TENSORS) -> Splats:
    return replace(splats, **{name: getattr(splats, name).clone().requires_grad_() for name in names})


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("options", [RasterizeOptions(), EVERYTHING, RasterizeOptions(sh_degree=1, depth=True)])
def test_equals_the_reference(isa: str, options: RasterizeOptions, antialiased: bool) -> None:
    splats = replace(make_splats(400, features=2), antialiased=antialiased)
    camera = make_camera()
    found = {}
    for backend in ("cpu", "reference"):
        leaf = as_leaves(splats, (*TENSORS, "features"))
        pose = torch.tensor(camera.cam_from_world, dtype=torch.float32, requires_grad=True)
        raster = rasterize(leaf, camera, options, pose, backend=backend)
        out = raster.output
        values = {name: value for name, value in vars(out).items() if value is not None}
        loss = sum((value * torch.linspace(-1, 1, value.shape[-1])).mean() for value in values.values())
        loss.backward()
        values |= {f"d_{name}": getattr(leaf, name).grad for name in TENSORS}
        values |= {"d_pose": pose.grad, "gradient_px": raster.gradient_px, "gradient_abs_px": raster.gradient_abs_px}
        if options.features:
            assert leaf.features is not None
            values["d_features"] = leaf.features.grad
        found[backend] = values
    assert found["cpu"].keys() == found["reference"].keys()
    for name, expected in found["reference"].items():
        error = (found["cpu"][name] - expected).abs().max() / expected.abs().max()
        assert error < (1e-3 if name in ("normal", "depth", "median_depth") else 1e-4), f"{name}: {error:.1e}"


def test_planar_depth_equals_the_reference(isa: str) -> None:
    splats, camera = make_splats(300, 11, features=2), make_camera()
    for options in (replace(EVERYTHING, planar_depth=True), RasterizeOptions(median_depth=True, planar_depth=True)):
        ours = rasterize(splats, camera, options, backend="cpu").output
        theirs = rasterize(splats, camera, options, backend="reference").output
        for name, value in vars(theirs).items():
            if value is not None:
                assert torch.allclose(getattr(ours, name), value, rtol=1e-3, atol=1e-3), name
    with pytest.raises(ReconError, match="no_grad"):
        rasterize(as_leaves(splats), camera, RasterizeOptions(depth=True, planar_depth=True))


def test_gradcheck_of_the_whole_reference() -> None:
    """Double precision, cutoff lowered: it is a step, which finite differences would see."""
    splats = make_splats(8, 1, dtype=torch.float64, scale=0.4)
    splats = replace(splats, sh=splats.sh[:, :4])
    camera = make_camera(9, 7)
    pose = torch.tensor(camera.cam_from_world)
    options = RasterizeOptions(background=(0.2, 0.4, 0.6), depth=True, alpha_cutoff=1e-12)

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scene = replace(splats, **dict(zip(TENSORS, values)))
        top = torch.cat([values[5], pose[3:]])
        out = rasterize(scene, camera, options, top, backend="reference").output
        assert out.depth is not None
        # Weights of alpha keep the depth away from 0/0 at the rim.
        return out.rgb, out.alpha, out.depth * out.alpha

    inputs = [getattr(splats, name).requires_grad_() for name in TENSORS]
    assert torch.autograd.gradcheck(function, (*inputs, pose[:3].clone().requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("antialiased", [False, True])
def test_finite_differences_of_the_kernels(isa: str, antialiased: bool) -> None:
    """Float32 and coarse: along random directions of every parameter and of the pose."""
    splats = replace(make_splats(60, 2, scale=0.25), antialiased=antialiased)
    camera = make_camera(40, 30)
    start = torch.tensor(camera.cam_from_world, dtype=torch.float32)
    options = RasterizeOptions(background=(0.2, 0.4, 0.6), alpha_cutoff=1e-10)
    weights = torch.randn(30, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(scene: Splats, pose: torch.Tensor) -> torch.Tensor:
        out = rasterize(scene, camera, options, pose, backend="cpu").output
        return (out.rgb.double() * weights).sum() + out.alpha.double().square().sum()

    leaf, pose = as_leaves(splats), start.clone().requires_grad_()
    loss(leaf, pose).backward()
    generator = torch.Generator().manual_seed(4)
    # Changes of order of depth are steps, too, so means and pose move less.
    steps = {"means": 2e-4, "quats": 2e-3, "log_scales": 2e-3, "opacity_logits": 4e-3, "sh": 4e-3, "pose": 2e-4}
    for name, step in steps.items():
        value = start if name == "pose" else getattr(splats, name)
        gradient = pose.grad if name == "pose" else getattr(leaf, name).grad
        assert gradient is not None
        direction = torch.randn(value.shape, generator=generator)
        if name == "pose":
            direction[3] = 0

        def at(change: float, name: str = name, direction: torch.Tensor = direction) -> float:
            if name == "pose":
                return float(loss(splats, start + change * direction).detach())
            moved = replace(splats, **{name: getattr(splats, name) + change * direction})
            return float(loss(moved, start).detach())

        expected = (at(step) - at(-step)) / (2 * step)
        found = float((gradient * direction).sum())
        scale = float((gradient * direction).norm()) + abs(found)
        assert abs(found - expected) < 0.02 * scale, f"{name}: {found} against {expected}"


def test_a_wall_has_its_depth_and_normal(isa: str) -> None:
    """Flat discs in the plane z = 0, seen obliquely: depth and normal are those of the plane."""
    side = torch.arange(-40, 41, dtype=torch.float32) * 0.05
    means = torch.cat([torch.cartesian_prod(side, side), torch.zeros(81 * 81, 1)], 1)
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(len(means), 4)
    log_scales = torch.log(torch.tensor([[0.08, 0.08, 0.0005]])).expand(len(means), 3)
    splats = Splats(means, quats, log_scales, torch.full((len(means),), 8.0), torch.zeros(len(means), 1, 3))
    pose = look_at(np.array([0.5, -2.0, 2.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    camera = Camera(60, 50, 120, 120, 30, 25, cam_from_world=pose)
    out = SplatRenderer(splats, backend="cpu").render(camera, RenderOptions(depth=True, normal=True))
    assert out.depth is not None
    assert out.median_depth is not None
    assert out.normal is not None
    directions = camera.ray_directions_in_cam(camera.pixel_grid()) @ pose[:3, :3]
    truth = torch.tensor(-camera.center_in_world[2] / directions[..., 2], dtype=torch.float32)
    assert out.alpha.min() > 0.99
    assert (out.depth / truth - 1).abs().max() < 0.01
    assert (out.median_depth / truth - 1).abs().mean() < 0.05
    # The centres' depths alone are biased: nearer discs are blended first.
    centers = rasterize(splats, camera, RasterizeOptions(depth=True)).output.depth
    assert centers is not None
    assert (centers / truth - 1).abs().mean() > 0.02
    assert (out.normal - torch.tensor([0.0, 0.0, 1.0])).abs().max() < 1e-3


def test_normals_face_the_camera() -> None:
    splats = make_splats(100, 3)
    camera = make_camera()
    normals = facing_normals(splats, torch.tensor(camera.cam_from_world, dtype=torch.float32))
    towards = torch.tensor(camera.center_in_world, dtype=torch.float32) - splats.means
    assert ((normals * towards).sum(-1) >= 0).all()
    assert torch.allclose(normals.norm(dim=1), torch.ones(100), atol=1e-5)


def test_nothing_to_see(isa: str) -> None:
    for splats in (make_splats(0), replace(make_splats(5), means=torch.tensor([[0.0, -50.0, 0.0]]).expand(5, 3))):
        leaf = as_leaves(splats)
        raster = rasterize(leaf, make_camera(), replace(EVERYTHING, features=False))
        out = raster.output
        assert torch.equal(out.rgb, torch.tensor([1.0, 0.5, 0.2]).expand(70, 97, 3))
        for value in (out.alpha, out.depth, out.median_depth, out.normal):
            assert value is not None
            assert not value.any()
        assert not raster.visible.any()
        assert out.depth is not None
        assert out.normal is not None
        (out.rgb.sum() + out.depth.sum() + out.normal.sum()).backward()
        assert leaf.means.grad is not None
        assert not leaf.means.grad.any()


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 7)])
def test_sizes(isa: str, size: tuple[int, int]) -> None:
    out = rasterize(make_splats(200), make_camera(*size), EVERYTHING).output
    assert out.rgb.shape == (size[1], size[0], 3)
    assert out.rgb.isfinite().all()


def test_background(isa: str) -> None:
    splats, camera = make_splats(200, 4), make_camera()
    black = rasterize(splats, camera).output
    color = torch.tensor([0.25, 0.5, 1.0])
    over = rasterize(splats, camera, RasterizeOptions(background=color)).output
    assert torch.allclose(over.rgb, black.rgb + (1 - black.alpha)[..., None] * color, atol=1e-6)
    picture = torch.rand(70, 97, 3)
    behind = rasterize(splats, camera, RasterizeOptions(background=picture)).output
    assert torch.allclose(behind.rgb, black.rgb + (1 - black.alpha)[..., None] * picture, atol=1e-6)
    with pytest.raises(ReconError, match="background"):
        rasterize(splats, camera, RasterizeOptions(background=torch.zeros(4)))


def test_broken_splats_leave_the_picture_alone(isa: str) -> None:
    good = make_splats(150, 5)
    camera = make_camera()
    expected = rasterize(good, camera, RasterizeOptions(depth=True, normal=True)).output
    bad = make_splats(60, 6)
    for index, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        for offset, name in enumerate(TENSORS):
            getattr(bad, name)[index * 20 + offset] = value
    bad.opacity_logits[15:20] = -100.0
    bad = bad.select(torch.tensor([*range(5), *range(15, 25), *range(40, 45)]))
    bad.opacity_logits[10] = -200.0
    # An infinite opacity is as good as opaque and a scale of e^-inf is flat: neither is broken.
    broken = ~torch.stack([getattr(bad, name).reshape(len(bad), -1).isfinite().all(1) for name in TENSORS], 1).all(1)
    bad = bad.select(broken)
    flat_or_opaque = bad.opacity_logits.isposinf() | bad.log_scales.isneginf().any(1)
    bad = bad.select(~flat_or_opaque)
    assert len(bad) >= 10
    both = replace(good, **{name: torch.cat([getattr(good, name), getattr(bad, name)]) for name in TENSORS})
    leaf = as_leaves(both)
    out = rasterize(leaf, camera, RasterizeOptions(depth=True, normal=True)).output
    for name in ("rgb", "depth", "normal"):
        assert torch.equal(getattr(out, name), getattr(expected, name)), name
    out.rgb.sum().backward()
    for name in TENSORS:
        assert getattr(leaf, name).grad[:150].isfinite().all()


def test_renderer_is_a_renderer_and_tracks_no_gradients() -> None:
    renderer = SplatRenderer(as_leaves(make_splats(50, 7, features=3)))
    assert isinstance(renderer, Renderer)
    out = renderer.render(make_camera(), RenderOptions(depth=True, normal=True, features=True))
    for value in vars(out).values():
        assert value is not None
        assert not value.requires_grad
    plain = renderer.render(make_camera(), RenderOptions())
    assert plain.depth is None
    assert plain.median_depth is None
    assert plain.normal is None
    assert plain.features is None


def test_given_pose_overrides_the_cameras() -> None:
    splats, camera = make_splats(100, 8), make_camera()
    elsewhere = look_at(np.array([2.0, -3.0, 0.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    moved = rasterize(splats, camera, cam_from_world=torch.tensor(elsewhere, dtype=torch.float32)).output
    assert torch.equal(moved.rgb, rasterize(splats, camera.with_pose(elsewhere)).output.rgb)


def test_wrong_use_is_refused() -> None:
    splats, camera = make_splats(10, 9), make_camera()
    lens = replace(camera, model=CameraModel.OPENCV, distortion=(0.1, 0.0, 0.0, 0.0))
    with pytest.raises(ReconError, match=r"OPENCV(.|\n)*undistort"):
        rasterize(splats, lens)
    with pytest.raises(ReconError, match="SH degree 4"):
        rasterize(splats, camera, RasterizeOptions(sh_degree=4))
    with pytest.raises(ReconError, match="cam_from_world"):
        rasterize(splats, camera, cam_from_world=torch.eye(3))
    with pytest.raises(ReconError, match="GPU"):
        rasterize(splats, camera, backend="gsplat")


def test_missing_gsplat_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)
    monkeypatch.setattr("recon.rasterization.resolve_backend", lambda *_: "gsplat")
    with pytest.raises(ReconError, match=r"pip install recon\[gsplat\]"):
        rasterize(make_splats(3), make_camera(), backend="gsplat")
    with pytest.raises(ReconError, match="median"):
        rasterize(make_splats(3), make_camera(), RasterizeOptions(median_depth=True), backend="gsplat")


def test_gsplat_is_called_as_its_interface_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with gsplat 1.5's signature, computed by our reference: checks what we pass and how we read it."""
    splats, camera = replace(make_splats(60, 10, features=2, scale=0.2), antialiased=True), make_camera()
    options = replace(EVERYTHING, median_depth=False)
    expected = rasterize(splats, camera, options, backend="reference")
    monkeypatch.setitem(sys.modules, "gsplat", _StandIn(camera))
    monkeypatch.setattr("recon.rasterization.resolve_backend", lambda *_: "gsplat")
    leaf = as_leaves(splats)
    found = rasterize(leaf, camera, options, backend="gsplat")
    for name, value in vars(expected.output).items():
        if value is not None:
            assert torch.allclose(getattr(found.output, name), value, atol=2e-4), name
    found.output.rgb.sum().backward()
    assert found.gradient_px.shape == (60,)
    assert torch.equal(found.gradient_abs_px, torch.full((60,), 3.0) * math.sqrt(2))


class _StandIn:
    """What `import gsplat` finds in the test above."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    def rasterization(
        self,
        means: torch.Tensor,
        quats: torch.Tensor,
        scales: torch.Tensor,
        opacities: torch.Tensor,
        colors: torch.Tensor,
        viewmats: torch.Tensor,
        Ks: torch.Tensor,
        width: int,
        height: int,
        near_plane: float = 0.01,
        far_plane: float = 1e10,
        eps2d: float = 0.3,
        sh_degree: int | None = None,
        packed: bool = True,
        render_mode: str = "RGB",
        absgrad: bool = False,
        rasterize_mode: str = "classic",
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, object]]:
        from recon.kernels.binning.op import bin_tiles
        from recon.kernels.blend.op import blend
        from recon.kernels.projection.op import ProjectionOptions, project

        assert not packed
        fx, fy, cx, cy = (float(Ks[0, i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        camera = Camera(width, height, fx, fy, cx, cy)
        sh = colors if sh_degree is not None else torch.zeros(len(means), 1, 3)
        splats = Splats(means, quats, scales.log(), torch.logit(opacities), sh)
        projection = ProjectionOptions(near_plane, far_plane, eps2d, rasterize_mode == "antialiased", sh_degree or 0)
        projected = project(splats, viewmats[0], camera, projection, backend="reference")
        channels = projected.colors if sh_degree is not None else colors
        if render_mode == "RGB+D":
            channels = torch.cat([channels, projected.depths[:, None]], 1)
        means2d = projected.means_px[None]
        if means2d.requires_grad:
            means2d.retain_grad()
            setattr(means2d, "absgrad", torch.full((1, len(means), 2), 3.0))  # noqa: B010
        projected = replace(projected, means_px=means2d[0])
        tiles = bin_tiles(projected, width, height, backend="reference")
        out = blend(projected, channels, tiles, width, height, backend="reference")
        radii = projected.visible.int()[None, :, None].expand(1, -1, 2)
        return out.channels[None], out.alpha[None, ..., None], {"means2d": means2d, "radii": radii}
