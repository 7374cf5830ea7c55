# SPDX-License-Identifier: Apache-2.0
"""Editing and measuring in the viewer, as far as no browser is needed for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.edits import (
    Delete,
    Editor,
    EditState,
    Everything,
    Hide,
    Invert,
    Range,
    Select,
    Sphere,
    Transform,
    edits_path,
)
from recon.edits.measurements import Measurement, measurements_path, polygon_area, read_measurements, write_measurements
from recon.errors import ReconError
from recon.formats.splat_ply import write_splat_ply
from recon.scene import Similarity
from recon.viewers.content import Content, load_content
from recon.viewers.editing.measure_panel import MeasurePanel
from recon.viewers.editing.panel import SHORTCUTS, EditPanel, status_text
from recon.viewers.editing.session import HIGHLIGHT, shown_splats
from recon.viewers.editing.shapes import about
from recon.viewers.viewer import Viewer

BALL = Sphere((0.0, 0.0, 0.5), 0.7)


class FakeBrowser:
    """Hears what a browser would be told."""

    client_id = 99

    def __init__(self) -> None:
        self.told: list[str] = []

    def add_notification(self, title: str, text: str, **options: Any) -> None:
        self.told.append(f"{title}: {text}")


def panel(viewer: Viewer, kind: type) -> Any:
    return next(found for found in viewer._panels if isinstance(found, kind))


def settled(viewer: Viewer) -> None:
    import time

    session = panel(viewer, EditPanel).session
    deadline = time.monotonic() + 60
    while not session.is_shown:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def content(world: Any, tmp_path: Path) -> Content:
    return Content("a little world", world.splats, world.scene, edits_path=tmp_path / "edits.json")


@pytest.fixture
def viewer(content: Content) -> Iterator[Viewer]:
    with Viewer(content, port=0, picture="nothing") as opened:
        yield opened


def test_the_selection_has_a_colour_and_the_rest_its_own(world: Any) -> None:
    state = EditState.of(world.splats).then(Select(BALL))
    shown = shown_splats(state, state.selected)
    chosen = torch.from_numpy(state.selected)
    assert torch.equal(shown.sh[~chosen], world.splats.sh[~chosen])
    distance = (shown.base_colors[chosen] - torch.tensor(HIGHLIGHT)).norm(dim=1)
    assert (distance < (world.splats.base_colors[chosen] - torch.tensor(HIGHLIGHT)).norm(dim=1)).all()
    hidden = state.then(Hide())
    assert len(shown_splats(hidden, hidden.selected)) == int((~chosen).sum())


def test_edits_are_shown_saved_and_there_again(viewer: Viewer, content: Content, world: Any) -> None:
    session = panel(viewer, EditPanel).session
    session.do(None, Select(BALL))
    inside = int(((world.splats.means - torch.tensor(BALL.center)).norm(dim=1) <= BALL.radius).sum())
    assert f"**{inside:,}** of {len(world.splats):,} splats selected" in status_text(session)
    session.do(None, Delete())
    settled(viewer)
    left = int((~session.state.deleted).sum())
    assert viewer.splats is not None
    assert len(viewer.splats) == left < len(world.splats)
    assert f"of {left:,} splats" in status_text(session)
    assert "2. Delete the selection" in status_text(session)
    session.undo(None)
    assert "~~2. Delete the selection~~" in status_text(session)
    session.redo(None)
    with Viewer(content, port=0, picture="nothing") as again:
        assert again.splats is not None
        assert len(again.splats) == left


def test_deleting_everything_is_no_trouble(viewer: Viewer) -> None:
    session = panel(viewer, EditPanel).session
    session.do(None, Delete(Everything()))
    settled(viewer)
    assert viewer.splats is not None
    assert len(viewer.splats) == 0
    session.undo(None)
    settled(viewer)
    assert len(viewer.splats) > 0


def test_a_preview_selects_nothing(viewer: Viewer) -> None:
    edit = panel(viewer, EditPanel)
    session = edit.session
    count = session.preview(Range("opacity", 0.0, 1.0))
    assert count == len(session.state.base)
    assert "would be selected" in status_text(session)
    assert not session.editor.edits
    session.preview(None)
    assert session.previewed is None
    edit.values.attribute.value = "Size"
    edit.values.preview()
    assert 0.05 < session.previewed / count < 1
    edit.values.attribute.value = "Colour"
    edit.values.color.value = (230, 38, 26)
    edit.values.act(None, "Select")
    reds = session.state.selected
    assert (session.state.untouched.colors[reds][:, 0] > 0.7).all()
    assert reds.any()


def test_shapes_and_handles_make_the_edits_that_they_show(viewer: Viewer) -> None:
    edit, browser = panel(viewer, EditPanel), FakeBrowser()
    session = edit.session
    edit.show_shape("box")
    edit.shape._handle.position = np.array([0.0, 0.0, 0.5]) * viewer.stage.scale
    edit.shape.resize(np.array([1.2, 1.2, 1.2]))
    edit.apply_shape(None, "Keep inside")
    assert edit.shape is None
    left = session.state.moved.means.numpy()[~session.state.deleted]
    assert np.abs(left - [0, 0, 0.5]).max() <= 0.6 + 1e-6
    session.undo(None)
    edit.align._target.value = "Selected splats"
    edit.align.show_gizmo(browser)
    assert browser.told == ["Nothing to move: Select splats first."]
    session.do(None, Select(BALL))
    edit.align.show_gizmo(browser)
    edit.align.gizmo._handle.position = np.asarray(edit.align.gizmo._handle.position) + [0.0, 0.0, viewer.stage.scale]
    before = session.state.moved.means.numpy().copy()
    edit.align._dragged(browser)
    after = session.state.moved.means.numpy()
    chosen = session.state.selected
    np.testing.assert_allclose(after[chosen] - before[chosen], np.tile([0, 0, 1.0], (chosen.sum(), 1)), atol=1e-5)
    np.testing.assert_array_equal(after[~chosen], before[~chosen])


def test_numbers_move_about_the_middle_of_what_is_moved(viewer: Viewer) -> None:
    align = panel(viewer, EditPanel).align
    focus = np.array(viewer.stage.focus)
    align._turn.value, align._scale.value = (0.0, 0.0, 90.0), 2.0
    align.move(None)
    settled(viewer)
    np.testing.assert_allclose(viewer.world.apply(focus), focus, atol=1e-9)
    assert viewer.world.scale == pytest.approx(2.0)
    assert viewer.scene is not None
    np.testing.assert_allclose(
        viewer.scene.camera_centers, viewer.world.apply(viewer.content.scene.camera_centers), atol=1e-9
    )
    similarity = about(np.array([1.0, 0, 0]), 1.0, np.eye(3), np.array([0.0, 0, 2]))
    np.testing.assert_allclose(similarity.apply(np.zeros(3)), [0, 0, 2])


def test_a_metric_scale_leaves_the_window_as_it_was(viewer: Viewer) -> None:
    session, first = panel(viewer, EditPanel).session, viewer.stage
    positions = viewer.layers["cameras"]._positions.copy()
    session.do(None, Transform(scale=0.01, purpose="scale"))
    settled(viewer)
    assert viewer.meters_per_unit == 1.0
    np.testing.assert_allclose(viewer.stage.focus * viewer.stage.scale, first.focus * first.scale, atol=1e-9)
    assert viewer.stage.extent * viewer.stage.scale == pytest.approx(first.extent * first.scale)
    np.testing.assert_allclose(viewer.layers["cameras"]._positions, positions, atol=1e-9)
    assert viewer.layers["splats"].prepared.node_scale * viewer.layers["splats"]._stage.scale > 0
    session.undo(None)
    settled(viewer)
    assert viewer.stage.scale == first.scale
    assert viewer.meters_per_unit is None


def test_two_viewers_do_not_lose_each_other_s_edits(viewer: Viewer, content: Content) -> None:
    browser = FakeBrowser()
    session = panel(viewer, EditPanel).session
    Editor(content.splats, content.edits_path).do(Delete(BALL))  # type: ignore[arg-type]
    session.do(browser, Select(Everything()))
    assert len(browser.told) <= 1
    assert session.editor.edits.in_force[0] == Delete(BALL)
    assert all("Somebody else" in text for text in browser.told)


def test_a_broken_list_is_told_and_left_alone(content: Content) -> None:
    assert content.edits_path is not None
    content.edits_path.write_text("{}")
    with Viewer(content, port=0, picture="nothing") as opened:
        assert panel(opened, EditPanel).session is None
        assert opened.splats is content.splats
    assert content.edits_path.read_text() == "{}"


def test_actions_on_nothing_say_so(viewer: Viewer) -> None:
    edit, browser = panel(viewer, EditPanel), FakeBrowser()
    for operation in (Delete(), Hide()):
        edit._do(browser, operation)
    edit._delete(browser)
    edit.align.ground_from_selection(browser)
    assert len(browser.told) == 3
    assert not edit.session.editor.edits


def test_no_two_shortcuts_of_the_viewer_share_a_key(viewer: Viewer) -> None:
    commands = viewer.server.gui._command_handle_from_uuid.values()
    keys = [(command.hotkey, command.modifier) for command in commands if command.hotkey is not None]
    assert len(set(keys)) == len(keys)
    assert {(key, modifier) for _, key, modifier in SHORTCUTS.values()} <= set(keys)


def test_a_training_and_a_scene_have_no_edits(world: Any) -> None:
    from recon.rasterization import SplatRenderer

    for shown in (
        Content("a training", world.splats, world.scene, renderer=SplatRenderer(world.splats)),
        Content("a scene", scene=world.scene),
    ):
        with Viewer(shown, port=0, picture="nothing") as opened:
            assert "Edit" not in opened.tabs


def test_edits_of_a_file_lie_beside_it(world: Any, tmp_path: Path) -> None:
    write_splat_ply(world.splats, tmp_path / "scan.ply")
    content = load_content(tmp_path / "scan.ply")
    assert content.edits_path == edits_path(tmp_path / "scan.ply") == tmp_path / "scan.ply.edits.json"
    with Viewer(content, port=0, picture="nothing") as opened:
        panel(opened, EditPanel).session.do(None, Delete(BALL))
        made = Measurement.of("distance", np.eye(3)[:2], opened.world)
        panel(opened, MeasurePanel)._change(None, (made,))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "scan.ply.edits.json",
        "scan.ply.measurements.json",
    ]
    with Viewer(load_content(tmp_path / "scan.ply"), port=0, picture="nothing") as again:
        assert panel(again, MeasurePanel).texts() == ["1.414 units"]
        assert len(again.splats) < len(world.splats)  # type: ignore[arg-type]


def test_measurements() -> None:
    world = Similarity(2.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    area = Measurement.of("area", square, world)
    np.testing.assert_allclose(area.placed(world), square, atol=1e-12)
    assert area.value(world) == pytest.approx(1.0)
    assert area.value(Similarity()) == pytest.approx(0.25)
    assert polygon_area(square[[0, 1, 2]]) == pytest.approx(0.5)
    angle = Measurement.of("angle", square[[1, 0, 3]], world)
    assert angle.text(world, None) == "90.0°"
    way = Measurement.of("distance", square[:3], world)
    assert way.value(world) == pytest.approx(2.0)
    assert way.text(world, None) == "2 units"
    assert way.text(world, 0.2) == "40 cm"
    assert way.text(world, 3.0) == "6 m"
    assert area.text(world, 0.1) == "100 cm²"
    assert area.text(world, 2.0) == "4 m²"


BROKEN = ["", "[]", '{"schema": 1}', '{"schema": 1, "measurements": 3}', '{"schema": 2, "measurements": []}']
BROKEN += [
    f'{{"schema": 1, "measurements": [{entry}]}}'
    for entry in (
        "3",
        '{"kind": "distance"}',
        '{"kind": "volume", "points": [[0,0,0],[1,1,1]]}',
        '{"kind": "distance", "points": [[0,0,0]]}',
        '{"kind": "distance", "points": [[0,0,NaN],[1,1,1]]}',
        '{"kind": "angle", "points": [[0,0,0],[1,1,1],[1,0,0],[0,1,0]]}',
        '{"kind": "area", "points": "no"}',
        '{"kind": "distance", "points": [[0,0,0],[1,1,1]], "name": 1}',
    )
]


@pytest.mark.parametrize("text", BROKEN)
def test_broken_measurements_are_refused_and_never_written_over(text: str, content: Content) -> None:
    assert content.edits_path is not None
    file = measurements_path(content.edits_path)
    file.write_text(text)
    with pytest.raises(ReconError):
        read_measurements(file)


def test_measurements_that_cannot_be_read_stay_as_they_are(content: Content) -> None:
    assert content.edits_path is not None
    file = measurements_path(content.edits_path)
    file.write_text("[]")
    with Viewer(replace(content), port=0, picture="nothing") as opened:
        made = Measurement("distance", ((0, 0, 0), (1, 0, 0)))
        panel(opened, MeasurePanel)._change(None, (made,))
        assert panel(opened, MeasurePanel).texts() == ["1 units"]
    assert file.read_text() == "[]"
    file.unlink()
    write_measurements(file, (made,))
    assert read_measurements(file) == (made,)


def test_invert_keeps_out_what_is_hidden(viewer: Viewer) -> None:
    session = panel(viewer, EditPanel).session
    for operation in (Select(BALL), Hide(), Invert()):
        session.do(None, operation)
    assert not (session.state.selected & session.state.hidden).any()


def test_measurements_of_another_viewer_are_kept(viewer: Viewer, content: Content) -> None:
    measure, browser = panel(viewer, MeasurePanel), FakeBrowser()
    mine, theirs = (Measurement("distance", ((0, 0, 0), (size, 0, 0))) for size in (1, 2))
    measure._change(browser, (mine,))
    assert content.edits_path is not None
    write_measurements(measurements_path(content.edits_path), (mine, theirs))
    measure._change(browser, (*measure.measurements, replace(mine, points=((0, 0, 0), (3, 0, 0)))))
    assert len(measure.measurements) == 3
    assert len(browser.told) == 1
    measure.delete(browser, 0)
    assert len(read_measurements(measurements_path(content.edits_path))) == 2
