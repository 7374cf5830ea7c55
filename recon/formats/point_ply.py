# SPDX-License-Identifier: Apache-2.0
"""Coloured points as a binary PLY: the world as it is (+Z up, stated in a comment), float64 positions, 8-bit sRGB.

Properties are named as every survey tool and mesh program reads them: x y z red green blue.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon.files import atomic_path
from recon.scene import SparsePoints

_VERTEX = np.dtype([("xyz", "<f8", 3), ("rgb", "u1", 3)])


def write_point_ply(points: SparsePoints, path: Path) -> None:
    """Writes points whole or not at all.

    Raises:
        ReconError: the file cannot be written.
    """
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment Vertical axis: 0 0 1\n"
        f"element vertex {len(points)}\n"
        + "".join(f"property double {axis}\n" for axis in "xyz")
        + "".join(f"property uchar {color}\n" for color in ("red", "green", "blue"))
        + "end_header\n"
    )
    rows = np.empty(len(points), _VERTEX)
    rows["xyz"], rows["rgb"] = points.positions, points.colors
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(header.encode("ascii"))
        rows.tofile(file)
