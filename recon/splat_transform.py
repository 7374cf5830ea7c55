# SPDX-License-Identifier: Apache-2.0
"""Moving, turning and scaling splats, their spherical harmonics included.

Under x ↦ s R x + t a Gaussian's centre moves with the points, its rotation becomes R r, its standard deviations are
multiplied by s, and its colour, a function of the viewing direction, turns with the scene: colour'(R d) = colour(d).

Each band of real harmonics is closed under rotation, so the coefficients of band l turn by a matrix of 2 l + 1 rows.
It is the one that makes Σ_k (M sh)_k Y_k(R d) = Σ_k sh_k Y_k(d) hold for all d; written down for more directions than
rows it is found by least squares, exact to float64 rounding because a solution exists.  (Ivanic and Ruedenberg,
J. Phys. Chem. 1996, give the same matrices by recursion.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from recon.kernels.projection.spherical_harmonics import sh_basis
from recon.scene import Similarity
from recon.splats import Splats

FloatArray = npt.NDArray[np.float64]

_DIRECTIONS = 64
"""More than the 7 rows of the largest band, spread evenly: the least squares are well conditioned."""


def transform_splats(splats: Splats, new_from_old: Similarity) -> Splats:
    """Returns the splats in a new world; the picture from a camera moved along is the same.

    Parts that the similarity does not change (scales under a rotation, harmonics under a translation) keep their bits.

    Args:
        splats: N splats of any degree of harmonics; features are taken along unchanged.
        new_from_old: scale, rotation and translation.
    """
    means = new_from_old.scale * splats.means.double() @ _tensor(new_from_old.rotation, splats).T
    changed = replace(splats, means=(means + _tensor(new_from_old.translation, splats)).to(splats.means.dtype))
    if new_from_old.scale != 1.0:
        changed = replace(changed, log_scales=splats.log_scales + float(np.log(new_from_old.scale)))
    if not np.array_equal(new_from_old.rotation, np.eye(3)):
        changed = replace(
            changed,
            quats=_turned_quaternions(splats.quats, quaternion_of(new_from_old.rotation)),
            sh=rotate_harmonics(splats.sh, new_from_old.rotation),
        )
    return changed


def rotate_harmonics(sh: torch.Tensor, rotation: FloatArray) -> torch.Tensor:
    """Returns coefficients [N, K, C] of the colours that are turned by `rotation`, 3×3."""
    turned = [sh[:, :1]]
    degree = round(sh.shape[1] ** 0.5) - 1
    for band in range(1, degree + 1):
        matrix = torch.from_numpy(harmonics_matrix(rotation, band)).to(device=sh.device, dtype=sh.dtype)
        turned.append(torch.einsum("ij,njc->nic", matrix, sh[:, band**2 : (band + 1) ** 2]))
    return torch.cat(turned, 1)


def harmonics_matrix(rotation: FloatArray, band: int) -> FloatArray:
    """Returns the [2 l + 1, 2 l + 1] matrix that turns the coefficients of band l."""
    directions = torch.from_numpy(_even_directions())
    rows = slice(band**2, (band + 1) ** 2)
    turned = sh_basis(directions @ torch.from_numpy(np.asarray(rotation, np.float64)).T, band)[:, rows]
    matrix: FloatArray = np.linalg.lstsq(turned.numpy(), sh_basis(directions, band)[:, rows].numpy(), rcond=None)[0]
    return matrix


def quaternion_of(rotation: FloatArray) -> FloatArray:
    """Returns the unit quaternion wxyz of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([w, x, y, z])


def rotation_of(wxyz: FloatArray) -> FloatArray:
    """Returns the 3×3 rotation of a quaternion wxyz of any length but zero."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turned_quaternions(quats: torch.Tensor, turn: FloatArray) -> torch.Tensor:
    """Returns the products turn · quats, [N, 4] wxyz; lengths stay."""
    a, b, c, d = (float(value) for value in turn)
    w, x, y, z = quats.double().unbind(1)
    product = [
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    ]
    return torch.stack(product, 1).to(quats.dtype)


def _even_directions() -> FloatArray:
    """Returns unit vectors [_DIRECTIONS, 3] on a spiral with the golden angle."""
    index = np.arange(_DIRECTIONS) + 0.5
    z = 1 - 2 * index / _DIRECTIONS
    angle = np.pi * (3 - np.sqrt(5)) * index
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], 1)


def _tensor(values: FloatArray, splats: Splats) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, np.float64), device=splats.device)
