# SPDX-License-Identifier: Apache-2.0
"""The stages of a training step, run one after the other as a trainer does, each timed on its own.

A stage is so measured with the caches as its predecessor leaves them, which a loop over one kernel would not do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from recon.bench.results import Samples
from recon.bench.scenes import BenchScene
from recon.kernels.binning.op import TileBinner
from recon.kernels.blend.op import DensityAccumulators, blend_backward_into, blend_forward_into
from recon.kernels.native import native
from recon.kernels.projection.op import ProjectionOptions, project_into
from recon.kernels.ssim.op import photometric_into
from recon.kernels.update.op import Moments, UpdateRates, update_splats
from recon.kernels.workspace import Workspace
from recon.rasterization import SplatRenderer
from recon.render import RenderOptions

if TYPE_CHECKING:
    from recon.methods.method import Trainer

KERNELS = ("project", "bin", "blend forward", "loss", "blend backward", "update")
WHOLE = ("render", "step")
STAGES = (*KERNELS, *WHOLE)

_TURN = 3
_RATE = 1e-9
_CHANNELS = 3
_SCREEN_FLOATS = 10  # position, conic, opacity, colour, depth
_SCREEN_GRADIENT_FLOATS = 9
_STEPS = 1_000_000
"""The trainer is told that this many steps are to come, so that no round of density control falls into a measurement;
its statistics are gathered all the same."""


class StepChain:
    """A scene with everything that a step needs, allocated once."""

    def __init__(self, scene: BenchScene) -> None:
        splats = scene.splats
        self.scene = scene
        self.options = ProjectionOptions(antialiased=splats.antialiased, sh_degree=splats.sh_degree)
        self._splats = splats.select(torch.arange(len(splats)))  # a copy: the update changes it
        self._workspace, self._binner = Workspace(), TileBinner()
        self._moments = Moments.zeros(self._splats)
        count = len(splats)
        self._accumulators = DensityAccumulators(*(torch.zeros(count) for _ in range(3)))
        self._background = torch.zeros(_CHANNELS)
        self.target = picture_bytes(scene)
        self._rates = UpdateRates(_RATE, _RATE, _RATE, _RATE, _RATE, _RATE, step=1000)

    def run(self, samples: Mapping[str, Samples]) -> None:
        """Runs each stage once and adds its time to `samples`, which has an entry for each of `KERNELS`."""
        scene, workspace, camera = self.scene, self._workspace, self.scene.camera
        pose, size = scene.pose, (camera.width, camera.height)
        projected = samples["project"].time(lambda: project_into(self._splats, pose, camera, self.options, workspace))
        tiles = samples["bin"].time(lambda: self._binner.bin(projected, *size))
        blended = samples["blend forward"].time(
            lambda: blend_forward_into(projected, projected.colors, tiles, *size, workspace, self._background)
        )
        loss = samples["loss"].time(lambda: photometric_into(blended.channels, self.target, workspace))
        gradient = samples["blend backward"].time(
            lambda: blend_backward_into(
                projected, projected.colors, tiles, blended, loss.gradient, workspace, self._accumulators
            )
        )
        samples["update"].time(
            lambda: update_splats(
                self._splats, self._moments, projected, tiles.touched, gradient, pose, camera, self.options, self._rates
            )
        )
        self.seen = int(tiles.touched.sum())

    def bytes_moved(self) -> dict[str, float]:
        """Returns the bytes that each stage has to read and write at least, after a run; each byte counted once.

        Projection reads the parameters and writes 10 floats and a flag for each Gaussian.  Binning reads position,
        conic, opacity, depth and flag, and writes the lists.  Blending reads each list entry with the 9 floats of its
        Gaussian, and reads or writes the picture with its alpha.  The loss reads two pictures and writes a gradient.
        The update reads the gradients in the picture, and reads and writes parameter and both moments of what was seen.
        """
        count, camera, pairs = len(self._splats), self.scene.camera, self.scene.pairs
        pixels = camera.width * camera.height
        parameters = 11 + 3 * (self._splats.sh_degree + 1) ** 2
        listed = pairs.listed * (8 + 4 * (_SCREEN_FLOATS - 1))
        return {
            "project": count * 4.0 * (parameters + _SCREEN_FLOATS) + count,
            "bin": count * (4.0 * 7 + 1) + 8.0 * pairs.listed + 4.0 * count,
            "blend forward": listed + 16.0 * pixels,
            "loss": (4.0 + 1.0 + 4.0) * _CHANNELS * pixels,
            "blend backward": listed + (16.0 + 12.0) * pixels + 4.0 * _SCREEN_GRADIENT_FLOATS * count,
            "update": self.seen * 4.0 * (_SCREEN_GRADIENT_FLOATS + 6 * parameters),
        }


def picture_bytes(scene: BenchScene) -> torch.Tensor:
    """Returns the scene's own picture as a photograph, [H, W, 3] uint8."""
    picture = SplatRenderer(scene.splats).render(scene.camera).rgb
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


class RenderCase:
    """Rendering alone, as the viewer and `recon render` do it; `run` makes `parts` pictures."""

    parts = 1

    def __init__(self, scene: BenchScene) -> None:
        self._renderer, self._camera = SplatRenderer(scene.splats), scene.camera

    def run(self) -> None:
        self._renderer.render(self._camera, RenderOptions())


class StepCase:
    """The splat trainer's own step in the middle of a run, at full resolution, on the scene's splats.

    `run` makes `parts` steps: as many as it takes until the higher harmonics were updated once.
    """

    def __init__(self, scene: BenchScene) -> None:
        from recon.methods import SplatConfig

        self.parts = SplatConfig().sh_detail_every
        self._trainer = trainer_of(scene)
        self._step = _STEPS // 2

    def run(self) -> None:
        for _ in range(self.parts):
            self._step += 1
            self._trainer.step(self._step, 0)


def trainer_of(scene: BenchScene) -> Trainer:
    """Returns a splat trainer that holds the scene's splats and trains on the scene's own picture."""
    from recon.methods import SplatConfig, get_method
    from recon.methods.method import TrainerState, TrainingData
    from recon.methods.splat.config import DensityConfig, RateConfig
    from recon.scene import Frame, Scene, SparsePoints, View

    splats, camera = scene.splats, scene.camera
    count = len(splats)
    # A trainer starts from sparse points; what it makes of these is replaced below.
    positions = np.random.default_rng(0).random((count, 3))
    ones = np.ones(count)
    points = SparsePoints(positions, np.full((count, 3), 128, np.uint8), ones.astype(np.float32), ones.astype(np.int32))
    frames = tuple(Frame(name, Path("made-up.png"), camera) for name in ("a", "b"))
    view = View("a", 0, camera, picture_bytes(scene).numpy())
    config = SplatConfig(
        steps=_STEPS,
        max_gaussians=count,
        sh_degree=splats.sh_degree,
        antialiased=splats.antialiased,
        coarse=0.0,
        device="cpu",
        # So small that the scene stays what it is; not 0, for which an update may leave work out.
        rates=RateConfig(position=_RATE, scale=_RATE, rotation=_RATE, opacity=_RATE, color=_RATE),
        density=DensityConfig(start=0.0, stop=1.0, every=_STEPS),
    )
    data = TrainingData(Scene(frames, points), (view,), (), torch.device("cpu"), np.random.default_rng(0))
    trainer = get_method("splat").start(data, config)
    state = trainer.state()
    names = ("means", "quats", "log_scales", "opacity_logits", "sh")
    tensors = {**state.tensors, **{name: getattr(splats, name) for name in names}}
    trainer.restore(TrainerState(tensors, state.values))
    return trainer


def alternate(threads: Sequence[int], repeats: int, run: Callable[[int, bool], None]) -> None:
    """Calls `run(threads, keep)` so that each number of threads is measured `repeats` times, in turns of three.

    The first call of a turn is not to be kept: threads that slept through the other's turn wake up in it.
    """
    before = int(native().max_threads())
    try:
        for begun in range(0, repeats, _TURN):
            for count in threads:
                set_threads(count)
                for index in range(min(_TURN, repeats - begun) + 1):
                    run(count, index > 0)
    finally:
        set_threads(before)


def set_threads(threads: int) -> None:
    """Sets how many threads the kernels and torch use from now on."""
    native().set_threads(threads)
    torch.set_num_threads(threads)
