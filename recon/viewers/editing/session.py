# SPDX-License-Identifier: Apache-2.0
"""Editing in the viewer: one list of edits for all browsers, and what they see of it.

Edits belong to the run, so whoever looks at it sees the same edits and the same selection; the tool in hand is each
browser's own.  The selection, or a preview of what a slider would select, is shown in a colour of its own by both
renderings.  Pictures are brought up to date by a thread of its own, and only to the latest state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recon.edits import EditList, Editor, Operation, Transform, meters_per_unit
from recon.edits.files import EditsChangedError
from recon.edits.masks import Mask
from recon.edits.rules import Rule
from recon.errors import ReconError
from recon.scene import Similarity
from recon.splats import SH_C0, Splats

if TYPE_CHECKING:
    from recon.edits.state import EditState
    from recon.viewers.viewer import Viewer

HIGHLIGHT = (1.0, 0.72, 0.05)
HIGHLIGHT_SHARE = 0.65
"""How much of a selected splat's colour is the highlight's."""

LOOK_S = 2.0
"""How often the file is looked at, for edits of other programs."""


class EditSession:
    """The edits of what a viewer shows."""

    def __init__(self, viewer: Viewer) -> None:
        """Takes up what was edited before and shows it.

        Raises:
            ReconError: the file of edits cannot be used.
        """
        splats = viewer.content.splats
        assert splats is not None
        self._viewer = viewer
        self.editor = Editor(splats, viewer.content.edits_path)
        self._preview: Mask | None = None
        self._shown_edits, self._shown_zoom = EditList(), 1.0
        self._listeners: list[Callable[[], None]] = []
        self._wanted = threading.Condition()
        self._stale, self._closing, self._busy = False, False, False
        self.editor.on_change(self._edited)
        if self.editor.edits:
            self._show()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._keep_shown, "edits shown"), (self._watch_file, "edits of others"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def state(self) -> EditState:
        """The splats as edited."""
        return self.editor.state

    @property
    def meters_per_unit(self) -> float | None:
        """The metric scale of the world that is shown; None where it is unknown."""
        scene = self._viewer.content.scene
        return meters_per_unit(self.editor.edits, None if scene is None else scene.world.meters_per_unit)

    @property
    def is_shown(self) -> bool:
        """Whether the pictures are up to date with the edits."""
        with self._wanted:
            return not (self._stale or self._busy)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Has `listener` called when the edits or the preview have changed."""
        self._listeners.append(listener)

    def do(self, client: Any, operation: Operation) -> None:
        """Makes an edit for a browser, which is told where it cannot be."""
        self.attempt(client, lambda: self.editor.do(operation))

    def undo(self, client: Any) -> None:
        """Takes the last edit back."""
        self.attempt(client, self.editor.undo)

    def redo(self, client: Any) -> None:
        """Makes the edit again that was taken back last."""
        self.attempt(client, self.editor.redo)

    def attempt(self, client: Any, work: Callable[[], object]) -> bool:
        """Does something that the user may hear an error of; returns whether it went well."""
        try:
            work()
        except ReconError as error:
            title = "Somebody else has edited" if isinstance(error, EditsChangedError) else "That did not work"
            notify(client, title, f"{error.found}. {error.fix}".strip().capitalize(), "red")
            return False
        return True

    def preview(self, rule: Rule | None) -> int:
        """Shows what a rule would select, None the selection itself; returns how many splats match.

        Raises:
            ReconError: the rule does not fit these splats.
        """
        self._preview = None if rule is None else self.state.find(rule)
        self._ask()
        self._tell()
        return 0 if self._preview is None else int(self._preview.sum())

    @property
    def previewed(self) -> int | None:
        """How many splats the preview matches; None without one."""
        return None if self._preview is None else int((self._preview & self.state.seen).sum())

    def close(self) -> None:
        """Ends the threads."""
        with self._wanted:
            self._closing = True
            self._wanted.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def _edited(self) -> None:
        self._preview = None
        self._ask()
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _ask(self) -> None:
        with self._wanted:
            self._stale = True
            self._wanted.notify_all()

    def _keep_shown(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._stale or self._closing)
                if self._closing:
                    return
                self._stale, self._busy = False, True
            try:
                self._show()
            except Exception as error:
                # The thread must outlive what a browser that is just leaving may raise.
                for client in self._viewer.server.get_clients().values():
                    notify(client, "The edits could not be shown", f"{type(error).__name__}: {error}", "red")
            finally:
                with self._wanted:
                    self._busy = False

    def _watch_file(self) -> None:
        """Takes up what another program, or a viewer in another process, has edited."""
        while True:
            with self._wanted:
                if self._wanted.wait_for(lambda: self._closing, timeout=LOOK_S):
                    return
            try:
                changed = self.editor.take_up_changes()
            except ReconError:
                # A file that somebody broke is told of when the next edit is saved.
                continue
            if changed:
                for client in self._viewer.server.get_clients().values():
                    notify(client, "Somebody else has edited", "Their edits were loaded.", "yellow")

    def _show(self) -> None:
        state, edits, preview = self.editor.state, self.editor.edits, self._preview
        marked = state.selected if preview is None else preview
        self._move(edits, state.world)
        self._viewer.set_splats(shown_splats(state, marked))

    def _move(self, edits: EditList, world: Similarity) -> None:
        """Moves what is not splats, and browsers' cameras where the world was redefined rather than the scene moved."""
        before = self._shown_edits
        if edits.in_force == before.in_force:
            return
        zoom = 1.0
        for operation in edits:
            if isinstance(operation, Transform) and operation.purpose == "scale":
                zoom /= operation.scale
        common = 0
        while common < min(len(before), len(edits)) and before.operations[common] == edits.operations[common]:
            common += 1
        differing = [*before.in_force[common:], *edits.in_force[common:]]
        moves = [entry for entry in differing if isinstance(entry, Transform) and entry.target == "scene"]
        if moves:
            old_world, old_scale = self._viewer.world, self._viewer.stage.scale
            self._viewer.set_world(world, zoom, self.meters_per_unit)
            if any(move.purpose != "move" for move in moves):
                new_from_old = world.compose(old_world.inverse())
                for client in self._viewer.server.get_clients().values():
                    _take_along(client, new_from_old, old_scale, self._viewer.stage.scale)
        self._shown_edits = edits


def shown_splats(state: EditState, marked: Mask) -> Splats:
    """Returns the splats that are seen, those of the mask [N] in the highlight's colour."""
    seen = state.seen
    splats = state.shown
    index = torch.from_numpy(np.flatnonzero(marked[seen]))
    if not len(index):
        return splats
    sh = splats.sh.clone()
    target = torch.zeros_like(sh[:1])
    target[:, 0] = (torch.tensor(HIGHLIGHT) - 0.5) / SH_C0
    sh[index] = (1 - HIGHLIGHT_SHARE) * sh[index] + HIGHLIGHT_SHARE * target
    return replace(splats, sh=sh)


def notify(client: Any, title: str, text: str, color: str, seconds: float = 6.0) -> None:
    """Shows a browser a note; to one that has left, nothing."""
    if client is not None:
        client.add_notification(title, text, auto_close_seconds=seconds, color=color)


def _take_along(client: Any, new_from_old: Similarity, old_scale: float, new_scale: float) -> None:
    """Moves a browser's camera with a world that was redefined, so that it sees the same, now upright."""
    view = client.camera
    position = new_from_old.apply(np.asarray(view.position) / old_scale) * new_scale
    look_at = new_from_old.apply(np.asarray(view.look_at) / old_scale) * new_scale
    with client.atomic():
        view.position = position
        view.look_at = look_at
        view.up_direction = (0.0, 0.0, 1.0)
    client.flush()
