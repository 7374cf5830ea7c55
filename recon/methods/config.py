# SPDX-License-Identifier: Apache-2.0
"""What every method's configuration shares, and how one becomes JSON and comes back.

A method's configuration is a frozen dataclass that inherits `TrainConfig`, so that the loop and the command line know
the shared fields by name.  It may hold groups of fields, which are frozen dataclasses themselves, one level deep.
A number's range stands in its field's metadata (`ranged`) and is checked when the configuration is made.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeVar

from recon.errors import ReconError

C = TypeVar("C")


Live = Literal["no", "value", "fraction"]
MaskUse = Literal["ignore", "alpha", "off"]
Background = Literal["black", "white", "random"]


def ranged(default: Any, low: float, high: float = math.inf, resume: bool = False, live: Live = "no") -> Any:
    """A dataclass field for a number between `low` and `high`, both included; `resume` as for `free`.

    `live` says whether it may change while a training runs, and whether it is a fraction of all steps.
    """
    return field(default=default, metadata={"low": low, "high": high, "resume": resume, "live": live})


def free(default: Any) -> Any:
    """A dataclass field that may change between a run and its resumption, because it does not shape the result."""
    return field(default=default, metadata={"resume": True})


class Checked:
    """Base of configuration dataclasses: checks every number's range and every choice once they are set."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            doing = f"setting the option {spec.name}"
            if not _fits(value, hints[spec.name]):
                raise ReconError(doing, f"it is {value!r}", _words(hints[spec.name]))
            low, high = spec.metadata.get("low"), spec.metadata.get("high")
            if low is not None and value is not None and not low <= value <= high:
                bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
                raise ReconError(doing, f"it is {value!r}", f"a number {bounds}")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """What the training loop needs to know of any method."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"normal": {}}
    """Named sets of defaults: the options that differ from the class's own, those of groups as "group.option"."""

    steps: int = ranged(3000, 1)
    """Optimisation steps; at least 1.  Schedules stretch with it."""
    long_side: int = ranged(480, 0)
    """Training resolution: longest side of a photograph in pixels; photographs are never enlarged.  0: as taken."""
    seed: int = ranged(0, 0, 2**31 - 1)
    """Seed of every random choice; 0 to 2147483647."""
    device: Literal["auto", "cpu", "cuda"] = free("auto")
    """Where to compute: auto takes an NVIDIA GPU where torch sees one, and the processor otherwise."""
    backend: Literal["auto", "cpu", "cuda", "gsplat", "reference"] = free("auto")
    """Which implementation of the kernels: auto takes the best one of the device."""
    held_out_every: int = ranged(8, 0)
    """Each so-many-th photograph by name is kept for scoring and never trained on; 0 trains on all of them."""
    checkpoint_s: float = ranged(30.0, 0.0, resume=True)
    """Seconds between checkpoints, which are also written at the end and on Ctrl-C; 0 writes one after each step."""
    log_every: int = ranged(50, 1, resume=True)
    """Steps between lines of metrics.jsonl; at least 1."""
    evaluate_every: int = ranged(1000, 0, resume=True)
    """Steps between scores of the held-out photographs during training; 0 scores none."""

    @classmethod
    def preset(cls, name: str) -> Self:
        """Returns the options that a preset stands for.

        Raises:
            ReconError: there is none of that name.
        """
        if name not in cls.PRESETS:
            raise ReconError("choosing a preset", f"there is none called {name!r}", f"one of {', '.join(cls.PRESETS)}")
        config = cls()
        for option, value in cls.PRESETS[name].items():
            group, _, member = option.rpartition(".")
            if group:
                value = dataclasses.replace(getattr(config, group), **{member: value})
            config = dataclasses.replace(config, **{group or member: value})
        return config

    @classmethod
    def presets_help(cls) -> str:
        """Returns the presets in words, from the numbers themselves."""
        lines = []
        for name, options in cls.PRESETS.items():
            words = [f"{option.replace('_', '-')} {value}" for option, value in options.items()]
            lines.append(f"{name}: {', '.join(words) or 'the defaults'}")
        return "Which defaults to start from; whatever is given beside it comes first. " + "; ".join(lines) + "."


@dataclass(frozen=True)
class PhotoConfig(TrainConfig):
    """What methods that compare renderings with photographs share: how a photograph is read, and what is fitted to it.

    `recon.methods.targets` and `recon.methods.cameras` do what these options ask for.
    """

    masks: MaskUse = "ignore"
    """ignore: masked pixels do not count; alpha: they are empty space (object captures); off: all pixels count."""
    background: Background = "black"
    """Colour behind everything; random changes it each step, which with masks=alpha keeps empty space empty."""
    refine_poses: bool = False
    """Whether the cameras of the training photographs are refined together with the scene."""
    exposure: bool = False
    """Whether each training photograph gets its own affine colour correction; their mean stays the identity."""


def to_json(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain JSON values, groups as objects."""
    return dataclasses.asdict(config)


def from_json(kind: type[C], document: Mapping[str, Any], doing: str) -> C:
    """Makes a configuration of dataclass `kind` from what `to_json` gave.

    Args:
        kind: the dataclass.
        document: its fields; missing ones take their defaults, unknown ones are refused.
        doing: the operation, for the message.

    Raises:
        ReconError: an unknown field, or a value of the wrong type or out of range.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(document) - set(hints))
    if unknown:
        raise ReconError(doing, f"the configuration has unknown options {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, value in document.items():
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ReconError(doing, f"the option {name} is {value!r}", "a group of options")
            values[name] = from_json(typing.cast(type, hints[name]), value, doing)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


@dataclass(frozen=True)
class LiveOption:
    """An option that may change while a training runs.

    Attributes:
        name: with its group, as on the command line ("rates.position").
        value: its present value.
        low, high: its range.
        is_fraction: whether it is a fraction of all steps.
    """

    name: str
    value: float
    low: float
    high: float
    is_fraction: bool


def live_options(config: Any, prefix: str = "") -> list[LiveOption]:
    """Returns the options of a configuration that may change while it is trained, those of groups last."""
    found, groups = [], []
    for spec in dataclasses.fields(config):
        value, meta = getattr(config, spec.name), spec.metadata
        if dataclasses.is_dataclass(value):
            groups += live_options(value, f"{prefix}{spec.name}.")
        elif meta.get("live", "no") != "no":
            name = f"{prefix}{spec.name}"
            found.append(LiveOption(name, value, meta["low"], meta["high"], meta["live"] == "fraction"))
    return found + groups


def changed(config: C, values: Mapping[str, Any]) -> C:
    """Returns a configuration with live options changed, by the names that `live_options` gives.

    Raises:
        ReconError: an option that may not change, or a value of the wrong type or out of range.
    """
    present = {option.name: option.value for option in live_options(config)}
    for name, value in values.items():
        if name not in present:
            raise ReconError(
                "changing a training", f"the option {name} cannot change while it runs", f"one of {', '.join(present)}"
            )
        group, _, member = name.rpartition(".")
        if isinstance(present[name], int) and isinstance(value, float) and value.is_integer():
            value = int(value)
        if group:
            part = dataclasses.replace(getattr(config, group), **{member: value})
            config = dataclasses.replace(config, **{group: part})  # type: ignore[type-var]
        else:
            config = dataclasses.replace(config, **{member: value})  # type: ignore[type-var]
    return config


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Returns one line for each option that differs and shapes the result ("steps: 3000 then, 2000 now")."""
    lines = []
    for spec in dataclasses.fields(old):
        before, now = getattr(old, spec.name), getattr(new, spec.name)
        if dataclasses.is_dataclass(before):
            lines += differences(before, now, f"{prefix}{spec.name}.")
        elif before != now and not spec.metadata.get("resume", False):
            lines.append(f"{prefix}{spec.name}: {before} then, {now} now")
    return lines


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number also passes for a float, a bool never for a number."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if origin is tuple:
        inner = typing.get_args(hint)
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))
