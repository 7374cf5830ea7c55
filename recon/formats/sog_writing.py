# SPDX-License-Identifier: Apache-2.0
"""Writing SOG version 2; the layout is told in `recon.formats.sog`.

Neighbours in space become neighbours in the pictures, codebooks are those of least squared error, and harmonics share
a palette found by k-means.  Splats that cover more of what is seen weigh more in all of these.
"""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.palette import build_palette
from recon.formats.sog import META, PALETTE_COLUMNS
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import ByteArray, bytes_of_logits, curve_order, smallest_three, splats_to_write
from recon.formats.webp_images import webp_bytes
from recon.progress import SILENT, Progress
from recon.splats import Splats

PICTURES = ("means_l", "means_u", "quats", "scales", "sh0", "shN_centroids", "shN_labels")
"""The pictures beside meta.json, without their suffix .webp."""

SAMPLE = 1 << 18
"""How many values a codebook is fitted to."""


@dataclass(frozen=True)
class SogOptions:
    """How much a SOG keeps.

    Attributes:
        palette_size: entries of the palette of harmonics, at most 65536; 0 takes what suits the number of splats.
        iterations: of k-means for the palette.
    """

    palette_size: int = 0
    iterations: int = 8


def write_sog(
    splats: Splats,
    path: Path,
    up: UpAxis = "-y",
    progress: Progress = SILENT,
    options: SogOptions = SogOptions(),
) -> None:
    """Writes a SOG: zipped, or as loose files where the path is FOLDER/meta.json (then meta.json comes last).

    Args:
        splats: N splats of our world.
        path: the file.
        up: the axis that points up in the file; "-y" is what readers expect.
        progress: hears how far it is.
        options: how much is kept.

    Raises:
        ReconError: a value is not finite, no splats, or the file cannot be written.
    """
    path = Path(path)
    splats = splats_to_write(splats, path, up)
    if len(splats) == 0:
        raise ReconError(f"writing {path}", "there are no splats", "at least one")
    splats = splats.select(curve_order(splats.means))
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "recon"},
        "count": len(splats),
        "antialias": splats.antialiased,
        "extras": {"up": up},
    }
    steps = [_means, _quats, _scales, _sh0, *([_harmonics] if splats.sh_degree else [])]
    members: dict[str, bytes] = {}
    with progress.stage(f"writing {path.name}", len(steps), "parts") as stage, ThreadPoolExecutor(2) as pool:
        waiting = []
        for step in steps:
            section, pictures = step(splats, options)
            meta |= section
            waiting += [(name, pool.submit(webp_bytes, pixels)) for name, pixels in pictures.items()]
            stage.advance()
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


def _picture(rows: ByteArray) -> ByteArray:
    """Returns rows [N, C] as a picture [H, W, C] that is about square, as wide as a multiple of 4."""
    width = -(-int(np.ceil(len(rows) ** 0.5)) // 4) * 4
    height = -(-len(rows) // width)
    pixels = np.zeros((height * width, rows.shape[1]), np.uint8)
    pixels[: len(rows)] = rows
    return pixels.reshape(height, width, -1)


def _means(splats: Splats, options: SogOptions) -> _Part:
    bent = torch.sign(splats.means) * torch.log1p(splats.means.abs().double())
    low, high = bent.amin(0), bent.amax(0)
    steps = ((bent - low) / (high - low).clamp(min=1e-12) * 65535).round().to(torch.int32).numpy()
    names = ["means_l.webp", "means_u.webp"]
    section = {"mins": low.tolist(), "maxs": high.tolist(), "files": names}
    lower, upper = (_picture((steps >> shift & 255).astype(np.uint8)) for shift in (0, 8))
    return {"means": section}, dict(zip(names, (lower, upper)))


def _quats(splats: Splats, options: SogOptions) -> _Part:
    largest, others = smallest_three(splats.quats)
    fields = ((others * 2**0.5 + 1) * 127.5).round().clamp(0, 255)
    pixels = torch.cat([fields, (largest + 252)[:, None].float()], 1).to(torch.uint8).numpy()
    return {"quats": {"files": ["quats.webp"]}}, {"quats.webp": _picture(pixels)}


def _scales(splats: Splats, options: SogOptions) -> _Part:
    codebook, labels = scalar_codebook(splats.log_scales)
    section = {"codebook": codebook, "files": ["scales.webp"]}
    return {"scales": section}, {"scales.webp": _picture(labels)}


def _sh0(splats: Splats, options: SogOptions) -> _Part:
    codebook, labels = scalar_codebook(splats.sh[:, 0])
    pixels = np.concatenate([labels, bytes_of_logits(splats.opacity_logits)[:, None]], 1)
    return {"sh0": {"codebook": codebook, "files": ["sh0.webp"]}}, {"sh0.webp": _picture(pixels)}


def _harmonics(splats: Splats, options: SogOptions) -> _Part:
    rest = splats.sh[:, 1:].flatten(1)
    size = options.palette_size or palette_size(len(splats))
    palette = build_palette(rest, size, iterations=options.iterations)
    codebook, numbers = scalar_codebook(palette.codebook)
    width = rest.shape[1] // 3
    rows = -(-size // PALETTE_COLUMNS)
    image = np.zeros((rows * PALETTE_COLUMNS, width, 3), np.uint8)
    image[:size] = numbers.reshape(size, width, 3)
    labels = palette.labels.numpy()
    pixels = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], 1).astype(np.uint8)
    names = ["shN_centroids.webp", "shN_labels.webp"]
    section = {"count": size, "bands": splats.sh_degree, "codebook": codebook, "files": names}
    pictures = dict(zip(names, (image.reshape(rows, PALETTE_COLUMNS * width, 3), _picture(pixels))))
    return {"shN": section}, pictures


def palette_size(count: int) -> int:
    """Returns the number of palette entries for N splats: a quarter of them, a power of two from 1024 to 65536."""
    return int(2 ** np.clip(np.round(np.log2(max(count, 1) / 8)), 10, 16))


def scalar_codebook(values: torch.Tensor, size: int = 256) -> tuple[list[float], npt.NDArray[np.uint8]]:
    """Returns numbers, ascending, and for each value the index of the nearest, of the values' shape.

    The numbers start where companding theory puts them, with a density as the cube root of the values' (Panter and
    Dite 1951), and are then moved to the means of what is nearest to them (Lloyd 1982; Max 1960), on a sample.
    """
    flat = values.reshape(-1)
    stride = max(1, len(flat) // SAMPLE)
    ordered = np.sort(np.concatenate([flat[::stride].double().numpy(), [float(flat.min()), float(flat.max())]]))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    # Where values are dense their gaps are small: gap^(2/3) summed gives the cube root's distribution.
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), 4096)).astype(int)
    wish = np.concatenate([[0.0], np.cumsum(np.diff(ordered[places]) ** (2 / 3))])
    codes = np.interp(np.linspace(0, wish[-1], size), wish, ordered[places])
    for _ in range(40):
        edges = np.searchsorted(ordered, (codes[1:] + codes[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        counts = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        codes = np.where(counts > 0, means, codes)
    middles = torch.from_numpy(((codes[1:] + codes[:-1]) / 2).astype(np.float32))
    labels = torch.bucketize(values.contiguous(), middles).to(torch.uint8).numpy()
    return [float(code) for code in codes.astype(np.float32)], labels
