# SPDX-License-Identifier: Apache-2.0
"""How much each splat adds to what one sees, and from where it is seen.

The page loads the most important splats first and leaves the least important ones away where a device is weak, so the
measure is what a splat covers: its opacity times its area in the pictures of the cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recon.cameras import Camera
from recon.kernels.projection.op import project
from recon.kernels.projection.spherical_harmonics import sh_basis
from recon.kernels.projection.types import ProjectionOptions
from recon.splats import Splats

MOST_CAMERAS = 24
"""More are thinned out evenly: neighbouring photographs see the same."""

LARGEST_SHARE = 0.25
"""A splat counts for at most this share of a picture, or the few that fill the background would stand alone first."""


def chosen_cameras(cameras: Sequence[Camera], most: int = MOST_CAMERAS) -> list[Camera]:
    """Returns at most `most` of the pinhole cameras, spread evenly over the sequence."""
    pinholes = [camera for camera in cameras if camera.is_pinhole]
    if len(pinholes) <= most:
        return pinholes
    return [pinholes[i] for i in np.unique(np.linspace(0, len(pinholes) - 1, most).round().astype(int))]


@torch.no_grad()
def importance(splats: Splats, cameras: Sequence[Camera]) -> torch.Tensor:
    """Returns [N] float32, larger for splats that matter more; nothing below zero.

    With cameras it is the sum over pictures of opacity times area as a share of the picture, plus a little for what no
    picture shows; without, opacity times the area that the two longer axes span.
    """
    longest_two = splats.log_scales.float().sort(1).values[:, 1:].sum(1)
    spread = splats.opacities.float() * torch.exp(longest_two.clamp(-60, 40))
    chosen = chosen_cameras(cameras)
    if not chosen or not len(splats):
        return spread
    total = torch.zeros(len(splats))
    for camera in chosen:
        small = camera.fitted(1024)
        pose = torch.tensor(small.cam_from_world, dtype=torch.float32)
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=0)
        seen = project(splats, pose, small, options)
        determinant = seen.conics[:, 0] * seen.conics[:, 2] - seen.conics[:, 1] ** 2
        share = 2 * np.pi / determinant.clamp_min(1e-20).sqrt() / (small.width * small.height)
        area = seen.opacities * share.clamp(max=LARGEST_SHARE)
        total += torch.where(seen.visible.bool(), area, torch.zeros(()))
    floor = spread / spread.max().clamp_min(1e-30) * 1e-3 * total.max().clamp_min(1e-30)
    return total + floor.clamp(max=float(total.max()) * 1e-3)


@dataclass(frozen=True, eq=False)
class ViewingDirections:
    """From where splats are seen, as their higher harmonics see it.

    Attributes:
        mean: [N, K - 1] mean of the basis functions (without the constant one) over the directions of the cameras.
        covariance: [K - 1, K - 1] of the basis functions about these means, averaged over splats and cameras.
    """

    mean: torch.Tensor
    covariance: torch.Tensor


@torch.no_grad()
def viewing_directions(splats: Splats, cameras: Sequence[Camera], weights: torch.Tensor) -> ViewingDirections:
    """Returns the statistics of the directions from which the cameras see each splat; without cameras, of all.

    Args:
        splats: N Gaussians of degree 1 to 3.
        cameras: photographs that a splat is in the picture of count fully, the others a little.
        weights: [N], how much each splat counts for the covariance.
    """
    bases = splats.sh.shape[1] - 1
    chosen = chosen_cameras(cameras)
    if not chosen or not len(splats):
        # Over the whole sphere the basis is orthogonal, and its functions' means are zero.
        return ViewingDirections(torch.zeros(len(splats), bases), torch.eye(bases) / (4 * np.pi))
    means = splats.means.float()
    first, total = torch.zeros(len(splats), bases), torch.full((len(splats), 1), 1e-9)
    second = torch.zeros(bases, bases, dtype=torch.float64)
    for camera in chosen:
        seen = _seen(means, camera)
        basis = _basis(means, camera, splats.sh_degree)
        first += seen * basis
        total += seen
    first /= total
    share = weights[:, None] / weights.sum().clamp_min(1e-30)
    for camera in chosen:
        away = _basis(means, camera, splats.sh_degree) - first
        away *= (_seen(means, camera) / total * share).sqrt()
        second += (away.T @ away).double()
    return ViewingDirections(first, second.float())


def _basis(means: torch.Tensor, camera: Camera, degree: int) -> torch.Tensor:
    offsets = means - torch.from_numpy(camera.center_in_world).float()
    return sh_basis(torch.nn.functional.normalize(offsets, dim=1), degree)[:, 1:]


def _seen(means: torch.Tensor, camera: Camera) -> torch.Tensor:
    """Returns [N, 1]: one for the means in the picture, a little for the others, so that each is seen by something."""
    pose = torch.tensor(camera.cam_from_world, dtype=torch.float32)
    x, y, z = (means @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
    u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    inside = (z > 0) & (u > 0) & (u < camera.width) & (v > 0) & (v < camera.height)
    return inside.float()[:, None] + 1e-3
