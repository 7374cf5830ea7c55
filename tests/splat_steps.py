# SPDX-License-Identifier: Apache-2.0
"""Short trainings that the tests of the training steps compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recon.methods import SplatConfig
from recon.methods.method import TrainingData
from recon.methods.profile import Profile
from recon.methods.splat.config import DensityConfig
from recon.methods.splat.step import AutogradStep, FusedStep
from recon.methods.splat.train import SplatTrainer
from recon.scene import Scene
from recon.views import load_views

STEPS = 6
CONFIG = SplatConfig(
    steps=STEPS, max_gaussians=400, sh_degree=2, sh_every=0.2, coarse=0.3, device="cpu",
    density=DensityConfig(start=1.0, stop=1.0),
)  # fmt: skip

VARIANTS = {
    "plain": CONFIG,
    "antialiased": replace(CONFIG, antialiased=True),
    "random background": replace(CONFIG, background="random"),
    "seldom detail": replace(CONFIG, sh_detail_every=2, sh_every=0.0),
    "penalties": replace(CONFIG, density=DensityConfig("none", opacity_penalty=0.5, scale_penalty=0.5)),
    "poses and exposure": replace(CONFIG, refine_poses=True, exposure=True, background="white"),
}


def trainer(scene: Scene, config: SplatConfig, masked: bool = False) -> SplatTrainer:
    views = load_views(scene, config.long_side)[:4]
    if masked:
        views = [replace(view, mask=ramp(*view.image.shape[:2])) for view in views]
    data = TrainingData(scene, tuple(views), (), torch.device("cpu"), np.random.default_rng(3), Profile())
    made = SplatTrainer(data, config)
    # Of a sphere, the rotation's gradient is nothing but rounding, whose sign Adam would follow.
    random = torch.Generator().manual_seed(5)
    for name in ("log_scales", "quats"):
        values = made._parameters[name].value.data
        values += 0.3 * torch.randn(values.shape, generator=random)
    return made


def ramp(height: int, width: int) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def trained(
    scene: Scene, config: SplatConfig, masked: bool = False, autograd: bool = False
) -> tuple[list[float], dict[str, torch.Tensor]]:
    made = trainer(scene, config, masked)
    assert isinstance(made._step, FusedStep)
    if autograd:
        made._step = AutogradStep("cpu")
    losses = [made.step(step, step % 4)["loss"] for step in range(1, STEPS + 1)]
    return losses, dict(made.state().tensors)


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Adam's first steps depend on a gradient's sign, so single values near zero may go the other way."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape, name
        scale = float(expected[name].abs().mean()) + 1e-12
        difference = (value - expected[name]).abs() / scale
        assert float((difference > 1e-2).float().mean()) < 0.01, name
