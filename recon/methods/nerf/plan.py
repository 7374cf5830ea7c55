# SPDX-License-Identifier: Apache-2.0
"""What a run will need in memory, said before it starts."""

from __future__ import annotations

from recon.methods.memory import available_device_bytes, require_memory
from recon.methods.nerf.config import NerfConfig
from recon.methods.nerf.field import FieldShape
from recon.scene import Scene

# Values, gradients and two moments, and once more the values for a snapshot.
_COPIES = 5
# Beyond one pass of the samples themselves: the first batches, before anything is known of the empty space, are larger.
_BYTES_PER_SAMPLE = 4.0 * (3 + 4 + 2 * 48 + 64 + 64)
_ROOM = 3.0
_PROGRAM_BYTES = 400e6


def needed_bytes(scene: Scene, config: NerfConfig) -> dict[str, float]:
    """Returns an upper estimate of the bytes by what they are for."""
    shape = FieldShape.of(config.field)
    sizes = [frame.camera.fitted(config.long_side) if config.long_side > 0 else frame.camera for frame in scene.frames]
    pixels = sum(camera.width * camera.height for camera in sizes)
    per_pixel = 3.0 if config.masks == "off" else 12.0
    return {
        f"a table of {shape.grid.rows:,} entries": 4.0 * shape.grid.rows * shape.grid.features * _COPIES,
        f"batches of {config.samples:,} samples": _ROOM * config.samples * _BYTES_PER_SAMPLE,
        f"{len(sizes)} photographs": per_pixel * pixels,
        "the occupancy grid": 6.0 * config.space.grid**3,
        "the program": _PROGRAM_BYTES,
    }


def check_memory(scene: Scene, config: NerfConfig) -> None:
    """Refuses a run that does not fit into memory.

    Raises:
        ReconError: with the estimate, part by part, and what to lower.
    """
    from recon.methods.device import choose_device

    device = choose_device(config.device).type
    require_memory(
        f"planning the training on {len(scene.frames)} photographs",
        needed_bytes(scene, config),
        available_device_bytes(device),
        "lower --field.log2-entries, --samples or --long-side",
    )
