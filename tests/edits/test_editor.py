# SPDX-License-Identifier: Apache-2.0
"""Sessions: edits are saved as they are made, taken up again, and never lost to another program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.edits import (
    Delete,
    EditList,
    Editor,
    EditState,
    Everything,
    Indices,
    Invert,
    Range,
    Select,
    Sphere,
    Transform,
    read_edits,
    replay,
    write_edits,
)
from recon.edits.files import EditsChangedError
from recon.edits.floaters import floater_scores
from recon.edits.rules import fingerprint_of
from recon.edits.scene import edited_scene, ground_from_cloud, ground_from_points, scale_from_distance, up_from_axis
from recon.errors import ReconError
from recon.scene import Similarity
from recon.splats import Splats

BALL = Sphere((0.0, 0.0, 0.0), 1.0)


def test_edits_are_saved_and_taken_up_again(splats: Splats, tmp_path: Path) -> None:
    file = tmp_path / "edits.json"
    editor, told = Editor(splats, file), []
    editor.on_change(lambda: told.append(len(editor.edits)))
    editor.do(Select(BALL))
    editor.do(Delete())
    editor.do(Invert())
    editor.undo()
    assert told == [1, 2, 3, 2]
    assert read_edits(file) == editor.edits
    again = Editor(splats, file)
    assert (len(again.edits), len(again.edits.undone)) == (2, 1)
    assert len(again.state.edited) == len(editor.state.edited) == (splats.means.norm(dim=1) > 1).sum()
    again.redo()
    assert again.state.selected.sum() == len(again.state.edited)


def test_undoing_deeper_than_states_are_kept(splats: Splats) -> None:
    editor = Editor(splats)
    for step in range(60):
        editor.do(Delete(Range("opacity", 0.0, step / 100)))
        editor.do(Transform(translation=(0.1, 0.0, 0.0)))
    editor.undo(90)
    assert len(editor.edits) == 30
    expected = replay(splats, editor.edits)
    np.testing.assert_array_equal(editor.state.deleted, expected.deleted)
    np.testing.assert_array_equal(editor.state.world.translation, expected.world.translation)
    editor.redo(1000)
    assert len(editor.edits) == 120
    editor.undo(50)
    # What was met on the other way must not come back.
    editor.do(Delete(Everything()))
    editor.undo()
    editor.redo()
    assert not len(editor.state.edited)
    editor.undo(1000)
    assert len(editor.state.edited) == len(splats)


def test_another_program_s_edits_are_taken_up_in_place_of_one_s_own(splats: Splats, tmp_path: Path) -> None:
    one, other = Editor(splats, tmp_path / "edits.json"), Editor(splats, tmp_path / "edits.json")
    one.do(Delete(BALL))
    with pytest.raises(EditsChangedError, match="another"):
        other.do(Select(Everything()))
    assert other.edits == one.edits
    assert len(other.state.edited) == len(one.state.edited)
    other.do(Select(Everything()))
    assert one.take_up_changes()
    assert one.edits == other.edits
    assert not one.take_up_changes()


def test_an_edit_that_fails_changes_nothing(splats: Splats, tmp_path: Path) -> None:
    editor = Editor(splats, tmp_path / "edits.json")
    editor.do(Delete(BALL))
    before, state = (tmp_path / "edits.json").read_bytes(), editor.state
    for broken in (Select(Indices.of(np.ones(3, bool), "other")), Transform(scale=1e6)):
        with pytest.raises(ReconError):
            editor.do(broken)
            editor.do(broken)
    editor.undo(len(editor.edits) - 1)
    assert editor.edits.in_force == (Delete(BALL),)
    assert np.array_equal(editor.state.deleted, state.deleted)
    editor.do(Invert())
    editor.undo()
    assert read_edits(tmp_path / "edits.json").in_force == (Delete(BALL),)
    assert before


def test_after_training_anew_rules_stay_and_lists_are_left_out_with_a_word(splats: Splats, tmp_path: Path) -> None:
    file = tmp_path / "edits.json"
    write_edits(
        file, EditList((Delete(BALL), Select(Indices.of(np.ones(400, bool), fingerprint_of(splats))), Delete()))
    )
    assert len(Editor(splats, file).state.edited) == 0
    retrained = replace(splats, means=splats.means + 0.001)
    editor = Editor(retrained, file)
    assert "Edit 2" in editor.problem
    assert editor.edits.in_force == (Delete(BALL),)
    assert 0 < len(editor.state.edited) < 400
    editor.do(Invert())
    assert editor.problem == ""


def test_planted_floaters_are_found(splats: Splats) -> None:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=1)
    floating = torch.rand(60, 3, generator=generator) * 6 - 3
    floating = floating[(floating.norm(dim=1) - 1).abs() > 0.3]
    means = torch.cat([directions, floating])
    count, planted = len(means), len(floating)
    opacities = torch.cat([torch.rand(4000, generator=generator) * 6 - 2, torch.full((planted,), -0.5)])
    scene = Splats(
        means, torch.tensor([1.0, 0, 0, 0]).repeat(count, 1), torch.full((count, 3), -3.5), opacities,
        torch.zeros(count, 1, 3),
    )  # fmt: skip
    scores = floater_scores(scene)
    assert (scores[-planted:] > 0.5).mean() > 0.9
    assert (scores[:-planted] > 0.5).mean() < 0.03
    # No unit of length, no place and no order matters.
    order = torch.randperm(count, generator=generator)
    moved = replace(scene.select(order), means=37 * means[order] + 5, log_scales=scene.log_scales + float(np.log(37)))
    np.testing.assert_allclose(floater_scores(moved), scores[order.numpy()], atol=2e-3)


def test_floater_scores_of_odd_splats(splats: Splats) -> None:
    for count in (0, 1, 2, 3, 5):
        assert floater_scores(splats.select(torch.arange(count))).shape == (count,)
    odd = replace(splats, means=splats.means.clone())
    odd.means[3] = float("nan")
    scores = floater_scores(odd)
    assert scores[3] == 1
    assert np.isfinite(scores).all()
    assert np.isfinite(floater_scores(replace(splats, means=torch.zeros(400, 3)))).all()
    assert np.isfinite(floater_scores(replace(splats, opacity_logits=torch.full((400,), -9.0)))).all()


def tilted_plane(count: int = 500) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    normal = np.array([0.3, -0.2, 0.9]) / np.linalg.norm([0.3, -0.2, 0.9])
    across = np.linalg.svd(normal[None])[2][1:]
    return generator.uniform(-2, 2, (count, 2)) @ across + 1.5 * normal, normal


def test_the_ground_becomes_level_and_zero() -> None:
    plane, normal = tilted_plane()
    for move in (ground_from_points(plane[:3]), ground_from_cloud(plane)):
        np.testing.assert_allclose(move.apply(plane)[:, 2], 0, atol=1e-12)
        assert (move.rotation @ normal)[2] == pytest.approx(1)
    generator = np.random.default_rng(1)
    cluttered = np.concatenate([plane + generator.normal(0, 0.003, plane.shape), generator.uniform(-2, 3, (400, 3))])
    move = ground_from_cloud(cluttered)
    assert np.abs(move.apply(plane)[:, 2]).max() < 0.02
    # Upside down stays upside down only where one says so.
    flipped = ground_from_points(plane[:3], upward=np.array([0.0, 0, -1]))
    assert (flipped.rotation @ normal)[2] == pytest.approx(-1)
    with pytest.raises(ReconError, match="one line"):
        ground_from_points(np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2.0]]))
    with pytest.raises(ReconError, match="at least 3"):
        ground_from_points(np.zeros((2, 3)))


def test_up_axes_and_the_metric_scale(splats: Splats) -> None:
    for axis, vector in {"+x": [1, 0, 0], "-y": [0, -1, 0], "-z": [0, 0, -1]}.items():
        np.testing.assert_allclose(up_from_axis(axis).apply(np.array(vector, float)), [0, 0, 1], atol=1e-12)
    with pytest.raises(ReconError, match="up axis"):
        up_from_axis("sideways")
    points = splats.means[:2].double().numpy()
    edit = scale_from_distance(points[0], points[1], 2.5)
    moved = EditState.of(splats).then(edit).moved.means[:2].double()
    assert float((moved[0] - moved[1]).norm()) == pytest.approx(2.5, rel=1e-5)
    with pytest.raises(ReconError, match="metric scale"):
        scale_from_distance(points[0], points[0], 1.0)


def test_the_scene_follows(tmp_path: Path) -> None:
    from small_scenes import small_scene

    from recon.scene_io import load_scene

    scene = load_scene(small_scene(tmp_path))
    turn = Transform.of(Similarity(1.0, up_from_axis("+x").rotation, np.array([1.0, 2, 3])), purpose="up")
    edits = EditList((turn, Transform(scale=0.5, purpose="scale")))
    moved = edited_scene(scene, edits)
    world = moved.world
    assert (world.meters_per_unit, world.up_is_known) == (1.0, True)
    for before, after in zip(scene.frames, moved.frames, strict=True):
        seen, _ = before.camera.project(scene.points.positions)
        again, _ = after.camera.project(moved.points.positions)
        np.testing.assert_allclose(seen, again, atol=1e-6)
    assert edited_scene(scene, EditList()) is scene
