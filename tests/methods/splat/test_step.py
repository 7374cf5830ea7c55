# SPDX-License-Identifier: Apache-2.0
"""The fused step makes the numbers that autograd makes, whatever is switched on.

Autograd runs on the same kernels here, which have tests of their own against the plain-torch reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from splat_steps import CONFIG, STEPS, VARIANTS, compare, trained, trainer

from recon.scene import Scene


@pytest.mark.parametrize("name", VARIANTS)
def test_both_steps_give_the_same_numbers(make_scene: Callable[..., Scene], name: str) -> None:
    scene = make_scene()
    losses, fused = trained(scene, VARIANTS[name])
    expected_losses, expected = trained(scene, VARIANTS[name], autograd=True)
    assert losses == pytest.approx(expected_losses, rel=2e-4)
    compare(fused, expected)


@pytest.mark.parametrize("masks", ["ignore", "alpha"])
def test_masks_count_alike_in_both_steps(make_scene: Callable[..., Scene], masks: str) -> None:
    scene, config = make_scene(), replace(CONFIG, masks=masks, background="random")
    losses, fused = trained(scene, config, masked=True)
    expected_losses, expected = trained(scene, config, masked=True, autograd=True)
    unmasked, _ = trained(scene, config)
    assert losses == pytest.approx(expected_losses, rel=2e-4)
    assert losses != pytest.approx(unmasked, rel=1e-2)
    compare(fused, expected)


def test_the_profile_counts_every_stage(make_scene: Callable[..., Scene]) -> None:
    made = trainer(make_scene(), CONFIG)
    profile = made._data.profile
    for step in range(1, STEPS + 1):
        made.step(step, 0)
    stages = {stage.name: stage for stage in profile.stages()}
    assert list(stages) == ["project", "bin", "blend forward", "loss", "blend backward", "update", "density control"]
    assert all(stage.calls == STEPS and stage.seconds > 0 for stage in stages.values())
    assert all(stage.bytes_moved > 0 for name, stage in stages.items() if name != "density control")
    assert stages["blend backward"].pairs_evaluated >= stages["blend backward"].pairs_blended > 0
