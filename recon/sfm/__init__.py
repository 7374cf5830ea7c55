# SPDX-License-Identifier: Apache-2.0
"""Camera poses and sparse points from photographs.

`reconstruct(photos, config, work_dir, progress)` is the way in: an `SfmInput` goes in, an `SfmResult` comes out.
Names are loaded on first use, because pycolmap takes a quarter of a second to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recon.sfm.alignment import PoseErrors as PoseErrors
    from recon.sfm.alignment import fit_similarity as fit_similarity
    from recon.sfm.alignment import pose_errors as pose_errors
    from recon.sfm.contracts import CameraPrior as CameraPrior
    from recon.sfm.contracts import PhotoReport as PhotoReport
    from recon.sfm.contracts import RungReport as RungReport
    from recon.sfm.contracts import SfmConfig as SfmConfig
    from recon.sfm.contracts import SfmInput as SfmInput
    from recon.sfm.contracts import SfmResult as SfmResult
    from recon.sfm.contracts import StageTime as StageTime
    from recon.sfm.contracts import Verdict as Verdict
    from recon.sfm.recovery import reconstruct as reconstruct

_PUBLIC = {
    "CameraPrior": "recon.sfm.contracts",
    "PhotoReport": "recon.sfm.contracts",
    "PoseErrors": "recon.sfm.alignment",
    "RungReport": "recon.sfm.contracts",
    "SfmConfig": "recon.sfm.contracts",
    "SfmInput": "recon.sfm.contracts",
    "SfmResult": "recon.sfm.contracts",
    "StageTime": "recon.sfm.contracts",
    "Verdict": "recon.sfm.contracts",
    "fit_similarity": "recon.sfm.alignment",
    "pose_errors": "recon.sfm.alignment",
    "reconstruct": "recon.sfm.recovery",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'recon.sfm' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    # `reconstruct` names both the function and its module; the function is what callers of the package mean.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
