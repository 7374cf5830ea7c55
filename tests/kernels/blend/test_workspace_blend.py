# SPDX-License-Identifier: Apache-2.0
"""Blending on a workspace, as training does it, against the reference in double precision; statistics and counts."""

from __future__ import annotations

import pytest
import torch

from recon.kernels.binning.op import TileLists, bin_tiles
from recon.kernels.binning.reference import mahalanobis
from recon.kernels.blend.op import (
    BlendStatistics,
    DensityAccumulators,
    blend,
    blend_backward_into,
    blend_forward_into,
    count_pairs,
)
from recon.kernels.native import native
from recon.kernels.projection.op import Projected, ProjectedGradients
from recon.kernels.workspace import Workspace
from tests.projected_scenes import as_double, make_projected, with_gradients

TOLERANCE = {"forward": 4e-6, "gradient": 1e-5}


def scene(count: int, size: tuple[int, int], d: int, seed: int) -> tuple[Projected, torch.Tensor, torch.Tensor]:
    """Returns Gaussians of which every seventh is invisible, their channels and a gradient by the picture."""
    projected = make_projected(count, *size, seed=seed)
    projected.visible[::7] = 0
    generator = torch.Generator().manual_seed(seed)
    channels = torch.randn(count, d, generator=generator)
    return projected, channels, torch.randn(size[1], size[0], d, generator=generator)


def accumulators(count: int) -> DensityAccumulators:
    """Returns some that hold numbers already."""
    return DensityAccumulators(torch.full((count,), 2.0), torch.full((count,), 3.0), torch.full((count,), 0.01))


def run(
    inputs: tuple[Projected, torch.Tensor, torch.Tensor],
    size: tuple[int, int],
    background: torch.Tensor | None,
    workspace: Workspace,
    watch: DensityAccumulators | None = None,
) -> tuple[torch.Tensor, torch.Tensor, ProjectedGradients, TileLists]:
    projected, channels, by_channels = inputs
    tiles = bin_tiles(projected, *size)
    blended = blend_forward_into(projected, channels, tiles, *size, workspace, background)
    gradient = blend_backward_into(projected, channels, tiles, blended, by_channels, workspace, watch)
    return blended.channels, blended.alpha, gradient, tiles


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    theirs = theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))


@pytest.mark.parametrize("d", [1, 3, 4, 5])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("watched", [False, True])
def test_equals_the_reference(isa: str, d: int, background: bool, watched: bool) -> None:
    size, count = (61, 43), 400
    inputs = scene(count, size, d, seed=d)
    projected, channels, by_channels = inputs
    behind = torch.linspace(0.2, 0.9, d) if background else None
    before = accumulators(count)
    watch = accumulators(count) if watched else None
    out, alpha, gradient, tiles = run(inputs, size, behind, Workspace(), watch)

    leaf = with_gradients(as_double(projected))
    values, statistics = channels.double().requires_grad_(), BlendStatistics()
    expected = blend(
        leaf, values, bin_tiles(leaf, *size, backend="reference"), *size, statistics=statistics, backend="reference"
    )
    picture = expected.channels
    if behind is not None:
        picture = picture + (1 - expected.alpha)[..., None] * behind.double()
    (picture * by_channels.double()).sum().backward()
    assert relative_error(out, picture) <= TOLERANCE["forward"]
    assert relative_error(alpha, expected.alpha) <= TOLERANCE["forward"]
    listed = tiles.touched
    assert 0 < listed.sum() < count
    ours = (gradient.means_px, gradient.conics, gradient.opacities, gradient.colors)
    for mine, theirs in zip(ours, (leaf.means_px.grad, leaf.conics.grad, leaf.opacities.grad, values.grad)):
        assert theirs is not None
        assert relative_error(mine[listed], theirs[listed]) <= TOLERANCE["gradient"]
    if watch is None:
        return
    assert statistics.mean_gradient_abs_px is not None
    assert statistics.weight_max is not None
    added = statistics.mean_gradient_abs_px.norm(dim=1)
    assert relative_error(watch.gradient_sum, before.gradient_sum + added) <= TOLERANCE["gradient"]
    assert torch.equal(watch.seen, before.seen + listed)
    assert relative_error(watch.most_weight, torch.maximum(before.most_weight, statistics.weight_max)) <= 4e-6


def test_unlisted_gaussians_gather_nothing(isa: str) -> None:
    """Gradients of theirs are of no meaning, but what is gathered over steps stays as it is, to the last row."""
    size, count = (40, 30), 101
    inputs = scene(count, size, 3, seed=1)
    before, watch = accumulators(count), accumulators(count)
    *_, tiles = run(inputs, size, None, Workspace(), watch)
    unlisted = ~tiles.touched
    assert unlisted[0]
    for name, value in vars(watch).items():
        assert torch.equal(value[unlisted], getattr(before, name)[unlisted]), name


def test_a_used_workspace_changes_nothing(isa: str) -> None:
    """Larger and smaller pictures before, with other numbers of channels and with statistics, leave no trace."""
    workspace = Workspace()
    run(scene(500, (80, 70), 4, 5), (80, 70), None, workspace, accumulators(500))
    run(scene(20, (10, 12), 1, 6), (10, 12), None, workspace)
    inputs = scene(200, (50, 40), 3, 7)
    behind = torch.ones(3)
    used, fresh = (run(inputs, (50, 40), behind, space) for space in (workspace, Workspace()))
    listed = used[3].touched
    assert torch.equal(used[0], fresh[0])
    assert torch.equal(used[1], fresh[1])
    for name, value in vars(used[2]).items():
        if value is None:
            continue
        assert torch.equal(value[listed], getattr(fresh[2], name)[listed]), name


def test_second_step_allocates_nothing(isa: str) -> None:
    workspace, inputs = Workspace(), scene(300, (50, 40), 3, 8)
    first = run(inputs, (50, 40), torch.zeros(3), workspace)
    size = workspace.bytes()
    second = run(inputs, (50, 40), torch.zeros(3), workspace)
    assert workspace.bytes() == size
    assert first[0].data_ptr() == second[0].data_ptr()
    assert first[2].means_px.data_ptr() == second[2].means_px.data_ptr()


def test_threads_do_not_change_the_result(isa: str) -> None:
    inputs, size = scene(3000, (150, 100), 3, 9), (150, 100)
    module, results = native(), []
    before = module.max_threads()
    try:
        for threads in (1, 2, 3):
            module.set_threads(threads)
            watch = accumulators(3000)
            out, alpha, gradient, tiles = run(inputs, size, torch.ones(3), Workspace(), watch)
            rows = [value[tiles.touched] for value in vars(gradient).values() if value is not None]
            results.append([out, alpha, *rows, *vars(watch).values()])
    finally:
        module.set_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_another_picture_is_refused(isa: str) -> None:
    projected, channels, by_channels = scene(20, (20, 20), 3, 10)
    tiles = bin_tiles(projected, 20, 20)
    blended = blend(projected, channels, tiles, 20, 20)
    with pytest.raises(AssertionError, match="workspace"):
        blend_backward_into(projected, channels, tiles, blended, by_channels, Workspace())


def test_counts(isa: str) -> None:
    """Blended pairs are those that the formula says; evaluated ones are at least those."""
    size = (45, 37)
    projected = make_projected(60, *size, seed=3, opacity=(0.05, 0.1))  # so few and faint that nothing is opaque
    tiles = bin_tiles(projected, *size)
    counts = count_pairs(projected, projected.colors, tiles, *size)
    rows, columns = torch.meshgrid(torch.arange(size[1]), torch.arange(size[0]), indexing="ij")
    centers = torch.stack([columns, rows], -1).reshape(-1, 2).double() + 0.5
    double = as_double(projected)
    q = mahalanobis(double.conics, centers[:, None] - double.means_px)
    expected = int((double.opacities * torch.exp(-0.5 * q) >= 1 / 255).sum())
    assert counts.listed == len(tiles.ids)
    assert abs(counts.blended - expected) <= 1 + 1e-4 * expected
    assert counts.blended <= counts.evaluated <= 256 * counts.listed
