# SPDX-License-Identifier: Apache-2.0
"""Looking at reconstructions: the viewer in the browser, training live, and the page that sums a run up.

Names are loaded on first use: viser takes most of a second to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Content": "recon.viewers.content",
    "LiveViewer": "recon.viewers.training.live",
    "load_content": "recon.viewers.content",
    "Viewer": "recon.viewers.viewer",
    "open_viewer": "recon.viewers.viewer",
    "view": "recon.viewers.viewer",
    "SummaryData": "recon.viewers.summary.page",
    "write_summary_page": "recon.viewers.summary.page",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon.viewers' has no attribute {name!r}")
    return getattr(import_module(module), name)
