# SPDX-License-Identifier: Apache-2.0
"""recon: photos and video into splats, radiance fields and meshes, on any machine.

The public names are loaded on first use, so that `import recon` costs a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ReconError": "recon.errors",
    "Camera": "recon.cameras",
    "Scene": "recon.scene",
    "Splats": "recon.splats",
    "RenderOptions": "recon.render",
    "RenderOutput": "recon.render",
    "Renderer": "recon.render",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
