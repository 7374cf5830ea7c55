# SPDX-License-Identifier: Apache-2.0
"""Moves the rows of many arrays within their memory: what removing and multiplying Gaussians comes down to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native


def move_rows(tensors: Sequence[torch.Tensor], sources: torch.Tensor, backend: Backend = "auto") -> None:
    """Sets row i of each tensor to what its row `sources[i]` was, in place and, on the CPU, without a second copy.

    Args:
        tensors: [R, ...] each, contiguous, of any type; storage with room for the rows that come.
        sources: [M] int64 that never descend, M at most R; leaving numbers out removes rows, repeating them makes
            copies that stand beside each other.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: a source that is no row or comes before the one before it, or more rows than a tensor has.
    """
    from recon.kernels.rearrange.reference import move_rows_reference

    if not tensors:
        return
    rows = min(len(tensor) for tensor in tensors)
    sources = check_tensor("move_rows", "sources", sources, (None,), torch.int64)
    _check_sources(sources, rows)
    resolved = resolve_backend(backend, sources.device, ("cpu", "cuda", "reference"))
    if resolved == "reference":
        move_rows_reference(tensors, sources)
        return
    assert all(tensor.is_contiguous() for tensor in tensors)
    if resolved == "cuda":
        from recon.kernels.rearrange.cuda import move_rows_cuda

        move_rows_cuda(tensors, sources)
        return
    assert all(tensor.device.type == "cpu" for tensor in tensors)
    # The largest first, so that the threads end together.
    ordered = sorted(tensors, key=lambda tensor: tensor[:1].numel() * tensor.element_size(), reverse=True)
    addresses = torch.tensor([tensor.data_ptr() for tensor in ordered], dtype=torch.int64)
    row_bytes = torch.tensor([t[:1].numel() * t.element_size() for t in ordered], dtype=torch.int64)
    module = native()
    params = module.RearrangeParams()
    params.addresses, params.row_bytes = addresses.data_ptr(), row_bytes.data_ptr()
    params.sources, params.count, params.arrays = sources.data_ptr(), len(sources), len(ordered)
    module.move_rows(params)


def _check_sources(sources: torch.Tensor, rows: int) -> None:
    doing = "calling move_rows"
    if len(sources) > rows:
        raise ReconError(doing, f"sources has {len(sources)} entries", f"at most the {rows} rows of the tensors")
    if len(sources) == 0:
        return
    if bool((sources[1:] < sources[:-1]).any()):
        raise ReconError(doing, "sources descend", "numbers that never descend")
    if int(sources[0]) < 0 or int(sources[-1]) >= rows:
        raise ReconError(doing, f"sources reach from {int(sources[0])} to {int(sources[-1])}", f"0 to {rows - 1}")
