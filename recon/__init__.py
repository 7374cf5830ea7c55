# SPDX-License-Identifier: Apache-2.0
"""recon: photos and video into splats, radiance fields and meshes, on any machine.

The public names are loaded on first use, so that `import recon` costs a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Camera": "recon.cameras",
    "MeshConfig": "recon.surface",
    "PipelineConfig": "recon.cli.pipeline",
    "ProcessConfig": "recon.process",
    "ReconError": "recon.errors",
    "RenderOptions": "recon.render",
    "RenderOutput": "recon.render",
    "Renderer": "recon.render",
    "Scene": "recon.scene",
    "SplatConfig": "recon.methods",
    "Splats": "recon.splats",
    "evaluate": "recon.methods",
    "extract_mesh": "recon.surface",
    "load_run": "recon.methods",
    "load_scene": "recon.scene_io",
    "make_capture": "recon.data",
    "process": "recon.process",
    "read_splat_ply": "recon.formats.splat_ply",
    "read_splats": "recon.formats.splat_files",
    "render_film": "recon.film",
    "run_pipeline": "recon.cli.pipeline",
    "train": "recon.methods",
    "undistorted_camera": "recon.views",
    "view": "recon.cli.view",
    "write_mesh": "recon.formats.mesh_files",
    "write_splat_ply": "recon.formats.splat_ply",
    "write_splats": "recon.formats.splat_files",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
