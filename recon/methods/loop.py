# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, evaluation, checkpoints, the log, hooks, interruption and resumption.

It knows no method.  Each step draws a photograph, calls the trainer, and between steps the loop looks at the clock, at
its hooks and at Ctrl-C; so whatever stops a run, it stops between two steps, with a whole state to write down.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recon.errors import ReconError
from recon.files import write_text
from recon.methods.changes import FILE_NAME as CHANGES
from recon.methods.changes import ChangeLog
from recon.methods.checkpoint import (
    Checkpoint,
    generator_state,
    restore_generator,
    restore_torch_random,
    torch_random_state,
    write_checkpoint,
)
from recon.methods.config import TrainConfig, changed, live_options
from recon.methods.method import Reconfigurable, Trainer, TrainingData
from recon.progress import SILENT, Progress, Stage

if TYPE_CHECKING:
    import numpy as np

    from recon.render import Renderer

Answer = str | Mapping[str, Any] | None

Hook = Callable[[int, "Callable[[], Renderer]"], Answer]
"""Called after each step with the step's number and a function that returns a renderer of the present state, which
later steps leave alone.  "stop" ends the run with a checkpoint.  With three answers it is asked again without a step in
between: "pause" waits a moment, "save" writes a checkpoint, and a mapping changes options by name
(`recon.methods.config.live_options`), which is recorded in changes.jsonl.  Anything else goes on."""

_PAUSE_S = 0.05
_MOST_BAD_STEPS = 20


@dataclass(frozen=True)
class LoopResult:
    """How a run of the loop ended: `status`, steps made in all, training seconds in all, held-out PSNR by step."""

    status: Literal["finished", "stopped", "interrupted"]
    step: int
    seconds: float
    held_out_psnr_db: dict[int, float] = field(default_factory=dict)


class ViewSampler:
    """Draws photographs in random order, each once before any comes again."""

    def __init__(self, count: int, generator: np.random.Generator) -> None:
        self._count = count
        self._generator = generator
        self._left: list[int] = []

    def next(self) -> int:
        """Returns the index of the next photograph."""
        if not self._left:
            self._left = self._generator.permutation(self._count).tolist()
        return self._left.pop()

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        return {"left": list(self._left), "generator": generator_state(self._generator)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that `state` gave."""
        self._left = list(state["left"])
        restore_generator(self._generator, state["generator"])


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, flushed line by line.

    It is the one file that grows in place; a line cut short by a kill, and lines of steps that a resumed run makes
    again, are dropped when the run is resumed.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        kept = []
        if first_step > 0 and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict) and entry.get("step", math.inf) <= first_step:
                    kept.append(line)
        write_text(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line; numbers that are not finite become null."""
        plain = {name: round(v, 6) if math.isfinite(v) else None for name, v in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **plain}) + "\n")


class Interruption:
    """Whether the user asked the loop to stop; `signal_number` is 0 until then."""

    def __init__(self) -> None:
        self.signal_number = 0

    @contextmanager
    def watched(self) -> Iterator[Interruption]:
        """Takes Ctrl-C and SIGTERM over while the block runs; a second Ctrl-C interrupts at once.

        Only the main thread may handle signals; elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def handle(number: int, _frame: object) -> None:
            if self.signal_number:
                raise KeyboardInterrupt
            self.signal_number = number

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class TrainingLoop:
    """Runs a trainer from its present state to the last step."""

    def __init__(
        self,
        trainer: Trainer,
        data: TrainingData,
        config: TrainConfig,
        out: Path,
        fingerprint: str,
        progress: Progress = SILENT,
        hooks: Sequence[Hook] = (),
    ) -> None:
        import numpy as np

        self.trainer = trainer
        self.data = data
        self.config = config
        self.out = out
        self.progress = progress
        self.hooks = tuple(hooks)
        self.step = 0
        self.seconds = 0.0
        self._fingerprint = fingerprint
        self._sampler = ViewSampler(len(data.views), np.random.default_rng([config.seed, 1]))
        self._bad_steps = 0
        self._scores: dict[int, float] = {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over the state of a checkpoint.

        Raises:
            ReconError: it belongs to other photographs or to another method.
        """
        if checkpoint.fingerprint != self._fingerprint:
            raise ReconError(
                f"resuming the run {self.out}",
                "the scene has changed since the checkpoint was written",
                "the same photographs, cameras and points",
                "train into another folder, or replace the run",
            )
        self.trainer.restore(checkpoint.trainer)
        self._sampler.restore(checkpoint.sampler)
        restore_generator(self.data.random, checkpoint.random)
        restore_torch_random(checkpoint.torch_random)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds

    def run(self) -> LoopResult:
        """Trains until the last step, a hook's "stop" or an interruption; a checkpoint stands at the end in each case.

        Raises:
            ReconError: the loss stays without a finite value, or a file cannot be written.
        """
        log = MetricsLog(self.out / "metrics.jsonl", self.step)
        self._changes = ChangeLog(self.out / CHANGES, self.step)
        for options in self._changes.kept:
            self._reconfigure(options)
        status: Literal["finished", "stopped", "interrupted"] = "finished"
        self._saved_s, self._saved_step = time.monotonic(), self.step
        with (
            Interruption().watched() as interruption,
            self.progress.stage("training", self.config.steps, "steps") as bar,
        ):
            bar.advance(self.step)
            while self.step < self.config.steps:
                self._make_step(log, bar)
                if time.monotonic() - self._saved_s >= self.config.checkpoint_s:
                    self._save()
                answer = self._ask_hooks(interruption)
                if interruption.signal_number:
                    status = "interrupted"
                    break
                if answer == "stop":
                    status = "stopped"
                    break
            if self._saved_step != self.step or self.step == self.config.steps:
                self._save()
        if status != "finished":
            self.progress.log(f"Training was {status} after step {self.step}; the checkpoint there is whole.")
        return LoopResult(status, self.step, self.seconds, dict(self._scores))

    def _make_step(self, log: MetricsLog, bar: Stage) -> None:
        profile = self.data.profile
        started, started_cpu = time.perf_counter(), time.process_time() if profile.on else 0.0
        values = dict(self.trainer.step(self.step + 1, self._sampler.next()))
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if profile.on:
            profile.add_step(seconds, time.process_time() - started_cpu)
        self.step += 1
        self._bad_steps = 0 if math.isfinite(values["loss"]) else self._bad_steps + 1
        if self._bad_steps >= _MOST_BAD_STEPS:
            raise ReconError(
                f"training into {self.out}",
                f"the loss was not a finite number for {_MOST_BAD_STEPS} steps in a row, up to step {self.step}",
                "a loss that is a number",
                "lower the learning rates, check the scene's cameras, or resume from the last checkpoint",
            )
        last = self.step == self.config.steps
        evaluate = self.config.evaluate_every and (last or self.step % self.config.evaluate_every == 0)
        if evaluate and self.data.held_out:
            self._scores[self.step] = values["held_out_psnr_db"] = self._held_out_psnr_db()
        if evaluate or last or self.step % self.config.log_every == 0:
            log.write(self.step, {**values, "seconds": self.seconds})
        bar.advance(1, self._note(values["loss"]))

    def _note(self, loss: float) -> str:
        score = f" · {list(self._scores.values())[-1]:.2f} dB held out" if self._scores else ""
        return f"loss {loss:.4f}{score}"

    def _held_out_psnr_db(self) -> float:
        from recon.metrics.images import view_psnr_db

        renderer = self.trainer.snapshot()
        scores = [view_psnr_db(renderer, view) for view in self.data.held_out]
        return sum(scores) / len(scores)

    def _ask_hooks(self, interruption: Interruption) -> str | None:
        for hook in self.hooks:
            answer = hook(self.step, self.trainer.snapshot)
            while (isinstance(answer, Mapping) or answer in ("pause", "save")) and not interruption.signal_number:
                self._obey(answer)
                answer = hook(self.step, self.trainer.snapshot)
            if answer == "stop":
                return answer
        return None

    def _obey(self, answer: Answer) -> None:
        """Does what a hook asked for between two steps; what cannot be done is said and harms nothing."""
        if isinstance(answer, Mapping):
            before = {option.name: option.value for option in live_options(self.config)}
            try:
                self._reconfigure(answer)
            except ReconError as error:
                self.progress.log(f"Not changed after step {self.step}: {error.found}.")
                return
            self._changes.write(self.step, answer, {name: before[name] for name in answer})
            words = ", ".join(f"{name} {before[name]:g} → {value:g}" for name, value in answer.items())
            self.progress.log(f"Changed after step {self.step}: {words}.")
        elif answer == "save":
            self._save()
            self.progress.log(f"The checkpoint of step {self.step} is written.")
        else:
            time.sleep(_PAUSE_S)

    def _reconfigure(self, options: Mapping[str, Any]) -> None:
        """Changes options of the loop and of the trainer.

        Raises:
            ReconError: an option or a value that may not be, or a trainer whose options stay.
        """
        config = changed(self.config, options)
        if not isinstance(self.trainer, Reconfigurable):
            raise ReconError("changing a training", "this method keeps the options that it was started with")
        self.trainer.reconfigure(config)
        self.config = config

    def _save(self) -> None:
        self._saved_s, self._saved_step = time.monotonic(), self.step
        checkpoint = Checkpoint(
            step=self.step,
            seconds=self.seconds,
            fingerprint=self._fingerprint,
            sampler=self._sampler.state(),
            random=generator_state(self.data.random),
            torch_random=torch_random_state(),
            trainer=self.trainer.state(),
        )
        write_checkpoint(self.out / "checkpoints", checkpoint)
