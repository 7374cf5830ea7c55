# SPDX-License-Identifier: Apache-2.0
"""What a set of cameras sees of splats: which splats matter, and from where they are looked at.

A writer that shares harmonics among splats makes errors δ in their coefficients.  In a picture the squared error of
splat i is w_i (Σ_k δ_k Y_k(d))², with w_i the sum of its squared blending weights and d the direction it is seen in.
So w says which splats to spare; and since the mean of the error over the directions in use can be taken up by the
constant harmonic, only the covariance of Y over those directions says which coefficients to spare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from recon.cameras import Camera
from recon.kernels.projection.spherical_harmonics import sh_basis
from recon.rasterization import RasterizeOptions, rasterize
from recon.splats import SH_C0, Splats

LONG_SIDE = 480
MOST_CAMERAS = 32
ISOTROPIC_SHARE = 0.1
"""How much any direction counts beside those in use, so that other views stay sound."""


@dataclass(frozen=True, eq=False)
class SeenSplats:
    """What cameras see of N splats.

    Attributes:
        weights: [N] sums of squared blending weights over all pictures.
        mean_basis: [N, K - 1] mean of the harmonics above the constant over the directions each splat is seen in.
        metric: [K - 1, K - 1] the squared error of coefficients δ is δᵀ metric δ once its mean is taken up.
    """

    weights: torch.Tensor
    mean_basis: torch.Tensor
    metric: torch.Tensor


def splats_seen(splats: Splats, cameras: Sequence[Camera]) -> SeenSplats:
    """Renders the splats from the cameras (at most 32 of them, evenly picked) and measures what is seen.

    Sums of squares come from one backward pass for each picture: with random signs r, E (Σ_p w_ip r_p)² = Σ_p w_ip².

    Args:
        splats: N splats in the cameras' world, with harmonics of degree 1 to 3.
        cameras: at least one.
    """
    count, bases = len(splats), splats.sh.shape[1] - 1
    generator = torch.Generator().manual_seed(0)
    step = -(-len(cameras) // MOST_CAMERAS)
    weights, sums = torch.full((count,), 1e-9), torch.zeros(count, bases)
    squares = torch.zeros(bases, bases, dtype=torch.float64)
    for camera in cameras[::step]:
        small = camera.fitted(LONG_SIDE) if max(camera.width, camera.height) > LONG_SIDE else camera
        share = _squared_weights(splats, small, generator)
        basis = _basis_towards(splats, camera)[:, 1:]
        weights += share
        sums += share[:, None] * basis
        squares += (basis * share[:, None]).T.double() @ basis.double()
    mean = sums / weights[:, None]
    spread = squares - (mean * weights[:, None]).T.double() @ mean.double()
    isotropic = torch.eye(bases, dtype=torch.float64) * (SH_C0**2)
    return SeenSplats(weights, mean, spread / weights.double().sum() + ISOTROPIC_SHARE * isotropic)


def _squared_weights(splats: Splats, camera: Camera, generator: torch.Generator) -> torch.Tensor:
    base = splats.sh[:, :1].clone().requires_grad_(True)
    flat = replace(splats, sh=torch.cat([base, splats.sh[:, 1:]], 1))
    picture = rasterize(flat, camera, RasterizeOptions(sh_degree=0)).output.rgb
    signs = torch.randint(0, 2, picture.shape, generator=generator).float() * 2 - 1
    (gradient,) = torch.autograd.grad((picture * signs).sum(), base)
    return (gradient[:, 0] / SH_C0).square().mean(1)


def _basis_towards(splats: Splats, camera: Camera) -> torch.Tensor:
    pose = torch.tensor(camera.cam_from_world, dtype=torch.float32)
    center = -pose[:3, :3].T @ pose[:3, 3]
    return sh_basis(torch.nn.functional.normalize(splats.means - center, dim=1), splats.sh_degree)


def guessed_weights(splats: Splats) -> torch.Tensor:
    """Returns how much each splat matters where no cameras are known, [N]: its opacity times its area, less far out.

    The root, because most of what is large and opaque is hidden by other splats.
    """
    if len(splats) == 0:
        return torch.zeros(0)
    scales = splats.log_scales.sort(1).values[:, 1:].sum(1).exp()
    sample = splats.means[:: max(1, len(splats) // 100_000)]
    low, middle, high = torch.quantile(sample, torch.tensor([0.25, 0.5, 0.75]), 0)
    far = 1 + ((splats.means - middle) / (high - low).clamp(min=1e-9)).square().sum(1)
    return (splats.opacities * scales / far).sqrt().clamp(min=1e-12, max=1e12)
