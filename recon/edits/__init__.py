# SPDX-License-Identifier: Apache-2.0
"""Editing splats: a list of edits beside the run, applied by every export; what was trained never changes.

    from pathlib import Path
    from recon import load_run
    from recon.edits import Box, Delete, Range, apply_edits, edits_of, edits_path, write_edits

    run = load_run("result/run")
    edits = edits_of(run.path)                                          # empty where nothing was edited yet
    edits = edits.then(Delete(Box((0, 0, 0.5), (2, 2, 1)), outside=True))      # keep what is in a box
    edits = edits.then(Delete(Range("floater", 0.5, 1)))                # and no floaters
    edits = edits.undo().redo()
    write_edits(edits_path(run.path), edits)                            # recon export, mesh, render, view take them
    splats = apply_edits(run.splats, edits)

Operations: `Select` by a rule (`Everything`, `Box`, `Sphere`, `Lasso`, `Range`, `ColorNear`, `Indices`) with the modes
replace, add, subtract, intersect; `SelectNone`, `Invert`; `Delete` of the selection or by a rule; `Hide`, `Isolate`,
`ShowAll`; `Transform` of the scene or the selection.  Names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Box": "recon.edits.rules",
    "ColorNear": "recon.edits.rules",
    "Delete": "recon.edits.operations",
    "Editor": "recon.edits.editor",
    "EditFile": "recon.edits.files",
    "EditList": "recon.edits.edit_list",
    "EditState": "recon.edits.state",
    "Everything": "recon.edits.rules",
    "Hide": "recon.edits.operations",
    "Indices": "recon.edits.rules",
    "Invert": "recon.edits.operations",
    "Isolate": "recon.edits.operations",
    "Lasso": "recon.edits.rules",
    "Operation": "recon.edits.operations",
    "PinholeView": "recon.edits.rules",
    "Range": "recon.edits.rules",
    "Select": "recon.edits.operations",
    "SelectNone": "recon.edits.operations",
    "ShowAll": "recon.edits.operations",
    "Sphere": "recon.edits.rules",
    "Transform": "recon.edits.operations",
    "apply_edits": "recon.edits.state",
    "describe": "recon.edits.operations",
    "edited_scene": "recon.edits.scene",
    "edits_of": "recon.edits.files",
    "edits_path": "recon.edits.files",
    "meters_per_unit": "recon.edits.edit_list",
    "read_edits": "recon.edits.files",
    "replay": "recon.edits.state",
    "world_of": "recon.edits.edit_list",
    "write_edits": "recon.edits.files",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon.edits' has no attribute {name!r}")
    return getattr(import_module(module), name)
