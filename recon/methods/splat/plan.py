# SPDX-License-Identifier: Apache-2.0
"""What a run will need in memory, said before it starts."""

from __future__ import annotations

from recon.methods.memory import available_device_bytes, require_memory
from recon.methods.splat.config import SplatConfig
from recon.scene import Scene

# Values and two moments of 11 + 3 K floats on the CPU, where gradients are used up as they arise; elsewhere gradients,
# and the values once more while density control copies them.
_COPIES = {"cpu": 3, "cuda": 5}
_GEOMETRY_FLOATS = 11
# What a picture knows of each Gaussian: projection, its gradient, the record for blending, statistics.
_BYTES_PER_GAUSSIAN = 220
# Picture, alpha, their gradients, the loss's workspace.
_BYTES_PER_PIXEL = 200
# Small Gaussians touch two or three tiles; where they are few, they are large, and then a tile lists some hundred.
_PAIRS_PER_GAUSSIAN = 4
_PAIRS_PER_TILE = 400
_TILE_PIXELS = 256
_BYTES_PER_PAIR = 96
_PROGRAM_BYTES = 400e6


def needed_bytes(scene: Scene, config: SplatConfig, device: str = "cpu") -> dict[str, float]:
    """Returns an upper estimate of the bytes by what they are for; `device` is "cpu" or "cuda"."""
    sizes = [frame.camera.fitted(config.long_side) if config.long_side > 0 else frame.camera for frame in scene.frames]
    pixels = [camera.width * camera.height for camera in sizes]
    most_pixels = max(pixels, default=0)
    count = config.max_gaussians
    if config.density.strategy == "none":
        count = min(count, max(len(scene.points), config.random_points))
    floats = _GEOMETRY_FLOATS + 3 * (config.sh_degree + 1) ** 2
    pairs = _PAIRS_PER_GAUSSIAN * count + _PAIRS_PER_TILE * most_pixels / _TILE_PIXELS
    return {
        f"{count:,} Gaussians": count * (4.0 * floats * _COPIES[device] + _BYTES_PER_GAUSSIAN),
        f"{len(pixels)} photographs": 4.0 * sum(pixels),
        "rendering one photograph": _BYTES_PER_PIXEL * most_pixels + _BYTES_PER_PAIR * pairs,
        "the program": _PROGRAM_BYTES,
    }


def check_memory(scene: Scene, config: SplatConfig) -> None:
    """Refuses a run that does not fit into memory.

    Raises:
        ReconError: with the estimate, part by part, and what to lower.
    """
    from recon.methods.device import choose_device

    device = choose_device(config.device).type
    require_memory(
        f"planning the training on {len(scene.frames)} photographs",
        needed_bytes(scene, config, device),
        available_device_bytes(device),
        "lower --max-gaussians or --long-side",
    )
