# SPDX-License-Identifier: Apache-2.0
"""How much of a floater each splat is: a speck or a veil in the air that no surface supports.

Surfaces are made of many splats that overlap.  The support of splat i is the part of it that its neighbours cover,

    s_i = Σ_j o_j · min(1, (σ_j / σ_i)²) · exp(−½ |μ_j − μ_i|² / (σ_i² + σ_j²)),

over its k nearest neighbours j, with opacities o, centres μ, and σ the middle standard deviation, which is the smaller
half axis of the disc that one sees.  The exponential is the overlap of two isotropic Gaussians relative to that at one
place.  (σ_j / σ_i)² keeps a few small splats from supporting a large veil around them.  The score

    f_i = 1 / (1 + s_i · (0.25 + o_i) / S)

is near 1 for what stands alone and is transparent, near 0 within a surface, and knows no unit of length.  S is such
that an opaque splat with one and a half opaque neighbours upon it scores one half.

The idea of scoring by neighbours is that of statistical outlier removal (Rusu et al., "Towards 3D point cloud based
object maps for household environments", 2008), with the splats' own shape in place of a distance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon.splats import Splats

NEIGHBOURS = 12
SUPPORT = 1.5 * 1.25
ROWS_PER_CHUNK = 200_000


def floater_scores(splats: Splats) -> npt.NDArray[np.float32]:
    """Returns [N] scores in 0..1; what is not finite counts as a floater."""
    from scipy.spatial import cKDTree

    count = len(splats)
    scores = np.ones(count, np.float32)
    means = splats.means.detach().cpu().double().numpy()
    deviations = splats.log_scales.detach().cpu().double().sort(1).values[:, 1].exp().numpy()
    opacities = splats.opacities.detach().cpu().double().numpy()
    usable = np.flatnonzero(np.isfinite(means).all(1) & np.isfinite(deviations) & np.isfinite(opacities))
    if len(usable) < 2:
        return scores
    means, opacities = means[usable], opacities[usable]
    variances = np.maximum(deviations[usable], 1e-150) ** 2
    # Balancing costs more than it saves, unless thousands of centres coincide.
    tree = cKDTree(means, balanced_tree=False, compact_nodes=False)
    neighbours = min(NEIGHBOURS, len(usable) - 1)
    for start in range(0, len(usable), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        distances, near = tree.query(means[rows], k=neighbours + 1, workers=-1)
        # Of equal centres any may come first: what is not counted is the row itself, wherever it stands.
        itself = near == np.arange(start, start + len(near))[:, None]
        own, theirs = variances[rows, None], variances[near]
        covered = opacities[near] * np.minimum(1.0, theirs / own) * np.exp(-0.5 * distances**2 / (own + theirs))
        support = np.where(itself, 0.0, covered).sum(1)
        scores[usable[rows]] = 1 / (1 + support * (0.25 + opacities[rows]) / SUPPORT)
    return scores
