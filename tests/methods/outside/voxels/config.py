# SPDX-License-Identifier: Apache-2.0
"""The options of the voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from recon.methods.config import PhotoConfig, ranged


@dataclass(frozen=True)
class VoxelConfig(PhotoConfig):
    """A grid of densities and colours."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"draft": {"steps": 60}, "normal": {}}

    resolution: int = ranged(16, 4, 256)
    """Voxels along each axis; 4 to 256."""
    rays: int = ranged(256, 1)
    """Pixels drawn from all photographs in each step; at least 1."""
    samples: int = ranged(24, 2, 1024)
    """Samples along each ray; 2 to 1024."""
    rate: float = ranged(0.15, 0.0, 1.0, live="value")
    """Of Adam, per step; 0 to 1."""
