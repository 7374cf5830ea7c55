# SPDX-License-Identifier: Apache-2.0
"""What each trick of training is worth: finished runs with one option changed, on the same budget of steps.

Time and quality are measured as by `recon bench train`: a fresh process for each run, scored on held-out photographs.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon.bench.results import Entry
from recon.bench.train import FinishedRun, TrainSettings, remove_cache, train_once, without_cache
from recon.errors import ReconError
from recon.progress import SILENT, Progress

DEFAULT = "as it is"

VARIANTS = {
    DEFAULT: "",
    "full resolution from the start": "--coarse 0",
    "twice as long at half the resolution": "--coarse 0.4",
    "all harmonics from the start": "--sh-every 0",
    "higher harmonics in every step": "--sh-detail-every 1",
    "colour without harmonics": "--sh-degree 0",
    "half as many Gaussians": "--max-gaussians {half}",
    "twice as many Gaussians": "--max-gaussians {twice}",
    "MCMC instead of splitting by gradient": "--density.strategy mcmc --density.opacity-penalty 0.01 "
    "--density.scale-penalty 0.01",
    "no density control": "--density.strategy none",
    "hidden Gaussians are kept": "--density.prune-weight 0",
    "density rounds twice as often": "--density.every {often}",
    "growth ends at half of the run": "--density.stop 0.5",
    "L1 without SSIM": "--ssim-weight 0",
    "rates that stay": "--rates.end-ratio 1",
    "the rates of 3DGS": "--rates.position 1.6e-4 --rates.scale 5e-3 --rates.rotation 1e-3 --rates.opacity 5e-2 "
    "--rates.color 2.5e-3 --rates.color-detail-ratio 0.05 --rates.end-ratio 1",
}
"""Options of `recon train` by what they change; words in braces depend on the preset."""


@dataclass(frozen=True)
class AblationSettings:
    """What to try.

    Attributes:
        scenes: folders, by the name that they have in the results.
        steps: budget of every run.
        seeds: runs of each variant.
        preset: what the variants change.
        variants: names of `VARIANTS`, all of them where it is empty; the default is always tried.
    """

    scenes: dict[str, Path]
    steps: int
    seeds: int = 1
    preset: str = "normal"
    variants: tuple[str, ...] = ()


def measure_ablation(settings: AblationSettings, progress: Progress = SILENT) -> list[Entry]:
    """Trains every variant on every scene; returns an entry of seconds and one of dB for each.

    Raises:
        ReconError: a scene or variant cannot be used.
    """
    unknown = [name for name in settings.variants if name not in VARIANTS]
    if unknown:
        raise ReconError("choosing variants", f"there is none called {unknown[0]!r}", f"of: {', '.join(VARIANTS)}")
    names = [DEFAULT, *(name for name in settings.variants or VARIANTS if name != DEFAULT)]
    entries: list[Entry] = []
    with (
        tempfile.TemporaryDirectory(prefix="recon-bench-") as folder,
        progress.stage("training", len(settings.scenes) * len(names) * settings.seeds, "runs") as bar,
    ):
        for number, (title, scene) in enumerate(settings.scenes.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            links = without_cache(scene, place)
            for name in names:
                run_settings = TrainSettings(
                    scene, (), settings.seeds, settings.preset, options=_options(name, settings.preset)
                )
                runs = []
                for seed in range(settings.seeds):
                    remove_cache(links)
                    runs.append(train_once(links, place / "run", settings.steps, seed, run_settings))
                    bar.advance(1, f"{title}, {name}: {runs[-1].psnr_db:.2f} dB in {runs[-1].seconds:.1f} s")
                entries += _entries(title, name, runs)
    return _with_differences(entries)


def _options(name: str, preset: str) -> str:
    from recon.methods.splat.config import SplatConfig

    config = SplatConfig.preset(preset)
    words = {
        "half": max(1, config.max_gaussians // 2),
        "twice": 2 * config.max_gaussians,
        "often": max(1, config.density.every // 2),
    }
    return VARIANTS[name].format(**words)


def _entries(scene: str, variant: str, runs: Sequence[FinishedRun]) -> list[Entry]:
    facts = {
        "scene": scene,
        "variant": variant,
        "cpu_s": statistics.median(run.cpu_s for run in runs),
        "training_s": statistics.median(run.training_s for run in runs),
        "gaussians": round(statistics.median(run.gaussians for run in runs)),
    }
    score = Entry.of(f"{scene}, {variant}, held-out PSNR", [run.psnr_db for run in runs], unit="dB", how="score",
                     better="higher", facts=facts)  # fmt: skip
    return [Entry.of(f"{scene}, {variant}", [run.seconds for run in runs], facts=facts), score]


def _with_differences(entries: Sequence[Entry]) -> list[Entry]:
    """Adds to every entry its difference from the default's on the same scene, as a fact."""
    base = {(e.facts["scene"], e.unit): e for e in entries if e.facts["variant"] == DEFAULT}
    changed = []
    for entry in entries:
        reference = base[entry.facts["scene"], entry.unit]
        more = {"difference": entry.median - reference.median}
        if entry.unit == "s":
            more["cpu_ratio"] = entry.facts["cpu_s"] / max(reference.facts["cpu_s"], 1e-9)
        changed.append(replace(entry, facts={**entry.facts, **more}))
    return changed


def table_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Returns a table: a row for each variant; time and score for each scene, with the difference from the default."""
    scenes = list(dict.fromkeys(entry.facts["scene"] for entry in entries))
    variants = list(dict.fromkeys(entry.facts["variant"] for entry in entries))
    found = {(e.facts["scene"], e.facts["variant"], e.unit): e for e in entries}
    header = ["variant"]
    for scene in scenes:
        header += [f"{scene}: PSNR dB", "difference", "wall s", "CPU s", "× CPU"]
    rows = []
    for variant in variants:
        row = [variant]
        for scene in scenes:
            score, seconds = found.get((scene, variant, "dB")), found.get((scene, variant, "s"))
            if score is None or seconds is None:
                row += [""] * 5
                continue
            row += [
                f"{score.median:.2f}",
                "" if variant == DEFAULT else f"{score.facts['difference']:+.2f}",
                f"{seconds.median:.1f}",
                f"{seconds.facts['cpu_s']:.1f}",
                "" if variant == DEFAULT else f"{seconds.facts['cpu_ratio']:.2f}",
            ]
        rows.append(row)
    return header, rows
