# SPDX-License-Identifier: Apache-2.0
"""What every renderer takes and gives.

Splats, radiance fields and meshes implement `Renderer`; viewers, evaluation, surface extraction and films know
nothing else of a method.  A renderer that knows more of its surface says so by `SurfaceSource` or `DensitySource`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from recon.cameras import Camera


@dataclass(frozen=True)
class RenderOptions:
    """How to render.

    Attributes:
        background: colour behind everything, RGB in 0..1.
        depth: also give expected and median depth.
        normal: also give normals.
        features: also blend the feature channels, where there are any.
    """

    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    depth: bool = False
    normal: bool = False
    features: bool = False


@dataclass(frozen=True, eq=False)
class RenderOutput:
    """One picture; tensors live on the renderer's device.

    Attributes:
        rgb: [H, W, 3] float32, background included, not clamped.
        alpha: [H, W] float32 in 0..1.
        depth: [H, W] expected depth along z in world units, normalised by alpha; 0 where alpha is 0.  None unless
            asked for.
        median_depth: [H, W] depth along z at which transmittance falls to one half; 0 where it never does.  None
            unless asked for.
        normal: [H, W, 3] unit normals in the world, towards the camera; 0 where alpha is 0.  None unless asked for.
        features: [H, W, D], premultiplied by alpha.  None unless asked for.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor
    depth: torch.Tensor | None = None
    median_depth: torch.Tensor | None = None
    normal: torch.Tensor | None = None
    features: torch.Tensor | None = None


@runtime_checkable
class Renderer(Protocol):
    """Anything that can be looked at.  Several threads may ask for pictures; a renderer lets them take turns."""

    def render(self, camera: Camera, options: RenderOptions) -> RenderOutput:
        """Renders the view of a PINHOLE camera without gradients.

        What was asked for and cannot be given is None.  The principal point may lie outside of the picture, which then
        is a part of a larger one.
        """


@runtime_checkable
class SurfaceSource(Protocol):
    """What a renderer also is whose surface lies elsewhere than where half of the light is stopped."""

    def surface_renderer(self) -> Renderer | None:
        """Returns a renderer whose `median_depth` is that of the surface; None where it cannot tell better."""


@runtime_checkable
class DensitySource(Protocol):
    """What a renderer also is that shows a density: how strongly light is stopped at each point of the world."""

    @property
    def density_bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Low and high corner, in the world, of a box that holds all that is worth meshing."""

    def density(self, points: torch.Tensor) -> torch.Tensor:
        """Returns the density [N] in 1 / world unit at points [N, 3] of the world, float32; both on the processor.

        A path of length d through the density σ lets the part exp(-σ d) of the light through.
        """
