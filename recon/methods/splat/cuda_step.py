# SPDX-License-Identifier: Apache-2.0
"""One step of training on the CUDA kernels: a sequence of launches on memory that lives from step to step.

The sequence is recorded when a step of a new kind is made (another size of the picture, another number of Gaussians),
and replayed with the photograph's camera and addresses and this step's learning rates in it; on a GPU that is one call
of the driver.  Where stages are timed the launches are made one by one.

Nothing in a step waits for the GPU.  What the host has to know, the loss and whether the tile lists had room, is copied
behind the step and read in the next one; where they had none, the GPU skips the update by itself, and the host makes
room and makes the step again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from recon.cameras import Camera
from recon.kernels.binning.cuda import COUNTERS, PAIRS, SKIP, CudaTileBinner, QueuedTiles
from recon.kernels.blend.cuda import blend_backward_into_cuda, blend_forward_into_cuda
from recon.kernels.cuda.program import params_of, program_for
from recon.kernels.cuda.sequence import Sequence, recorded
from recon.kernels.projection.cuda import fill_view, project_into_cuda
from recon.kernels.projection.op import ProjectionOptions
from recon.kernels.projection.types import Projected
from recon.kernels.ssim.cuda import QueuedLoss, fill_target, queue_photometric
from recon.kernels.ssim.op import PhotometricWeights
from recon.kernels.update.cuda import fill_accumulators, fill_rates, update_splats_cuda
from recon.kernels.workspace import Workspace
from recon.methods.profile import Profile
from recon.methods.splat.model import SplatParameters

if TYPE_CHECKING:
    from recon.methods.splat.step import StepRequest

_SPARE = 1.15
"""Room is made where the pairs come closer than this to what there is."""

_MOST_PLANS = 16


class CudaStep:
    """The step on the CUDA kernels; implements `recon.methods.splat.step.TrainingStep`.

    `make` returns the loss of the step before, but for the first one; that number alone is late.
    """

    def __init__(self, device: torch.device, profile: Profile) -> None:
        self._device, self._profile = device, profile
        self._workspace, self._binner = Workspace(device), CudaTileBinner(device)
        self._numbers = _Numbers(device)
        self._plans: dict[Any, _Plan] = {}
        self._epoch: Any = None
        self._sizes: set[tuple[int, int]] = set()
        self._sent: _Sent | None = None
        self._loss = float("nan")
        self.repeated_steps = 0
        """Steps that were made again because the tile lists had had no room."""
        self.lost_steps = 0
        """Those of them that were not, because density control came between."""

    def make(self, parameters: SplatParameters, request: StepRequest) -> float:
        self._queue(parameters, request)
        before, self._sent = self._sent, self._send(parameters, request)
        self._settle(parameters, before or self._sent)
        return self._loss

    def _send(self, parameters: SplatParameters, request: StepRequest) -> _Sent:
        return _Sent(request, len(parameters), self._binner.capacity, self._numbers.fetch())

    def _settle(self, parameters: SplatParameters, sent: _Sent) -> None:
        """Takes note of what a step told, and makes it again if it did nothing for want of room."""
        pairs = sent.numbers.pairs()
        if pairs <= sent.capacity:
            self._loss = sent.numbers.loss()
            if int(pairs * _SPARE) > self._binner.capacity:
                self._binner.make_room(int(pairs * _SPARE))
            return
        if sent.count != len(parameters):
            self.lost_steps += 1
            self._binner.make_room(int(pairs * _SPARE))
            return
        # Its pose's gradient was zero and is used up; a step that is made again moves no camera.
        request = replace(sent.request, cam_from_world=sent.request.cam_from_world.detach())
        while pairs > self._binner.capacity or sent.request is not request:
            self._binner.make_room(int(pairs * _SPARE))
            self._queue(parameters, request)
            sent = self._send(parameters, request)
            pairs = sent.numbers.pairs()
        self._loss = sent.numbers.loss()
        self.repeated_steps += 1

    # ---- queueing --------------------------------------------------------------------------------------------------

    def _queue(self, parameters: SplatParameters, request: StepRequest) -> None:
        """Queues a step and waits for nothing, but for the first of a size, whose lists' length is not known."""
        size = (request.target.camera.width, request.target.camera.height)
        if size not in self._sizes:
            self._measure(parameters, request)
            self._sizes.add(size)
        if self._profile.on:
            self._queue_stages(parameters, request)
            return
        plan = self._plan(parameters, request)
        plan.set(request)
        program = program_for(self._device)
        program.replay(plan.picture)
        if plan.loss is not None and plan.back is not None:
            assert request.correction is not None
            picture = plan.blended.detach().requires_grad_(True)
            shown = request.correction(picture)
            self._corrected(plan.blended).copy_(shown.detach())
            program.replay(plan.loss)
            self._correct_back(shown, picture)
            program.replay(plan.back)
        if plan.by_pose is not None:
            request.cam_from_world.backward(plan.by_pose.to(torch.float32))

    def _measure(self, parameters: SplatParameters, request: StepRequest) -> None:
        """Makes room for the lists of a picture of a size that was not seen before, and waits for their length."""
        splats, target = parameters.values(), request.target
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=0)
        projected = project_into_cuda(
            splats, request.cam_from_world.detach().contiguous(), target.camera, options, self._workspace
        )
        self._binner.queue_fitting(projected, target.camera.width, target.camera.height, options.alpha_cutoff)

    def _plan(self, parameters: SplatParameters, request: StepRequest) -> _Plan:
        """Returns the recorded step of this kind, if need be recorded now."""
        camera = request.target.camera
        key = (
            camera.width, camera.height, request.sh_degree, request.rates.sh_detail != 0, request.rates.view_gradient,
            request.accumulators is not None, request.correction is not None, request.cam_from_world.requires_grad,
        )  # fmt: skip
        if self._epoch != self._memory(parameters) or len(self._plans) > _MOST_PLANS:
            self._plans.clear()
        if key not in self._plans:
            made = self._record(parameters, request)
            if self._epoch != self._memory(parameters):
                self._plans.clear()
            self._epoch = self._memory(parameters)
            self._plans[key] = made
        return self._plans[key]

    def _memory(self, parameters: SplatParameters) -> Any:
        """What changes when an address in the recorded steps may no longer be right."""
        return (
            self._workspace.generation, self._binner.generation, self._binner.capacity, len(parameters),
            parameters.means.data_ptr(),
        )  # fmt: skip

    def _record(self, parameters: SplatParameters, request: StepRequest) -> _Plan:
        with recorded() as picture:
            queued = self._queue_picture(parameters, request)
            if request.correction is None:
                loss = self._queue_loss(queued.blended, request)
                by_pose = self._queue_back(parameters, request, queued, loss.gradient)
                return _Plan(self, picture, None, None, queued.blended, by_pose)
        with recorded() as compared:
            self._queue_loss(self._corrected(queued.blended), request)
        with recorded() as back:
            by_pose = self._queue_back(parameters, request, queued, self._gradient(queued.blended))
        return _Plan(self, picture, compared, back, queued.blended, by_pose)

    def _queue_stages(self, parameters: SplatParameters, request: StepRequest) -> None:
        """As a replay, one launch after another."""
        queued = self._queue_picture(parameters, request)
        with self._profile.stage("loss"):
            if request.correction is None:
                gradient = self._queue_loss(queued.blended, request).gradient
            else:
                picture = queued.blended.detach().requires_grad_(True)
                shown = request.correction(picture)
                self._corrected(queued.blended).copy_(shown.detach())
                self._queue_loss(self._corrected(queued.blended), request)
                gradient = self._correct_back(shown, picture)
        by_pose = self._queue_back(parameters, request, queued, gradient)
        if by_pose is not None:
            request.cam_from_world.backward(by_pose.to(torch.float32))

    # ---- the parts -------------------------------------------------------------------------------------------------

    def _queue_picture(self, parameters: SplatParameters, request: StepRequest) -> _Picture:
        stage, camera, splats = self._profile.stage, request.target.camera, parameters.values()
        options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=request.sh_degree)
        pose, size = request.cam_from_world.detach().contiguous(), (camera.width, camera.height)
        with stage("project"):
            background = self._background()
            put = params_of("PutParams", to=background)
            put.values[:3] = request.background
            program_for(self._device).launch_blocks("put_numbers", 1, put)
            projected = project_into_cuda(splats, pose, camera, options, self._workspace)
        with stage("bin"):
            tiles = self._binner.queue(projected, *size, options.alpha_cutoff, self._numbers.counters)
        with stage("blend forward"):
            blended, params = blend_forward_into_cuda(
                projected, tiles, size, options.alpha_cutoff, self._workspace, background
            )
        return _Picture(projected, tiles, blended.channels, params, options)

    def _queue_loss(self, image: torch.Tensor, request: StepRequest) -> QueuedLoss:
        target, weights = request.target, PhotometricWeights(1 - request.ssim_weight, request.ssim_weight)
        return queue_photometric(
            image, target.image, weights, self._workspace, mask=target.mask, mask_is_alpha=target.is_alpha,
            background=self._background(), skip=self._numbers.counters[SKIP:], result=self._numbers.result,
        )  # fmt: skip

    def _queue_back(
        self, parameters: SplatParameters, request: StepRequest, picture: _Picture, gradient: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Returns where the pose's gradient comes to stand."""
        assert gradient is not None
        stage, tiles = self._profile.stage, picture.tiles
        with stage("blend backward"):
            moments = blend_backward_into_cuda(
                picture.params, tiles, gradient, self._workspace, statistics=request.accumulators is not None
            )
        with stage("update"):
            return update_splats_cuda(
                parameters.values(), parameters.moments(), picture.projected, tiles.touched, moments,
                tiles.counters[SKIP:], request.cam_from_world.detach().contiguous(), request.target.camera,
                picture.options, request.rates, request.accumulators,
                pose_gradient=self._workspace if request.cam_from_world.requires_grad else None,
            )  # fmt: skip

    def _correct_back(self, shown: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """Takes the loss's gradient back through the correction, to where the rest of the step reads it."""
        loss_gradient = self._workspace.take("photometric gradient", tuple(shown.shape))
        # A step that is skipped must not move the correction either.
        shown.backward(torch.where(self._numbers.counters[SKIP] == 0, loss_gradient, 0.0))
        assert picture.grad is not None
        return self._gradient(picture).copy_(picture.grad)

    def _background(self) -> torch.Tensor:
        return self._workspace.take("background", (4,))

    def _corrected(self, like: torch.Tensor) -> torch.Tensor:
        return self._workspace.take("corrected picture", tuple(like.shape))

    def _gradient(self, like: torch.Tensor) -> torch.Tensor:
        return self._workspace.take("corrected gradient", tuple(like.shape))


@dataclass(frozen=True, eq=False)
class _Picture:
    """What the forward pass left for the rest of the step."""

    projected: Projected
    tiles: QueuedTiles
    blended: torch.Tensor
    params: Any
    options: ProjectionOptions


class _Plan:
    """A recorded step.  With a correction of the colours, which is torch's, it comes in three parts."""

    def __init__(
        self,
        step: CudaStep,
        picture: Sequence,
        loss: Sequence | None,
        back: Sequence | None,
        blended: torch.Tensor,
        by_pose: torch.Tensor | None,
    ) -> None:
        self.picture, self.loss, self.back = picture, loss, back
        self.blended, self.by_pose = blended, by_pose
        parts = [part for part in (picture, loss, back) if part is not None]

        def find(*names: str) -> list[Any]:
            return [launch.params for part in parts for launch in part.of(*names)]

        (self._put,) = find("put_numbers")
        (self._update,) = find(*(f"update_{degree}" for degree in range(4)))
        self._losses = [params.loss for params in find("ssim_forward", "ssim_finish", "ssim_backward")]
        projections = [params.projection for params in find("project_forward", "finish_pose_gradient")]
        self._views = [*projections, self._update.update.projection]
        self._pose: torch.Tensor | None = None

    def set(self, request: StepRequest) -> None:
        """Puts all of a request into the launches that is not the same in each step of this kind."""
        camera: Camera = request.target.camera
        # Held until the next step, as nobody else may hold a copy that was made here.
        self._pose = pose = request.cam_from_world.detach().contiguous()
        self._put.values[:3] = request.background
        for view in self._views:
            fill_view(view, pose, camera)
        weights = PhotometricWeights(1 - request.ssim_weight, request.ssim_weight)
        for loss in self._losses:
            fill_target(loss, request.target.image, weights, request.target.mask, request.target.is_alpha)
        fill_rates(self._update.update, request.rates)
        fill_accumulators(self._update, request.accumulators)


# ---- what the host is told -------------------------------------------------------------------------------------------


class _Numbers:
    """What a step tells the host, on the device and, some steps of it, on its way."""

    _SLOTS = 3
    """This step's, the last one's, and that of one that is made again."""

    def __init__(self, device: torch.device) -> None:
        self._all = torch.zeros(COUNTERS + 2, dtype=torch.int64, device=device)
        self.counters, self.result = self._all[:COUNTERS], self._all[COUNTERS:].view(torch.float64)
        on_gpu = device.type == "cuda"
        self._slots = [torch.empty(COUNTERS + 2, dtype=torch.int64, pin_memory=on_gpu) for _ in range(self._SLOTS)]
        self._events = [torch.cuda.Event() if on_gpu else None for _ in range(self._SLOTS)]
        self._next = 0

    def fetch(self) -> _Arriving:
        """Starts to copy what the steps queued so far tell."""
        self._next = (self._next + 1) % self._SLOTS
        slot, event = self._slots[self._next], self._events[self._next]
        slot.copy_(self._all, non_blocking=True)
        if event is not None:
            event.record()
        return _Arriving(slot, event)


@dataclass(frozen=True, eq=False)
class _Arriving:
    """Numbers on their way to the host."""

    slot: torch.Tensor
    event: Any

    def pairs(self) -> int:
        """Waits until they are there."""
        if self.event is not None:
            self.event.synchronize()
        return int(self.slot[PAIRS])

    def loss(self) -> float:
        return float(self.slot[COUNTERS:].view(torch.float64)[0])


@dataclass(frozen=True, eq=False)
class _Sent:
    """A step that was queued: for how many Gaussians, with room for how many pairs, and what it tells."""

    request: StepRequest
    count: int
    capacity: int
    numbers: _Arriving
