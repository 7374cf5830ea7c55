# SPDX-License-Identifier: Apache-2.0
"""Training photographs on the device, at full and at lower resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.methods.config import Background, MaskUse
    from recon.scene import View


_BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


def choose_background(background: Background, random: np.random.Generator) -> tuple[float, float, float]:
    """Returns the colour behind everything in one step, RGB in 0..1; draws one where it is to be random."""
    if background == "random":
        red, green, blue = random.random(3).tolist()
        return (red, green, blue)
    return _BACKGROUNDS[background]


@dataclass(frozen=True, eq=False)
class Target:
    """A training photograph on the device.

    Attributes:
        camera: its camera, at the picture's size.
        cam_from_world: [4, 4] float32.
        image: [H, W, 3] uint8.
        mask: [H, W] uint8; None where all pixels count.
        is_alpha: whether the mask says where there is something, instead of which pixels count.
    """

    camera: Camera
    cam_from_world: torch.Tensor
    image: torch.Tensor
    mask: torch.Tensor | None
    is_alpha: bool

    @staticmethod
    def of(view: View, masks: MaskUse, device: torch.device) -> Target:
        """Brings a view to the device; `masks` says what its mask means."""
        mask = view.mask if masks != "off" else None
        return Target(
            camera=view.camera,
            cam_from_world=torch.from_numpy(view.camera.cam_from_world.astype(np.float32)).to(device),
            image=torch.from_numpy(view.image).to(device),
            mask=None if mask is None else torch.from_numpy(mask).to(device),
            is_alpha=masks == "alpha",
        )

    def over(self, background: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the rendering should look like, uint8 or float, and each pixel's weight where not all count."""
        if self.mask is None:
            return self.image, None
        share = self.mask.float() / 255
        if not self.is_alpha:
            return self.image, share
        behind = torch.tensor(background, device=share.device)
        return torch.lerp(behind.expand(*share.shape, 3), self.image.float() / 255, share[..., None]), None

    def reduced(self, factor: int) -> Target:
        """Returns the photograph at 1/factor of the size, averaged over area; a pixel counts by its share of counted
        area."""
        height, width = max(1, self.camera.height // factor), max(1, self.camera.width // factor)

        def shrink(picture: torch.Tensor) -> torch.Tensor:
            planes = picture.permute(2, 0, 1)[None].float()
            small = torch.nn.functional.interpolate(planes, size=(height, width), mode="area")
            return small[0].permute(1, 2, 0).round().to(torch.uint8).contiguous()

        return replace(
            self,
            camera=self.camera.resized(width, height),
            image=shrink(self.image),
            mask=None if self.mask is None else shrink(self.mask[..., None])[..., 0].contiguous(),
        )


class Targets:
    """All training photographs; smaller versions are made when they are first asked for."""

    def __init__(self, targets: list[Target]) -> None:
        self._targets = targets
        self._reduced: dict[tuple[int, int], Target] = {}

    def at(self, view_index: int, factor: int = 1) -> Target:
        """Returns a photograph at 1/factor of its size."""
        if factor == 1:
            return self._targets[view_index]
        if (view_index, factor) not in self._reduced:
            self._reduced[view_index, factor] = self._targets[view_index].reduced(factor)
        return self._reduced[view_index, factor]

    def forget_reduced(self) -> None:
        """Frees the smaller versions."""
        self._reduced.clear()
