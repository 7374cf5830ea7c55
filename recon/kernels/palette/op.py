# SPDX-License-Identifier: Apache-2.0
"""k-means (Lloyd 1982) within groups of rows: what vector quantisation with a large codebook comes down to.

The means of rows that chose a code become the code, weighted; a code that nobody chose moves to the row whose weighted
squared distance is largest.  With one group it is plain k-means; with many the cost falls by their number, since a row
meets only the codes of its group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native


class Clusters(NamedTuple):
    """What `cluster_groups` returns: codebook [K, D], labels [N] int32 in 0..K-1, squared distances [N]."""

    codebook: torch.Tensor
    labels: torch.Tensor
    distances: torch.Tensor


def cluster_groups(
    rows: torch.Tensor,
    weights: torch.Tensor,
    row_offsets: torch.Tensor,
    code_offsets: torch.Tensor,
    codebook: torch.Tensor,
    iterations: int,
    backend: Backend = "auto",
) -> Clusters:
    """Improves the codes of each group `iterations` times and gives each row its nearest code.

    Args:
        rows: [N, D] float32, those of a group side by side.
        weights: [N] float32, at least 0, what a row counts.
        row_offsets: [G + 1] int64 from 0 to N, never falling: group g has the rows row_offsets[g]..row_offsets[g + 1].
        code_offsets: [G + 1] int64 from 0 to K, never falling; a group with rows must have codes.
        codebook: [K, D] float32, where the search starts; it is not changed.
        iterations: how often means are taken; 0 assigns alone.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: other shapes or types, numbers that are not finite, offsets that do not cover rows and codes.
    """
    doing = "cluster_groups"
    rows = check_tensor(doing, "rows", rows, (None, None))
    weights = check_tensor(doing, "weights", weights, (len(rows),))
    row_offsets = check_tensor(doing, "row_offsets", row_offsets, (None,), torch.int64)
    code_offsets = check_tensor(doing, "code_offsets", code_offsets, (len(row_offsets),), torch.int64)
    codebook = check_tensor(doing, "codebook", codebook, (None, rows.shape[1])).clone()
    _check_offsets(row_offsets, code_offsets, len(rows), len(codebook))
    # A sum is finite only if all numbers are, and much faster than looking at each; it may also have overflowed.
    if not all(n.sum().isfinite() or n.isfinite().all() for n in (rows, codebook, weights)):
        raise ReconError(f"calling {doing}", "rows, weights or codes are not finite", "finite numbers")
    if iterations < 0 or bool((weights < 0).any()):
        raise ReconError(f"calling {doing}", f"{iterations} iterations or a negative weight", "none below 0")
    if resolve_backend(backend, rows.device, ("cpu", "reference")) == "reference":
        from recon.kernels.palette.reference import cluster_groups_reference

        labels, distances = cluster_groups_reference(rows, weights, row_offsets, code_offsets, codebook, iterations)
        return Clusters(codebook, labels, distances)
    labels = torch.empty(len(rows), dtype=torch.int32)
    distances = torch.empty(len(rows))
    module = native()
    params = module.PaletteParams()
    params.rows, params.weights = rows.data_ptr(), weights.data_ptr()
    params.row_offsets, params.code_offsets = row_offsets.data_ptr(), code_offsets.data_ptr()
    params.codebook, params.labels, params.distances = codebook.data_ptr(), labels.data_ptr(), distances.data_ptr()
    params.groups, params.dims, params.iterations = len(row_offsets) - 1, rows.shape[1], iterations
    module.cluster_groups(params)
    return Clusters(codebook, labels, distances)


def _check_offsets(row_offsets: torch.Tensor, code_offsets: torch.Tensor, rows: int, codes: int) -> None:
    doing = "calling cluster_groups"
    for name, offsets, total in (("row_offsets", row_offsets, rows), ("code_offsets", code_offsets, codes)):
        if len(offsets) == 0 or int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((offsets.diff() < 0).any()):
            raise ReconError(doing, f"{name} do not run from 0 to {total}", "offsets that never fall")
    if bool(((row_offsets.diff() > 0) & (code_offsets.diff() == 0)).any()):
        raise ReconError(doing, "a group has rows and no codes", "at least one code for each group with rows")
    if codes > 2**24:
        raise ReconError(doing, f"there are {codes} codes", f"at most {2**24}")
