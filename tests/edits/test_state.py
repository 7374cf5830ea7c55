# SPDX-License-Identifier: Apache-2.0
"""What each operation does, and undoing to any depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.cameras import Camera, look_at
from recon.edits import (
    Box,
    ColorNear,
    Delete,
    EditList,
    EditState,
    Everything,
    Hide,
    Indices,
    Invert,
    Isolate,
    Lasso,
    PinholeView,
    Range,
    Select,
    SelectNone,
    ShowAll,
    Sphere,
    Transform,
    apply_edits,
    meters_per_unit,
    replay,
    world_of,
)
from recon.edits.masks import inside_polygon
from recon.edits.operations import Operation
from recon.edits.rules import fingerprint_of
from recon.errors import ReconError
from recon.scene import Similarity
from recon.splat_transform import quaternion_of, transform_splats
from recon.splats import Splats

TURN = Rotation.from_euler("xyz", [0.3, 0.7, -1.2]).as_matrix()
w, x, y, z = (float(part) for part in quaternion_of(TURN))
TURN_WXYZ = (w, x, y, z)


def selected(splats: Splats, *operations: Operation) -> np.ndarray:
    return replay(splats, EditList(operations)).selected


def test_without_edits_the_very_same_splats_come_back(splats: Splats) -> None:
    assert apply_edits(splats, EditList()) is splats
    assert apply_edits(splats, EditList((Delete(Everything()),)).undo()) is splats


def test_a_box_is_oriented(splats: Splats) -> None:
    means = splats.means.numpy().astype(float)
    found = selected(splats, Select(Box((0.2, 0.1, 0), (2, 1, 1.5), TURN_WXYZ)))
    local = (means - [0.2, 0.1, 0]) @ TURN
    expected = (np.abs(local) <= [1, 0.5, 0.75]).all(1)
    assert 5 < expected.sum() < 200
    np.testing.assert_array_equal(found, expected)


def test_a_sphere(splats: Splats) -> None:
    expected = np.linalg.norm(splats.means.numpy() - [0.5, 0, 0], axis=1) <= 0.9
    np.testing.assert_array_equal(selected(splats, Select(Sphere((0.5, 0, 0), 0.9))), expected)


@pytest.mark.parametrize("outside", [False, True])
def test_a_crop_deletes_the_inside_or_the_outside(splats: Splats, outside: bool) -> None:
    inside = np.linalg.norm(splats.means.numpy(), axis=1) <= 1
    left = apply_edits(splats, EditList((Delete(Sphere((0, 0, 0), 1.0), outside),)))
    np.testing.assert_array_equal(left.means.numpy(), splats.means.numpy()[inside if outside else ~inside])
    assert torch.equal(left.sh, splats.sh[torch.from_numpy(inside if outside else ~inside)])


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("opacity", lambda s: s.opacities),
        ("size", lambda s: s.scales.max(1).values),
        ("elongation", lambda s: s.scales.max(1).values / s.scales.median(1).values),
    ],
)
def test_ranges(splats: Splats, attribute: str, values: object) -> None:
    numbers = values(splats).numpy()  # type: ignore[operator]
    low, high = np.quantile(numbers, [0.2, 0.6])
    found = selected(splats, Select(Range(attribute, float(low), float(high))))  # type: ignore[arg-type]
    assert abs(found.mean() - 0.4) < 0.02
    np.testing.assert_array_equal(found, (numbers >= low * (1 - 1e-6)) & (numbers <= high * (1 + 1e-6)))


def test_colours(splats: Splats) -> None:
    near = np.linalg.norm(splats.base_colors.numpy() - [0.5, 0.5, 0.5], axis=1) <= 0.1
    assert near.any()
    np.testing.assert_array_equal(selected(splats, Select(ColorNear((0.5, 0.5, 0.5), 0.1))), near)


def test_selections_combine_as_sets_do(splats: Splats) -> None:
    one, other = Sphere((0.4, 0, 0), 1.0), Box((-0.4, 0, 0), (2, 2, 2))
    a, b = selected(splats, Select(one)), selected(splats, Select(other))
    for mode, expected in {"replace": b, "add": a | b, "subtract": a & ~b, "intersect": a & b}.items():
        np.testing.assert_array_equal(selected(splats, Select(one), Select(other, mode)), expected)  # type: ignore[arg-type]
    np.testing.assert_array_equal(selected(splats, Select(one), Invert()), ~a)
    assert not selected(splats, Select(one), SelectNone()).any()
    assert selected(splats, Select(Everything())).all()


def test_deleting_the_selection_and_hiding(splats: Splats) -> None:
    ball = Sphere((0, 0, 0), 1.0)
    inside = selected(splats, Select(ball))
    state = replay(splats, EditList((Select(ball), Delete())))
    assert not state.selected.any()
    assert len(state.edited) == (~inside).sum()
    hidden = replay(splats, EditList((Select(ball), Hide(), Select(Everything()))))
    np.testing.assert_array_equal(hidden.selected, ~inside)
    assert (len(hidden.shown), len(hidden.edited)) == ((~inside).sum(), len(splats))
    isolated = replay(splats, EditList((Select(ball), Isolate())))
    np.testing.assert_array_equal(isolated.seen, inside)
    np.testing.assert_array_equal(isolated.selected, inside)
    # What is hidden survives a deletion of everything that is seen.
    assert len(replay(splats, EditList((Select(ball), Hide(), Delete(Everything())))).edited) == inside.sum()
    assert replay(splats, EditList((Select(ball), Hide(), ShowAll()))).seen.all()


def test_moves_of_the_scene_gather_and_take_rules_along(splats: Splats) -> None:
    first = Transform.of(Similarity(2.0, TURN, np.array([1.0, 2, 3])))
    second = Transform(0.25, (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 5.0))
    edits = EditList((first, second))
    world = world_of(edits)
    points = splats.means.double().numpy()
    np.testing.assert_allclose(world.apply(points), second.similarity.apply(first.similarity.apply(points)), atol=1e-12)
    moved = apply_edits(splats, edits)
    torch.testing.assert_close(moved.means, transform_splats(splats, world).means)
    # The same ball, said in the new world, and sizes there.
    center = world.apply(np.array([0.4, 0, 0]))
    ball = Sphere(tuple(center.tolist()), 1.0 * world.scale)
    np.testing.assert_array_equal(
        selected(splats, first, second, Select(ball)), selected(splats, Select(Sphere((0.4, 0, 0), 1.0)))
    )
    np.testing.assert_array_equal(
        selected(splats, first, second, Select(Range("size", 0.05, 0.1))),
        selected(splats, Select(Range("size", 0.1, 0.2))),
    )


def test_a_hundred_moves_round_as_one(splats: Splats) -> None:
    step = Transform.of(Similarity(1.02, Rotation.from_rotvec([0.05, 0.02, -0.03]).as_matrix(), np.array([0.1, 0, 0])))
    back = Transform.of(step.similarity.inverse())
    there_and_back = apply_edits(splats, EditList((step,) * 50 + (back,) * 50))
    torch.testing.assert_close(there_and_back.means, splats.means, atol=2e-6, rtol=0)


def test_moving_the_selection_moves_it_alone_in_the_world_as_moved(splats: Splats) -> None:
    scene = Transform.of(Similarity(0.5, TURN, np.array([1.0, 0, 0])))
    ball = Sphere((1.0, 0, 0), 0.5)
    part = Transform.of(Similarity(1.5, TURN, np.array([0.0, 3, 0])), target="selection")
    inside = torch.from_numpy(selected(splats, scene, Select(ball)))
    moved = apply_edits(splats, EditList((scene, Select(ball), part)))
    before = apply_edits(splats, EditList((scene,)))
    expected = transform_splats(before, part.similarity)
    for name in ("means", "log_scales", "sh"):
        torch.testing.assert_close(getattr(moved, name)[inside], getattr(expected, name)[inside], atol=1e-5, rtol=1e-5)
        assert torch.equal(getattr(moved, name)[~inside], getattr(before, name)[~inside])
    assert np.array_equal(world_of(EditList((scene, Select(ball), part))).rotation, scene.similarity.rotation)
    shifted = replay(splats, EditList((scene, Select(ball), Transform(translation=(0, 0, 1.0), target="selection"))))
    assert torch.equal(shifted.base.sh, splats.sh)


def test_the_metric_scale() -> None:
    metric = Transform(scale=0.4, purpose="scale")
    assert meters_per_unit(EditList((metric,)), None) == 1.0
    assert meters_per_unit(EditList((metric, Transform(scale=2.0))), None) == 0.5
    assert meters_per_unit(EditList((Transform(scale=2.0),)), 3.0) == 1.5
    assert meters_per_unit(EditList((Transform(scale=2.0),)), None) is None
    assert meters_per_unit(EditList((metric,)).undo(), 7.0) == 7.0


def test_moves_beyond_all_numbers_are_refused() -> None:
    with pytest.raises(ReconError, match="scale becomes"):
        world_of(EditList((Transform(scale=1e6),) * 3))


def test_a_lasso_takes_what_is_seen_inside_it(splats: Splats) -> None:
    pose = look_at(np.array([0.0, -6, 0]), np.zeros(3), np.array([0.0, 0, 1]))
    camera = Camera(200, 160, 150, 150, 100, 80, cam_from_world=pose)
    triangle = ((60.0, 40.0), (140.0, 50.0), (100.0, 130.0))
    found = selected(splats, Select(Lasso(triangle, PinholeView.of(camera))))
    pixels, depths = camera.project(splats.means.double().numpy())

    def side(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
        return (end[0] - start[0]) * (pixels[:, 1] - start[1]) - (end[1] - start[1]) * (pixels[:, 0] - start[0])

    sides = np.stack([side(triangle[i], triangle[(i + 1) % 3]) > 0 for i in range(3)])
    np.testing.assert_array_equal(found, sides.all(0) & (depths > 0))
    assert 10 < found.sum() < 300


def wall_before_wall(dtype: torch.dtype = torch.float32) -> Splats:
    """Two walls of 20×20 opaque splats, at y = 0 and y = 2."""
    line = torch.linspace(-1, 1, 20, dtype=dtype)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    means = torch.cat([torch.stack([grid[:, 0], torch.full((400,), depth), grid[:, 1]], 1) for depth in (0.0, 2.0)])
    return Splats(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(800, 1),
        torch.full((800, 3), 0.07).log(),
        torch.full((800,), 5.0),
        torch.zeros(800, 1, 3),
    )


@pytest.mark.parametrize("world", [Similarity(), Similarity(3.0, TURN, np.array([5.0, -1, 2]))])
def test_a_lasso_of_what_is_visible_leaves_out_what_is_behind(world: Similarity) -> None:
    walls = wall_before_wall()
    pose = look_at(np.array([0.0, -4, 0]), np.zeros(3), np.array([0.0, 0, 1]))
    camera = Camera(200, 200, 250, 250, 100, 100, cam_from_world=world.apply_to_pose(pose))
    window = ((70.0, 70.0), (130.0, 70.0), (130.0, 130.0), (70.0, 130.0))
    view = PinholeView.of(camera)
    moved = Transform.of(world)
    through = selected(walls, moved, Select(Lasso(window, view)))
    front = selected(walls, moved, Select(Lasso(window, view, visible_only=True)))
    assert through[400:].any()
    np.testing.assert_array_equal(front[:400], through[:400])
    assert not front[400:].any()
    # With the front wall deleted or hidden the back one is what is seen.
    for away in (Delete(), Hide()):
        ball = Select(Indices.of(np.arange(800) < 400, fingerprint_of(walls)))
        behind = selected(walls, moved, ball, away, Select(Lasso(window, view, visible_only=True)))
        np.testing.assert_array_equal(behind[400:], through[400:])


def test_polygons_by_the_even_odd_rule_agree_with_a_picture_of_them() -> None:
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(0)
    for corners in (3, 5, 12):
        polygon = generator.uniform(0, 100, (corners, 2))
        picture = Image.new("1", (800, 800))
        ImageDraw.Draw(picture).polygon([tuple(8 * corner) for corner in polygon], fill=1)
        points = generator.uniform(-5, 105, (3000, 2))
        found = inside_polygon(points, polygon)
        pixel = (points * 8).astype(int).clip(0, 799)
        drawn = np.array(picture)[pixel[:, 1], pixel[:, 0]]
        drawn &= ((points >= 0) & (points <= 100)).all(1)
        assert (found != drawn).mean() < 0.012, corners
    assert not inside_polygon(np.array([[np.nan, 1.0]]), np.array([[0, 0], [2, 0], [1, 2.0]])).any()


def test_a_list_of_splats_fits_these_splats_alone(splats: Splats) -> None:
    mask = np.arange(400) % 3 == 0
    rule = Indices.of(mask, fingerprint_of(splats))
    np.testing.assert_array_equal(selected(splats, Select(rule)), mask)
    retrained = transform_splats(splats, Similarity(1.001))
    with pytest.raises(ReconError, match="boxes, lassos and ranges stay valid"):
        replay(retrained, EditList((Select(rule),)))
    assert selected(retrained, Select(Sphere((0, 0, 0), 1.0))).any()


def test_the_fingerprint_survives_the_way_through_a_file(splats: Splats, tmp_path: object) -> None:
    from recon.formats.splat_ply import read_splat_ply, write_splat_ply

    write_splat_ply(splats, tmp_path / "a.ply")  # type: ignore[operator]
    assert fingerprint_of(read_splat_ply(tmp_path / "a.ply")) == fingerprint_of(splats)  # type: ignore[operator]
    assert fingerprint_of(splats.select(torch.arange(399))) != fingerprint_of(splats)


NUMBERS = st.floats(-2, 2)
RULES = st.one_of(
    st.builds(Sphere, st.tuples(NUMBERS, NUMBERS, NUMBERS), st.floats(0, 3)),
    st.builds(Box, st.tuples(NUMBERS, NUMBERS, NUMBERS), st.tuples(*[st.floats(0, 4)] * 3)),
    st.builds(Range, st.sampled_from(["opacity", "size", "floater"]), st.floats(0, 0.5), st.floats(0, 1)),
    st.just(Everything()),
)
EDITS = st.one_of(
    st.builds(Select, RULES, st.sampled_from(["replace", "add", "subtract", "intersect"])),
    st.builds(Delete, st.one_of(st.none(), RULES), st.booleans()),
    st.sampled_from([Invert(), SelectNone(), Hide(), Isolate(), ShowAll()]),
    st.builds(
        Transform,
        scale=st.floats(0.5, 2),
        translation=st.tuples(NUMBERS, NUMBERS, NUMBERS),
        target=st.sampled_from(["scene", "selection"]),
    ),
)
STEPS = st.lists(st.one_of(EDITS, EDITS, EDITS, st.just("undo"), st.just("redo")), max_size=25)


def same(one: EditState, other: EditState) -> bool:
    masks = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("deleted", "hidden", "selected"))
    return masks and torch.equal(one.moved.means, other.moved.means) and torch.equal(one.base.sh, other.base.sh)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(steps=STEPS)
def test_undo_and_redo_to_any_depth(splats: Splats, steps: list[Operation | str]) -> None:
    few = splats.select(torch.arange(60))
    from recon.edits.masks import Untouched

    untouched = Untouched(few)
    edits = EditList()
    # The model: the states that were passed through, and the place among them.
    history, place = [EditState.of(untouched)], 0
    for step in steps:
        if step == "undo":
            edits, place = edits.undo(), max(0, place - 1)
        elif step == "redo":
            edits, place = edits.redo(), min(len(history) - 1, place + 1)
        else:
            edits = edits.then(step)  # type: ignore[arg-type]
            history = history[: place + 1] + [history[place].then(step)]  # type: ignore[arg-type]
            place += 1
        assert len(edits) == place
        assert same(replay(untouched, edits), history[place])
    state = replay(untouched, edits)
    assert not (state.selected & (state.deleted | state.hidden)).any()
    assert replay(untouched, edits.undo(1000)).seen.all()
    assert same(replay(untouched, edits.undo(1000).redo(1000)), history[-1])
