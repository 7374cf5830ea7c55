# SPDX-License-Identifier: Apache-2.0
"""Methods: what a scene can be trained into, and the loop that they share.

`BUILT_IN` in `recon/methods/registry.py` has one line per method.  Names are loaded on first use, so that asking which
methods there are does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "EvalReport": "recon.methods.evaluation",
    "Method": "recon.methods.method",
    "Run": "recon.methods.run",
    "SplatConfig": "recon.methods.splat.config",
    "TrainConfig": "recon.methods.config",
    "TrainReport": "recon.methods.run",
    "evaluate": "recon.methods.evaluation",
    "get_method": "recon.methods.registry",
    "load_run": "recon.methods.run",
    "method_names": "recon.methods.registry",
    "register": "recon.methods.registry",
    "train": "recon.methods.run",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon.methods' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
