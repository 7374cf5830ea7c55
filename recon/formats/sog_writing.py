# SPDX-License-Identifier: Apache-2.0
"""Writing SOG version 2; the layout is told in `recon.formats.sog`.

Neighbours in space become neighbours in the pictures, numbers are rounded to even steps that WebP packs well, and
harmonics share a palette found by k-means.  Splats that cover more of what is seen weigh more in the palette.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recon.cameras import Camera
from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.palette import build_palette
from recon.formats.sog import META, PALETTE_COLUMNS
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import (
    ByteArray,
    bytes_of_logits,
    curve_order,
    smallest_three,
    splats_to_write,
    typical_scale,
)
from recon.formats.splat_views import guessed_weights, splats_seen
from recon.formats.webp_images import webp_bytes
from recon.progress import SILENT, Progress
from recon.splats import SH_C0, Splats

PICTURES = ("means_l", "means_u", "quats", "scales", "sh0", "shN_centroids", "shN_labels")
"""The pictures beside meta.json, without their suffix .webp."""

CODES = 256

SCALE_STEP = 1 / 8
COLOR_STEP = 0.045
HARMONICS_STEP = 0.04
QUATERNION_LEVELS = 64
POSITION_SHARE = 1 / 16
"""Steps of what is stored: of log scales, of coefficients of the constant and the other harmonics, how many values a
component of a rotation takes, and positions in shares of the median splat's middle deviation.  Even steps cost less
than codebooks of least error, because WebP packs what is common into few bits.  Measured on a real scene with 120,000
splats, each of them alone leaves 57 dB or more; the palette of harmonics is what is seen."""

ITERATIONS = 4
PALETTE_SHARE = 0.38
LEAST_PALETTE, MOST_PALETTE = 1024, 65536


def write_sog(
    splats: Splats,
    path: Path,
    up: UpAxis = "-y",
    progress: Progress = SILENT,
    cameras: Sequence[Camera] = (),
    palette: int = 0,
) -> None:
    """Writes a SOG: zipped, or as loose files where the path is FOLDER/meta.json (then meta.json comes last).

    Args:
        splats: N splats of our world.
        path: the file.
        up: the axis that points up in the file; "-y" is what readers expect.
        progress: hears how far it is.
        cameras: from where the splats are looked at, if that is known; the palette then spares what is seen.
        palette: entries of the palette of harmonics, at most 65536; 0 takes 0.38 for each splat.

    Raises:
        ReconError: a value is not finite, no splats, or the file cannot be written.
    """
    path = Path(path)
    if len(splats) == 0:
        raise ReconError(f"writing {path}", "there are no splats", "at least one")
    entries = palette or max(int(PALETTE_SHARE * len(splats)), min(len(splats), LEAST_PALETTE))
    size = min(-(-entries // PALETTE_COLUMNS) * PALETTE_COLUMNS, MOST_PALETTE)
    turned = splats_to_write(splats, path, up)
    order = curve_order(turned.means)
    turned = turned.select(order)
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "recon"},
        "count": len(splats),
        "antialias": splats.antialiased,
        "extras": {"up": up},
    }
    waiting: list[tuple[str, Future[bytes]]] = []
    with progress.stage(f"writing {path.name}", 5, "parts") as stage, ThreadPoolExecutor(2) as pool:

        def take(part: _Part) -> None:
            meta.update(part[0])
            waiting.extend((name, pool.submit(webp_bytes, pixels)) for name, pixels in part[1].items())
            stage.advance()

        take(_means(turned))
        take(_quats(turned))
        take(_scales(turned))
        base = turned.sh[:, 0]
        if turned.sh_degree:
            base, part = _harmonics(turned, size, cameras, up)
            take(part)
        take(_sh0(base, turned.opacity_logits))
        members = {name: future.result() for name, future in waiting}
    members[META] = json.dumps(meta).encode()
    _write_members(path, members)


def _write_members(path: Path, members: dict[str, bytes]) -> None:
    if path.name == META:
        for name, data in members.items():
            with atomic_path(path.parent / name) as temporary:
                temporary.write_bytes(data)
        return
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            # Without a date the same splats give the same file.
            archive.writestr(zipfile.ZipInfo(name), data)


_Part = tuple[dict[str, Any], dict[str, ByteArray]]
"""A section of meta.json and the pictures that it names."""


def _picture(rows: ByteArray) -> ByteArray:
    """Returns rows [N, C] as a picture [H, W, C] that is about square, as wide as a multiple of 4."""
    width = -(-int(np.ceil(len(rows) ** 0.5)) // 4) * 4
    height = -(-len(rows) // width)
    pixels = np.zeros((height * width, rows.shape[1]), np.uint8)
    pixels[: len(rows)] = rows
    return pixels.reshape(height, width, -1)


def _means(splats: Splats) -> _Part:
    bent = torch.sign(splats.means) * torch.log1p(splats.means.abs().double())
    low, high = bent.amin(0), bent.amax(0)
    # Fewer than 16 bits where the splats are much larger than a step; the low bits left are zero.
    wanted = float((high - low).max()) / (POSITION_SHARE * typical_scale(splats))
    coarse = 2 ** (16 - int(np.clip(np.ceil(np.log2(max(wanted, 1.0))), 11, 16)))
    share = (bent - low) / (high - low).clamp(min=1e-12)
    steps = ((share * 65535 / coarse).round() * coarse).clamp(0, 65535).to(torch.int32).numpy()
    names = ["means_l.webp", "means_u.webp"]
    section = {"mins": low.tolist(), "maxs": high.tolist(), "files": names}
    lower, upper = (_picture((steps >> shift & 255).astype(np.uint8)) for shift in (0, 8))
    return {"means": section}, dict(zip(names, (lower, upper)))


def _quats(splats: Splats) -> _Part:
    largest, others = smallest_three(splats.quats)
    # The middle, which rotations about one axis need, is a level of its own: 0 to 64 about 32, in 255ths.
    levels = ((others * 2**0.5 + 1) * (QUATERNION_LEVELS / 2)).round() * (255 / QUATERNION_LEVELS)
    pixels = torch.cat([levels.round().clamp(0, 255), (largest + 252)[:, None].float()], 1).to(torch.uint8).numpy()
    return {"quats": {"files": ["quats.webp"]}}, {"quats.webp": _picture(pixels)}


def _scales(splats: Splats) -> _Part:
    codebook, labels = even_codebook(splats.log_scales, SCALE_STEP)
    return {"scales": {"codebook": codebook, "files": ["scales.webp"]}}, {"scales.webp": _picture(labels)}


def _sh0(base: torch.Tensor, opacity_logits: torch.Tensor) -> _Part:
    codebook, labels = even_codebook(base, COLOR_STEP)
    pixels = np.concatenate([labels, bytes_of_logits(opacity_logits)[:, None]], 1)
    return {"sh0": {"codebook": codebook, "files": ["sh0.webp"]}}, {"sh0.webp": _picture(pixels)}


def _harmonics(splats: Splats, size: int, cameras: Sequence[Camera], up: UpAxis) -> tuple[torch.Tensor, _Part]:
    """Returns the coefficients of the constant harmonic, which take up what the palette lacks, and the palette."""
    rest, base = splats.sh[:, 1:], splats.sh[:, 0]
    width = rest.shape[1]
    forward = torch.eye(width)
    if cameras:
        seen = splats_seen(splats, [_turned(camera, up) for camera in cameras])
        values, vectors = torch.linalg.eigh(seen.metric)
        forward = ((vectors * values.clamp(min=1e-12).sqrt()) @ vectors.T).float()
        weights = seen.weights
    else:
        weights = guessed_weights(splats)
    rows = torch.einsum("ij,njc->nic", forward, rest) if cameras else rest
    palette = build_palette(rows.flatten(1), size, weights=weights, iterations=ITERATIONS)
    entries = palette.codebook.reshape(size, width, 3)
    if cameras:
        entries = torch.einsum("ij,njc->nic", torch.linalg.inv(forward), entries)
    codebook, numbers = even_codebook(entries, HARMONICS_STEP)
    if cameras:
        stored = torch.tensor(codebook)[torch.from_numpy(numbers).long()][palette.labels.long()]
        base = base + torch.einsum("nk,nkc->nc", seen.mean_basis, rest - stored) / SH_C0
    rows_of_entries = -(-size // PALETTE_COLUMNS)
    image = np.zeros((rows_of_entries * PALETTE_COLUMNS, width, 3), np.uint8)
    image[:size] = numbers
    labels = palette.labels.numpy()
    pixels = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], 1).astype(np.uint8)
    names = ["shN_centroids.webp", "shN_labels.webp"]
    section = {"count": size, "bands": splats.sh_degree, "codebook": codebook, "files": names}
    pictures = dict(zip(names, (image.reshape(rows_of_entries, PALETTE_COLUMNS * width, 3), _picture(pixels))))
    return base, ({"shN": section}, pictures)


def _turned(camera: Camera, up: UpAxis) -> Camera:
    """Returns a camera of our world where the file's axes put it."""
    turn = np.eye(4)
    quarters = {"world": 0, "+z": 0, "-y": 1, "-z": 2, "+y": 3}[up]
    turn[:3, :3] = np.linalg.matrix_power(np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]), quarters)
    return camera.with_pose(camera.cam_from_world @ turn.T)


def even_codebook(values: torch.Tensor, step: float) -> tuple[list[float], npt.NDArray[np.uint8]]:
    """Returns 256 numbers a step apart, 0 among them where it can be, and for each value the nearest one's index.

    The step grows where the values reach farther than 256 steps; those of no more than 1 in 10,000 are cut off.
    """
    low, high = float(values.min()), float(values.max())
    if high - low > (CODES - 2) * step:
        sample = values.reshape(-1)[:: max(1, values.numel() // 1_000_000)].double()
        low = float(torch.quantile(sample, 5e-5, interpolation="higher"))
        high = max(float(torch.quantile(sample, 1 - 5e-5, interpolation="lower")), low)
        step = max(step, (high - low) / (CODES - 2))
    first = int(np.floor(low / step))
    labels = (values / step - first).round().clamp(0, CODES - 1).to(torch.uint8).numpy()
    return [float(np.float32((first + index) * step)) for index in range(CODES)], labels
