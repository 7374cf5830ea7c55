# SPDX-License-Identifier: Apache-2.0
"""Things that are elsewhere in every photograph: balls and passers-by, which a reconstruction should leave out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon.data import furniture as f
from recon.data.config import CaptureConfig, Kind
from recon.data.materials import cloth, speckled, striped_cloth
from recon.data.shapes import cushion, lathe, moved, smooth_profile
from recon.data.stage import Stage, unlit_stage
from recon.data.surfaces import Patch

FloatArray = npt.NDArray[np.float64]
COATS = (f.TEAL, f.MUSTARD, f.BRICK_RED, f.NAVY, f.ROSE, f.SAGE, (0.30, 0.28, 0.33))


def place_distractors(kind: Kind, cam_from_world: FloatArray, config: CaptureConfig, number: int) -> Stage:
    """Returns a stage with this photograph's distractors, in front of its camera, standing or lying in free space."""
    rng = np.random.default_rng([config.seed, 17, number])
    rotation = cam_from_world[:3, :3]
    center = -rotation.T @ cam_from_world[:3, 3]
    reach = 0.5 if kind == "object" else 1.6
    patches: list[Patch] = []
    for k in range(config.distractors):
        distance = reach * rng.uniform(0.75, 1.3)
        sideways = rng.uniform(-0.45, 0.45) * distance
        spot = center + rotation.T @ np.array([sideways, 0.1 * distance, distance])
        color = COATS[rng.integers(len(COATS))]
        if (k + number) % 2 == 0:
            patches += moved(_ball(0.05 if kind == "object" else 0.14, color), spot)
        elif kind == "object":
            patches += moved(_figure(0.22, color), spot - (0, 0, 0.11))
        else:
            patches += moved(_figure(1.7, color), (spot[0], spot[1], 0.0), rng.uniform(0, 6.28))
    return unlit_stage(patches, rng)


def _ball(radius: float, color: tuple[float, float, float]) -> list[Patch]:
    sphere = cushion((0, 0, 0), (radius,) * 3, 1.0, 18, 32)
    spots = speckled(color, (0.95, 0.93, 0.88), 60 / radius**2, (radius / 14, radius / 6))
    return [Patch("ball", sphere, spots, radius / 60, wraps=True)]


def _figure(height: float, color: tuple[float, float, float]) -> list[Patch]:
    """A passer-by, as simple as a game piece: coat, head, hat."""
    coat = smooth_profile([(0.0, 0.84), (0.09, 0.82), (0.14, 0.66), (0.15, 0.4), (0.17, 0.1), (0.15, 0.0)], 20)
    hat = [(0.0, 1.0), (0.05, 0.995), (0.056, 0.95), (0.09, 0.94), (0.0, 0.93)]
    scaled = [[(r * height, z * height) for r, z in outline] for outline in (coat, hat)]
    head = cushion((0, 0, 0.885 * height), (0.06 * height, 0.06 * height, 0.072 * height), 1.0, 14, 20)
    stripes = striped_cloth(color, ((0.9, 0.88, 0.8), (0.2, 0.2, 0.25)), True)
    texel = height / 500
    return [
        Patch("coat", lathe((0, 0, 0), scaled[0], 28), stripes, texel, wraps=True),
        Patch("head", head, cloth((0.80, 0.62, 0.50)), texel, wraps=True),
        Patch("hat", lathe((0, 0, 0), scaled[1], 28), cloth((0.25, 0.22, 0.22)), texel, wraps=True),
    ]
