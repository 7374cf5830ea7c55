# SPDX-License-Identifier: Apache-2.0
"""Density control on CUDA: what goes, what is split, and the rows moved, with one number that the host waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recon.kernels.blend.op import DensityAccumulators
from recon.kernels.cuda.program import assign, params_of, program_for
from recon.kernels.update.op import TRAINED
from recon.kernels.workspace import Workspace
from recon.splats import Splats

_THREADS = 256
_COUNTERS = 8
_KEPT, _TOTAL = 1, 6
_DIGITS = (3, 2, 1, 0)
_HISTOGRAM_BLOCKS = 1024
_WORD_BYTES = 4

Storage = Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Value, first and second moment of each trained tensor, each with room for more rows than are used."""


@dataclass(frozen=True)
class SplitRules:
    """What stays and how many there may be.

    Attributes:
        least_opacity: of what stays.
        most_log_scale: logarithm of the largest standard deviation of what stays.
        least_weight: the largest share of a pixel that a Gaussian must have made up, if it was seen.
        budget: how many there may be afterwards; those of the largest mean gradients are split.
    """

    least_opacity: float
    most_log_scale: float
    least_weight: float
    budget: int


@dataclass(frozen=True, eq=False)
class SplitChoice:
    """What becomes of each Gaussian.

    Attributes:
        copies: [N] uint8; 0 goes, 1 stays, 2 is split.
        starts: [N] int64, where the first copy comes to stand.
        total: how many there are afterwards.
    """

    copies: torch.Tensor
    starts: torch.Tensor
    total: int


def choose_splits_cuda(
    splats: Splats, gathered: DensityAccumulators, rules: SplitRules, workspace: Workspace
) -> SplitChoice | None:
    """Returns what becomes of each Gaussian, and waits for how many they will be; None where none would stay."""
    count, take = len(splats), workspace.take
    program = program_for(splats.device)
    blocks = -(-count // _THREADS)
    counters = program.clear(take("counters", (_COUNTERS,), torch.int64))
    sums = take("block sums", (blocks,), torch.int64)
    params = params_of(
        "DensityLaunch",
        **{name: getattr(splats, name).detach() for name in ("means", "log_scales", "opacity_logits")},
        gradient_sum=gathered.gradient_sum, seen=gathered.seen, most_weight=gathered.most_weight, count=count,
        least_opacity=rules.least_opacity, most_log_scale=rules.most_log_scale, least_weight=rules.least_weight,
        budget=rules.budget, scores=take("scores", (count,)), copies=take("copies", (count,), torch.uint8),
        starts=take("starts", (count,), torch.int64), block_sums=sums,
        histogram=program.clear(take("histogram", (256,), torch.int32)), counters=counters,
    )  # fmt: skip
    program.launch("density_look", count, params)
    program.launch("density_score", count, params)
    for digit in _DIGITS:
        params.digit = digit
        program.launch_blocks("density_histogram", min(blocks, _HISTOGRAM_BLOCKS), params)
        program.launch_blocks("density_pick", 1, params)
    # What the first sum is of is not asked; the second is of all copies.
    scan = params_of("ScanParams", values=sums, count=blocks, total=counters[_TOTAL:])
    program.launch("density_ties", count, params)
    program.launch_blocks("scan_blocks", 1, scan)
    program.launch("density_copies", count, params)
    program.launch_blocks("scan_blocks", 1, scan)
    program.launch("density_starts", count, params)
    found = counters.tolist()
    if found[_KEPT] == 0:
        return None
    return SplitChoice(take("copies", (count,), torch.uint8), take("starts", (count,), torch.int64), int(found[_TOTAL]))


def split_rows_cuda(storage: Storage, choice: SplitChoice, workspace: Workspace) -> None:
    """Moves the rows of everything that is trained to where the choice has them, with halves, which have no moments
    yet, in place of what is split.  There must be room for them."""
    count, device = len(choice.copies), choice.copies.device
    program = program_for(device)
    tensors = [tensor for name in TRAINED for tensor in storage[name]]
    most = max(tensor[:1].numel() for tensor in tensors)
    moved = workspace.take("moved rows", (choice.total * most,))
    for tensor in tensors:
        words = tensor[:1].numel()
        assert tensor.element_size() == _WORD_BYTES
        assert choice.total <= len(tensor)
        params = params_of(
            "MultiplyLaunch", rows=tensor, moved=moved, copies=choice.copies, starts=choice.starts, count=count,
            words=words,
        )  # fmt: skip
        program.launch("multiply_rows", count * words, params)
        tensor[: choice.total].copy_(moved[: choice.total * words].view(tensor[: choice.total].shape))
    split = params_of("SplitLaunch", count=count, copies=choice.copies, starts=choice.starts)
    split.sh_floats = storage["sh"][0][:1].numel()
    for name in TRAINED:
        value, first, second = storage[name]
        assign(getattr(split, name), value=value, first_moment=first, second_moment=second)
    program.launch("density_split", count, split)
