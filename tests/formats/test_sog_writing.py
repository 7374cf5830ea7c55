# SPDX-License-Identifier: Apache-2.0
"""What a SOG keeps: codebooks, the palette, and cameras that say what is seen."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from formats.splat_cases import scene_splats

from recon.cameras import Camera, look_at
from recon.formats.sog_writing import even_codebook, write_sog
from recon.formats.splat_files import read_splats
from recon.formats.splat_views import guessed_weights, splats_seen
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions
from recon.splats import Splats


def cameras(count: int, distance: float = 6.0) -> list[Camera]:
    """All on one side, as of a handheld capture."""
    found = []
    for angle in np.linspace(-0.5, 0.5, count):
        eye = distance * np.array([np.sin(angle), -np.cos(angle), 0.2 * np.cos(7 * angle)])
        camera = Camera(64, 48, 60, 60, 32, 24)
        found.append(camera.with_pose(look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))))
    return found


def pictures(splats: Splats, views: list[Camera]) -> torch.Tensor:
    renderer = SplatRenderer(splats)
    return torch.stack([renderer.render(view, RenderOptions()).rgb for view in views])


def shiny_splats(count: int = 1500) -> Splats:
    splats = scene_splats(count, 3)
    return replace(splats, means=splats.means.clamp(-2, 2), log_scales=splats.log_scales + 1.5)


@pytest.mark.parametrize("up", ["-y", "world", "+y"])
def test_known_cameras_make_a_better_picture_of_the_same_size(tmp_path: Path, up: str) -> None:
    splats, views = shiny_splats(), cameras(9)
    expected = pictures(splats, views[::4])
    errors, sizes = [], []
    for known in ([], [view for index, view in enumerate(views) if index % 4]):
        write_sog(splats, tmp_path / "a.sog", up=up, cameras=known, palette=128)  # type: ignore[arg-type]
        errors.append(float((pictures(read_splats(tmp_path / "a.sog"), views[::4]) - expected).square().mean()))
        sizes.append((tmp_path / "a.sog").stat().st_size)
    assert errors[1] < 0.5 * errors[0]
    assert sizes[1] < 1.05 * sizes[0]


def test_what_is_seen_is_what_is_rendered() -> None:
    """A splat behind the camera weighs nothing, and one alone weighs the sum of its squared alphas."""
    one = Splats(
        torch.tensor([[0.0, 0, 0], [0, -50, 0]]), torch.tensor([[1.0, 0, 0, 0]] * 2), torch.full((2, 3), -1.0),
        torch.tensor([2.0, 2.0]), torch.rand(2, 4, 3),
    )  # fmt: skip
    view = cameras(1)[0]
    seen = splats_seen(one, [view] * 40)
    alpha = SplatRenderer(one).render(view, RenderOptions()).alpha
    assert seen.weights[1] < 1e-6
    # Random signs estimate the sum to about an eighth with 20 pictures and three channels.
    assert float(seen.weights[0]) == pytest.approx(20 * float(alpha.square().sum()), rel=0.4)
    assert torch.linalg.eigvalsh(seen.metric).min() > 0


def test_large_opaque_near_splats_are_guessed_to_matter() -> None:
    splats = scene_splats(300, 1)
    weights = guessed_weights(splats)
    louder = guessed_weights(
        replace(splats, opacity_logits=splats.opacity_logits + 1, log_scales=splats.log_scales + 1)
    )
    assert (louder > weights).all()
    assert weights.isfinite().all()
    assert len(guessed_weights(splats.select(torch.zeros(0, dtype=torch.long)))) == 0


def test_even_codebooks_hold_zero_and_reach_far() -> None:
    values = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    codebook, labels = even_codebook(values, 0.05)
    found = torch.tensor(codebook)[torch.from_numpy(labels).long()]
    assert 0.0 in codebook
    assert (found - values).abs().max() < 0.0251
    values[7, 1] = 1e6
    codebook, labels = even_codebook(values, 0.05)
    error = (torch.tensor(codebook)[torch.from_numpy(labels).long()] - values).abs()
    assert (error < 0.0251).float().mean() > 0.999
    constant, labels = even_codebook(torch.full((5, 3), 0.7), 0.05)
    assert abs(constant[labels[0, 0]] - 0.7) < 0.0251


def test_the_files_are_as_the_specification_says(tmp_path: Path) -> None:
    write_sog(scene_splats(1000, 2, antialiased=True), tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        meta = json.loads(archive.read("meta.json"))
        assert set(archive.namelist()) == {"meta.json", *(file for part in meta.values() if isinstance(part, dict)
                                                          for file in part.get("files", []))}  # fmt: skip
    assert (meta["version"], meta["count"], meta["antialias"]) == (2, 1000, True)
    assert [len(meta[name]["codebook"]) for name in ("scales", "sh0", "shN")] == [256] * 3
    assert meta["shN"]["bands"] == 2
    assert meta["shN"]["count"] % 64 == 0
    assert len(meta["means"]["mins"]) == len(meta["means"]["maxs"]) == 3
