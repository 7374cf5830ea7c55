# SPDX-License-Identifier: Apache-2.0
"""Writing splats as OpenUSD text (.usda), with the prim ParticleField3DGaussianSplat of OpenUSD 26.03.

Positions, orientations (the real part first), linear scales and opacities are arrays of one entry a splat; the
harmonics are (degree + 1)² colours a splat, splat by splat.  The stage's metadata names the axis that points up, Y or
Z.  The screen filter has no attribute; it is noted in the prim's custom data.
Source: https://openusd.org/release/user_guides/schemas/usdVol/ParticleField3DGaussianSplat.html and
https://openusd.org/release/user_guides/schemas/usdVol/ParticleField.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import splats_to_write
from recon.splats import Splats

ROWS_AT_ONCE = 4096


def write_splat_usd(splats: Splats, path: Path, up: UpAxis = "+z") -> None:
    """Writes splats of our world as .usda; features are left out.

    Args:
        splats: N splats.
        path: the file.
        up: the axis that points up in the file; a USD stage knows "+z" (or "world") and "+y".

    Raises:
        ReconError: another axis, no splats, a value that is not finite, or the file cannot be written.
    """
    doing = f"writing {path}"
    if up not in ("+z", "world", "+y"):
        raise ReconError(doing, f"the up axis is {up}", "+y or +z: a USD stage has no other")
    if len(splats) == 0:
        raise ReconError(doing, "there are no splats", "at least one")
    splats = splats_to_write(splats, path, up)
    quats = torch.nn.functional.normalize(splats.quats, dim=1, eps=1e-30)
    arrays = [
        ("point3f[] positions", splats.means),
        ("quatf[] orientations", quats),
        ("float3[] scales", torch.exp(splats.log_scales.clamp(-80, 80))),
        ("float[] opacities", torch.sigmoid(splats.opacity_logits)[:, None]),
        ("float3[] radiance:sphericalHarmonicsCoefficients", splats.sh.reshape(-1, 3)),
    ]
    reach = 3 * torch.exp(splats.log_scales.amax(1).clamp(-80, 80))[:, None]
    ends = torch.stack([(splats.means - reach).amin(0), (splats.means + reach).amax(0)])
    with atomic_path(Path(path)) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(
            '#usda 1.0\n(\n    defaultPrim = "splats"\n    metersPerUnit = 1\n'
            f'    upAxis = "{"Y" if up == "+y" else "Z"}"\n)\n\n'
            'def ParticleField3DGaussianSplat "splats" (\n'
            f"    customData = {{\n        bool antialiased = {int(splats.antialiased)}\n    }}\n)\n{{\n"
            f"    int radiance:sphericalHarmonicsDegree = {splats.sh_degree}\n"
            f"    float3[] extent = [{next(_entries(ends))}]\n"
        )
        for name, values in arrays:
            file.write(f"    {name} = [")
            for index, text in enumerate(_entries(values)):
                file.write(f", {text}" if index else text)
            file.write("]\n")
        file.write("}\n")


def _entries(values: torch.Tensor) -> Iterator[str]:
    """Yields the rows of [N, C] as the entries of an array, some thousand at a time; nine digits keep a float32."""
    number = ", ".join(["%.9g"] * values.shape[1])
    entry = number if values.shape[1] == 1 else f"({number})"
    for start in range(0, len(values), ROWS_AT_ONCE):
        piece = values[start : start + ROWS_AT_ONCE]
        yield ", ".join([entry] * len(piece)) % tuple(piece.reshape(-1).tolist())
