# SPDX-License-Identifier: Apache-2.0
"""What a method is to the loop: a way to start a trainer, and a way to open what it trained.

Adding one takes a folder with `config.py`, `model.py` and `train.py`, a `Method` object, and one line in the registry
(`recon/methods/registry.py`) or an entry point of the group `recon.methods` whose value is the object; CONTRIBUTING.md
has the checklist.  What methods may share stands beside this module: options of photographs (`recon.methods.config`),
photographs on the device (`targets`), poses and exposures (`cameras`), trained tensors (`parameter`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from recon.methods.config import TrainConfig
from recon.methods.profile import OFF, Profile
from recon.scene import Scene, View

if TYPE_CHECKING:
    import numpy as np
    import torch

    from recon.render import Renderer


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a trainer is given.

    Attributes:
        scene: cameras and sparse points.
        views: the undistorted photographs to train on, at training resolution.
        held_out: those to score on; a trainer never sees them.
        device: where the trainer keeps its state.
        random: the source of the method's own random choices; torch's global generators are seeded as well, and the
            loop saves and restores all of them.
        profile: told by the trainer when a stage of a step begins and ends; records nothing unless asked to.
    """

    scene: Scene
    views: tuple[View, ...]
    held_out: tuple[View, ...]
    device: torch.device
    random: np.random.Generator
    profile: Profile = OFF


@dataclass(frozen=True, eq=False)
class TrainerState:
    """All that a trainer needs to go on as if it had never stopped.

    Attributes:
        tensors: parameters, optimiser moments and statistics by name.
        values: JSON values: counters and schedules.
    """

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any] = field(default_factory=dict)


class Trainer(Protocol):
    """A method under training."""

    def step(self, step: int, view_index: int) -> Mapping[str, float]:
        """Makes optimisation step `step` (from 1); returns numbers for the log.

        "loss" must be among them; the others, under names of the method's own, are shown wherever numbers of a training
        are.  `view_index` is the photograph of `data.views` whose turn it is: each comes once before any comes again.
        A method that draws its pixels from all photographs in every step may leave it alone.
        """

    def snapshot(self) -> Renderer:
        """Returns a renderer of the present state that later steps leave alone.

        Called between steps, on the training's thread; the renderer is used on others while training goes on.
        """

    def state(self) -> TrainerState:
        """Returns the whole state without changing it."""

    def restore(self, state: TrainerState) -> None:
        """Takes over a state that `state` gave.

        Raises:
            ReconError: the state does not fit.
        """

    def export(self, folder: Path) -> None:
        """Writes the trained result into the run's folder as files that other programs read: `Method.exports`."""


@runtime_checkable
class Reconfigurable(Protocol):
    """What a trainer also is whose options may change while it runs."""

    def reconfigure(self, config: Any) -> None:
        """Goes on with other values of the options that the method's configuration declares as live.

        Raises:
            ReconError: it cannot; then nothing has changed.
        """


@dataclass(frozen=True)
class Method:
    """A registered method; its functions import torch only when they are called.

    Attributes:
        name: what `--method` takes.
        summary: one line for the help text.
        config_type: its configuration, a dataclass that inherits `TrainConfig`.
        check: refuses, before anything is loaded, what cannot work (memory, views) with a `ReconError`.
        start: makes a fresh trainer.
        open: returns the renderer of a run from its checkpoint, or of what it exported where no checkpoint is left.
        exports: names of the files that the trainer's `export` writes; a replaced run loses them.  What is trained into
            Gaussian splats is exported as "splats.ply", which is what the viewer and other programs look for.
        uses_points: whether training starts from the scene's sparse points, which `--init` replaces; it is refused
            where it would do nothing.
    """

    name: str
    summary: str
    config_type: type[TrainConfig]
    check: Callable[[Scene, Any], None]
    start: Callable[[TrainingData, Any], Trainer]
    open: Callable[[Path, Any, TrainerState | None], Renderer]
    exports: tuple[str, ...] = ()
    uses_points: bool = True
