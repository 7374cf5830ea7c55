# SPDX-License-Identifier: Apache-2.0
"""The .splat format: 32 bytes a splat, no header, no view-dependent colour.

Each record holds the position (3 float32), the scales (3 float32, linear), the colour and opacity (4 bytes, 0..255)
and the rotation wxyz (4 bytes, 128 + 128 q).  The axes are those of the PLY that it was made from, y down as a rule.
Source: the format of https://github.com/antimatter15/splat, whose converter defines it; it also sorts by size times
opacity, so that the first part of a file shows most of the scene, and so do we.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import (
    NotFinite,
    SplatParts,
    base_of_colors,
    bytes_of_logits,
    file_bytes,
    log_scales_of,
    logits_of_bytes,
    splats_to_write,
)
from recon.progress import SILENT, Progress
from recon.splats import Splats

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("quat", "u1", 4)])


def read_dot_splat(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads a .splat file; the arguments and errors are those of `recon.formats.splat_files.read_splats`."""
    doing = f"reading the splats of {path}"
    data = file_bytes(Path(path), doing)
    if not data or len(data) % RECORD.itemsize:
        raise ReconError(doing, f"it has {len(data)} bytes", f"whole records of {RECORD.itemsize} bytes")
    rows = np.frombuffer(data, RECORD)
    color = rows["color"]
    parts = SplatParts(
        means=rows["mean"],
        quats=(rows["quat"].astype(np.float32) - 128) / 128,
        log_scales=log_scales_of(rows["scale"]),
        opacity_logits=logits_of_bytes(color[:, 3]),
        base=base_of_colors(color[:, :3].astype(np.float32) / 255),
    )
    return parts.splats(doing, not_finite, progress, up)


def write_dot_splat(splats: Splats, path: Path, up: UpAxis = "-y") -> None:
    """Writes a .splat file, the largest and most opaque first; the harmonics above the constant are lost."""
    splats = splats_to_write(splats, path, up)
    size = splats.log_scales.double().sum(1) + torch.nn.functional.logsigmoid(splats.opacity_logits.double())
    splats = splats.select(torch.argsort(size, descending=True, stable=True))
    rows = np.empty(len(splats), RECORD)
    rows["mean"] = splats.means.numpy()
    rows["scale"] = torch.exp(splats.log_scales.clamp(-80, 80)).numpy()
    rows["color"][:, :3] = (splats.base_colors * 255).round().to(torch.uint8).numpy()
    rows["color"][:, 3] = bytes_of_logits(splats.opacity_logits)
    quats = torch.nn.functional.normalize(splats.quats, dim=1, eps=1e-30)
    # The sign is free: with the largest component negative it is stored without being cut off at 127/128.
    sign = torch.where(quats.gather(1, quats.abs().argmax(1)[:, None]) > 0, -1.0, 1.0)
    rows["quat"] = (quats * sign * 128 + 128).round().clamp(0, 255).to(torch.uint8).numpy()
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(rows.tobytes())
