# SPDX-License-Identifier: Apache-2.0
"""Gaussian splats to pictures: projection, tile lists and blending, put together; differentiable to the splats and to
the camera's pose.

On the CPU and on CUDA our three kernels run; on CUDA the gsplat library (https://docs.gsplat.studio) can do the same.
The colour is Σ_i T_i alpha_i c_i + T_end background; depth and normals are blended like colours and divided by alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.binning.op import ALPHA_CUTOFF, bin_tiles
from recon.kernels.blend.op import BlendStatistics, DepthPlanes, blend
from recon.kernels.projection.op import Projected, ProjectionOptions, project
from recon.painting import PaintOptions, SplatPainter, depth_slopes, facing_normals, never
from recon.render import Renderer, RenderOptions, RenderOutput
from recon.splats import Splats

if TYPE_CHECKING:
    from recon.cuda_painting import CudaPainter

BACKENDS = ("cpu", "cuda", "gsplat", "reference")

Background = tuple[float, float, float] | torch.Tensor


@dataclass(frozen=True, eq=False)
class RasterizeOptions:
    """What to render, and how.

    Attributes:
        background: colour behind everything, three numbers or a tensor [3] or [H, W, 3].
        sh_degree: degree of the spherical harmonics in use; None uses all that are stored.
        near, far: Gaussians at other depths are left out, world units.
        depth: also give the expected depth.
        median_depth: also give the median depth.
        planar_depth: the expected depth follows each Gaussian's own plane instead of being that of its centre wherever
            it is seen, which oblique surfaces need; for pictures only, under torch.no_grad().  Not with gsplat.
            The median depth stays that of centres: it picks one Gaussian, whose plane may be any.
        normal: also give normals, from each Gaussian's shortest axis.
        features: also blend the splats' feature channels, where there are any.
        alpha_cutoff: smaller alphas are not blended.
    """

    background: Background = (0.0, 0.0, 0.0)
    sh_degree: int | None = None
    near: float = 0.01
    far: float = 1e10
    depth: bool = False
    median_depth: bool = False
    planar_depth: bool = False
    normal: bool = False
    features: bool = False
    alpha_cutoff: float = ALPHA_CUTOFF


@dataclass(frozen=True, eq=False)
class Rasterization:
    """A picture and what density control asks of it.

    Attributes:
        output: the picture.
        visible: [N] bool, the Gaussians that touch it.
        statistics: set by the backward pass.  gsplat gives no blended weights.
        projected: the Gaussians in the picture; None from gsplat.
    """

    output: RenderOutput
    visible: torch.Tensor
    statistics: BlendStatistics
    projected: Projected | None = None

    @property
    def gradient_px(self) -> torch.Tensor:
        """[N] length of the loss's gradient by each Gaussian's position in the picture, 1/pixels; after backward."""
        return _after_backward(self.statistics.mean_gradient_px).norm(dim=1)

    @property
    def gradient_abs_px(self) -> torch.Tensor:
        """[N] as `gradient_px`, of the absolute values summed over pixels (AbsGS, Ye et al. 2024)."""
        return _after_backward(self.statistics.mean_gradient_abs_px).norm(dim=1)


def rasterize(
    splats: Splats,
    camera: Camera,
    options: RasterizeOptions = RasterizeOptions(),
    cam_from_world: torch.Tensor | None = None,
    backend: Backend = "auto",
) -> Rasterization:
    """Renders one view; rgb, alpha, depth, normal and features carry gradients to the splats and `cam_from_world`.

    Args:
        splats: N Gaussians.
        camera: a PINHOLE camera (photos are undistorted before).
        options: see there.
        cam_from_world: [4, 4], taken instead of the camera's pose, for pose refinement.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: a camera with distortion, wrong shapes, a missing or unsuitable backend, or too little memory.
    """
    _check_camera(camera)
    degree = splats.sh_degree if options.sh_degree is None else options.sh_degree
    if not 0 <= degree <= splats.sh_degree:
        raise ReconError("rendering splats", f"SH degree {degree} is asked for", f"0 to {splats.sh_degree}")
    if cam_from_world is None:
        cam_from_world = torch.tensor(camera.cam_from_world, dtype=splats.means.dtype, device=splats.device)
    elif cam_from_world.shape != (4, 4):
        raise ReconError("rendering splats", f"cam_from_world has shape {tuple(cam_from_world.shape)}", "4×4")
    if resolve_backend(backend, splats.device, BACKENDS) == "gsplat":
        return _rasterize_gsplat(splats, camera, options, cam_from_world, degree)
    return _rasterize_kernels(splats, camera, options, cam_from_world, degree, backend)


class SplatRenderer:
    """Shows splats; a `recon.render.Renderer`, without gradients.

    Pictures of colours alone, which a viewer or a film asks for one after another, are rendered on memory that lives
    from picture to picture; several threads take turns.
    """

    def __init__(self, splats: Splats, backend: Backend = "auto") -> None:
        self.splats = splats.detach().contiguous()
        self._backend = backend
        self._painter = SplatPainter()
        self._cuda_painter: CudaPainter | None = None

    @torch.no_grad()
    def render(self, camera: Camera, options: RenderOptions | None = None) -> RenderOutput:
        """Renders the view of a PINHOLE camera, by default its colours on black.

        The expected depth is planar; from gsplat it is that of the centres, and there is no median depth.
        """
        options = options or RenderOptions()
        backend = resolve_backend(self._backend, self.splats.device, BACKENDS)
        single = self.splats.means.dtype == torch.float32
        if backend in ("cpu", "cuda") and single and not (options.depth or options.normal or options.features):
            _check_camera(camera)
            if backend == "cuda":
                return self._paint_on_cuda(camera, options.background)
            painted = self._painter.paint(self.splats, camera, PaintOptions(options.background))
            assert painted is not None, "nobody gave it up"
            return painted
        ours = backend != "gsplat"
        rasterize_options = RasterizeOptions(
            background=options.background,
            depth=options.depth,
            median_depth=options.depth and ours,
            planar_depth=options.depth and ours,
            normal=options.normal,
            features=options.features,
        )
        return rasterize(self.splats, camera, rasterize_options, backend=self._backend).output

    def surface_renderer(self) -> Renderer | None:
        """Returns a renderer of where rays meet the splats that stop them (`recon.render.SurfaceSource`); CPU only."""
        from recon.surface.splat_depth import SplatSurfaceRenderer, has_surface_depth

        return SplatSurfaceRenderer(self) if has_surface_depth(self) else None

    @torch.no_grad()
    def paint(
        self, camera: Camera, options: PaintOptions, cancelled: Callable[[], bool] = never
    ) -> RenderOutput | None:
        """Renders for somebody who waits: `render` without the median depth, on memory that stays, in bands.

        Args:
            camera: a PINHOLE camera.
            options: see there.
            cancelled: asked before each band; True gives the picture up.

        Returns:
            The picture, None where it was given up.
        """
        backend = resolve_backend(self._backend, self.splats.device, BACKENDS)
        if backend == "cpu" and self.splats.means.dtype == torch.float32:
            _check_camera(camera)
            return self._painter.paint(self.splats, camera, options, cancelled)
        if cancelled():
            return None
        if backend == "cuda" and not (options.depth or options.normal):
            _check_camera(camera)
            return self._paint_on_cuda(camera, options.background)
        rasterize_options = RasterizeOptions(options.background, depth=options.depth, normal=options.normal)
        return rasterize(self.splats, camera, rasterize_options, backend=self._backend).output

    def _paint_on_cuda(self, camera: Camera, background: tuple[float, float, float]) -> RenderOutput:
        from recon.cuda_painting import CudaPainter

        if self._cuda_painter is None:
            self._cuda_painter = CudaPainter(self.splats.device)
        return self._cuda_painter.paint(self.splats, camera, background)


def _check_camera(camera: Camera) -> None:
    if not camera.is_pinhole:
        raise ReconError(
            "rendering splats",
            f"the camera's model is {camera.model.value}",
            "PINHOLE",
            "undistort the photos and cameras first (recon.views does)",
        )


def _rasterize_kernels(
    splats: Splats,
    camera: Camera,
    options: RasterizeOptions,
    cam_from_world: torch.Tensor,
    degree: int,
    backend: Backend,
) -> Rasterization:
    projection = ProjectionOptions(
        near=options.near,
        far=options.far,
        antialiased=splats.antialiased,
        sh_degree=degree,
        alpha_cutoff=options.alpha_cutoff,
    )
    projected = project(splats, cam_from_world, camera, projection, backend)
    tiles = bin_tiles(projected, camera.width, camera.height, options.alpha_cutoff, backend=backend)
    layout = _Layout.of(splats, options)
    parts = [projected.colors]
    if options.depth:
        parts.append(projected.depths[:, None])
    parts.extend(_extra_channels(splats, options, cam_from_world))
    # Culled rows may hold anything in the extra channels; they are in no tile's list.
    channels = torch.cat(parts, 1) if len(parts) > 1 else projected.colors
    statistics, planes = BlendStatistics(), None
    if options.planar_depth and layout.depth is not None:
        slopes = depth_slopes(splats, cam_from_world, camera, projected.conics)
        planes = DepthPlanes(slopes, layout.depth.start)
    blended = blend(
        projected, channels, tiles, camera.width, camera.height, options.median_depth, statistics, backend, planes
    )
    output = layout.output(blended.channels, blended.alpha, options.background, blended.median_depth)
    return Rasterization(output, tiles.touched, statistics, projected)


def _extra_channels(splats: Splats, options: RasterizeOptions, cam_from_world: torch.Tensor) -> list[torch.Tensor]:
    parts = []
    if options.normal:
        parts.append(facing_normals(splats, cam_from_world))
    if options.features and splats.features is not None:
        parts.append(splats.features.to(splats.means.dtype))
    return parts


@dataclass(frozen=True)
class _Layout:
    """Which blended channel is what: colour first, then these."""

    depth: slice | None
    normal: slice | None
    features: slice | None

    @staticmethod
    def of(splats: Splats, options: RasterizeOptions) -> _Layout:
        end = 3

        def take(wanted: bool, width: int) -> slice | None:
            nonlocal end
            if not wanted:
                return None
            end += width
            return slice(end - width, end)

        depth = take(options.depth, 1)
        normal = take(options.normal, 3)
        has_features = options.features and splats.features is not None
        features = take(has_features, 0 if splats.features is None else int(splats.features.shape[1]))
        return _Layout(depth, normal, features)

    def output(
        self, channels: torch.Tensor, alpha: torch.Tensor, background: Background, median: torch.Tensor | None
    ) -> RenderOutput:
        """Divides the blended channels up and puts the background behind the colour."""
        rgb = channels if channels.shape[-1] == 3 else channels[..., :3]
        depth = normal = None
        if self.depth is not None:
            covered = alpha > 0
            depth = torch.where(covered, channels[..., self.depth.start] / torch.where(covered, alpha, 1.0), 0.0)
        if self.normal is not None:
            normal = torch.nn.functional.normalize(channels[..., self.normal], dim=-1, eps=1e-6)
        return RenderOutput(
            rgb=_over_background(rgb, alpha, background),
            alpha=alpha,
            depth=depth,
            median_depth=median,
            normal=normal,
            features=None if self.features is None else channels[..., self.features],
        )


def _over_background(rgb: torch.Tensor, alpha: torch.Tensor, background: Background) -> torch.Tensor:
    if isinstance(background, tuple):
        if background == (0.0, 0.0, 0.0):
            return rgb.contiguous()
        background = torch.tensor(background, dtype=rgb.dtype, device=rgb.device)
    if background.shape not in ((3,), tuple(rgb.shape)):
        raise ReconError(
            "rendering splats",
            f"the background has shape {tuple(background.shape)}",
            f"(3,) or {tuple(rgb.shape)}",
        )
    return torch.addcmul(rgb, (1 - alpha)[..., None], background.to(rgb))


def _after_backward(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None, "statistics of a rasterization exist after the loss's backward pass"
    return value


# ---- gsplat ----------------------------------------------------------------------------------------------------------


@dataclass
class _GsplatCall:
    """The arguments that the calls for colours and for other channels share; gsplat >= 1.5."""

    rasterization: Callable[..., tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]
    arguments: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(splats: Splats, camera: Camera, options: RasterizeOptions, cam_from_world: torch.Tensor) -> _GsplatCall:
        try:
            from gsplat import rasterization
        except ImportError as error:
            raise ReconError(
                "rendering splats with the backend 'gsplat'",
                f"gsplat cannot be imported ({error})",
                "gsplat 1.5 or later",
                "pip install recon[gsplat]",
            ) from error
        intrinsics = torch.tensor(camera.intrinsic_matrix, dtype=torch.float32, device=splats.device)
        return _GsplatCall(
            rasterization,
            {
                "means": splats.means,
                "quats": splats.quats,
                "scales": splats.scales,
                "opacities": splats.opacities,
                "viewmats": cam_from_world[None],
                "Ks": intrinsics[None],
                "width": camera.width,
                "height": camera.height,
                "near_plane": options.near,
                "far_plane": options.far,
                "eps2d": ProjectionOptions().blur_px2,
                "packed": False,
                "rasterize_mode": "antialiased" if splats.antialiased else "classic",
            },
        )


def _rasterize_gsplat(
    splats: Splats, camera: Camera, options: RasterizeOptions, cam_from_world: torch.Tensor, degree: int
) -> Rasterization:
    if options.median_depth or options.planar_depth:
        raise ReconError(
            "rendering splats with the backend 'gsplat'",
            "the median depth or planar depths are asked for",
            "the expected depth of the centres, which is all that gsplat gives",
            "render on the CPU (--device cpu)",
        )
    if options.alpha_cutoff != ALPHA_CUTOFF:
        raise ReconError("rendering splats with the backend 'gsplat'", "another alpha cutoff is asked for", "1/255")
    call = _GsplatCall.of(splats, camera, options, cam_from_world)
    rgbd, alphas, meta = call.rasterization(
        colors=splats.sh,
        sh_degree=degree,
        render_mode="RGB+D" if options.depth else "RGB",
        absgrad=torch.is_grad_enabled(),
        **call.arguments,
    )
    channels = rgbd[0]
    extra = _extra_channels(splats, options, cam_from_world)
    if extra:
        blended, _, _ = call.rasterization(colors=torch.cat(extra, 1), **call.arguments)
        channels = torch.cat([channels, blended[0]], -1)
    output = _Layout.of(splats, options).output(channels, alphas[0, ..., 0], options.background, None)
    statistics = BlendStatistics()
    means_px = meta["means2d"]
    if means_px.requires_grad:

        def remember(gradient: torch.Tensor) -> None:
            statistics.mean_gradient_px = gradient[0]
            statistics.mean_gradient_abs_px = means_px.absgrad[0]

        means_px.register_hook(remember)
    return Rasterization(output, (meta["radii"][0] > 0).all(-1), statistics)
