# SPDX-License-Identifier: Apache-2.0
"""edits.json: what is written comes back, what is hostile is refused, and nobody's edits are lost."""

from __future__ import annotations

import base64
import copy
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.edits import (
    Box,
    ColorNear,
    Delete,
    EditFile,
    EditList,
    Everything,
    Hide,
    Indices,
    Invert,
    Isolate,
    Lasso,
    PinholeView,
    Range,
    Select,
    SelectNone,
    ShowAll,
    Sphere,
    Transform,
    describe,
    edits_of,
    edits_path,
    read_edits,
    replay,
    world_of,
    write_edits,
)
from recon.edits.files import EditsChangedError, _encode
from recon.edits.rules import fingerprint_of
from recon.errors import ReconError
from recon.splats import Splats

VIEW = PinholeView(640, 400, 500.5, 500.5, 320.0, 200.0, (0.5, 0.5, -0.5, 0.5), (0.1, -0.2, 3.0))
EVERY_KIND = EditList(
    (
        Select(Box((0.1, 0, 0), (1, 2, 3), (0.8, 0.6, 0, 0))),
        Select(Sphere((1, 2, 3), 0.7), "add"),
        Select(Lasso(((10, 10), (300.25, 20), (200, 390.5)), VIEW, visible_only=True), "subtract"),
        Select(Range("floater", 0.25, 1), "intersect"),
        Select(ColorNear((0.1, 0.2, 0.3), 0.25)),
        Select(Indices.of(np.arange(400) % 7 == 0, "0123456789abcdef")),
        Invert(),
        SelectNone(),
        Hide(),
        Isolate(),
        ShowAll(),
        Delete(),
        Delete(Everything(), outside=True),
        Transform(2.5, (0.8, 0, 0.6, 0), (1.0, 2.0, 3.0), "selection"),
        Transform(0.1, purpose="scale"),
    ),
    done=12,
)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write_edits(tmp_path / "edits.json", EVERY_KIND)
    back = read_edits(tmp_path / "edits.json")
    assert back == EVERY_KIND
    assert (len(back), len(back.undone)) == (12, 3)
    assert back.redo(2).in_force == EVERY_KIND.operations[:14]
    # A new edit ends what could have been redone.
    assert back.then(Invert()).operations == (*EVERY_KIND.operations[:12], Invert())
    first = (tmp_path / "edits.json").read_bytes()
    write_edits(tmp_path / "edits.json", back)
    assert (tmp_path / "edits.json").read_bytes() == first


def test_every_edit_can_be_told_in_words() -> None:
    words = [describe(operation) for operation in EVERY_KIND.operations]
    assert len(set(words)) == len(words)
    assert words[0] == "Select a box of 1 × 2 × 3"
    assert describe(Delete(Sphere((0, 0, 0), 2), outside=True)) == "Crop: keep the inside of a sphere of radius 2"


def test_where_edits_lie(tmp_path: Path) -> None:
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "config.json").write_text("{}")
    (tmp_path / "sog").mkdir()
    assert edits_path(tmp_path / "out") == tmp_path / "out" / "run" / "edits.json"
    assert edits_path(tmp_path / "out" / "run") == tmp_path / "out" / "run" / "edits.json"
    assert edits_path(tmp_path / "a.ply") == tmp_path / "a.ply.edits.json"
    assert edits_path(tmp_path / "sog") == tmp_path / "sog.edits.json"
    assert edits_of(tmp_path / "a.ply") == EditList()


def document() -> dict[str, Any]:
    return {"schema": 1, "done": len(EVERY_KIND), "operations": [_encode(entry) for entry in EVERY_KIND.operations]}


BROKEN: dict[str, tuple[Any, str]] = {
    "another schema": (lambda d: d.update(schema=2), "schema"),
    "an unknown key": (lambda d: d.update(extra=1), "unknown keys extra"),
    "an unknown key of an edit": (lambda d: d["operations"][0].update(extra=1), "edit 1: unknown keys 'extra'"),
    "an unknown key of a rule": (lambda d: d["operations"][1]["rule"].update(extra=1), "edit 2: unknown keys"),
    "an unknown kind": (lambda d: d["operations"][0].update(kind="exec"), "kind is 'exec'"),
    "a kind that is a list": (lambda d: d["operations"][0].update(kind=["select"]), "kind is"),
    "a rule as an edit": (lambda d: d["operations"].append({"kind": "everything"}), "kind is"),
    "no operations": (lambda d: d.pop("operations"), "lacks operations"),
    "operations of another type": (lambda d: d.update(operations={}), "lacks operations"),
    "an edit of another type": (lambda d: d.update(operations=[3]), "edit 1: it is 3"),
    "no done": (lambda d: d.pop("done"), "lacks done"),
    "done beyond the end": (lambda d: d.update(done=16), "done is 16"),
    "done below zero": (lambda d: d.update(done=-1), "done is -1"),
    "done as a truth value": (lambda d: d.update(done=True), "done is True"),
    "a missing number": (lambda d: d["operations"][1]["rule"].pop("radius"), "lacks radius"),
    "NaN": (lambda d: d["operations"][1]["rule"].update(radius=float("nan")), "radius is nan"),
    "infinity": (lambda d: d["operations"][0]["rule"].update(center=[0, 0, float("inf")]), "center is inf"),
    "a huge number": (lambda d: d["operations"][1]["rule"].update(radius=10**400), "radius is"),
    "a number as text": (lambda d: d["operations"][1]["rule"].update(radius="1"), "radius is '1'"),
    "two coordinates": (lambda d: d["operations"][1]["rule"].update(center=[0, 0]), "center is"),
    "a zero quaternion": (lambda d: d["operations"][0]["rule"].update(wxyz=[0, 0, 0, 0]), "wxyz is"),
    "a scale of zero": (lambda d: d["operations"][13].update(scale=0), "scale is 0"),
    "a negative scale": (lambda d: d["operations"][13].update(scale=-1), "scale is -1"),
    "a lasso of two corners": (lambda d: d["operations"][2]["rule"].update(polygon_px=[[0, 0], [1, 1]]), "corners"),
    "a lasso of many corners": (lambda d: d["operations"][2]["rule"].update(polygon_px=[[0, 0]] * 10001), "corners"),
    "a lasso without camera": (lambda d: d["operations"][2]["rule"].update(view=None), "view is None"),
    "a camera without size": (lambda d: d["operations"][2]["rule"]["view"].update(width=0), "width is 0"),
    "a huge picture": (lambda d: d["operations"][2]["rule"]["view"].update(width=10**9), "width is"),
    "a selection as the metre": (lambda d: d["operations"][14].update(target="selection"), "applied to the selection"),
    "too many edits": (lambda d: d.update(operations=[{"kind": "invert"}] * 10001), "10001 edits"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    broken = json.loads(json.dumps(document()))
    change(broken)
    (tmp_path / "edits.json").write_text(json.dumps(broken))
    with pytest.raises(ReconError, match=message):
        read_edits(tmp_path / "edits.json")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"schema": 1, "operations": ' + '{"rule": ' * 5000, "\0\xff", "1e999"],
)
def test_texts_that_are_no_edits(text: str, tmp_path: Path) -> None:
    (tmp_path / "edits.json").write_text(text, encoding="latin-1")
    with pytest.raises(ReconError):
        read_edits(tmp_path / "edits.json")


def test_a_file_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "edits.json").open("wb") as file:
        file.truncate(70 * 2**20)
    with pytest.raises(ReconError, match="at most"):
        read_edits(tmp_path / "edits.json")


def test_a_list_that_unpacks_to_megabytes_is_refused_by_its_count(splats: Splats) -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50 * 2**20), 9)).decode()
    with pytest.raises(ReconError, match="does not unpack to 50 bytes"):
        replay(splats, EditList((Select(Indices(400, fingerprint_of(splats), bomb)),)))
    for text in ("", "AAAA", "not base64!", base64.b64encode(zlib.compress(b"123")).decode()):
        with pytest.raises(ReconError, match="unpack"):
            Indices(400, "x", text).mask("testing")


ODD_VALUES: list[Any] = [None, True, -1, 0, 1e300, float("nan"), float("inf"), 10**400, "", "x" * 100, [], {}, [[[]]]]


def mutated(generator: random.Random) -> str:
    """A list of edits with a few places changed, taken out, put in or cut off."""
    broken = json.loads(json.dumps(document()))
    for _ in range(generator.randint(1, 3)):
        node: Any = broken
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = generator.choice(keys)
            if isinstance(node[key], (dict, list)) and node[key] and generator.random() < 0.75:
                node = node[key]
                continue
            action = generator.randrange(4)
            if action == 0:
                del node[key]
            elif action == 1 and isinstance(node, dict):
                node[generator.choice(["kind", "rule", "size", "count", "z"])] = generator.choice(ODD_VALUES)
            elif action == 2 and isinstance(node, list):
                node.insert(key, copy.deepcopy(node[key]))
            else:
                node[key] = generator.choice(ODD_VALUES)
            break
    text = json.dumps(broken)
    if generator.random() < 0.1:
        place = generator.randrange(len(text))
        text = text[:place] + generator.choice(["", "}", "\0", "[[", text[: place // 2]])
    return text


def test_mutated_files_are_refused_or_harmless(tmp_path: Path, splats: Splats) -> None:
    few = splats.select(slice(0, 40))  # type: ignore[arg-type]
    generator, refused = random.Random(0), 0
    for _ in range(300):
        (tmp_path / "edits.json").write_text(mutated(generator))
        try:
            edits = read_edits(tmp_path / "edits.json")
            world_of(edits)
            replay(few, edits)
        except ReconError:
            refused += 1
    assert refused > 200


def test_two_programs_do_not_lose_each_others_edits(tmp_path: Path) -> None:
    one, other = EditFile(tmp_path / "edits.json"), EditFile(tmp_path / "edits.json")
    assert one.read() == other.read() == EditList()
    one.save(EditList((Invert(),)))
    assert other.has_changed
    with pytest.raises(EditsChangedError, match="another viewer"):
        other.save(EditList((ShowAll(),)))
    assert read_edits(tmp_path / "edits.json") == EditList((Invert(),))
    assert other.read() == EditList((Invert(),))
    other.save(EditList((Invert(), ShowAll())))
    with pytest.raises(EditsChangedError):
        one.save(EditList())
    assert [entry.name for entry in tmp_path.iterdir()] == ["edits.json"]


def test_edits_beside_nothing_are_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(ReconError):
        EditFile(tmp_path / "missing" / "edits.json").read()
