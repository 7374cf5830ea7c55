# SPDX-License-Identifier: Apache-2.0
"""Extract a mesh from a trained run: depth renderings fused into a signed distance field, then marching cubes.

GLB and OBJ files have +Y up, PLY and STL files +Z.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import duration, size
from recon.progress import Progress
from recon.surface.config import MeshConfig

if TYPE_CHECKING:
    from recon.methods import Run
    from recon.surface import Mesh


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of `recon mesh`."""

    run: tyro.conf.Positional[Path]
    """The folder that `recon train` wrote."""
    out: Path
    """The file to write: .glb, .obj, .ply or .stl."""
    config: tyro.conf.OmitArgPrefixes[MeshConfig] = field(default_factory=MeshConfig)
    """How the mesh is made."""
    edits: bool = True
    """Whether the run's edits apply."""


def execute(options: Options, progress: Progress) -> Outcome:
    """Makes the mesh and reports."""
    from recon.cli.edited import load_edited_run

    report = make_mesh(load_edited_run(options.run, options.edits, progress), options.out, options.config, progress)
    attention = [] if report["faces"] else ["The mesh is empty: no surface was seen by enough photographs."]
    return Outcome(report=report, title="Mesh", rows=mesh_rows(report), attention=attention)


def make_mesh(run: Run, out: Path, config: MeshConfig, progress: Progress) -> dict[str, Any]:
    """Extracts, writes and measures the mesh of a run; returns the report."""
    from recon.formats.mesh_files import write_mesh
    from recon.surface import extract_mesh
    from recon.views import undistorted_camera

    begun = time.perf_counter()
    long_side = run.long_side
    cameras = [undistorted_camera(frame.camera) for frame in run.scene.frames]
    if long_side is not None:
        cameras = [camera.fitted(long_side) for camera in cameras]
    mesh: Mesh = extract_mesh(run.renderer, cameras, config, progress)
    write_mesh(mesh, out)
    return {
        "path": str(out),
        "bytes": out.stat().st_size,
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "diagonal": mesh.diagonal,
        "meters_per_unit": run.scene.world.meters_per_unit,
        "seconds": time.perf_counter() - begun,
    }


def mesh_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns what a person wants to know of a mesh."""
    unit = report["meters_per_unit"]
    extent = f"{report['diagonal']:.3g} scene units" if unit is None else f"{report['diagonal'] * unit:.3g} m"
    return [
        ("Mesh", f"{report['path']} ({size(report['bytes'])})"),
        ("Surface", f"{report['vertices']:,} vertices, {report['faces']:,} triangles, {extent} across"),
        ("Meshing time", duration(report["seconds"])),
    ]
