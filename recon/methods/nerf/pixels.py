# SPDX-License-Identifier: Apache-2.0
"""The training photographs as one bank of pixels, from which each step draws its rays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.errors import ReconError
from recon.methods.cameras import rows_of

if TYPE_CHECKING:
    from recon.methods.nerf.config import NerfConfig
    from recon.scene import View


@dataclass(frozen=True, eq=False)
class RayBatch:
    """Rays through random pixels and what the photographs show there.

    Attributes:
        origins, directions: [R, 3] in the world; directions have unit length.
        photographs: [R] int64, which training photograph each is of.
        colors: [R, 3] float32 in 0..1.
        opacity: [R] float32, the mask's, where masks tell what is there; None where all pixels are opaque.
    """

    origins: torch.Tensor
    directions: torch.Tensor
    photographs: torch.Tensor
    colors: torch.Tensor
    opacity: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Pixels:
    """Random pixels before they become rays.

    Attributes:
        photographs: [R] int64.
        directions_in_cam: [R, 3] of unit length.
        colors, opacity: as for `RayBatch`.
    """

    photographs: torch.Tensor
    directions_in_cam: torch.Tensor
    colors: torch.Tensor
    opacity: torch.Tensor | None


class PixelBank:
    """All pixels that count, of all training photographs."""

    def __init__(self, views: Sequence[View], config: NerfConfig, device: torch.device) -> None:
        """Takes the views' pixels over.

        Raises:
            ReconError: the masks leave no pixel.
        """
        sizes = np.array([view.image.shape[0] * view.image.shape[1] for view in views])
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._device = device
        self._colors = torch.from_numpy(np.concatenate([view.image.reshape(-1, 3) for view in views])).to(device)
        self._widths = np.array([view.camera.width for view in views])
        self._intrinsics = torch.tensor(
            [[view.camera.fx, view.camera.fy, view.camera.cx, view.camera.cy] for view in views], device=device
        )
        masks = [
            np.full(size, 255, np.uint8) if view.mask is None else view.mask.reshape(-1)
            for view, size in zip(views, sizes)
        ]
        self._opacity: torch.Tensor | None = None
        self._counted: np.ndarray | None = None
        if config.masks == "alpha":
            self._opacity = torch.from_numpy(np.concatenate(masks)).to(device)
        elif config.masks == "ignore" and any(view.mask is not None for view in views):
            self._counted = np.flatnonzero(np.concatenate(masks) > 127).astype(np.int64)
            if len(self._counted) == 0:
                raise ReconError(
                    "preparing the photographs", "the masks leave no pixel to train on", "masks that keep some pixels"
                )

    def __len__(self) -> int:
        return len(self._colors) if self._counted is None else len(self._counted)

    def draw(self, count: int, random: np.random.Generator) -> Pixels:
        """Returns `count` pixels, each drawn from all that count."""
        chosen = random.integers(0, len(self), count)
        if self._counted is not None:
            chosen = self._counted[chosen]
        owner = np.searchsorted(self._starts, chosen, side="right") - 1
        row, column = np.divmod(chosen - self._starts[owner], self._widths[owner])
        index = torch.from_numpy(chosen).to(self._device)
        photographs = torch.from_numpy(owner).to(self._device)
        pixels = torch.from_numpy(np.stack([column, row], 1).astype(np.float32) + 0.5).to(self._device)
        lens = self._intrinsics[photographs]
        plane = (pixels - lens[:, 2:]) / lens[:, :2]
        directions = torch.nn.functional.normalize(torch.cat([plane, torch.ones_like(plane[:, :1])], 1), dim=1)
        opacity = None if self._opacity is None else self._opacity[index].float() / 255
        return Pixels(photographs, directions, self._colors[index].float() / 255, opacity)


def rays_of(pixels: Pixels, cam_from_world: torch.Tensor) -> RayBatch:
    """Returns the rays through pixels; `cam_from_world` [F, 4, 4] are all photographs' poses, gradients pass to it."""
    poses = rows_of(cam_from_world, pixels.photographs)
    world_from_cam = poses[:, :3, :3].transpose(1, 2)
    directions = (world_from_cam @ pixels.directions_in_cam[:, :, None])[:, :, 0]
    origins = -(world_from_cam @ poses[:, :3, 3:])[:, :, 0]
    return RayBatch(origins, directions, pixels.photographs, pixels.colors, pixels.opacity)
