# SPDX-License-Identifier: Apache-2.0
"""How methods are found, and how configurations are checked."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import toy

from recon.errors import ReconError
from recon.methods import registry
from recon.methods.config import PhotoConfig, TrainConfig, differences, from_json, to_json
from recon.methods.splat.config import DensityConfig, SplatConfig


def test_ours_and_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("toy", "toy:METHOD", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "recon.methods" else [])
    assert registry.method_names() == ["splat", "nerf", "toy"]
    assert registry.get_method("toy") is toy.METHOD
    assert registry.method_of(toy.ToyConfig()) is toy.METHOD
    assert registry.method_of(SplatConfig()).name == "splat"


@pytest.mark.parametrize("value", ["no_such_module:METHOD", "toy:ToyConfig", "toy:nothing"])
def test_a_broken_entry_point_names_itself(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = EntryPoint("theirs", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(ReconError, match="'theirs'"):
        registry.get_method("theirs")


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ReconError, match="one of splat"):
        registry.get_method("voxels")
    with pytest.raises(ReconError, match="class TrainConfig"):
        registry.method_of(TrainConfig())


def test_registering_a_name_twice_is_refused(toy_method: None) -> None:
    with pytest.raises(ReconError, match="one of that name"):
        registry.register(dataclasses.replace(toy.METHOD))


def test_choosing_a_method_does_not_import_torch() -> None:
    code = "import sys; from recon.methods import get_method; get_method('splat'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_json_there_and_back() -> None:
    config = SplatConfig(steps=77, density=DensityConfig(strategy="mcmc"))
    document = json.loads(json.dumps(to_json(config)))
    assert from_json(SplatConfig, document, "reading") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown options surprise"),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "at least 1"),
        ({"steps": True}, "steps"),
        ({"ssim_weight": 2.0}, "between 0 and 1"),
        ({"ssim_weight": float("nan")}, "ssim_weight"),
        ({"masks": "maybe"}, "one of ignore, alpha, off"),
        ({"density": 3}, "group of options"),
        ({"density": {"every": 0}}, "every"),
    ],
)
def test_bad_options_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ReconError, match=message):
        from_json(SplatConfig, {**to_json(SplatConfig()), **change}, "reading")


def test_differences_look_into_groups_and_pass_over_free_options() -> None:
    old = SplatConfig()
    new = SplatConfig(device="cpu", checkpoint_s=1.0, density=DensityConfig(every=50))
    assert differences(old, new) == [f"density.every: {old.density.every} then, 50 now"]


def test_every_option_is_documented() -> None:
    """The command line's help is these texts; a missing one would leave an option unexplained."""
    import ast
    import inspect

    for kind in (
        TrainConfig,
        PhotoConfig,
        SplatConfig,
        *(type(getattr(SplatConfig(), n)) for n in ("rates", "density")),
    ):
        body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(text, ast.Expr), f"{kind.__name__}.{field.target.id} has no text"  # type: ignore[union-attr,attr-defined]
