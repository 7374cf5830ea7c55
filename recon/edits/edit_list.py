# SPDX-License-Identifier: Apache-2.0
"""The list of edits: operations in the order in which they were made, and how many of them are in force.

Undoing takes an operation out of force and keeps it in the list, so that it can be redone, also after the list was
saved; a new edit drops what was undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recon.edits import checks
from recon.edits.operations import OPERATIONS, Operation, Transform
from recon.errors import ReconError
from recon.scene import Similarity

MOST_OPERATIONS = 10_000


@dataclass(frozen=True)
class EditList:
    """What was done to splats, oldest first.

    Attributes:
        operations: all that were made, undone ones included.
        done: how many of them, from the first, are in force; None means all.
    """

    operations: tuple[Operation, ...] = ()
    done: int | None = None

    def __post_init__(self) -> None:
        doing = "making a list of edits"
        operations = self.operations
        if not isinstance(operations, (list, tuple)) or len(operations) > MOST_OPERATIONS:
            found = checks.shortened(operations) if not hasattr(operations, "__len__") else f"{len(operations)} edits"
            raise ReconError(doing, found, f"a list of at most {MOST_OPERATIONS} edits")
        for operation in operations:
            if not isinstance(operation, tuple(OPERATIONS.values())):
                raise ReconError(doing, f"it holds {checks.shortened(operation)}", "operations of recon.edits")
        done = len(operations) if self.done is None else self.done
        object.__setattr__(self, "operations", tuple(operations))
        object.__setattr__(self, "done", checks.whole(doing, "done", done, 0, len(operations)))

    @property
    def in_force(self) -> tuple[Operation, ...]:
        """The operations that are not undone."""
        return self.operations[: self.done]

    @property
    def undone(self) -> tuple[Operation, ...]:
        """The operations that can be redone, the next one first."""
        return self.operations[self.done :]

    def __bool__(self) -> bool:
        return bool(self.in_force)

    def __len__(self) -> int:
        return len(self.in_force)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.in_force)

    def then(self, *operations: Operation) -> EditList:
        """Returns the list with more edits; what was undone can no longer be redone."""
        return EditList(self.in_force + operations)

    def undo(self, count: int = 1) -> EditList:
        """Returns the list with its last edits out of force; fewer where there are not so many."""
        return EditList(self.operations, max(0, len(self) - count))

    def redo(self, count: int = 1) -> EditList:
        """Returns the list with undone edits in force again; fewer where there are not so many."""
        return EditList(self.operations, min(len(self.operations), len(self) + count))


def world_of(edits: EditList) -> Similarity:
    """Returns where the edits put the whole scene: new_from_old for cameras, points and meshes.

    Raises:
        ReconError: the edits lead beyond what numbers can hold.
    """
    world = Similarity()
    for operation in edits:
        if isinstance(operation, Transform) and operation.target == "scene":
            world = moved_world(world, operation)
    return world


def moved_world(world: Similarity, operation: Transform) -> Similarity:
    """Returns `world` followed by an operation.

    Raises:
        ReconError: that is too large or too small to compute with.
    """
    moved = operation.similarity.compose(world)
    if not 1e-9 <= moved.scale <= 1e9 or abs(moved.translation).max() > checks.LARGEST_COORDINATE:
        raise ReconError(
            "moving the scene",
            f"its scale becomes {moved.scale:.3g}, its origin {[f'{value:.3g}' for value in moved.translation]}",
            "a scale from 1e-9 to 1e9 and coordinates below 1e9",
            "undo some moves",
        )
    return moved


def meters_per_unit(edits: EditList, before: float | None) -> float | None:
    """Returns the metric scale of the edited scene, of a scene that had `before`; None where it is unknown."""
    meters = before
    for operation in edits:
        if isinstance(operation, Transform) and operation.target == "scene":
            meters = None if meters is None else meters / operation.scale
            meters = 1.0 if operation.purpose == "scale" else meters
    return meters
