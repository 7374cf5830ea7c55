# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole state of a training run in two files, or none at all.

`step-N.safetensors` holds every tensor and `step-N.json` every plain value.  The tensors are written first, each file
whole under a temporary name; both carry the same random token, so a JSON file whose token matches its neighbour's
proves the pair complete.  Whatever moment the process is killed at, the newest complete pair is intact.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError
from recon.files import atomic_path, read_json, remove_leftovers, write_json
from recon.methods.method import TrainerState

if TYPE_CHECKING:
    import numpy as np
    import torch

SCHEMA = 1
_KEYS = ("step", "token", "seconds", "fingerprint", "sampler", "random", "values")
_NAME = re.compile(r"step-(\d+)\.json")
_FILES = re.compile(r"step-\d{8,}\.(json|safetensors)")
_TRAINER, _LOOP = "trainer/", "loop/"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that a resumed run needs.

    Attributes:
        step: steps made.
        seconds: training time so far.
        fingerprint: of the scene and the photographs that were trained on.
        sampler: state of the order in which photographs come, as JSON values.
        random: state of the method's numpy generator, as JSON values.
        torch_random: states of torch's generators by device.
        trainer: the method's state.
    """

    step: int
    seconds: float
    fingerprint: str
    sampler: dict[str, Any]
    random: dict[str, Any]
    torch_random: dict[str, torch.Tensor]
    trainer: TrainerState


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Returns a numpy generator's state as JSON values."""
    return dict(generator.bit_generator.state)


def restore_generator(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Puts a generator into a state that `generator_state` gave."""
    generator.bit_generator.state = state


def torch_random_state() -> dict[str, torch.Tensor]:
    """Returns the states of torch's generators: the processor's, and each NVIDIA device's once CUDA is in use."""
    import torch

    states = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.update({f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())})
    return states


def restore_torch_random(states: dict[str, torch.Tensor]) -> None:
    """Puts torch's generators into states that `torch_random_state` gave; devices that are absent here are left out."""
    import torch

    for device, state in states.items():
        if device == "cpu":
            torch.random.set_rng_state(state)
        elif torch.cuda.is_available() and torch.device(device).index < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, torch.device(device))


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Writes a checkpoint and then removes all but the newest `keep`; returns the path of its JSON file.

    Raises:
        ReconError: the folder cannot be written or the disk is full; older checkpoints are intact then.
    """
    from safetensors.torch import save_file

    tensors = {_TRAINER + name: tensor for name, tensor in checkpoint.trainer.tensors.items()}
    tensors.update({_LOOP + name: tensor for name, tensor in checkpoint.torch_random.items()})
    token = secrets.token_hex(16)
    base = folder / f"step-{checkpoint.step:08d}"
    with atomic_path(base.with_suffix(".safetensors")) as temporary:
        save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, str(temporary), {"token": token})
    document = {
        "step": checkpoint.step,
        "token": token,
        "seconds": checkpoint.seconds,
        "fingerprint": checkpoint.fingerprint,
        "sampler": checkpoint.sampler,
        "random": checkpoint.random,
        "values": dict(checkpoint.trainer.values),
    }
    write_json(base.with_suffix(".json"), document, SCHEMA)
    for step in list_checkpoints(folder)[:-keep]:
        old = folder / f"step-{step:08d}"
        old.with_suffix(".json").unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return base.with_suffix(".json")


def clear_checkpoints(folder: Path) -> None:
    """Removes the checkpoints in a folder and nothing else; the folder goes if that leaves it empty."""
    if not folder.is_dir():
        return
    remove_leftovers(folder)
    for path in folder.iterdir():
        if _FILES.fullmatch(path.name):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def list_checkpoints(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, oldest first, without judging whether they are whole."""
    if not folder.is_dir():
        return []
    return sorted(int(found.group(1)) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name)))


def read_checkpoint(folder: Path, step: int) -> Checkpoint:
    """Reads one checkpoint onto the processor.

    Raises:
        ReconError: it is missing, broken, or its two files are not of one writing.
    """
    from safetensors import SafetensorError, safe_open

    base = folder / f"step-{step:08d}"
    doing = f"reading the checkpoint {base}"
    document = read_json(base.with_suffix(".json"), SCHEMA, _KEYS)
    missing = sorted(set(_KEYS) - set(document))
    if missing:
        raise ReconError(doing, f"it lacks {', '.join(missing)}", "a checkpoint that recon wrote")
    try:
        with safe_open(str(base.with_suffix(".safetensors")), framework="pt") as file:
            token = (file.metadata() or {}).get("token")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ReconError(doing, f"its tensors are not readable ({error})", "a whole safetensors file") from error
    if token != document["token"]:
        raise ReconError(doing, "its two files come from different writings", "one and the same token in both")
    trainer = {n.removeprefix(_TRAINER): t for n, t in tensors.items() if n.startswith(_TRAINER)}
    return Checkpoint(
        step=document["step"],
        seconds=document["seconds"],
        fingerprint=document["fingerprint"],
        sampler=document["sampler"],
        random=document["random"],
        torch_random={n.removeprefix(_LOOP): t for n, t in tensors.items() if n.startswith(_LOOP)},
        trainer=TrainerState(trainer, document["values"]),
    )


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest whole checkpoint, after removing what a killed writer left behind; None where there is none.

    Raises:
        ReconError: there are checkpoints, but not one can be read.
    """
    remove_leftovers(folder)
    last_error = None
    for step in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(folder, step)
        except ReconError as error:
            last_error = error
    if last_error is not None:
        raise last_error
    return None
