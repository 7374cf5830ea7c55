# SPDX-License-Identifier: Apache-2.0
"""An editing session: the list of edits, the splats as edited, and the file, kept together.

Every edit is carried out first, then saved, then told to whoever listens; one that fails changes nothing.  Several
threads may edit, one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from recon.edits.edit_list import EditList
from recon.edits.files import EditFile, EditsChangedError
from recon.edits.masks import Untouched
from recon.edits.operations import Operation
from recon.edits.state import EditState
from recon.errors import ReconError
from recon.splats import Splats

STATES_KEPT = 24
"""Undoing so many edits takes no time; deeper ones are replayed from the start."""


class Editor:
    """Edits splats.

    Attributes:
        edits: the list, undone edits included.
        state: the splats as edited.
        problem: why edits that were in the file are out of force; empty where all fit.
    """

    def __init__(self, splats: Splats, file: Path | None = None) -> None:
        """Takes up what was edited before.

        Args:
            splats: as trained or read.
            file: where edits are saved; None keeps them in memory.

        Raises:
            ReconError: the file cannot be used.
        """
        self._untouched = Untouched(splats)
        self._file = EditFile(file) if file is not None else None
        self._lock = threading.RLock()
        self._states: dict[int, EditState] = {}
        self._listeners: list[Callable[[], None]] = []
        self.problem = ""
        self.edits = EditList()
        self.state = EditState.of(self._untouched)
        self._take_up(self._file.read() if self._file is not None else EditList())

    @property
    def untouched(self) -> Untouched:
        """The splats before any edit."""
        return self._untouched

    def on_change(self, listener: Callable[[], None]) -> None:
        """Has `listener` called after every change."""
        self._listeners.append(listener)

    def do(self, operation: Operation) -> None:
        """Makes an edit.

        Raises:
            EditsChangedError: another program has edited meanwhile; its edits are taken up in place of this one.
            ReconError: it does not fit these splats, or cannot be saved.
        """
        with self._lock:
            self._switch(self.edits.then(operation), self.state.then(operation))
        self._tell()

    def undo(self, count: int = 1) -> None:
        """Takes edits back; raises as `do`."""
        with self._lock:
            self._go_to(self.edits.undo(count))
        self._tell()

    def redo(self, count: int = 1) -> None:
        """Makes edits again that were taken back; raises as `do`."""
        with self._lock:
            self._go_to(self.edits.redo(count))
        self._tell()

    def take_up_changes(self) -> bool:
        """Loads the file where another program has changed it; returns whether it had.

        Raises:
            ReconError: the file cannot be used.
        """
        with self._lock:
            if self._file is None or not self._file.looks_changed:
                return False
            self._take_up(self._file.read())
        self._tell()
        return True

    def _go_to(self, edits: EditList) -> None:
        if len(edits) != len(self.edits):
            self._switch(edits, self._state_of(edits))

    def _switch(self, edits: EditList, state: EditState) -> None:
        """Saves, and only then is the edit made."""
        if self._file is not None:
            try:
                self._file.save(edits)
            except EditsChangedError:
                self._take_up(self._file.read())
                self._tell()
                raise
        if len(edits) > len(self.edits):
            # States of a future that a new edit drops must not be met again.
            self._states = {length: kept for length, kept in self._states.items() if length <= len(self.edits)}
        self.edits, self.state, self.problem = edits, state, ""
        self._keep(len(edits), state)

    def _take_up(self, edits: EditList) -> None:
        """Replays a list; from the first edit that does not fit on, edits are out of force until they are undone."""
        self._states, self.problem = {}, ""
        state = EditState.of(self._untouched)
        for index, operation in enumerate(edits):
            try:
                state = state.then(operation)
            except ReconError as error:
                self.problem = f"Edit {index + 1} and later ones are left out: {error.found}."
                edits = EditList(edits.operations, index)
                break
            self._keep(index + 1, state)
        self.edits, self.state = edits, state

    def _state_of(self, edits: EditList) -> EditState:
        """Returns the state of a list that shares its edits with the present one; the nearest kept state helps."""
        start = max((length for length in self._states if length <= len(edits)), default=0)
        state = self._states.get(start) or EditState.of(self._untouched)
        for index in range(start, len(edits)):
            state = state.then(edits.operations[index])
            self._keep(index + 1, state)
        return state

    def _keep(self, length: int, state: EditState) -> None:
        self._states[length] = state
        for old in sorted(self._states)[:-STATES_KEPT]:
            del self._states[old]

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()
