# SPDX-License-Identifier: Apache-2.0
"""One step of training on the CUDA kernels: a sequence of launches on memory that lives from step to step.

Nothing in a step waits for the GPU.  What the host has to know, the loss and whether the tile lists had room, is copied
behind the step and read in the next one; where they had none, the GPU skips the update by itself and the host makes
room for the steps that follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from recon.kernels.binning.cuda import PAIRS, SKIP, CudaTileBinner, QueuedTiles
from recon.kernels.blend.cuda import blend_backward_into_cuda, blend_forward_into_cuda
from recon.kernels.projection.cuda import project_into_cuda
from recon.kernels.projection.op import ProjectionOptions
from recon.kernels.ssim.cuda import QueuedLoss, queue_photometric
from recon.kernels.ssim.op import PhotometricWeights
from recon.kernels.update.cuda import update_splats_cuda
from recon.kernels.workspace import Workspace
from recon.methods.profile import Profile
from recon.methods.splat.model import SplatParameters

if TYPE_CHECKING:
    from recon.methods.splat.step import StepRequest

_SPARE = 1.15
"""Room is made where the pairs come closer than this to what there is."""


class CudaStep:
    """The step on the CUDA kernels; implements `recon.methods.splat.step.TrainingStep`.

    `make` returns the loss of the step before, but for the first one; that number alone is late.
    """

    def __init__(self, device: torch.device, profile: Profile) -> None:
        self._workspace = Workspace(device)
        self._binner = CudaTileBinner(device)
        self._device, self._profile = device, profile
        self._backgrounds: dict[tuple[float, float, float], torch.Tensor] = {}
        self._size = (0, 0)
        self._late: _Late | None = None
        self._loss = float("nan")
        self.lost_steps = 0
        """Steps that were skipped because the tile lists had no room."""

    def make(self, parameters: SplatParameters, request: StepRequest) -> float:
        stage, workspace, camera = self._profile.stage, self._workspace, request.target.camera
        splats, size = parameters.values(), (camera.width, camera.height)
        pose = request.cam_from_world.detach().contiguous()
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=request.sh_degree)
        background = self._background(request.background)
        with stage("project"):
            projected = project_into_cuda(splats, pose, camera, options, workspace)
        with stage("bin"):
            # Another size has other lists, which may be much longer: once for each, this waits for their length.
            queue = self._binner.queue if size == self._size else self._binner.queue_fitting
            tiles, self._size = queue(projected, *size, options.alpha_cutoff), size
        with stage("blend forward"):
            blended, params = blend_forward_into_cuda(
                projected, tiles, size, options.alpha_cutoff, workspace, background
            )
        with stage("loss"):
            loss, gradient = self._compare(blended.channels, request, background, tiles)
        with stage("blend backward"):
            moments = blend_backward_into_cuda(
                params, tiles, gradient, workspace, statistics=request.accumulators is not None
            )
        with stage("update"):
            by_pose = update_splats_cuda(
                splats, parameters.moments(), projected, tiles.touched, moments, tiles.counters[SKIP:], pose, camera,
                options, request.rates, request.accumulators, pose_gradient=request.cam_from_world.requires_grad,
            )  # fmt: skip
        if by_pose is not None:
            request.cam_from_world.backward(by_pose)
        return self._note(loss, tiles)

    def _background(self, color: tuple[float, float, float]) -> torch.Tensor:
        if color not in self._backgrounds:
            self._backgrounds = {color: torch.tensor(color, dtype=torch.float32).to(self._device)}
        return self._backgrounds[color]

    def _compare(
        self, picture: torch.Tensor, request: StepRequest, background: torch.Tensor, tiles: QueuedTiles
    ) -> tuple[QueuedLoss, torch.Tensor]:
        """Queues the loss and returns it with its gradient by the rendered picture."""
        target, shown = request.target, picture
        if request.correction is not None:
            picture = picture.detach().requires_grad_(True)
            shown = request.correction(picture)
        skip = tiles.counters[SKIP:]
        loss = queue_photometric(
            shown.detach().contiguous(), target.image, PhotometricWeights(1 - request.ssim_weight, request.ssim_weight),
            self._workspace, mask=target.mask, mask_is_alpha=target.is_alpha, background=background, skip=skip,
        )  # fmt: skip
        assert loss.gradient is not None
        if request.correction is None:
            return loss, loss.gradient
        # A step that is skipped must not move the correction either.
        shown.backward(torch.where(skip[0] == 0, loss.gradient, 0.0))
        assert picture.grad is not None
        return loss, picture.grad.contiguous()

    def _note(self, loss: QueuedLoss, tiles: QueuedTiles) -> float:
        """Starts to fetch this step's numbers and returns the last loss that is known."""
        before, self._late = self._late, _Late.fetch(loss, tiles, self._binner.capacity)
        late = before or self._late
        pairs = late.pairs()
        if int(pairs * _SPARE) > self._binner.capacity:
            self._binner.make_room(int(pairs * _SPARE))
        if pairs > late.capacity:
            self.lost_steps += 1
        else:
            self._loss = late.loss()
        return self._loss


@dataclass(frozen=True, eq=False)
class _Late:
    """Numbers on their way to the host."""

    counters: torch.Tensor
    result: torch.Tensor
    capacity: int
    arrived: Any

    @staticmethod
    def fetch(loss: QueuedLoss, tiles: QueuedTiles, capacity: int) -> _Late:
        if loss.result.device.type != "cuda":
            return _Late(tiles.counters.clone(), loss.result.clone(), capacity, None)
        counters = torch.empty(tiles.counters.shape, dtype=torch.int64, pin_memory=True)
        result = torch.empty(loss.result.shape, dtype=torch.float64, pin_memory=True)
        counters.copy_(tiles.counters, non_blocking=True)
        result.copy_(loss.result, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return _Late(counters, result, capacity, arrived)

    def pairs(self) -> int:
        if self.arrived is not None:
            self.arrived.synchronize()
        return int(self.counters[PAIRS])

    def loss(self) -> float:
        return float(self.result[0])
