# SPDX-License-Identifier: Apache-2.0
"""Surfaces: meshes from anything that renders depth, their measures and their pictures.

The public names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Mesh": "recon.surface.mesh",
    "MeshConfig": "recon.surface.config",
    "MeshDistance": "recon.surface.compare",
    "MeshRenderer": "recon.surface.preview",
    "extract_mesh": "recon.surface.extract",
    "mesh_distance": "recon.surface.compare",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon.surface' has no attribute {name!r}")
    return getattr(import_module(module), name)
