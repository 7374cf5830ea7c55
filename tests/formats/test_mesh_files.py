# SPDX-License-Identifier: Apache-2.0
"""Mesh files: what is written comes back, up is up, and broken files are refused without a crash."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from recon.errors import ReconError
from recon.formats.mesh_files import linear_from_srgb, read_mesh, srgb_from_linear, write_mesh
from recon.surface.mesh import Mesh


def house(colors: bool = True, normals: bool = True) -> Mesh:
    """A pyramid of 4 units' height on a square of 2 by 3: which axis is up can be seen from its size."""
    vertices = np.array([[0, 0, 0], [2, 0, 0], [2, 3, 0], [0, 3, 0], [1.1, 1.6, 4.0]]) + 0.123456789
    faces = np.array([[0, 2, 1], [0, 3, 2], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]], np.int32)
    mesh = Mesh(vertices, faces, np.arange(15, dtype=np.uint8).reshape(5, 3) * 17 if colors else None)
    return Mesh(mesh.vertices, faces, mesh.colors, mesh.vertex_normals() if normals else None)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".GLB"])
@pytest.mark.parametrize(("colors", "normals"), [(True, True), (False, False), (True, False)])
def test_what_is_written_comes_back(tmp_path: Path, suffix: str, colors: bool, normals: bool) -> None:
    mesh = house(colors, normals)
    write_mesh(mesh, tmp_path / f"mesh{suffix}")
    back = read_mesh(tmp_path / f"mesh{suffix}")
    tolerance = 1e-6 if suffix.lower() == ".glb" else 1e-12
    np.testing.assert_allclose(back.vertices, mesh.vertices, rtol=tolerance)
    assert np.array_equal(back.faces, mesh.faces)
    if colors:
        assert back.colors is not None
        assert np.asarray(back.colors).tolist() == np.asarray(mesh.colors).tolist()
    else:
        assert back.colors is None
    if normals:
        np.testing.assert_allclose(back.vertex_normals(), mesh.vertex_normals(), atol=2e-5)


def test_stl_keeps_the_surface(tmp_path: Path) -> None:
    mesh = house()
    write_mesh(mesh, tmp_path / "mesh.stl")
    data = (tmp_path / "mesh.stl").read_bytes()
    assert not data.startswith(b"solid")
    assert b"+Z" in data[:80]
    back = read_mesh(tmp_path / "mesh.stl")
    assert len(back.vertices) == 5
    triangles = {tuple(np.sort(t.round(5).ravel()).tolist()) for t in mesh.triangles}
    assert {tuple(np.sort(t.round(5).ravel()).tolist()) for t in back.triangles} == triangles
    np.testing.assert_allclose(back.face_crosses.sum(0), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "size", "statement"),
    [
        (".glb", (2, 4, 3), b'"up":"+Y"'),
        (".obj", (2, 4, 3), b"# Vertical axis: 0 1 0"),
        (".ply", (2, 3, 4), b"comment Vertical axis: 0 0 1"),
        (".stl", (2, 3, 4), b"up axis +Z"),
    ],
)
def test_up_is_up_for_other_programs(tmp_path: Path, suffix: str, size: tuple[int, ...], statement: bytes) -> None:
    """Another reader sees the height along the axis that the format calls up, the right way round and not mirrored."""
    path = tmp_path / f"mesh{suffix}"
    write_mesh(house(), path)
    assert statement in path.read_bytes()[:2000]
    seen = trimesh.load_mesh(path, process=True)
    np.testing.assert_allclose(np.ptp(seen.vertices, axis=0), size, rtol=1e-5)
    up = size.index(4)
    top = seen.vertices[seen.vertices[:, up].argmax()]
    assert (np.abs(seen.vertices[:, up] - top[up]) < 1e-6).sum() == 1  # the tip is on top
    assert seen.volume == pytest.approx(8.0, rel=1e-5)  # positive: faces still point outwards


def test_glb_is_valid_gltf(tmp_path: Path) -> None:
    path = tmp_path / "mesh.glb"
    write_mesh(house(), path)
    data = path.read_bytes()
    assert data[:4] == b"glTF"
    assert np.frombuffer(data, "<u4", 2, 4).tolist() == [2, len(data)]
    size = int(np.frombuffer(data, "<u4", 1, 12)[0])
    document = json.loads(data[20 : 20 + size])
    assert size % 4 == 0
    assert document["extensionsUsed"] == ["KHR_materials_unlit"]
    for view, accessor in zip(document["bufferViews"], document["accessors"]):
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        assert accessor["count"] * width * {5126: 4, 5125: 4, 5123: 2}[accessor["componentType"]] == view["byteLength"]
    position = document["accessors"][0]
    assert len(position["min"]) == len(position["max"]) == 3
    # Colours are linear light in the file: mid-grey 188 is a half.
    assert linear_from_srgb(np.array([188], np.uint8))[0] == pytest.approx(0.5, abs=0.005)


def test_colour_curves_are_inverses() -> None:
    every = np.arange(256, dtype=np.uint8)
    light = (linear_from_srgb(every) * 65535 + 0.5).astype(np.uint16)
    assert np.array_equal(srgb_from_linear(light / 65535), every)


def test_an_empty_mesh_is_written(tmp_path: Path) -> None:
    for suffix in (".glb", ".obj", ".ply", ".stl"):
        write_mesh(Mesh.empty(), tmp_path / f"mesh{suffix}")
        with pytest.raises(ReconError, match=r"no (triangles|faces)"):
            read_mesh(tmp_path / f"mesh{suffix}")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "mesh.fbx", tmp_path / "mesh"):
        with pytest.raises(ReconError, match=r"\.glb \.obj \.ply \.stl"):
            write_mesh(house(), path)
        with pytest.raises(ReconError, match="suffix"):
            read_mesh(path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mesh.ply"
    write_mesh(house(), path)
    before = path.read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ReconError, match="disk is full"):
        write_mesh(house(colors=False), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mesh.ply"]


def test_polygons_and_foreign_axes(tmp_path: Path) -> None:
    path = tmp_path / "quad.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 2 0\nv 0 2 0\nf 1 2 3 4\n")
    quad = read_mesh(path)
    assert len(quad.faces) == 2
    np.testing.assert_allclose(np.ptp(quad.vertices, axis=0), (1, 0, 2))  # OBJ is +Y up unless it says otherwise
    path.write_text("# Vertical axis: 0 0 1\nv 0 0 0\nv 1 0 0\nv 1 2 0\nv 0 2 0\nf 1 2 3 4\n")
    np.testing.assert_allclose(np.ptp(read_mesh(path).vertices, axis=0), (1, 2, 0))


def test_several_parts_become_one(tmp_path: Path) -> None:
    scene = trimesh.Scene([trimesh.creation.box(), trimesh.creation.icosphere(1).apply_translation((5, 0, 0))])
    scene.export(tmp_path / "two.glb")
    mesh = read_mesh(tmp_path / "two.glb")
    assert len(mesh.faces) == 12 + 80
    assert np.ptp(mesh.vertices, axis=0)[0] > 5


# ---- hostile files ---------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(ReconError) as caught:
        read_mesh(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 500, b"\xff" * 1000, b"solid", b"ply\n", b"glTF\2\0\0\0\xff\xff\xff\xff"]
)
def test_rubbish_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"mesh{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".stl", ".obj"])
def test_files_cut_short_or_damaged_never_crash(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mesh{suffix}"
    write_mesh(house(), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for length in np.linspace(0, len(whole) - 1, 25).astype(int):
        path.write_bytes(whole[:length])
        if suffix == ".obj":  # text may be whole up to there
            try:
                read_mesh(path)
            except ReconError:
                continue
        else:
            refused(path)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            mesh = read_mesh(path)
        except ReconError:
            continue
        assert np.isfinite(mesh.vertices).all()


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_a_missing_file_and_a_folder(tmp_path: Path, suffix: str) -> None:
    assert "no such file" in refused(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    assert "folder" in refused(tmp_path / f"folder{suffix}")


def test_lying_counts(tmp_path: Path) -> None:
    ply = tmp_path / "mesh.ply"
    write_mesh(house(), ply)
    whole = ply.read_bytes()
    ply.write_bytes(whole.replace(b"element vertex 5", b"element vertex 5000000000"))
    assert "promises" in refused(ply)
    ply.write_bytes(whole.replace(b"element face 6", b"element face 900000000000"))
    assert "promises" in refused(ply)
    stl = tmp_path / "mesh.stl"
    write_mesh(house(), stl)
    data = bytearray(stl.read_bytes())
    data[80:84] = b"\xff\xff\xff\xff"
    stl.write_bytes(bytes(data))
    assert "4294967295 triangles" in refused(stl)


def test_faces_of_vertices_that_do_not_exist(tmp_path: Path) -> None:
    for faces in ("f 1 2 9", "f 1 2 -9", "f 0 1 2", "f a b c"):
        path = tmp_path / "mesh.obj"
        path.write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\n{faces}\n")
        refused(path)


def test_nan_corners_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mesh.obj"
    path.write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert "NaN" in refused(path)


def glb(document: dict, binary: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = np.array([len(text)], "<u4").tobytes() + b"JSON" + text
    if binary:
        body += np.array([len(binary)], "<u4").tobytes() + b"BIN\0" + binary
    return b"glTF" + np.array([2, 12 + len(body)], "<u4").tobytes() + body


@pytest.mark.parametrize(
    "change",
    [
        {"accessors": [{"componentType": 5126, "type": "VEC3", "count": 10**12}]},
        {"accessors": [{"componentType": 5126, "type": "VEC3", "count": -1}]},
        {"accessors": [{"componentType": 1, "type": "VEC3", "count": 1}]},
        {"accessors": "many"},
        {"accessors": [3]},
        {"bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": 10**9}]},
        {"bufferViews": [{"buffer": 0, "byteOffset": -8, "byteLength": 8}]},
        {"buffers": [{"uri": "/etc/passwd", "byteLength": 100}]},
        {"buffers": [{"uri": "http://127.0.0.1:1/x.bin", "byteLength": 100}]},
        {"images": [{"uri": "../secret.png"}]},
        {"nodes": [{"mesh": 0, "children": [1]}, {"children": [0]}]},
        {"nodes": [{"mesh": 0, "children": [7]}]},
        {"meshes": [{"primitives": [{"attributes": {"POSITION": 99}}]}]},
        {"meshes": []},
        {"nodes": [], "scenes": []},
    ],
)
def test_hostile_glb(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "mesh.glb"
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 3}],
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
    }
    path.write_bytes(glb(document, points))
    assert len(read_mesh(path).faces) == 1  # without the change it is a good file
    path.write_bytes(glb({**document, **change}, points))
    refused(path)
