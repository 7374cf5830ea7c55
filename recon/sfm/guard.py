# SPDX-License-Identifier: Apache-2.0
"""No photo may stand far from where its neighbours say.

A mapper can be sure of a wrong pose: a global one may throw a photo a whole scene away, an incremental one may be
fooled by look-alikes.  The verified matches between two photos were found without any model, so they judge it: under
the right poses nearly all of them lie on their epipolar lines, under a wrong pose few do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon.sfm.contracts import Features, PairGeometry
from recon.sfm.observations import Observations, pair_agreement, posed_image_ids, read_observations

AGREEMENT_LIMIT_PX = 8.0
LEAST_AGREEMENT = 0.4
LEAST_POINTS = 12


@dataclass(frozen=True)
class Suspect:
    """A posed photo that should not stay where it is, and one sentence why."""

    photo: int
    reason: str


def find_suspects(
    model: Any, features: Sequence[Features], geometries: Sequence[PairGeometry], size_px: float
) -> list[Suspect]:
    """Returns the posed photos that contradict their neighbours, worst first.

    The worst is taken out before the rest are judged, because one misplaced photo spoils the scores of those that it
    was matched with.

    Args:
        model: a `pycolmap.Reconstruction`.
        features: of all photos.
        geometries: the verified pairs.
        size_px: the photos' longer side; the error limit is meant for 1600 pixels.
    """
    limit = AGREEMENT_LIMIT_PX * max(size_px / 1600.0, 0.5)
    shares = pair_agreement(model, features, geometries, limit)
    weights = np.array([len(g.matches) for g in geometries], np.float64)
    ends = np.array([(g.first, g.second) for g in geometries], np.int64).reshape(-1, 2)
    alive = {image_id - 1 for image_id in posed_image_ids(model)}
    suspects: list[Suspect] = []
    used = np.isfinite(shares)
    while len(alive) > 2:
        agreeing = np.zeros(len(features))
        total = np.zeros(len(features))
        for side in (0, 1):
            np.add.at(agreeing, ends[used, side], (shares * weights)[used])
            np.add.at(total, ends[used, side], weights[used])
        scores = {index: agreeing[index] / total[index] if total[index] > 0 else 0.0 for index in alive}
        worst = min(scores, key=lambda index: (scores[index], index))
        if scores[worst] >= LEAST_AGREEMENT:
            break
        suspects.append(
            Suspect(
                worst,
                f"only {100 * scores[worst]:.0f}% of its verified matches agree with the pose that it was given",
            )
        )
        alive.discard(worst)
        used &= (ends != worst).all(1)
    return suspects + _weak(read_observations(model, features), alive)


def _weak(observations: Observations, alive: set[int]) -> list[Suspect]:
    """Returns the photos that see too few points to trust, and those that stand far beyond all others on few points."""
    finite = np.isfinite(observations.errors_px)
    counts = np.bincount(observations.photo[finite], minlength=max(alive, default=0) + 1)
    return [
        Suspect(index, f"it sees only {counts[index]} 3D points")
        for index in sorted(alive)
        if counts[index] < LEAST_POINTS
    ]


def remove_photos(model: Any, suspects: Sequence[Suspect]) -> None:
    """Takes photos out of a model; points that lose their tracks go too."""
    import pycolmap

    manager = pycolmap.ObservationManager(model)
    for suspect in suspects:
        manager.deregister_frame(model.image(suspect.photo + 1).frame_id)
