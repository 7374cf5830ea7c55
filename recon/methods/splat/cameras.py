# SPDX-License-Identifier: Apache-2.0
"""What may be trained for each photograph beside the splats: a motion of its pose, a correction of its colours."""

from __future__ import annotations

import torch

from recon.kernels.adam.op import AdamHyper, adam_step
from recon.methods.splat.model import Parameter


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

    def update(self, step: int, rate: float) -> None:
        """Makes an Adam step with the gradient that the backward pass left; only that photograph's row moves."""
        _update_rows(self._parameter, step, rate)

    def state(self) -> dict[str, torch.Tensor]:
        return _state("pose", self._parameter)

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self._parameter = _restored("pose", tensors, self._parameter)


class Exposure:
    """One affine colour correction per training photograph: c ↦ A c + b, with A = I + M.

    The splats could be twice as bright and every A half of it without any change in the loss.  To anchor that gauge,
    the mean over all photographs is taken out after each step: what is rendered without a correction is the average
    photograph.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._parameter = Parameter.fresh(torch.zeros(count, 3, 4, device=device))

    def apply(self, view_index: int, rgb: torch.Tensor) -> torch.Tensor:
        """Returns a rendered picture [H, W, 3] as this photograph's exposure shows it."""
        matrix = self._parameter.value[view_index]
        return rgb + rgb @ matrix[:, :3].T + matrix[:, 3]

    @torch.no_grad()
    def update(self, step: int, rate: float) -> None:
        """As `PoseDeltas.update`, followed by the anchoring."""
        _update_rows(self._parameter, step, rate)
        value = self._parameter.value.data
        value -= value.mean(0, keepdim=True)

    def state(self) -> dict[str, torch.Tensor]:
        return _state("exposure", self._parameter)

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self._parameter = _restored("exposure", tensors, self._parameter)


def motion_matrix(motion: torch.Tensor, extent: float) -> torch.Tensor:
    """Returns the 4×4 matrix of a motion [6]; Rodrigues' formula with series near zero, so gradients exist there."""
    omega, shift = motion[:3], motion[3:] * extent
    zero = torch.zeros((), dtype=motion.dtype, device=motion.device)
    x, y, z = omega.unbind()
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    angle2 = (omega * omega).sum()
    small = angle2 < 1e-6
    safe = torch.where(small, torch.ones_like(angle2), angle2)
    angle = safe.sqrt()
    sine = torch.where(small, 1 - angle2 / 6, torch.sin(angle) / angle)
    cosine = torch.where(small, 0.5 - angle2 / 24, (1 - torch.cos(angle)) / safe)
    eye = torch.eye(3, dtype=motion.dtype, device=motion.device)
    rotation = eye + sine * cross + cosine * (cross @ cross)
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=motion.dtype, device=motion.device)
    return torch.cat([torch.cat([rotation, shift[:, None]], 1), bottom])


def _update_rows(parameter: Parameter, step: int, rate: float) -> None:
    gradient = parameter.value.grad
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        parameter.value.grad = None
        return
    touched = gradient.reshape(len(gradient), -1).abs().amax(1) > 0
    with torch.no_grad():
        adam_step(
            parameter.value.data,
            gradient,
            parameter.first_moment,
            parameter.second_moment,
            AdamHyper(rate, step),
            touched,
        )
    parameter.value.grad = None


def _state(name: str, parameter: Parameter) -> dict[str, torch.Tensor]:
    return {
        name: parameter.value.detach(),
        f"{name}.first_moment": parameter.first_moment,
        f"{name}.second_moment": parameter.second_moment,
    }


def _restored(name: str, tensors: dict[str, torch.Tensor], old: Parameter) -> Parameter:
    value, first, second = (
        tensors[key].to(old.value.device).clone() for key in (name, f"{name}.first_moment", f"{name}.second_moment")
    )
    return Parameter(value.requires_grad_(True), first, second)
