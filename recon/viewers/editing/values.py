# SPDX-License-Identifier: Apache-2.0
"""Selecting by numbers: floaters first of all, then opacity, size, shape and colour; with a live preview."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.edits import ColorNear, Delete, Range, Select
from recon.edits.masks import values_of
from recon.edits.operations import Mode
from recon.edits.rules import Rule
from recon.viewers.editing.session import EditSession
from recon.viewers.later import Later

if TYPE_CHECKING:
    from recon.viewers.viewer import Viewer

ATTRIBUTES = {"Opacity": "opacity", "Size": "size", "Elongation": "elongation", "Floater score": "floater"}


class FloaterControls:
    """One slider and one button: what most captures need."""

    def __init__(self, viewer: Viewer, session: EditSession) -> None:
        self._session = session
        gui = viewer.server.gui
        with gui.add_folder("Floaters"):
            self.slider = gui.add_slider(
                "At least",
                0.05,
                1.0,
                0.01,
                0.5,
                hint="Score of specks and veils that no surface supports: 0.5 is cautious, lower finds more",
            )
            self.buttons = gui.add_button_group("These", ("Show", "Select", "Delete"))
        self._later = Later(self._preview)
        self.slider.on_update(lambda event: self._later.ask())
        self.buttons.on_click(lambda event: self.act(event.client, event.target.value))

    @property
    def rule(self) -> Range:
        """The splats with at least the slider's score."""
        return Range("floater", float(self.slider.value), 1.0)

    def close(self) -> None:
        """Forgets a preview that was asked for."""
        self._later.close()

    def act(self, client: Any, action: str) -> None:
        """Shows, selects or deletes floaters."""
        self._later.forget()
        if action == "Show":
            self._session.attempt(client, self._preview)
        elif action == "Select":
            self._session.do(client, Select(self.rule))
        else:
            self._session.do(client, Delete(self.rule))

    def _preview(self) -> None:
        self._session.preview(self.rule)


class ValueControls:
    """A range of a number, or colours near one."""

    def __init__(self, viewer: Viewer, session: EditSession, mode: Callable[[], Mode]) -> None:
        self._session, self._mode = session, mode
        gui = viewer.server.gui
        with gui.add_folder("Select by value", expand_by_default=False):
            self.attribute = gui.add_dropdown("Value", (*ATTRIBUTES, "Colour"))
            self.range = gui.add_multi_slider(
                "Percent", 0.0, 100.0, 0.1, (0.0, 10.0), hint="Of the splats in order of this value, smallest first"
            )
            self.color = gui.add_rgb("Colour", (128, 128, 128))
            self.tolerance = gui.add_slider("Tolerance", 0.0, 1.0, 0.01, 0.2)
            self.text = gui.add_markdown("")
            buttons = gui.add_button_group("These", ("Show", "Select"))
        self._later = Later(self.preview)
        for control in (self.range, self.color, self.tolerance):
            control.on_update(lambda event: self._later.ask())
        self.attribute.on_update(lambda event: self._switched())
        buttons.on_click(lambda event: self.act(event.client, event.target.value))
        self._switched(show=False)

    @property
    def rule(self) -> Rule:
        """What the controls say."""
        if self.attribute.value == "Colour":
            red, green, blue = (part / 255 for part in self.color.value)
            return ColorNear((red, green, blue), float(self.tolerance.value))
        name: Any = ATTRIBUTES[self.attribute.value]
        low, high = self._limits(name)
        return Range(name, low, high)

    def close(self) -> None:
        """Forgets a preview that was asked for."""
        self._later.close()

    def act(self, client: Any, action: str) -> None:
        """Shows what would be selected, or selects it."""
        self._later.forget()
        if action == "Show":
            self._session.attempt(client, self.preview)
        else:
            self._session.attempt(client, lambda: self._session.editor.do(Select(self.rule, self._mode())))

    def preview(self) -> None:
        """Shows what would be selected."""
        rule = self.rule
        self._describe(rule)
        self._session.preview(rule)

    def _limits(self, name: str) -> tuple[float, float]:
        """Returns the values at the slider's percentages of the splats that are left."""
        state = self._session.state
        values = values_of(name, state.untouched, state.base, state.world)[~state.deleted]
        if not len(values):
            return 0.0, 0.0
        low, high = np.percentile(np.nan_to_num(values, nan=0.0, posinf=1e9), np.asarray(self.range.value))
        return float(np.clip(low, 0, 1e9)), float(np.clip(high, 0, 1e9))

    def _switched(self, show: bool = True) -> None:
        is_color = self.attribute.value == "Colour"
        self.range.visible = not is_color
        self.color.visible = self.tolerance.visible = is_color
        if show:
            self.preview()
        else:
            self._describe(None)

    def _describe(self, rule: Rule | None) -> None:
        if isinstance(rule, Range):
            self.text.content = f"{self.attribute.value} {rule.low:.3g} to {rule.high:.3g}"
        else:
            self.text.content = ""
