# SPDX-License-Identifier: Apache-2.0
"""Edit the splats of a run or of a splat file, without a browser.

The edits are a list beside what they belong to (edits.json, or NAME.edits.json beside a file).  What was trained never
changes: recon export, mesh, render and view apply the list.  The options of one call are carried out in the order in
which they stand below; without any the list is shown.

    recon edit result/run --crop-box 0 0 0.5 2 2 1 --remove-floaters 0.5
    recon edit result/run --undo 1
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.errors import ReconError
from recon.progress import Progress

if TYPE_CHECKING:
    from recon.edits import Operation
    from recon.edits.state import EditState

Numbers3 = tuple[float, float, float]
Numbers4 = tuple[float, float, float, float]
Numbers6 = tuple[float, float, float, float, float, float]
Numbers7 = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon edit`."""

    run: tyro.conf.Positional[Path]
    """The folder that `recon train` or `recon run` wrote, or a splat file."""
    undo: int = 0
    """Take back so many edits."""
    redo: int = 0
    """Make so many edits again that were taken back."""
    clear: bool = False
    """Take back all edits (they can be redone)."""
    up_axis: Literal["+x", "-x", "+y", "-y", "+z", "-z"] | None = None
    """Turn the scene so that this axis points up."""
    ground: bool = False
    """Turn and move the scene so that the plane that most of its splats lie near is the ground, z = 0."""
    metric: Numbers7 | None = None
    """Two points and their distance in metres (X Y Z  X Y Z  METRES): scale the scene to metres."""
    rotate: Numbers3 | None = None
    """Rotate the scene about its x, then y, then z axis, degrees."""
    move: Numbers3 | None = None
    """Move the scene."""
    scale: float | None = None
    """Scale the scene about the origin."""
    crop_box: Numbers6 | None = None
    """Keep what is inside a box: its middle X Y Z and its size X Y Z."""
    crop_sphere: Numbers4 | None = None
    """Keep what is inside a sphere: its middle X Y Z and its radius."""
    delete_box: Numbers6 | None = None
    """Delete what is inside a box."""
    delete_sphere: Numbers4 | None = None
    """Delete what is inside a sphere."""
    remove_floaters: float | None = None
    """Delete splats with at least this floater score, 0 to 1; 0.3 to 0.7 are usual."""
    min_opacity: float | None = None
    """Delete splats that are more transparent, 0 to 1."""
    max_size: float | None = None
    """Delete splats that are larger: largest standard deviation in units of the scene."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Edits, saves after each step and shows the list."""
    from recon.cli.edited import load_edited_splats
    from recon.edits import Editor, edits_path

    doing = f"editing {options.run}"
    for name in ("undo", "redo"):
        if getattr(options, name) < 0:
            raise ReconError(doing, f"--{name} is {getattr(options, name)}", "a whole number, 1 or more")
    editor = Editor(load_edited_splats(options.run, edits=False), edits_path(options.run))
    before = len(editor.state.edited)
    editor.undo(len(editor.edits) if options.clear else options.undo)
    editor.redo(options.redo)
    for operation in _scene_edits(options, editor.state):
        editor.do(operation)
    for operation in _deletions(options):
        editor.do(operation)
    attention = [editor.problem] if editor.problem else []
    return _outcome(options, editor, before, attention)


def _scene_edits(options: Options, state: EditState) -> list[Operation]:
    from scipy.spatial.transform import Rotation

    from recon.edits import Transform
    from recon.edits.masks import centers_of
    from recon.edits.scene import ground_from_cloud, scale_from_distance, up_from_axis
    from recon.scene import Similarity
    from recon.splat_transform import quaternion_of

    found = []
    if options.up_axis is not None:
        found.append(Transform.of(up_from_axis(options.up_axis), purpose="up"))
    if options.ground:
        world = state.world
        for operation in found:
            world = operation.similarity.compose(world)
        solid = state.seen & (state.untouched.opacity > 0.3)
        found.append(Transform.of(ground_from_cloud(centers_of(state.base, world)[solid]), purpose="ground"))
    if options.metric is not None:
        import numpy as np

        numbers = options.metric
        found.append(scale_from_distance(np.array(numbers[:3]), np.array(numbers[3:6]), numbers[6]))
    if options.rotate is not None:
        turn = Rotation.from_euler("xyz", options.rotate, degrees=True).as_matrix()
        w, x, y, z = (float(part) for part in quaternion_of(turn))
        found.append(Transform(wxyz=(w, x, y, z)))
    if options.move is not None:
        found.append(Transform(translation=options.move))
    if options.scale is not None:
        found.append(Transform.of(Similarity(options.scale)))
    return found


def _deletions(options: Options) -> list[Operation]:
    from recon.edits import Box, Delete, Range, Sphere
    from recon.edits.checks import LARGEST_COORDINATE

    found: list[Operation] = []
    for numbers, outside in ((options.crop_box, True), (options.delete_box, False)):
        if numbers is not None:
            found.append(Delete(Box(numbers[:3], numbers[3:]), outside))
    for ball, outside in ((options.crop_sphere, True), (options.delete_sphere, False)):
        if ball is not None:
            found.append(Delete(Sphere(ball[:3], ball[3]), outside))
    if options.remove_floaters is not None:
        found.append(Delete(Range("floater", options.remove_floaters, 1.0)))
    if options.min_opacity is not None:
        # What has just this opacity stays.
        found.append(Delete(Range("opacity", 0.0, math.nextafter(options.min_opacity * (1 - 1e-5), 0.0))))
    if options.max_size is not None:
        found.append(Delete(Range("size", options.max_size * (1 + 1e-5), LARGEST_COORDINATE)))
    return found


def _outcome(options: Options, editor: object, before: int, attention: list[str]) -> Outcome:
    from recon.edits import Editor, describe, edits_path

    assert isinstance(editor, Editor)
    edits, left, total = editor.edits, len(editor.state.edited), len(editor.state.base)
    history = [
        (f"{index}" if index <= len(edits) else f"{index} (taken back)", describe(operation))
        for index, operation in enumerate(edits.operations, 1)
    ]
    return Outcome(
        report={
            "path": edits_path(options.run),
            "splats": {"trained": total, "before": before, "now": left},
            "edits": [{"text": describe(operation), **asdict(operation)} for operation in edits],
            "taken_back": [describe(operation) for operation in edits.undone],
        },
        title="Edits",
        rows=[*history, ("Splats", f"{left:,} of {total:,}"), ("File", str(edits_path(options.run)))],
        attention=attention,
    )
