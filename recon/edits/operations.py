# SPDX-License-Identifier: Apache-2.0
"""Operations: what can be done to splats.  Each is a few numbers; `recon.edits.state` carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from recon.edits import checks
from recon.edits.checks import Quaternion, Vector3
from recon.edits.rules import RULES, Box, ColorNear, Everything, Indices, Lasso, Range, Rule, Sphere
from recon.errors import ReconError
from recon.scene import Similarity
from recon.splat_transform import quaternion_of, rotation_of

Mode = Literal["replace", "add", "subtract", "intersect"]
Purpose = Literal["move", "ground", "up", "scale"]
Target = Literal["scene", "selection"]

MODES: tuple[str, ...] = get_args(Mode)
PURPOSES: tuple[str, ...] = get_args(Purpose)
TARGETS: tuple[str, ...] = get_args(Target)


@dataclass(frozen=True)
class Select:
    """Changes the selection by the splats that match a rule; hidden ones never match.

    Attributes:
        rule: which splats.
        mode: whether these become the selection, join it, leave it, or are all of it that stays.
    """

    rule: Rule
    mode: Mode = "replace"

    def __post_init__(self) -> None:
        doing = "making a selection"
        _check_rule(doing, self.rule)
        object.__setattr__(self, "mode", checks.choice(doing, "mode", self.mode, MODES))


@dataclass(frozen=True)
class SelectNone:
    """Empties the selection."""


@dataclass(frozen=True)
class Invert:
    """Selects what is seen and was not selected."""


@dataclass(frozen=True)
class Delete:
    """Deletes splats; hidden ones stay.

    Attributes:
        rule: which splats; None means the selection, which is then empty.
        outside: delete those that do not match instead: a crop.
    """

    rule: Rule | None = None
    outside: bool = False

    def __post_init__(self) -> None:
        doing = "making a deletion"
        if self.rule is not None:
            _check_rule(doing, self.rule)
        object.__setattr__(self, "outside", checks.flag(doing, "outside", self.outside))


@dataclass(frozen=True)
class Hide:
    """Hides the selection: it is not shown and not selected by rules, but still exported."""


@dataclass(frozen=True)
class Isolate:
    """Hides everything but the selection."""


@dataclass(frozen=True)
class ShowAll:
    """Shows what was hidden."""


@dataclass(frozen=True)
class Transform:
    """Applies x ↦ scale · rotation · x + translation.

    Attributes:
        scale, wxyz, translation: the similarity, in the world as edited so far.
        target: the whole scene, whose cameras, points and meshes follow, or the selected splats alone.
        purpose: what it was done for.  After "scale" one unit of the scene is one metre.
    """

    scale: float = 1.0
    wxyz: Quaternion = (1.0, 0.0, 0.0, 0.0)
    translation: Vector3 = (0.0, 0.0, 0.0)
    target: Target = "scene"
    purpose: Purpose = "move"

    def __post_init__(self) -> None:
        doing = "making a transform"
        values = {
            "scale": checks.number(doing, "scale", self.scale, checks.SMALLEST_SCALE, checks.LARGEST_SCALE),
            "wxyz": checks.quaternion(doing, "wxyz", self.wxyz),
            "translation": checks.vector(doing, "translation", self.translation),
            "target": checks.choice(doing, "target", self.target, TARGETS),
            "purpose": checks.choice(doing, "purpose", self.purpose, PURPOSES),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.purpose != "move" and self.target != "scene":
            raise ReconError(doing, f"the purpose {self.purpose!r} is applied to the selection", "the whole scene")

    @staticmethod
    def of(similarity: Similarity, target: Target = "scene", purpose: Purpose = "move") -> Transform:
        """Returns the operation of a similarity."""
        w, x, y, z = (float(value) for value in quaternion_of(np.asarray(similarity.rotation)))
        tx, ty, tz = (float(value) for value in similarity.translation)
        return Transform(float(similarity.scale), (w, x, y, z), (tx, ty, tz), target, purpose)

    @property
    def similarity(self) -> Similarity:
        """The transform, with an exact identity where nothing is turned."""
        turned = self.wxyz != (1.0, 0.0, 0.0, 0.0)
        rotation = rotation_of(np.array(self.wxyz)) if turned else np.eye(3)
        return Similarity(self.scale, rotation, np.array(self.translation))


Operation = Select | SelectNone | Invert | Delete | Hide | Isolate | ShowAll | Transform

OPERATIONS: dict[str, type] = {
    "select": Select,
    "select-none": SelectNone,
    "invert": Invert,
    "delete": Delete,
    "hide": Hide,
    "isolate": Isolate,
    "show-all": ShowAll,
    "transform": Transform,
}
"""The operations by their name in files."""


def describe(operation: Operation) -> str:
    """Returns an operation in a few words, for the history."""
    match operation:
        case Select(rule, mode):
            verb = {"replace": "Select", "add": "Add to selection:", "subtract": "Take from selection:"}
            return f"{verb.get(mode, 'Keep selected:')} {_describe_rule(rule)}"
        case Delete(None, outside):
            return "Delete all but the selection" if outside else "Delete the selection"
        case Delete(Box() | Sphere() | Lasso() as shape, outside):
            return f"Crop: {'keep' if outside else 'delete'} the inside of {_describe_rule(shape)}"
        case Delete(rule, outside):
            assert rule is not None
            return f"Delete {'all but ' if outside else ''}{_describe_rule(rule)}"
        case Transform():
            return _describe_transform(operation)
    words = {SelectNone: "Select nothing", Invert: "Invert the selection", Hide: "Hide the selection"}
    words |= {Isolate: "Isolate the selection", ShowAll: "Show all"}
    return words[type(operation)]


def _describe_rule(rule: Rule) -> str:
    match rule:
        case Everything():
            return "everything"
        case Box(_, size):
            return "a box of " + " × ".join(f"{edge:.3g}" for edge in size)
        case Sphere(_, radius):
            return f"a sphere of radius {radius:.3g}"
        case Lasso(polygon, _, visible_only):
            return f"a lasso of {len(polygon)} corners{', in front only' if visible_only else ''}"
        case Range(attribute, low, high):
            return f"{attribute} {low:.3g} to {high:.3g}"
        case ColorNear(color, _):
            return "colours near #" + "".join(f"{round(255 * part):02x}" for part in color)
    assert isinstance(rule, Indices)
    return "a list of splats"


def _describe_transform(operation: Transform) -> str:
    if operation.purpose != "move":
        return {"ground": "Set the ground plane", "up": "Set the up axis", "scale": "Set the metric scale"}[
            operation.purpose
        ]
    parts = []
    if any(operation.translation):
        parts.append("move")
    if operation.wxyz != (1.0, 0.0, 0.0, 0.0):
        parts.append("rotate")
    if operation.scale != 1.0:
        parts.append(f"scale by {operation.scale:.3g}")
    return f"{', '.join(parts) or 'move'} the {operation.target}".capitalize()


def _check_rule(doing: str, rule: Any) -> None:
    if not isinstance(rule, tuple(RULES.values())):
        raise ReconError(doing, f"the rule is {checks.shortened(rule)}", f"one of {', '.join(RULES)}")
