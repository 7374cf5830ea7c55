# SPDX-License-Identifier: Apache-2.0
"""The page that one can send: a scene of splats in one HTML file, with our own renderer in it.

Names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Annotation": "recon.viewers.share.annotations",
    "PackedSplats": "recon.viewers.share.packing",
    "SharedFilm": "recon.viewers.share.page",
    "SharedScene": "recon.viewers.share.page",
    "pack_splats": "recon.viewers.share.packing",
    "read_annotations": "recon.viewers.share.annotations",
    "unpack_splats": "recon.viewers.share.packing",
    "write_shared_folder": "recon.viewers.share.page",
    "write_shared_page": "recon.viewers.share.page",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon.viewers.share' has no attribute {name!r}")
    return getattr(import_module(module), name)
