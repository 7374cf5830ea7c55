# SPDX-License-Identifier: Apache-2.0
"""Training runs: starting one, resuming one, and opening one that was trained.

A run is a folder: config.json, metrics.jsonl, checkpoints/, what the method exports, and train.json, which is written
last and says that all of it is there.  `evaluate` adds eval.json and pictures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recon.errors import ReconError
from recon.files import ensure_output_directory, fingerprint, read_json, remove_leftovers, write_json
from recon.methods.changes import FILE_NAME as CHANGES
from recon.methods.config import TrainConfig, differences, from_json, to_json
from recon.methods.method import Method, TrainingData
from recon.methods.profile import FILE_NAME as PROFILE
from recon.methods.profile import OFF, Profile
from recon.methods.profile import SCHEMA as PROFILE_SCHEMA
from recon.methods.registry import get_method, method_of
from recon.methods.start import FILE_NAME as START
from recon.progress import SILENT, Progress
from recon.scene import Scene, held_out_names

if TYPE_CHECKING:
    from recon.methods.checkpoint import Checkpoint
    from recon.methods.loop import Hook, LoopResult
    from recon.methods.start import StartPoints
    from recon.render import Renderer
    from recon.splats import Splats

SCHEMA = 1
_KEYS = ("method", "config", "scene", "scene_fingerprint", "photographs", "held_out")
_OPTIONAL_KEYS = ("init",)
_REPORT = "train.json"
_REPORT_KEYS = ("status", "step", "seconds", "numbers", "held_out_psnr_db")
Existing = Literal["refuse", "resume", "replace"]


@dataclass(frozen=True)
class TrainReport:
    """What training came to.

    Attributes:
        path: the run's folder.
        status: "finished", or "stopped" by a hook.
        step: steps made in all, and in this call `steps_made`.
        seconds: training time in all, without loading, scoring and waiting.
        resumed_from: the step of the checkpoint that was resumed; 0 for a fresh run.
        numbers: the last line of the log: "step", "seconds", "loss", and what else the method tells.
        held_out_psnr_db: mean PSNR of the held-out photographs by step, as far as it was scored on the way.
    """

    path: Path
    status: Literal["finished", "stopped"]
    step: int
    steps_made: int
    seconds: float
    resumed_from: int = 0
    numbers: dict[str, float | None] = field(default_factory=dict)
    held_out_psnr_db: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A run that was opened.

    Attributes:
        path: its folder.
        method: what trained it.
        config: with which options.
        scene_path: the scene folder; None where the scene was never one.
        step: steps of the state that `renderer` shows; 0 where only the export is left.
        given_scene: the scene that the caller gave in place of the folder.
        given_renderer: what the caller shows in place of what was trained, such as edited splats.
    """

    path: Path
    method: Method
    config: TrainConfig
    scene_path: Path | None
    step: int
    checkpoint: Checkpoint | None = None
    given_scene: Scene | None = None
    given_renderer: Renderer | None = None

    @cached_property
    def scene(self) -> Scene:
        """The scene it was trained on.

        Raises:
            ReconError: it is not there any more.
        """
        if self.given_scene is not None:
            return self.given_scene
        if self.scene_path is None or not self.scene_path.is_dir():
            raise ReconError(
                f"opening the scene of the run {self.path}",
                f"there is no folder {self.scene_path}" if self.scene_path else "the run was trained from memory",
                "the scene folder that the run was trained on",
                "put it back, or give the scene to load_run",
            )
        from recon.scene_io import load_scene

        return load_scene(self.scene_path)

    @cached_property
    def renderer(self) -> Renderer:
        """Renders what was trained."""
        if self.given_renderer is not None:
            return self.given_renderer
        state = self.checkpoint.trainer if self.checkpoint is not None else None
        return self.method.open(self.path, self.config, state)

    @property
    def splats(self) -> Splats | None:
        """The trained splats where the method has them."""
        return getattr(self.renderer, "splats", None)

    @property
    def long_side(self) -> int | None:
        """Longest side of the training pictures in pixels; None for the photographs' own."""
        return self.config.long_side or None


def train(
    scene: Scene | Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    progress: Progress = SILENT,
    hooks: Sequence[Hook] = (),
    existing: Existing = "refuse",
    profile: Profile = OFF,
    init: Path | str | None = None,
) -> TrainReport:
    """Trains a scene into a run folder.

    Args:
        scene: a scene, or the folder of one.
        out: the run's folder.
        config: the method's options; which class they are of chooses the method.  None: splats with defaults.
        progress: told about the steps.
        hooks: asked after each step; see `recon.methods.loop.Hook`.
        existing: what to do where `out` holds a run already: refuse, resume it (start it where there is nothing yet),
            or replace it.
        profile: filled with the time of each stage of a step, and then written as profile.json; `OFF` records nothing.
        init: a trained run ("RUN" or "METHOD:RUN") whose surface gives the points to start from, in place of the
            scene's own.  A resumed run keeps those that it was begun with.

    Raises:
        ReconError: the scene, the options or the folder cannot be used; options differ from those of the run that is
            to be resumed.
        KeyboardInterrupt: after Ctrl-C, once a whole checkpoint is written.
    """
    out = Path(out)
    if config is None:
        config = get_method("splat").config_type()
    method = method_of(config)
    if not isinstance(scene, Scene):
        from recon.scene_io import load_scene

        scene = load_scene(Path(scene))
    ensure_output_directory(out, "preparing the run folder")
    split = _split(scene, config)
    start = _start_of(scene, split, out, method, init, existing, progress)
    scene = scene if start is None else start.applied_to(scene)
    checkpoint = _prepare(out, method, config, existing)
    method.check(scene, config)
    document = {**_document(scene, out, method, config, split), **({"init": start.origin} if start else {})}
    _require_same_scene(out, checkpoint, document["scene_fingerprint"])
    finished = _finished_report(out, config) if existing == "resume" else None
    if finished is not None:
        progress.log(f"The run {out} is finished already: {config.steps} steps.")
        return finished
    (out / _REPORT).unlink(missing_ok=True)
    if start is not None and checkpoint is None:
        start.write(out)
    write_json(out / "config.json", document, SCHEMA)
    listeners = _Listeners(progress, hooks, profile)
    result = _run_loop(scene, out, method, config, checkpoint, listeners, document["scene_fingerprint"])
    if profile.on:
        write_json(out / PROFILE, profile.to_json(), PROFILE_SCHEMA)
    begun = checkpoint.step if checkpoint is not None else 0
    if result.status == "interrupted":
        raise KeyboardInterrupt(f"stopped after step {result.step} of {config.steps}; its checkpoint is in {out}")
    report = _report(out, result, begun)
    write_json(out / _REPORT, {name: getattr(report, name) for name in _REPORT_KEYS}, SCHEMA)
    return report


def _start_of(
    scene: Scene,
    split: tuple[list[str], list[str]],
    out: Path,
    method: Method,
    init: Path | str | None,
    existing: Existing,
    progress: Progress,
) -> StartPoints | None:
    """Returns the points that a run starts from instead of its scene's: those that it was begun with, or new ones."""
    from recon.methods.start import StartPoints, require_same_source, start_points

    is_run = (out / "config.json").is_file()
    if is_run and existing == "resume":
        origin = _read_document(out).get("init")
        if init is not None:
            require_same_source(init, origin, out)
        return None if origin is None else StartPoints.read(out, origin)
    if init is None or (is_run and existing == "refuse"):  # which is refused by what follows
        return None
    if not method.uses_points:
        raise ReconError(
            f"starting from {init}",
            f"--method {method.name} does not start from points",
            "a method that does, such as splat",
            "leave --init out",
        )
    return start_points(init, scene, split[0], out, progress)


def _require_same_scene(out: Path, checkpoint: Checkpoint | None, scene_print: str) -> None:
    if checkpoint is not None and checkpoint.fingerprint != scene_print:
        raise ReconError(
            f"resuming the run {out}",
            "the scene has changed since the checkpoint was written",
            "the same photographs, cameras and points",
            "train into another folder, or replace the run (--replace)",
        )


def _report(out: Path, result: LoopResult, begun: int) -> TrainReport:
    """Returns what a training came to that began at the step `begun` in this call."""
    return TrainReport(
        path=out,
        status="finished" if result.status == "finished" else "stopped",
        step=result.step,
        steps_made=result.step - begun,
        seconds=result.seconds,
        resumed_from=begun,
        numbers=_last_numbers(out),
        held_out_psnr_db=result.held_out_psnr_db,
    )


def load_run(path: Path | str, scene: Scene | None = None) -> Run:
    """Opens a run folder.

    Args:
        path: the folder.
        scene: the scene it was trained on, where that is no folder or has moved.

    Raises:
        ReconError: not a run folder, or one in which nothing was trained yet.
    """
    from recon.methods.checkpoint import newest_checkpoint

    path = Path(path)
    document = _read_document(path)
    method = get_method(document["method"])
    config = from_json(method.config_type, document["config"], f"reading {path / 'config.json'}")
    checkpoint = newest_checkpoint(path / "checkpoints")
    if checkpoint is None and not any((path / name).is_file() for name in method.exports):
        raise ReconError(
            f"opening the run {path}",
            "it holds neither a checkpoint nor an exported result",
            "a run that was trained for some steps",
            "train it",
        )
    step = checkpoint.step if checkpoint is not None else 0
    return Run(path, method, config, _scene_path(path, document["scene"]), step, checkpoint, scene)


def holds_result(path: Path | str) -> bool:
    """Whether something was trained in a run's folder that `load_run` opens.

    Raises:
        ReconError: not a run folder, or one of a method that is not installed.
    """
    from recon.methods.checkpoint import list_checkpoints

    path = Path(path)
    exports = get_method(_read_document(path)["method"]).exports
    return bool(list_checkpoints(path / "checkpoints")) or any((path / name).is_file() for name in exports)


@dataclass(frozen=True, eq=False)
class _Listeners:
    """Who is told how a training goes."""

    progress: Progress
    hooks: Sequence[Hook]
    profile: Profile


def _finished_report(out: Path, config: TrainConfig) -> TrainReport | None:
    """Returns the report of a run that made all of its steps and exported its result; None of any other."""
    if not (out / _REPORT).is_file():
        return None
    document = read_json(out / _REPORT, SCHEMA, _REPORT_KEYS)
    if document.get("status") != "finished" or document.get("step") != config.steps:
        return None
    scores = {int(step): score for step, score in document["held_out_psnr_db"].items()}
    return TrainReport(out, "finished", config.steps, 0, document["seconds"], config.steps, document["numbers"], scores)


def _read_document(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        raise ReconError(
            f"opening the run {path}",
            "there is no config.json in it" if path.is_dir() else "there is no such folder",
            "a folder that `recon train` wrote",
        )
    document = read_json(path / "config.json", SCHEMA, [*_KEYS, *_OPTIONAL_KEYS])
    missing = sorted(set(_KEYS) - set(document))
    if missing:
        raise ReconError(f"reading {path / 'config.json'}", f"it lacks {', '.join(missing)}", "what recon wrote")
    return document


def _prepare(out: Path, method: Method, config: TrainConfig, existing: Existing) -> Checkpoint | None:
    """Returns the checkpoint to go on from, None for a fresh run, and makes room for that where it is asked for."""
    from recon.methods.checkpoint import clear_checkpoints, newest_checkpoint

    remove_leftovers(out)
    if not (out / "config.json").is_file():
        # Without its configuration nothing can be told of a checkpoint, so it is no run.
        clear_checkpoints(out / "checkpoints")
        return None
    if existing == "replace":
        exports = _exports_of(_read_document(out)["method"])  # which refuses a config.json that is somebody else's
        for name in ("config.json", _REPORT, "metrics.jsonl", CHANGES, "eval.json", PROFILE, START, *exports):
            (out / name).unlink(missing_ok=True)
        clear_checkpoints(out / "checkpoints")
        return None
    doing = f"{'resuming' if existing == 'resume' else 'training into'} the run {out}"
    if existing == "refuse":
        raise ReconError(doing, "it holds a run already", "an empty folder", "give --resume to go on with it, "
                         "or choose another --out")  # fmt: skip
    document = _read_document(out)
    if document["method"] != method.name:
        raise ReconError(doing, f"it was trained by {document['method']}", f"the same method, not {method.name}")
    before = from_json(method.config_type, document["config"], doing)
    changed = differences(before, config)
    if changed:
        raise ReconError(
            doing,
            "options that shape the result have changed: " + "; ".join(changed),
            "the options that it was started with",
            "give those, or train into another folder",
        )
    return newest_checkpoint(out / "checkpoints")


def _exports_of(method: str) -> tuple[str, ...]:
    """Returns what a run of a method exported; nothing is known of a method that is not installed any more."""
    try:
        return get_method(method).exports
    except ReconError:
        return ()


def _split(scene: Scene, config: TrainConfig) -> tuple[list[str], list[str]]:
    """Returns the names of the photographs to train on and of those held out."""
    names = [frame.name for frame in scene.frames]
    held_out = held_out_names(names, config.held_out_every)
    training = [name for name in names if name not in set(held_out)]
    if len(training) < 2:
        raise ReconError(
            "choosing the photographs to train on",
            f"the scene has {len(names)} posed photographs, of which {len(held_out)} are held out for scoring",
            "at least 2 to train on",
            "take more photographs, or train on all of them with --held-out-every 0",
        )
    return training, held_out


def _document(
    scene: Scene, out: Path, method: Method, config: TrainConfig, split: tuple[list[str], list[str]]
) -> dict[str, Any]:
    """Returns the content of config.json."""
    place = None
    if scene.root is not None:
        relative = os.path.relpath(scene.root.resolve(), out.resolve())
        place = {"relative": Path(relative).as_posix(), "absolute": str(scene.root.resolve())}
    return {
        "method": method.name,
        "config": to_json(config),
        "scene": place,
        "scene_fingerprint": scene_fingerprint(scene),
        "photographs": len(split[0]),
        "held_out": split[1],
    }


def scene_fingerprint(scene: Scene) -> str:
    """Returns a hash of what training depends on: names, cameras, masks and points, but not where the files are."""
    frames = [
        [
            frame.name,
            frame.camera.model.value,
            [frame.camera.width, frame.camera.height, frame.camera.fx, frame.camera.fy],
            [frame.camera.cx, frame.camera.cy, *frame.camera.distortion],
            frame.camera.cam_from_world.tolist(),
            frame.mask_path.name if frame.mask_path is not None else None,
        ]
        for frame in scene.frames
    ]
    points = scene.points
    return fingerprint(frames, len(points), points.positions.sum(0).tolist(), int(points.colors.sum()))


def _scene_path(run: Path, place: Any) -> Path | None:
    """Returns the scene's folder: beside the run as it was, so that both may move together, else where it was."""
    if not isinstance(place, dict):
        return None
    relative = run / str(place.get("relative", ""))
    absolute = Path(str(place.get("absolute", "")))
    return relative if relative.is_dir() or not absolute.is_dir() else absolute


def _run_loop(
    scene: Scene,
    out: Path,
    method: Method,
    config: TrainConfig,
    checkpoint: Checkpoint | None,
    listeners: _Listeners,
    scene_print: str,
) -> LoopResult:
    import numpy as np
    import torch

    from recon.methods.device import choose_device
    from recon.methods.loop import TrainingLoop
    from recon.views import load_views

    progress = listeners.progress
    device = choose_device(config.device)
    views = load_views(scene, config.long_side or None, progress)
    held_out = set(_split(scene, config)[1])
    # Torch's generators are seeded and, because a library must not change its caller's dice, put back afterwards.
    with torch.random.fork_rng(devices=[0] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        data = TrainingData(
            scene=scene,
            views=tuple(view for view in views if view.name not in held_out),
            held_out=tuple(view for view in views if view.name in held_out),
            device=device,
            random=np.random.default_rng([config.seed, 0]),
            profile=listeners.profile,
        )
        trainer = method.start(data, config)
        loop = TrainingLoop(trainer, data, config, out, scene_print, progress, listeners.hooks)
        if checkpoint is not None:
            loop.restore(checkpoint)
            progress.log(f"Going on from step {checkpoint.step}.")
        backend = "" if config.backend == "auto" else f", backend {config.backend}"
        progress.log(f"{method.name}: {len(data.views)} photographs, {len(data.held_out)} held out, {device}{backend}")
        result = loop.run()
        if result.status != "interrupted":
            trainer.export(out)
    return result


def _last_numbers(out: Path) -> dict[str, float | None]:
    import json

    try:
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return dict(json.loads(lines[-1])) if lines else {}
    except (OSError, ValueError):
        return {}
