# SPDX-License-Identifier: Apache-2.0
"""What is sent to the browser: shapes that survive half floats, colours close to what was trained, the best of many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.kernels.projection.spherical_harmonics import evaluate_sh
from recon.splats import Splats
from recon.viewers.browser_splats import browser_splats, mean_colors


def random_splats(count: int = 200, degree: int = 3, size: float = 0.02) -> Splats:
    generator = torch.Generator().manual_seed(1)
    return Splats(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 4, generator=generator),
        torch.randn(count, 3, generator=generator) * 0.5 + float(np.log(size)),
        torch.rand(count, generator=generator) * 4,
        torch.randn(count, (degree + 1) ** 2, 3, generator=generator) * 0.15,
    )


@pytest.mark.parametrize("size", [2e-5, 2e-4, 0.02, 5.0, 1e4])
def test_shapes_survive_half_floats_at_any_scale(size: float) -> None:
    splats = random_splats(size=size)
    sent = browser_splats(splats)
    halves = sent.covariances.astype(np.float16).astype(float) * sent.node_scale**2
    w, x, y, z = torch.nn.functional.normalize(splats.quats.double(), dim=1).numpy().T
    from scipy.spatial.transform import Rotation

    shape = Rotation.from_quat(np.stack([x, y, z, w], 1)).as_matrix() * splats.scales.double().numpy()[:, None]
    expected = shape @ shape.transpose(0, 2, 1)
    largest = np.abs(expected).max((1, 2))
    assert np.isfinite(halves).all()
    # Half floats are exact to 2⁻¹¹; what is stored is relative to each splat's own largest entry.
    assert (np.abs(halves - expected).max((1, 2)) / largest).max() < 1e-3
    np.testing.assert_allclose(sent.centers * sent.node_scale, splats.means.numpy(), rtol=1e-6)


def test_without_rescaling_small_scenes_would_be_wrong() -> None:
    variance = np.float64(2e-4) ** 2
    assert abs(float(np.float16(variance)) / variance - 1) > 0.1


def test_the_most_visible_are_kept_and_the_rest_is_counted() -> None:
    splats = random_splats(300, 0)
    splats.log_scales[:50] += 3
    splats = replace(splats, opacity_logits=splats.opacity_logits.clone())
    splats.opacity_logits[290:] = -20
    sent = browser_splats(splats, limit=50)
    assert sent.left_out == 240
    kept = {tuple(center) for center in np.round(sent.centers * sent.node_scale, 4)}
    expected = {tuple(center) for center in np.round(splats.means[:50].numpy(), 4)}
    assert len(kept & expected) >= 45
    assert len(browser_splats(splats).centers) == 290


def test_colours_are_the_mean_over_the_directions_of_the_cameras(world) -> None:
    splats = random_splats()
    mean = mean_colors(splats, world.cameras)
    seen = []
    for camera in world.cameras:
        directions = torch.nn.functional.normalize(
            splats.means.double() - torch.from_numpy(camera.center_in_world), dim=1
        )
        seen.append((0.5 + evaluate_sh(splats.sh.double(), directions, 3)).clamp(0, 1).numpy())
    seen_mean = np.mean(seen, 0)
    constant = splats.base_colors.numpy()
    assert np.abs(mean - seen_mean).mean() < 0.5 * np.abs(constant - seen_mean).mean()
    np.testing.assert_array_equal(mean_colors(splats, []), constant)


def test_none_and_one() -> None:
    none = random_splats(0)
    assert browser_splats(none).centers.shape == (0, 3)
    assert browser_splats(random_splats(1)).opacities.shape == (1, 1)
