# SPDX-License-Identifier: Apache-2.0
"""Which Gaussians touch which tile of the picture, nearest first.

A Gaussian touches a pixel where its alpha, opacity · exp(-q/2), reaches the cutoff (1/255 as in 3DGS), that is inside
the ellipse q <= 2 ln(opacity / cutoff).  Tiles outside of the ellipse do not list it: exact intersection, as in
Speedy-Splat (Hanson et al. 2025), with a margin for rounding, so that a pixel is never missed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from recon.errors import ReconError
from recon.kernels.backend import Backend, resolve_backend
from recon.kernels.checks import check_tensor
from recon.kernels.native import native
from recon.kernels.workspace import Workspace

if TYPE_CHECKING:
    from recon.kernels.projection.op import Projected

TILE_SIZE = 16
"""Pixels along a tile's side."""

ALPHA_CUTOFF = 1.0 / 255.0
"""Smaller alphas are not blended."""

MAX_PAIRS = 1 << 28
"""Pairs of a Gaussian and a tile in one picture: 2 GiB of lists, and a backward pass needs 16 GiB."""

MAX_SIDE_PX = 1 << 16
"""Longest side of a picture."""


@dataclass(frozen=True, eq=False)
class TileLists:
    """P pairs of a Gaussian and a tile that it touches, by tile and then by depth.

    Attributes:
        offsets: [T + 1] int32; tile t (row by row) lists entries offsets[t] to offsets[t + 1].
        entries: [P, 2] int32, the Gaussian and the number of the pair.
        pair_starts: [N + 1] int32; Gaussian n's pairs are numbered pair_starts[n] to pair_starts[n + 1].
        tiles_x, tiles_y: tiles along the picture's sides.
        alpha_cutoff: alphas below are not blended.
        seen: [N] bool, the Gaussians that touch any tile, where the maker noted them; read `touched`.
        records: [N, 8] what the CUDA kernels of blending read of each; from them only, which number no pairs.
    """

    offsets: torch.Tensor
    entries: torch.Tensor
    pair_starts: torch.Tensor
    tiles_x: int
    tiles_y: int
    alpha_cutoff: float = ALPHA_CUTOFF
    seen: torch.Tensor | None = None
    records: torch.Tensor | None = None

    @property
    def ids(self) -> torch.Tensor:
        """[P] int32: the Gaussians, tile by tile, nearest first within a tile."""
        return self.entries[:, 0]

    @property
    def touched(self) -> torch.Tensor:
        """[N] bool: the Gaussians that touch any tile."""
        if self.seen is not None:
            return self.seen
        return self.pair_starts[1:] > self.pair_starts[:-1]


def bin_tiles(
    projected: Projected,
    width: int,
    height: int,
    alpha_cutoff: float = ALPHA_CUTOFF,
    max_pairs: int = MAX_PAIRS,
    backend: Backend = "auto",
) -> TileLists:
    """Lists for each tile of 16×16 pixels the Gaussians that touch it, in order of depth and then of number.

    Gaussians that are not `visible`, whose opacity is below the cutoff, or with a number that is not finite or a conic
    that is no ellipse are in no list.  The result does not depend on the number of threads.

    Args:
        projected: N Gaussians in the picture.
        width, height: its size in pixels.
        alpha_cutoff: alphas below are not blended; tests of gradients lower it, since the cutoff is a step.
        max_pairs: bound on the number of pairs, and so on memory.
        backend: see `recon.kernels.backend`.

    Raises:
        ReconError: wrong shapes or types, an impossible size, or more than `max_pairs` pairs.
    """
    _check_numbers(width, height, alpha_cutoff, max_pairs)
    resolved = resolve_backend(backend, projected.means_px.device, ("cpu", "cuda", "reference"))
    arrays = _checked(projected, projected.means_px.dtype if resolved == "reference" else torch.float32)
    if resolved == "reference":
        from recon.kernels.binning.reference import bin_tiles_reference

        return bin_tiles_reference(projected, width, height, alpha_cutoff)
    if resolved == "cuda":
        from recon.kernels.binning.cuda import bin_tiles_cuda

        return bin_tiles_cuda(replace(projected, **arrays), width, height, alpha_cutoff, max_pairs)
    return TileBinner(max_pairs).bin(replace(projected, **arrays), width, height, alpha_cutoff)


class TileBinner:
    """Bins picture after picture as `bin_tiles` does, in memory that is kept from call to call and only grows."""

    def __init__(self, max_pairs: int = MAX_PAIRS) -> None:
        """Sets the bound on the number of pairs in one picture, and so on memory."""
        module = native()
        self._max_pairs = max_pairs
        self._module, self._work, self._workspace = module, module.BinWork(), Workspace()

    def bin(self, projected: Projected, width: int, height: int, alpha_cutoff: float = ALPHA_CUTOFF) -> TileLists:
        """Returns the lists, as `bin_tiles`; valid until the next call.

        The arrays must be what `bin_tiles` asks for, and contiguous.

        Raises:
            ReconError: more than the agreed number of pairs, or no memory for them.
        """
        params, take = self._module.BinParams(), self._workspace.take
        count = projected.means_px.shape[0]
        for name in ("means_px", "conics", "opacities", "depths", "visible"):
            tensor = getattr(projected, name)
            assert tensor.dtype == (torch.uint8 if name == "visible" else torch.float32), f"{name} is {tensor.dtype}"
            assert tensor.is_contiguous(), f"{name} is not contiguous"
            setattr(params, name, tensor.data_ptr())
        tiles_x, tiles_y = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
        pair_starts = take("pair_starts", (count + 1,), torch.int32)
        touched = take("touched", (count,), torch.bool)
        offsets = take("offsets", (tiles_x * tiles_y + 1,), torch.int32)
        params.pair_starts, params.touched = pair_starts.data_ptr(), touched.data_ptr()
        params.offsets = offsets.data_ptr()
        params.count, params.max_pairs = count, self._max_pairs
        params.width, params.height, params.alpha_cutoff = width, height, alpha_cutoff
        pairs = self._module.bin_count(params, self._work)
        if pairs < 0:
            raise _refusal(pairs, count, width, height, self._max_pairs)
        entries = take("entries", (pairs, 2), torch.int32)
        params.entries = entries.data_ptr()
        self._module.bin_fill(params, self._work)
        return TileLists(offsets, entries, pair_starts, tiles_x, tiles_y, alpha_cutoff, touched)


def _refusal(outcome: int, count: int, width: int, height: int, max_pairs: int) -> ReconError:
    return ReconError(
        f"listing {count} Gaussians by tile of a {width}×{height} picture",
        f"they touch more than {max_pairs} tiles" if outcome == -1 else "the machine has no memory left for the lists",
        "Gaussians that cover few tiles each",
        "render at a smaller size (--long-side), or prune large or surplus Gaussians (--max-gaussians)",
    )


def _check_numbers(width: int, height: int, alpha_cutoff: float, max_pairs: int) -> None:
    doing = "calling bin_tiles"
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise ReconError(doing, f"the picture is {width}×{height} pixels", f"sides of 1 to {MAX_SIDE_PX}")
    if not 1e-30 <= alpha_cutoff < 1.0:
        raise ReconError(doing, f"alpha_cutoff is {alpha_cutoff}", "a number from 1e-30 to below 1")
    if not 0 <= max_pairs < 1 << 31:
        raise ReconError(doing, f"max_pairs is {max_pairs}", "a number below 2³¹")


def _checked(projected: Projected, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Returns the arrays that binning reads, contiguous."""
    count = projected.means_px.shape[0]
    shapes = {"means_px": (count, 2), "conics": (count, 3), "opacities": (count,), "depths": (count,)}
    arrays = {
        name: check_tensor("bin_tiles", name, getattr(projected, name).detach(), shape, dtype)
        for name, shape in shapes.items()
    }
    arrays["visible"] = check_tensor("bin_tiles", "visible", projected.visible, (count,), torch.uint8)
    return arrays
