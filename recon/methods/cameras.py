# SPDX-License-Identifier: Apache-2.0
"""What may be trained for each photograph beside the scene: a motion of its pose, a correction of its colours.

Both serve methods that train on one photograph a step, and those that draw rays from many photographs at once.  Those
take the poses of all photographs, gather them by ray with `rows_of`, and give exposures a photograph's index for each
ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recon.kernels.adam.op import AdamHyper
from recon.methods.parameter import Parameter

_SMALL_ANGLE2 = 1e-6


class PoseDeltas:
    """One rigid motion per training photograph, applied in the camera's frame after its given pose.

    A motion is (ω, t): the rotation exp([ω]×) by the vector ω in radians and the shift t in scene extents.
    """

    def __init__(self, count: int, extent: float, device: torch.device) -> None:
        self._parameter = Parameter.fresh(torch.zeros(count, 6, device=device))
        self._extent = extent

    def apply(self, view_index: int, cam_from_world: torch.Tensor) -> torch.Tensor:
        """Returns the refined 4×4 pose of a photograph, differentiable to its motion."""
        return motion_matrix(self._parameter.value[view_index], self._extent) @ cam_from_world

    def apply_all(self, cam_from_world: torch.Tensor) -> torch.Tensor:
        """Returns the refined poses [F, 4, 4] of all photographs, in their order, differentiable to their motions."""
        return motion_matrix(self._parameter.value, self._extent) @ cam_from_world

    def update(self, step: int, rate: float) -> None:
        """Makes an Adam step with the gradient that the backward pass left; only photographs that it reached move."""
        self._parameter.step_rows(AdamHyper(rate, step))

    def state(self) -> dict[str, torch.Tensor]:
        """Returns the motions with their moments, for a checkpoint."""
        return self._parameter.state("pose")

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            ReconError: a tensor is missing or of another shape.
        """
        self._parameter = self._parameter.restored("pose", tensors)


class Exposure:
    """One affine colour correction per training photograph: c ↦ A c + b, with A = I + M.

    The scene could be twice as bright and every A half of it without any change in the loss.  To anchor that gauge,
    the mean over all photographs is taken out after each step: what is rendered without a correction is the average
    photograph.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._parameter = Parameter.fresh(torch.zeros(count, 3, 4, device=device))

    def apply(self, view_index: int | torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
        """Returns rendered colours as photographs' exposures show them.

        Args:
            view_index: the photograph of all colours, or an integer tensor [R] with one for each ray.
            rgb: a picture [H, W, 3] or colours [R, 3] in the first case, colours [R, 3] in the second.
        """
        if isinstance(view_index, torch.Tensor):
            matrices = rows_of(self._parameter.value, view_index)
            return rgb + (matrices[:, :, :3] @ rgb[:, :, None])[:, :, 0] + matrices[:, :, 3]
        matrix = self._parameter.value[view_index]
        return rgb + rgb @ matrix[:, :3].T + matrix[:, 3]

    @torch.no_grad()
    def update(self, step: int, rate: float) -> None:
        """As `PoseDeltas.update`, followed by the anchoring."""
        self._parameter.step_rows(AdamHyper(rate, step))
        value = self._parameter.value.data
        value -= value.mean(0, keepdim=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Returns the corrections with their moments, for a checkpoint."""
        return self._parameter.state("exposure")

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            ReconError: a tensor is missing or of another shape.
        """
        self._parameter = self._parameter.restored("exposure", tensors)


def motion_matrix(motion: torch.Tensor, extent: float) -> torch.Tensor:
    """Returns the matrices [..., 4, 4] of motions [..., 6].

    Rodrigues' formula, with its series near zero, so that gradients exist there.
    """
    omega, shift = motion[..., :3], motion[..., 3:] * extent
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*motion.shape[:-1], 3, 3)
    angle2 = (omega * omega).sum(-1)[..., None, None]
    small = angle2 < _SMALL_ANGLE2
    safe = torch.where(small, torch.ones_like(angle2), angle2)
    angle = safe.sqrt()
    sine = torch.where(small, 1 - angle2 / 6, torch.sin(angle) / angle)
    cosine = torch.where(small, 0.5 - angle2 / 24, (1 - torch.cos(angle)) / safe)
    eye = torch.eye(3, dtype=motion.dtype, device=motion.device)
    rotation = eye + sine * cross + cosine * (cross @ cross)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=motion.dtype, device=motion.device)
    bottom = bottom.expand(*motion.shape[:-1], 1, 4)
    return torch.cat([torch.cat([rotation, shift[..., None]], -1), bottom], -2)


def rows_of(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Returns `values[rows]` [R, ...] for values [F, ...] and integer rows [R], differentiable to the values.

    Thousands of rays share a photograph's row.  Torch adds their gradients up on all threads at once and in no
    certain order; here they are added ray after ray, so that training twice gives the same bits (on a processor), and
    no row waits for another one's lock.
    """
    return _RowsOf.apply(values, rows)  # type: ignore[no-any-return]


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = values.shape
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (rows,) = ctx.saved_tensors
        gradient, width = gradients[0], ctx.shape[1:].numel()
        places = rows.long()[:, None] * width + torch.arange(width, device=rows.device)
        total = torch.zeros(ctx.shape, dtype=gradient.dtype, device=gradient.device)
        total.view(-1).index_add_(0, places.reshape(-1), gradient.reshape(-1))
        return total, None
