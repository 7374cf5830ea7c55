# SPDX-License-Identifier: Apache-2.0
"""The tab "Edit": select, delete, hide, crop, clean, move, level and scale.

The edits are a list beside the run; see `recon.edits`.  They are saved as they are made, and whoever looks at the run
sees the same ones; the tool in hand is each browser's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.edits import (
    Delete,
    Everything,
    Hide,
    Invert,
    Isolate,
    Lasso,
    Operation,
    PinholeView,
    Select,
    SelectNone,
    ShowAll,
    describe,
)
from recon.edits.operations import Mode
from recon.errors import ReconError
from recon.viewers.editing.align import AlignControls
from recon.viewers.editing.pointer_tools import LassoTool, RectangleTool
from recon.viewers.editing.session import EditSession, notify
from recon.viewers.editing.shapes import ShapeGizmo
from recon.viewers.editing.values import FloaterControls, ValueControls

if TYPE_CHECKING:
    from recon.cameras import Camera
    from recon.viewers.viewer import Viewer

MODES: dict[str, Mode] = {"New": "replace", "Add": "add", "Subtract": "subtract", "Intersect": "intersect"}

HISTORY_SHOWN = 8

Shortcut = tuple[str, str, str | None]

SHORTCUTS: dict[str, Shortcut] = {
    "undo": ("Undo the last edit", "Z", "cmd/ctrl"),
    "redo": ("Redo", "Z", "cmd/ctrl+shift"),
    "redo too": ("Redo (as on Windows)", "Y", "cmd/ctrl"),
    "delete": ("Delete the selected splats", "delete", None),
    "delete too": ("Delete the selected splats (backspace)", "backspace", None),
    "all": ("Select all splats", "A", "cmd/ctrl"),
    "none": ("Select nothing", "A", "cmd/ctrl+shift"),
    "invert": ("Invert the selection", "I", "cmd/ctrl"),
    "hide": ("Hide the selected splats", "H", "shift"),
    "show": ("Show all hidden splats", "H", "alt"),
    "rectangle": ("Select by a rectangle", "R", "shift"),
    "lasso": ("Select by a lasso", "L", "shift"),
    "put down": ("Put the tool down", "escape", None),
    "finish": ("Finish the tool", "enter", None),
}
"""What it does, the key and the modifier, by the name of the action."""


def shortcut_rows() -> list[tuple[str, str]]:
    """Returns the keys and what they do, for the help; keys that do the same stand together."""
    names = {"cmd/ctrl": "Ctrl", "shift": "Shift", "alt": "Alt", "delete": "Delete", "backspace": "Backspace"}
    names |= {"escape": "Escape", "enter": "Enter"}
    rows: dict[str, list[str]] = {}
    for action, (label, key, modifier) in SHORTCUTS.items():
        keys = [*(modifier.split("+") if modifier else []), key]
        text = SHORTCUTS[action.removesuffix(" too")][0] if action.endswith(" too") else label
        rows.setdefault(text, []).append(" + ".join(names.get(part, part) for part in keys))
    return [(" · ".join(keys), text) for text, keys in rows.items()]


class EditPanel:
    """Controls of the edits; a viewer without splats, or one of a training, has no such tab."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.session: EditSession | None = None
        self._commands: list[Any] = []
        self._shape: ShapeGizmo | None = None
        self._sliders: list[FloaterControls | ValueControls] = []
        content = viewer.content
        if content.splats is None or not len(content.splats) or content.renderer is not None:
            return
        gui = viewer.server.gui
        with viewer.tabs["Edit"]:
            try:
                self.session = EditSession(viewer)
            except ReconError as error:
                gui.add_markdown(f"**The edits cannot be used.** {error.found}. Mend or remove the file; nothing of it "
                                 "was changed.")  # fmt: skip
                return
            self._add_history(gui)
            self._add_selection(gui)
            self._add_actions(gui)
            self.floaters = FloaterControls(viewer, self.session)
            self.values = ValueControls(viewer, self.session, lambda: self.mode)
            self._sliders = [self.floaters, self.values]
            self.align = AlignControls(viewer, self.session)
        self._add_shortcuts(gui)
        self.session.on_change(self._show)
        self._show()

    def close(self) -> None:
        """Ends the session; what was edited is saved already."""
        for controls in self._sliders:
            controls.close()
        if self.session is not None:
            self.session.close()

    @property
    def mode(self) -> Mode:
        """How what is selected next goes with the selection."""
        return MODES[self._mode.value]

    def draw(self, client: Any, what: str) -> None:
        """Gives a browser the rectangle or the lasso."""
        tool = RectangleTool if what == "rectangle" else LassoTool
        self._viewer.pointer.take(client, tool(self._viewer, self._drawn))

    def put_down(self, client: Any) -> None:
        """Puts a browser's tool down, and away what is previewed."""
        assert self.session is not None
        self._viewer.pointer.put_down(client)
        self.show_shape(None)
        if self.session.previewed is not None:
            self.session.preview(None)

    def show_shape(self, kind: str | None) -> None:
        """Shows the box or the sphere that selects, or takes it away."""
        assert self.session is not None
        if self._shape is not None:
            self._shape.close()
            self._shape = None
            self.session.preview(None)
        for control in self._shape_controls:
            control.visible = kind is not None
        if kind is None:
            return
        stage = self._viewer.stage
        edges = np.full(3, 0.8 * stage.extent)
        size = edges if kind == "box" else 0.5 * edges
        self._size.visible, self._radius.visible = kind == "box", kind == "sphere"
        self._size.value = (float(edges[0]), float(edges[1]), float(edges[2]))
        self._radius.value = float(size[0])
        kind_of_shape: Any = kind
        self._shape = ShapeGizmo(self._viewer, kind_of_shape, stage.focus, size, self._preview_shape)
        self._preview_shape()

    @property
    def shape(self) -> ShapeGizmo | None:
        """The box or sphere that stands in the scene."""
        return self._shape

    def apply_shape(self, client: Any, action: str) -> None:
        """Selects the inside of the shape, keeps it, or deletes it."""
        assert self.session is not None
        if self._shape is None:
            return
        rule = self._shape.rule
        made: dict[str, Operation] = {
            "Select": Select(rule, self.mode),
            "Keep inside": Delete(rule, outside=True),
            "Delete inside": Delete(rule),
        }
        self.session.do(client, made[action])
        self.show_shape(None)

    def _add_history(self, gui: Any) -> None:
        self._status = gui.add_markdown("")
        group = gui.add_button_group("History", ("Undo", "Redo"), hint="Ctrl+Z and Ctrl+Shift+Z, to any depth")
        assert self.session is not None
        session = self.session
        actions = {"Undo": session.undo, "Redo": session.redo}
        group.on_click(lambda event: actions[event.target.value](event.client))

    def _add_selection(self, gui: Any) -> None:
        with gui.add_folder("Select"):
            self._mode = gui.add_dropdown(
                "Mode",
                tuple(MODES),
                hint="How the next selection goes with the one there is. While you draw, Shift adds and Alt subtracts.",
            )
            self._visible_only = gui.add_checkbox(
                "Only what is in front", False, hint="Leave out splats behind the surface that you see"
            )
            draw = gui.add_button_group("Draw", ("Rectangle", "Lasso"))
            draw.on_click(lambda event: self.draw(event.client, event.target.value.lower()))
            shape = gui.add_button_group("Shape", ("Box", "Sphere"), hint="Drag its arrows, rings and squares")
            shape.on_click(lambda event: self.show_shape(event.target.value.lower()))
            unit = 10.0 ** np.floor(np.log10(self._viewer.stage.extent))
            least, step = (float(unit) * 1e-3,) * 3, float(unit) * 0.02
            self._size = gui.add_vector3("Box size", (1.0, 1.0, 1.0), min=least, step=step)
            self._radius = gui.add_number("Radius", 1.0, min=least[0], step=step)
            apply = gui.add_button_group("Inside", ("Select", "Keep inside", "Delete inside"))
            drop = gui.add_button("Put the shape away")
            self._shape_controls = (self._size, self._radius, apply, drop)
            for control in self._shape_controls:
                control.visible = False
            self._size.on_update(lambda event: self._resize(np.asarray(self._size.value)))
            self._radius.on_update(lambda event: self._resize(np.full(3, self._radius.value)))
            apply.on_click(lambda event: self.apply_shape(event.client, event.target.value))
            drop.on_click(lambda event: self.show_shape(None))
            whole = gui.add_button_group("All", ("All", "None", "Invert"))
            made: dict[str, Operation] = {"All": Select(Everything()), "None": SelectNone(), "Invert": Invert()}
            whole.on_click(lambda event: self._do(event.client, made[event.target.value]))

    def _add_actions(self, gui: Any) -> None:
        with gui.add_folder("Selected splats"):
            for label, operation, color in (
                ("Delete", Delete(), "red"),
                ("Keep these, delete the rest", Delete(outside=True), None),
            ):
                button = gui.add_button(label, color=color)
                button.on_click(self._doer(operation))
            shown = gui.add_button_group(
                "Show", ("Hide", "Isolate", "Show all"), hint="Hidden splats are exported all the same"
            )
            made: dict[str, Operation] = {"Hide": Hide(), "Isolate": Isolate(), "Show all": ShowAll()}
            shown.on_click(lambda event: self._do(event.client, made[event.target.value]))

    def _add_shortcuts(self, gui: Any) -> None:
        assert self.session is not None
        session, pointer = self.session, self._viewer.pointer
        actions: dict[str, Callable[[Any], None]] = {
            "undo": session.undo,
            "redo": session.redo,
            "redo too": session.redo,
            "delete": lambda client: self._delete(client),
            "delete too": lambda client: self._delete(client),
            "all": lambda client: self._do(client, Select(Everything())),
            "none": lambda client: self._do(client, SelectNone()),
            "invert": lambda client: self._do(client, Invert()),
            "hide": lambda client: self._do(client, Hide()),
            "show": lambda client: self._do(client, ShowAll()),
            "rectangle": lambda client: self.draw(client, "rectangle"),
            "lasso": lambda client: self.draw(client, "lasso"),
            "put down": self.put_down,
            "finish": pointer.finish,
        }
        for name, (label, key, modifier) in SHORTCUTS.items():
            command: Any = gui.add_command(label, hotkey=key, modifier=modifier)
            action = actions[name]
            command.on_trigger(lambda event, action=action: action(event.client))
            self._commands.append(command)

    def _doer(self, operation: Operation) -> Callable[[Any], None]:
        return lambda event: self._do(event.client, operation)

    def _do(self, client: Any, operation: Operation) -> None:
        assert self.session is not None
        needs_selection = isinstance(operation, (Hide, Isolate)) or (
            isinstance(operation, Delete) and operation.rule is None
        )
        if needs_selection and not self.session.state.selected.any():
            notify(client, "Nothing is selected", "Select splats first: draw around them, or by value.", "yellow", 4.0)
            return
        self.session.do(client, operation)

    def _delete(self, client: Any) -> None:
        """The key deletes the selection; with none it does nothing, without a word."""
        assert self.session is not None
        if self.session.state.selected.any():
            self.session.do(client, Delete())

    def _drawn(self, client: Any, camera: Camera, polygon: Any, modifier: str | None) -> None:
        held: dict[str | None, Mode] = {"shift": "add", "alt": "subtract"}
        assert self.session is not None
        session = self.session
        # Tenths of pixels are more than a hand can do, and make the file a third as long.
        corners = tuple((round(x, 1), round(y, 1)) for x, y in polygon)

        def select() -> None:
            rule = Lasso(corners, PinholeView.of(camera), bool(self._visible_only.value))
            session.editor.do(Select(rule, held.get(modifier, self.mode)))

        session.attempt(client, select)

    def _resize(self, size: Any) -> None:
        if self._shape is not None:
            self._shape.resize(size)
            self._preview_shape()

    def _preview_shape(self) -> None:
        shape, session = self._shape, self.session
        if shape is not None and session is not None:
            session.attempt(None, lambda: session.preview(shape.rule))

    def _show(self) -> None:
        """Brings the status and the history to what is so."""
        assert self.session is not None
        self._status.content = status_text(self.session)


def status_text(session: EditSession) -> str:
    """Returns what is selected and what was edited, in markdown."""
    editor, state = session.editor, session.state
    left = int((~state.deleted).sum())
    hidden = int((state.hidden & ~state.deleted).sum())
    if session.previewed is None:
        lines = [f"**{int(state.selected.sum()):,}** of {left:,} splats selected"]
    else:
        lines = [f"**{session.previewed:,}** of {left:,} splats would be selected"]
    facts = []
    if left < len(state.deleted):
        facts.append(f"{len(state.deleted) - left:,} deleted")
    if hidden:
        facts.append(f"{hidden:,} hidden")
    if facts:
        lines.append(" · ".join(facts))
    if editor.problem:
        lines.append(f"⚠ {editor.problem}")
    done = len(editor.edits)
    entries = [
        f"{'~~' if index > done else ''}{index}. {describe(operation)}{'~~' if index > done else ''}"
        for index, operation in enumerate(editor.edits.operations, 1)
    ]
    start = max(0, min(done, len(entries)) - HISTORY_SHOWN + 2)
    shown = entries[start : start + HISTORY_SHOWN]
    if shown:
        more = f"*{start} earlier*  \n" if start else ""
        lines.append(more + "  \n".join(shown))
    else:
        lines.append("*No edits yet. They are saved as you make them; the original stays as it is.*")
    return "\n\n".join(lines)
