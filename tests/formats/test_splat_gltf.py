# SPDX-License-Identifier: Apache-2.0
"""Splats in glTF: what the specification says of the file, and files that are built otherwise than ours."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formats.splat_cases import difference, scene_splats

from recon.errors import ReconError
from recon.formats.splat_files import is_splat_file, read_splats, write_splats
from recon.scene import Similarity
from recon.splat_transform import transform_splats

PREFIX = "KHR_gaussian_splatting:"


def document_of(folder: Path, degree: int = 1) -> dict[str, Any]:
    write_splats(scene_splats(20, degree, antialiased=True), folder / "a.gltf", up="world")
    document = json.loads((folder / "a.gltf").read_text())
    assert isinstance(document, dict)
    return document


def written(folder: Path, document: dict[str, Any]) -> Path:
    (folder / "a.gltf").write_text(json.dumps(document))
    return folder / "a.gltf"


def test_the_document_is_as_the_specification_says(tmp_path: Path) -> None:
    document = document_of(tmp_path, 2)
    primitive = document["meshes"][0]["primitives"][0]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert primitive["mode"] == 0
    assert primitive["extensions"]["KHR_gaussian_splatting"]["kernel"] == "ellipse"
    harmonics = {f"{PREFIX}SH_DEGREE_{band}_COEF_{index}" for band in range(3) for index in range(2 * band + 1)}
    basic = {"POSITION", "COLOR_0", f"{PREFIX}ROTATION", f"{PREFIX}SCALE", f"{PREFIX}OPACITY"}
    assert set(primitive["attributes"]) == harmonics | basic
    raw = (tmp_path / "a.bin").read_bytes()
    assert document["buffers"] == [{"byteLength": len(raw), "uri": "a.bin"}]

    def values(name: str, width: int) -> np.ndarray:
        view = document["bufferViews"][document["accessors"][primitive["attributes"][name]]["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        return np.frombuffer(raw, "<f4", 20 * width, view["byteOffset"]).reshape(20, width)

    splats = scene_splats(20, 2)
    assert np.array_equal(values("POSITION", 3), splats.means.numpy())
    assert np.allclose(values(f"{PREFIX}SCALE", 3), splats.scales.numpy())
    assert np.allclose(values(f"{PREFIX}OPACITY", 1)[:, 0], splats.opacities.numpy())
    assert np.allclose(np.linalg.norm(values(f"{PREFIX}ROTATION", 4), axis=1), 1)
    accessor = document["accessors"][primitive["attributes"]["POSITION"]]
    assert np.allclose(accessor["min"], splats.means.amin(0))


def test_a_glb_has_aligned_chunks(tmp_path: Path) -> None:
    write_splats(scene_splats(3, 1), tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    magic, version, length, size, kind = struct.unpack_from("<4sIIII", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), 0x4E4F534A)
    assert size % 4 == 0
    assert struct.unpack_from("<II", data, 20 + size) == (len(data) - 28 - size, 0x004E4942)


def test_nodes_move_splats_and_scenes_join_them(tmp_path: Path) -> None:
    document = document_of(tmp_path)
    half = 0.5**0.5
    document["nodes"] = [
        {"children": [1], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [0, 0, half, half], "scale": [2, 2, 2]},
        {"mesh": 0},
    ]
    document["scenes"] = [{"nodes": [0, 2]}]
    found = read_splats(written(tmp_path, document))
    assert found.antialiased
    original = scene_splats(20, 1)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = transform_splats(original, Similarity(2.0, turn, np.array([1.0, 2.0, 3.0])))
    halves = [found.select(torch.arange(20)), found.select(torch.arange(20, 40))]
    for part, expected in zip(sorted(halves, key=lambda part: float(part.log_scales.mean())), (original, moved)):
        assert max(vars(difference(part, expected, ordered=True)).values()) < 0.02


def test_buffers_in_the_document_and_small_numbers(tmp_path: Path) -> None:
    document = document_of(tmp_path)
    raw = (tmp_path / "a.bin").read_bytes()
    place = len(raw)
    rotation = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"][f"{PREFIX}ROTATION"]]
    quats = scene_splats(20, 1).quats.numpy()
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    raw += (quats[:, [1, 2, 3, 0]] * 32767).round().astype("<i2").tobytes()
    document["bufferViews"].append({"buffer": 0, "byteOffset": place, "byteLength": 160})
    rotation |= {"bufferView": len(document["bufferViews"]) - 1, "componentType": 5122, "normalized": True}
    document["buffers"] = [{"byteLength": len(raw), "uri": "data:;base64," + base64.b64encode(raw).decode()}]
    (tmp_path / "a.bin").unlink()
    found = read_splats(written(tmp_path, document))
    assert difference(found, scene_splats(20, 1), ordered=True).degrees < 0.02


def test_logarithms_of_drafts_are_understood(tmp_path: Path) -> None:
    document = document_of(tmp_path)
    raw = bytearray((tmp_path / "a.bin").read_bytes())
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    view = document["bufferViews"][document["accessors"][attributes[f"{PREFIX}SCALE"]]["bufferView"]]
    raw[view["byteOffset"] : view["byteOffset"] + 240] = scene_splats(20, 1).log_scales.numpy().tobytes()
    (tmp_path / "a.bin").write_bytes(raw)
    assert difference(read_splats(tmp_path / "a.gltf"), scene_splats(20, 1), ordered=True).log_scales == 0


def test_what_is_no_splat_is_refused(tmp_path: Path) -> None:
    document = document_of(tmp_path)
    stretched = {**document, "nodes": [{"mesh": 0, "scale": [1, 1, 2]}]}
    with pytest.raises(ReconError, match="stretches"):
        read_splats(written(tmp_path, stretched))
    del document["meshes"][0]["primitives"][0]["extensions"], document["extensionsUsed"]
    assert not is_splat_file(written(tmp_path, document))
    with pytest.raises(ReconError, match="mesh or a point cloud"):
        read_splats(tmp_path / "a.gltf")


def test_shared_bytes_do_not_multiply_without_end(tmp_path: Path) -> None:
    document = document_of(tmp_path)
    document["nodes"] = [{"mesh": 0}] + [{"children": [0] * 90} for _ in range(1)]
    document["meshes"][0]["primitives"] *= 1000
    document["scenes"] = [{"nodes": [1]}]
    with pytest.raises(ReconError, match="bomb"):
        read_splats(written(tmp_path, document))
