# SPDX-License-Identifier: Apache-2.0
"""Small scenes of everything that a training can run into, one per seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from recon.cameras import Camera, look_at
from recon.kernels.projection.op import ProjectionOptions
from recon.splats import Splats

STORED = ("means", "quats", "log_scales", "opacity_logits", "sh")


@dataclass(frozen=True)
class FuzzScene:
    """Gaussians, float32, some of them broken, and the picture to make of them."""

    splats: Splats
    camera: Camera
    options: ProjectionOptions
    background: torch.Tensor

    @property
    def pose(self) -> torch.Tensor:
        return torch.tensor(self.camera.cam_from_world, dtype=torch.float32)


def fuzz_scene(seed: int) -> FuzzScene:
    """Returns the scene of a seed: a mixture of kinds, a crowd before a few pixels, or a stack at equal depths."""
    random = np.random.default_rng(seed)
    style = ("mixture", "mixture", "mixture", "crowd", "stack")[random.integers(5)]
    camera = _camera(random, (1, 4) if style == "crowd" else (1, 41))
    count = int(random.integers(1000, 4000)) if style == "crowd" and random.random() < 0.1 else 0
    count = count or int(random.integers(1, 70))
    points = _points(random, camera, count, style)
    degree = int(random.integers(4))
    options = ProjectionOptions(sh_degree=degree, antialiased=bool(random.random() < 0.3))
    focal_scale = 1.0 / camera.fx
    # Standard deviations of about 0.1 to 30 pixels at depth 3.
    log_scales = np.log(3 * focal_scale) + random.uniform(-2.0, 3.4, (count, 1)) + random.normal(0, 0.5, (count, 3))
    splats = {
        "means": points,
        "quats": random.normal(size=(count, 4)) * np.exp(random.normal(size=(count, 1))),
        "log_scales": log_scales,
        "opacity_logits": random.normal(0, 2, count) + random.choice([-3.0, 0.0, 3.0]),
        "sh": random.normal(0, 0.4, (count, (degree + 1) ** 2, 3)),
    }
    _make_odd(random, splats, camera)
    _break(random, splats)
    tensors = {name: torch.tensor(splats[name], dtype=torch.float32) for name in STORED}
    background = torch.tensor(random.random(3), dtype=torch.float32)
    return FuzzScene(Splats(**tensors, antialiased=options.antialiased), camera, options, background)


def _camera(random: np.random.Generator, sides: tuple[int, int]) -> Camera:
    width, height = (int(side) for side in random.integers(*sides, 2))
    focal = float(np.exp(random.uniform(np.log(0.5), np.log(3)))) * max(width, height)
    center = random.uniform(0.2, 0.8, 2) * (width, height)
    eye = random.normal(size=3)
    pose = look_at(eye, eye + random.normal(size=3), random.normal(size=3))
    return Camera(width, height, focal, focal * random.uniform(0.8, 1.2), *center, cam_from_world=pose)


def _points(random: np.random.Generator, camera: Camera, count: int, style: str) -> np.ndarray:
    """Returns centres in the world; most of them before the camera and in or near the picture."""
    pixels = random.uniform(-0.2, 1.2, (count, 2)) * (camera.width, camera.height)
    depths = np.exp(random.uniform(np.log(0.3), np.log(20), count))
    if style == "crowd":
        pixels = random.uniform(0, 1, (1, 2)) * (camera.width, camera.height) + random.normal(0, 0.3, (count, 2))
    if style == "stack":
        # Few different depths, so that the order within each of them is that of the numbers.
        depths = random.choice(depths[:3], count)
    at_border = random.random(count) < 0.1
    pixels[at_border] = np.round(pixels[at_border] / (camera.width, camera.height)) * (camera.width, camera.height)
    behind = random.random(count) < 0.05
    depths = np.where(behind, -depths, depths)
    depths = np.where(random.random(count) < 0.03, 0.01 * random.uniform(0.5, 2.0, count), depths)
    rays = np.column_stack([(pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones(count)])
    in_cam = rays * depths[:, None]
    rotation, translation = camera.cam_from_world[:3, :3], camera.cam_from_world[:3, 3]
    return (in_cam - translation) @ rotation


def _make_odd(random: np.random.Generator, splats: dict[str, np.ndarray], camera: Camera) -> None:
    """Needles, discs, huge and tiny ones, glass, steel, and twins."""
    count = len(splats["means"])

    def some(share: float) -> np.ndarray:
        return random.random(count) < share

    scales = splats["log_scales"]
    needles, discs = some(0.1), some(0.1)
    scales[needles, 0] += random.uniform(1, 5)
    scales[needles, 1:] -= random.uniform(1, 8)
    scales[discs, 2] -= random.uniform(2, 12)
    scales[some(0.03)] += random.uniform(2, 8)
    scales[some(0.03)] -= random.uniform(3, 12)
    logits = splats["opacity_logits"]
    logits[some(0.03)] = random.choice([-np.inf, -1e4, -90.0, -20.0]) if random.random() < 0.5 else -90.0
    logits[some(0.08)] = random.choice([8.0, 17.0, 40.0, 90.0, 1e4])
    # Close to what is still drawn at all: sigmoid(-5.537334) is 1/255.
    logits[some(0.03)] = -5.537334 + random.normal(0, 1e-3)
    # At the most that a Gaussian may cover: sigmoid(6.906755) is 0.999.
    logits[some(0.03)] = 6.906755 + random.normal(0, 1e-6)
    if count > 1 and random.random() < 0.3:
        for name in STORED:
            splats[name][-1] = splats[name][0]
    if random.random() < 0.2:
        splats["sh"] *= 10.0


def _break(random: np.random.Generator, splats: dict[str, np.ndarray]) -> None:
    """Puts numbers that are none, or that are far too large, into a few rows, and empties a few quaternions."""
    if random.random() < 0.5:
        return
    count = len(splats["means"])
    for row in np.nonzero(random.random(count) < 0.08)[0]:
        values = splats[STORED[random.integers(len(STORED))]]
        numbers = values.reshape(count, -1)[row]
        numbers[random.integers(len(numbers))] = random.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38])
    splats["quats"][random.random(count) < 0.02] = 0.0
