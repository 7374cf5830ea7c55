# SPDX-License-Identifier: Apache-2.0
"""Photographs in; poses, a trained run, scores, a mesh, a splat file and a page out.

Each stage is done once.  Called again, the pipeline continues where it stopped, and redoes only what a changed option
affects (see `recon.cli.stages`).  A run that a changed option makes void is set aside as `previous-run`, not deleted.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recon.cli.stages import StageBook, locked
from recon.errors import ReconError
from recon.files import ensure_output_directory, fingerprint, remove_leftovers
from recon.methods.config import TrainConfig
from recon.progress import SILENT, Progress

if TYPE_CHECKING:
    from recon.methods import Method
    from recon.process import ProcessReport

MeshSuffix = Literal["glb", "obj", "ply", "stl"]

SPLATS = "splats.ply"
"""What a method exports whose result is Gaussian splats; see `recon.methods.method.Method.exports`."""


@dataclass(frozen=True)
class PipelineConfig:
    """What the whole way can be told; None leaves a value to the stage's own default."""

    masks: Path | None = None
    """Folder of masks, named like the photographs with .png added: black pixels are ignored everywhere."""
    calibration: Path | None = None
    """Known intrinsics: a JSON file of ours, a 3×3 matrix as text, or a COLMAP cameras.txt."""
    frames: int | None = None
    """Frames to take from a video; by default two per second, within limits."""
    method: str = "splat"
    """What to train."""
    preset: tyro.conf.Suppress[str] = "normal"
    """Which of the method's presets training starts from, unless `train` is given."""
    train: tyro.conf.Suppress[TrainConfig | None] = None
    """All options of training, in Python; they say which method, too."""
    steps: int | None = None
    """Training steps; as --train.steps."""
    long_side: int | None = None
    """Training resolution: longer side of the photographs in pixels; as --train.long-side."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to train; as --train.device."""
    backend: Literal["auto", "cpu", "cuda", "gsplat", "reference"] | None = None
    """Which implementation of the kernels; as --train.backend."""
    seed: int | None = None
    """Seed of every random choice, 0 by default."""
    mesh: bool = True
    """Whether to make a mesh."""
    mesh_format: MeshSuffix = "glb"
    """File format of the mesh."""
    max_faces: int | None = None
    """Most triangles of the mesh; 0 keeps all."""


@dataclass(frozen=True)
class PipelineReport:
    """What came out, each stage's report as plain values.

    `mesh` is None where none was asked for, `export` where the method makes no splats.

    Attributes:
        out: the output folder.
        process, train, eval, mesh, export: the stages' reports.
        page: the page that sums everything up.
        attention: what the user must look at.
        seconds: wall time of this call, per stage and in all ("total").
    """

    out: Path
    process: dict[str, Any]
    train: dict[str, Any]
    eval: dict[str, Any]
    mesh: dict[str, Any] | None
    export: dict[str, Any] | None
    page: Path
    attention: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def run_pipeline(
    source: Path, out: Path, config: PipelineConfig | None = None, progress: Progress = SILENT
) -> PipelineReport:
    """Runs every stage that is not done yet.

    Args:
        source: a folder of photographs, a video, or posed photographs (a COLMAP project, transforms.json).
        out: the output folder; holds scene/, run/, mesh.*, splats.ply where the method makes splats, and index.html.
        config: options.
        progress: told about every stage.

    Raises:
        ReconError: the input or an option cannot be used, or another process works in `out`.
    """
    source, out, config = Path(source), Path(out), config or PipelineConfig()
    if not source.exists():
        raise ReconError(f"reading {source}", "there is no such file or folder", "photographs or a video")
    ensure_output_directory(out)
    with locked(out):
        remove_leftovers(out)
        return _Pipeline(source, out, config, progress).run()


class _Pipeline:
    """One call of the pipeline."""

    def __init__(self, source: Path, out: Path, config: PipelineConfig, progress: Progress) -> None:
        from recon.methods import get_method
        from recon.methods.registry import method_of

        self.method: Method = get_method(config.method) if config.train is None else method_of(config.train)
        self.source, self.out, self.config, self.progress = source, out, config, progress
        self.book = StageBook(out)
        self.scene, self.run_path = out / "scene", out / "run"
        self.seconds: dict[str, float] = {}

    def run(self) -> PipelineReport:
        from recon.cli.page import write_page

        begun = time.perf_counter()
        config = self._train_config()
        processed = self._timed("process", self._process)
        # The stages' keys build on one another, so a change redoes what comes after it and nothing else.
        # The default method is not named in them, so that results which stand from before there were others are kept.
        named = [] if self.method.name == PipelineConfig.method else [self.method.name]
        train_key = fingerprint("train", self._scene_key(), _shaping(config), *named)
        train = self._timed("train", lambda: self._train(config, train_key))
        scores = self._timed("eval", lambda: self._eval(train_key))
        mesh = self._timed("mesh", lambda: self._mesh(train_key)) if self.config.mesh else None
        export = self._timed("export", lambda: self._export(train_key)) if self._makes_splats() else None
        self.seconds["total"] = time.perf_counter() - begun
        report = PipelineReport(
            out=self.out,
            process=processed.to_json(),
            train=train,
            eval=scores,
            mesh=mesh,
            export=export,
            page=self.out / "index.html",
            attention=self._attention(processed, scores, mesh),
            seconds=self.seconds,
        )
        write_page(report, self.progress)
        return report

    def _timed(self, name: str, work: Any) -> Any:
        begun = time.perf_counter()
        result = work()
        self.seconds[name] = time.perf_counter() - begun
        return result

    def _train_config(self) -> TrainConfig:
        """Returns the method's options, before any work is done, so that a wrong one is told at once."""
        config = self.config.train or self.method.config_type.preset(self.config.preset)
        names = ("steps", "long_side", "device", "backend", "seed")
        given = {name: getattr(self.config, name) for name in names if getattr(self.config, name) is not None}
        return replace(config, **given)

    def _makes_splats(self) -> bool:
        return SPLATS in self.method.exports

    def _process(self) -> ProcessReport:
        from recon.process import ProcessConfig, process
        from recon.sfm import SfmConfig

        options = ProcessConfig(
            masks=self.config.masks,
            calibration=self.config.calibration,
            frames=self.config.frames or 0,
            sfm=SfmConfig(seed=self._train_config().seed),
        )
        return process(self.source, self.scene, options, self.progress)

    def _scene_key(self) -> str:
        """Returns a fingerprint of the scene's content: its cameras, points and the names of its photographs."""
        from recon.methods.run import scene_fingerprint
        from recon.scene_io import load_scene

        return scene_fingerprint(load_scene(self.scene))

    def _train(self, config: TrainConfig, key: str) -> dict[str, Any]:
        from recon.methods import train

        def work() -> dict[str, Any]:
            return asdict(train(self.scene, self.run_path, config, self.progress, existing="resume"))

        outputs = ["run/config.json", *(f"run/{name}" for name in self.method.exports)]
        if self.book.key_of("train") not in (None, key) and self.run_path.exists():
            previous = self.out / "previous-run"
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(self.run_path, previous)
            self.progress.log(f"Options have changed; the earlier run is kept in {previous}.")
        return self.book.run("train", key, outputs, work)

    def _eval(self, train_key: str) -> dict[str, Any]:
        from recon.methods import evaluate

        key = fingerprint("eval", train_key)
        return self.book.run("eval", key, ["run/eval.json"], lambda: asdict(evaluate(self.run_path, self.progress)))

    def _mesh(self, train_key: str) -> dict[str, Any]:
        from recon.cli.edited import load_edited_run
        from recon.cli.mesh import make_mesh
        from recon.surface.config import MeshConfig

        name = f"mesh.{self.config.mesh_format}"
        options = MeshConfig()
        if self.config.max_faces is not None:
            options = replace(options, max_faces=self.config.max_faces)

        def work() -> dict[str, Any]:
            return make_mesh(load_edited_run(self.run_path), self.out / name, options, self.progress)

        key = fingerprint("mesh", train_key, name, options, *self._edits_key())
        return self.book.run("mesh", key, [name], work)

    def _export(self, train_key: str) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            from recon.cli.export import Options, execute

            return dict(execute(Options(run=self.run_path, out=self.out / SPLATS), self.progress).report)

        key = fingerprint("export", train_key, *self._edits_key())
        return self.book.run("export", key, [SPLATS], work)

    def _edits_key(self) -> list[str]:
        """Returns what tells the edits of the run apart; empty without any, whose results stay what they were."""
        from recon.edits import describe, edits_of

        return [f"{describe(operation)} {operation!r}" for operation in edits_of(self.run_path)]

    def _attention(
        self, processed: ProcessReport, scores: dict[str, Any], mesh: dict[str, Any] | None
    ) -> tuple[str, ...]:
        reasons = list(processed.attention)
        if scores["psnr_db"] is not None and scores["psnr_db"] < 15:
            reasons.append(f"The held-out photographs score {scores['psnr_db']:.1f} dB only: look at run/eval.")
        if mesh is not None and not mesh["faces"]:
            reasons.append("The mesh is empty: no surface was seen by enough photographs.")
        return tuple(reasons)


def _shaping(config: TrainConfig) -> dict[str, Any]:
    """Returns the options that shape the result, without those that may change between a run and its resumption."""
    from dataclasses import fields

    free = {spec.name for spec in fields(config) if spec.metadata.get("resume")}
    return {name: value for name, value in asdict(config).items() if name not in free}
