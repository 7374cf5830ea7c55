# SPDX-License-Identifier: Apache-2.0
"""What a run will need in memory, said before it starts."""

from __future__ import annotations

from recon.methods.memory import available_device_bytes, require_memory
from recon.methods.splat.config import SplatConfig
from recon.scene import Scene

# Values, two moments and a gradient of 11 + 3 K floats; two floats of statistics; what projection keeps for the way
# back (about 30 floats and their gradients); and once more the values while density control copies them.
_FLOATS_PER_GAUSSIAN_FIXED = 5 * 11 + 2 + 60
_FLOATS_PER_COEFFICIENT = 5 * 3
# Picture, alpha, their gradients, the loss's workspace.
_BYTES_PER_PIXEL = 200
_TILE_ENTRIES_PER_GAUSSIAN = 40
_BYTES_PER_TILE_ENTRY = 64
_PROGRAM_BYTES = 400e6


def needed_bytes(scene: Scene, config: SplatConfig) -> dict[str, float]:
    """Returns an upper estimate of the bytes by what they are for."""
    sizes = [frame.camera.fitted(config.long_side) if config.long_side > 0 else frame.camera for frame in scene.frames]
    pixels = [camera.width * camera.height for camera in sizes]
    coefficients = (config.sh_degree + 1) ** 2
    count = config.max_gaussians
    if config.density.strategy == "none":
        count = min(count, max(len(scene.points), config.random_points))
    floats = _FLOATS_PER_GAUSSIAN_FIXED + _FLOATS_PER_COEFFICIENT * coefficients
    return {
        f"{count:,} Gaussians": count * (4.0 * floats + _TILE_ENTRIES_PER_GAUSSIAN * _BYTES_PER_TILE_ENTRY),
        f"{len(pixels)} photographs": 4.0 * sum(pixels),
        "rendering one photograph": float(_BYTES_PER_PIXEL * max(pixels, default=0)),
        "the program": _PROGRAM_BYTES,
    }


def check_memory(scene: Scene, config: SplatConfig) -> None:
    """Refuses a run that does not fit into memory.

    Raises:
        ReconError: with the estimate, part by part, and what to lower.
    """
    from recon.methods.device import choose_device

    require_memory(
        f"planning the training on {len(scene.frames)} photographs",
        needed_bytes(scene, config),
        available_device_bytes(choose_device(config.device).type),
        "lower --max-gaussians or --long-side",
    )
