# SPDX-License-Identifier: Apache-2.0
"""Splats as the browser takes them: no harmonics, half-precision covariances, and not too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera
from recon.kernels.projection.spherical_harmonics import sh_basis
from recon.splats import Splats

FloatArray = npt.NDArray[np.float32]

LEAST_OPACITY = 1 / 255
"""Splats below are never drawn by anybody."""

LARGEST_VARIANCE = 3e4
"""What the largest variances are brought to: half floats end at 65504 and are exact to 0.05% down to 6e-5."""


@dataclass(frozen=True, eq=False)
class BrowserSplats:
    """M splats ready for `add_gaussian_splats`.

    Attributes:
        centers: [M, 3], multiplied by 1 / node_scale.
        covariances: [M, 3, 3], multiplied by 1 / node_scale².
        colors: [M, 3] in 0..1.
        opacities: [M, 1].
        node_scale: the scale to give the scene node, which undoes the multiplication.
        left_out: how many visible splats were left out because there are too many.
    """

    centers: FloatArray
    covariances: FloatArray
    colors: FloatArray
    opacities: FloatArray
    node_scale: float
    left_out: int


def browser_splats(splats: Splats, cameras: Sequence[Camera] = (), limit: int = 1_000_000) -> BrowserSplats:
    """Prepares splats for the browser.

    Colours that depend on the direction become their mean over the directions of (up to 12 of) `cameras`, which is
    closer to what was trained than the constant harmonic alone; without cameras that one is taken.  Of more than
    `limit` splats the ones with the largest opacity times area are kept.
    """
    splats = splats.detach().to("cpu")
    splats = splats.select((splats.opacities >= LEAST_OPACITY) & torch.isfinite(splats.means).all(1))
    left_out = max(0, len(splats) - limit)
    if left_out:
        # The two larger axes span the disc that a viewer sees at most.
        largest_two = splats.log_scales.sort(1).values[:, 1:].sum(1)
        importance = splats.opacities.log() + largest_two
        splats = splats.select(importance.topk(limit).indices.sort().values)
    scales = splats.scales.double()
    largest = float(scales.max()) if len(splats) else 1.0
    # A power of two moves no bit of the centres.
    node_scale = float(2.0 ** np.ceil(np.log2(max(largest, 1e-12) / np.sqrt(LARGEST_VARIANCE))))
    shape = _rotation_matrices(splats.quats.double()) * (scales / node_scale)[:, None]
    return BrowserSplats(
        centers=(splats.means.double() / node_scale).float().numpy(),
        covariances=(shape @ shape.transpose(1, 2)).float().numpy(),
        colors=mean_colors(splats, cameras),
        opacities=splats.opacities[:, None].numpy(),
        node_scale=node_scale,
        left_out=left_out,
    )


def mean_colors(splats: Splats, cameras: Sequence[Camera], most_cameras: int = 12) -> FloatArray:
    """Returns [N, 3] colours in 0..1, averaged over the directions from which the cameras see each splat.

    The mean of the colours is the colour of the mean harmonics, but for clamping, so the coefficients are read once.
    """
    if not cameras or splats.sh_degree == 0 or not len(splats):
        base: FloatArray = splats.base_colors.float().numpy()
        return base
    chosen = [cameras[i] for i in np.unique(np.linspace(0, len(cameras) - 1, most_cameras).round().astype(int))]
    means = splats.means.float()
    total = torch.zeros(len(splats), splats.sh.shape[1])
    weight = torch.full((len(splats), 1), 1e-6)
    for camera in chosen:
        offsets = means - torch.from_numpy(camera.center_in_world).float()
        # Photographs that a splat is in front of shaped its colour; the others count a little, for splats in none.
        ahead = (offsets @ torch.from_numpy(camera.forward_in_world).float() > 0).float()[:, None] + 1e-3
        total += ahead * sh_basis(torch.nn.functional.normalize(offsets, dim=1), splats.sh_degree)
        weight += ahead
    mean: FloatArray = (0.5 + torch.einsum("nk,nkc->nc", total / weight, splats.sh.float())).clamp(0, 1).numpy()
    return mean


def _rotation_matrices(quats: torch.Tensor) -> torch.Tensor:
    """Returns [N, 3, 3] of quaternions [N, 4] wxyz of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=1).unbind(1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, 1).reshape(-1, 3, 3)
