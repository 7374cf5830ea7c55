# SPDX-License-Identifier: Apache-2.0
"""What splats are after some edits, and how one more changes them.

Masks are over the splats as they were trained; nothing is ever removed from them, so undoing is forgetting.  Moves of
the whole scene are gathered in one similarity in float64 and applied once, so that a hundred of them round as one does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from recon.edits.edit_list import EditList, moved_world
from recon.edits.masks import Mask, Untouched, find
from recon.edits.operations import (
    Delete,
    Hide,
    Invert,
    Isolate,
    Mode,
    Operation,
    Select,
    SelectNone,
    ShowAll,
    Transform,
)
from recon.edits.rules import Rule
from recon.errors import ReconError
from recon.scene import Similarity
from recon.splat_transform import transform_splats
from recon.splats import Splats


@dataclass(frozen=True, eq=False)
class EditState:
    """Splats after some edits.

    Attributes:
        untouched: the splats before any.
        base: all of them in the run's own world, with what was moved on its own where it is now.
        world: new_from_old of the whole scene.
        deleted, hidden, selected: [N] masks; deleted splats are never selected.
    """

    untouched: Untouched
    base: Splats
    world: Similarity
    deleted: Mask
    hidden: Mask
    selected: Mask

    @staticmethod
    def of(splats: Splats | Untouched) -> EditState:
        """Returns the state without any edit."""
        untouched = splats if isinstance(splats, Untouched) else Untouched(splats)
        nothing = np.zeros(len(untouched.splats), bool)
        return EditState(untouched, untouched.splats, Similarity(), nothing, nothing, nothing)

    @property
    def seen(self) -> Mask:
        """[N], neither deleted nor hidden."""
        return ~(self.deleted | self.hidden)

    @cached_property
    def moved(self) -> Splats:
        """All N splats, deleted ones too, in the world as moved."""
        unmoved = self.world.scale == 1.0 and np.array_equal(self.world.rotation, np.eye(3))
        if unmoved and not np.any(self.world.translation):
            return self.base
        return transform_splats(self.base, self.world)

    @property
    def edited(self) -> Splats:
        """The splats that were not deleted, as they are exported."""
        return self.chosen(~self.deleted)

    @property
    def shown(self) -> Splats:
        """The splats that are neither deleted nor hidden, as a viewer shows them."""
        return self.chosen(self.seen)

    def chosen(self, mask: Mask) -> Splats:
        """Returns the splats of an [N] mask in the world as moved."""
        if mask.all():
            return self.moved
        return self.moved.select(torch.from_numpy(mask).to(self.moved.device))

    def find(self, rule: Rule) -> Mask:
        """Returns the [N] mask of the splats that are seen and match a rule.

        Raises:
            ReconError: a list of splats was made for others.
        """
        return find(rule, self.untouched, self.base, self.world, self.seen) & self.seen

    def then(self, operation: Operation) -> EditState:
        """Returns the state after one more edit.

        Raises:
            ReconError: the edit does not fit these splats.
        """
        match operation:
            case Select(rule, mode):
                return replace(self, selected=_combined(self.selected, self.find(rule), mode))
            case SelectNone():
                return replace(self, selected=np.zeros_like(self.selected))
            case Invert():
                return replace(self, selected=self.seen & ~self.selected)
            case Delete(None, outside):
                doomed = self.seen & ~self.selected if outside else self.selected
                return replace(self, deleted=self.deleted | doomed, selected=self.selected & ~doomed & outside)
            case Delete(rule, outside):
                assert rule is not None
                matching = self.find(rule)
                doomed = self.seen & ~matching if outside else matching
                return replace(self, deleted=self.deleted | doomed, selected=self.selected & ~doomed)
            case Hide():
                return replace(self, hidden=self.hidden | self.selected, selected=np.zeros_like(self.selected))
            case Isolate():
                return replace(self, hidden=self.hidden | (self.seen & ~self.selected))
            case ShowAll():
                return replace(self, hidden=np.zeros_like(self.hidden))
        assert isinstance(operation, Transform)
        if operation.target == "scene":
            return replace(self, world=moved_world(self.world, operation))
        return self._with_selection_moved(operation.similarity)

    def _with_selection_moved(self, similarity: Similarity) -> EditState:
        """Returns the state with the selected splats moved by a similarity of the world as moved."""
        if not self.selected.any():
            return self
        in_run = self.world.inverse().compose(similarity).compose(self.world)
        if similarity.scale == 1.0 and np.array_equal(similarity.rotation, np.eye(3)):
            # What conjugation rounds off must not cost a shifted splat the bits of its harmonics.
            in_run = Similarity(1.0, np.eye(3), in_run.translation)
        index = torch.from_numpy(np.flatnonzero(self.selected)).to(self.base.device)
        moved = transform_splats(self.base.select(index), in_run)
        if not bool(torch.isfinite(moved.means).all() & torch.isfinite(moved.log_scales).all()):
            raise ReconError("moving the selection", "it gets out of reach of float32", "a smaller move")
        parts = {name: getattr(self.base, name).clone() for name in ("means", "quats", "log_scales", "sh")}
        for name, part in parts.items():
            part[index] = getattr(moved, name)
        return replace(self, base=replace(self.base, **parts))


def replay(splats: Splats | Untouched, edits: EditList) -> EditState:
    """Returns what splats are after all edits that are in force.

    Raises:
        ReconError: an edit does not fit these splats.
    """
    state = EditState.of(splats)
    for operation in edits:
        state = state.then(operation)
    return state


def apply_edits(splats: Splats, edits: EditList) -> Splats:
    """Returns the splats as edited, for exports: hidden splats are kept, deleted ones are gone.

    Without edits the very same object comes back.

    Raises:
        ReconError: an edit does not fit these splats.
    """
    return replay(splats, edits).edited if edits else splats


def _combined(selected: Mask, matching: Mask, mode: Mode) -> Mask:
    if mode == "replace":
        return matching
    if mode == "add":
        return selected | matching
    return selected & ~matching if mode == "subtract" else selected & matching
