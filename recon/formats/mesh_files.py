# SPDX-License-Identifier: Apache-2.0
"""Meshes as GLB, OBJ, PLY and STL files.

Up axis.  Our world is +Z up.  What is written, and what reading assumes unless the file says otherwise:

| format | up in the file | why | stated in the file |
| --- | --- | --- | --- |
| .glb | +Y | glTF 2.0 prescribes it | `asset.extras.up` |
| .obj | +Y | what most programs assume of OBJ | first lines: `# Vertical axis: 0 1 0` |
| .ply | +Z, the world as it is | no convention; survey tools show it as it is | `comment Vertical axis: 0 0 1` |
| .stl | +Z | printing and CAD are z-up | the 80-byte header |

A `Vertical axis` comment in an OBJ or PLY file is believed on reading.  Turning is by 90° about x, so positions are
only permuted and lose nothing.

Colours.  PLY holds the 8-bit sRGB values of the photographs, OBJ the same as fractions after each position.  glTF
prescribes linear light for vertex colours, so GLB holds them linear in 16 bits (8 would crush the shadows) with
an unlit material: the photographs' light is already in them.  STL has no colours.

Positions are float64 in OBJ and PLY and float32 in GLB and STL.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.files import atomic_path
from recon.surface.mesh import Mesh

SUFFIXES = (".glb", ".obj", ".ply", ".stl")

FloatArray = npt.NDArray[np.float64]

_Y_UP_FROM_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Writes a mesh whole or not at all, in the format that the file's suffix names.

    Raises:
        ReconError: an unknown suffix, or the file cannot be written.
    """
    path = Path(path)
    encode = {".glb": _glb, ".obj": _obj, ".ply": _ply, ".stl": _stl}[mesh_suffix(path, f"writing {path}")]
    data = encode(mesh)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_mesh(path: Path) -> Mesh:
    """Reads a triangle mesh into the +Z up world; polygons are cut into triangles, several meshes become one.

    Raises:
        ReconError: no such file, an unknown suffix, or content that is broken or holds no triangles.
    """
    from recon.formats.mesh_reading import read_mesh_file

    return read_mesh_file(Path(path), mesh_suffix(Path(path), f"reading {path}"))


def mesh_suffix(path: Path, doing: str) -> str:
    """Returns the lower-case suffix of a mesh file.

    Raises:
        ReconError: it is none that is known.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ReconError(doing, f"its suffix is {suffix!r}", " ".join(SUFFIXES), "choose another file name")
    return suffix


def y_up_from_world(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Turns positions or normals [..., 3] from +Z up to +Y up: (x, y, z) becomes (x, z, -y)."""
    return vectors @ _Y_UP_FROM_WORLD.T.astype(vectors.dtype)


def world_from_y_up(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Inverts `y_up_from_world`."""
    return vectors @ _Y_UP_FROM_WORLD.astype(vectors.dtype)


def linear_from_srgb(colors: npt.NDArray[np.uint8]) -> FloatArray:
    """Returns linear light in 0..1 for 8-bit sRGB (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return table[colors]


def srgb_from_linear(light: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Inverts `linear_from_srgb`."""
    value = np.clip(np.nan_to_num(np.asarray(light, np.float64)), 0, 1)
    encoded = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)


def _glb(mesh: Mesh) -> bytes:
    """glTF 2.0 in its binary container: one buffer, one mesh, one material."""
    chunks: list[bytes] = []
    views: list[dict[str, object]] = []
    accessors: list[dict[str, object]] = []

    def add(array: np.ndarray, component: int, kind: str, target: int, **further: object) -> int:
        data = array.tobytes()
        offset = sum(map(len, chunks))
        chunks.append(data + b"\0" * (-len(data) % 4))
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data), "target": target})
        accessors.append(
            {"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": kind, **further}
        )
        return len(accessors) - 1

    attributes = {}
    if len(mesh.faces):
        points = y_up_from_world(mesh.vertices).astype("<f4")
        limits = {"min": points.min(0).astype(float).tolist(), "max": points.max(0).astype(float).tolist()}
        attributes["POSITION"] = add(points, 5126, "VEC3", 34962, **limits)
        attributes["NORMAL"] = add(_unit_normals(mesh).astype("<f4"), 5126, "VEC3", 34962)
        if mesh.colors is not None:
            light = np.full((len(mesh.colors), 4), 65535, "<u2")
            light[:, :3] = linear_from_srgb(mesh.colors) * 65535 + 0.5
            attributes["COLOR_0"] = add(light, 5123, "VEC4", 34962, normalized=True)
        indices = add(mesh.faces.astype("<u4").reshape(-1), 5125, "SCALAR", 34963)
    document: dict[str, object] = {
        "asset": {"version": "2.0", "generator": "recon", "extras": {"up": "+Y", "world_up": "+Z"}},
        "scene": 0,
        "scenes": [{"nodes": [0] if len(mesh.faces) else []}],
    }
    if len(mesh.faces):
        primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
        material: dict[str, object] = {
            "doubleSided": True,
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        }
        if mesh.colors is not None:
            material["extensions"] = {"KHR_materials_unlit": {}}
            document["extensionsUsed"] = ["KHR_materials_unlit"]
        document |= {
            "nodes": [{"mesh": 0, "name": "mesh"}],
            "meshes": [{"primitives": [primitive]}],
            "materials": [material],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": sum(map(len, chunks))}],
        }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    parts = [_glb_chunk(b"JSON", text)]
    if chunks:
        parts.append(_glb_chunk(b"BIN\0", b"".join(chunks)))
    length = 12 + sum(map(len, parts))
    if length >= 1 << 32:
        raise ReconError("writing a GLB file", f"it would have {length} bytes", "less than 4 GiB", "use .ply")
    return b"glTF" + np.array([2, length], "<u4").tobytes() + b"".join(parts)


def _glb_chunk(kind: bytes, data: bytes) -> bytes:
    return np.array([len(data)], "<u4").tobytes() + kind + data


def _unit_normals(mesh: Mesh) -> npt.NDArray[np.float32]:
    """Normals in the file's axes; glTF wants unit length even where a vertex has none."""
    normals = y_up_from_world(mesh.vertex_normals().astype(np.float64))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-6, normals / np.maximum(length, 1e-6), [0.0, 1.0, 0.0]).astype(np.float32)


def _ply(mesh: Mesh) -> bytes:
    """Binary little-endian PLY with float64 positions."""
    fields: list[tuple[str, str]] = [(name, "<f8") for name in ("x", "y", "z")]
    fields += [(name, "<f4") for name in ("nx", "ny", "nz")] if mesh.normals is not None else []
    fields += [(name, "u1") for name in ("red", "green", "blue")] if mesh.colors is not None else []
    rows = np.empty(len(mesh.vertices), fields)
    for name, column in zip(("x", "y", "z"), mesh.vertices.T):
        rows[name] = column
    if mesh.normals is not None:
        for name, normal in zip(("nx", "ny", "nz"), mesh.normals.T):
            rows[name] = normal
    if mesh.colors is not None:
        for name, color in zip(("red", "green", "blue"), mesh.colors.T):
            rows[name] = color
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("vertices", "<i4", 3)])
    faces["count"], faces["vertices"] = 3, mesh.faces
    types = {"<f8": "double", "<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment written by recon",
        "comment Vertical axis: 0 0 1",
        f"element vertex {len(rows)}",
        *(f"property {types[kind]} {name}" for name, kind in fields),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + rows.tobytes() + faces.tobytes()


def _obj(mesh: Mesh) -> bytes:
    """Wavefront OBJ; colours follow the positions, which most readers understand and the others skip."""
    lines = ["# written by recon", "# Vertical axis: 0 1 0"]
    points = y_up_from_world(mesh.vertices).tolist()
    if mesh.colors is None:
        lines += [f"v {x!r} {y!r} {z!r}" for x, y, z in points]
    else:
        colors = (mesh.colors / 255).round(5).tolist()
        lines += [f"v {x!r} {y!r} {z!r} {r} {g} {b}" for (x, y, z), (r, g, b) in zip(points, colors)]
    if mesh.normals is None:
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    else:
        lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in y_up_from_world(mesh.normals).tolist()]
        lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _stl(mesh: Mesh) -> bytes:
    """Binary STL."""
    rows = np.zeros(len(mesh.faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    crosses = mesh.face_crosses
    length = np.linalg.norm(crosses, axis=1, keepdims=True)
    rows["normal"] = crosses / np.where(length > 0, length, 1)
    rows["corners"] = mesh.triangles
    header = b"binary STL written by recon, up axis +Z".ljust(80)  # must not begin with "solid"
    return header + np.array([len(rows)], "<u4").tobytes() + rows.tobytes()
