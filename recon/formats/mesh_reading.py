# SPDX-License-Identifier: Apache-2.0
"""Reading of mesh files that anybody may have written, through trimesh, behind checks of its own.

trimesh trusts counts in headers and follows references to other files; so every file is looked through first: what
it promises must fit into what it holds, and it must not refer to anything outside itself.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.files import raise_for_os_error
from recon.formats.mesh_files import srgb_from_linear, world_from_y_up
from recon.formats.ply_header import PlyElement, read_ply_header
from recon.surface.mesh import Mesh

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_MAX_ITEMS = 1 << 20
"""More nodes, accessors or views than any real file has."""

_VERTICAL = re.compile(rb"Vertical axis:\s*(-?[\d.]+)\s+(-?[\d.]+)\s+(-?[\d.]+)", re.IGNORECASE)
_COMMENT_BYTES = 8192


def read_mesh_file(path: Path, suffix: str) -> Mesh:
    """Reads a mesh of a known suffix; see `recon.formats.mesh_files.read_mesh`."""
    doing = f"reading the mesh {path}"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except IsADirectoryError as error:
        raise ReconError(doing, "it is a folder", "a mesh file") from error
    except OSError as error:
        raise_for_os_error(doing, error)
        raise
    if not data:
        raise ReconError(doing, "it is empty", "a mesh file", "export it again")
    {".glb": _check_glb, ".obj": _check_obj, ".ply": _check_ply, ".stl": _check_stl}[suffix](data, doing)
    mesh = _load(data, suffix, doing)
    y_up = suffix == ".glb" or _vertical_axis(data, suffix) == "y"
    if suffix == ".glb" and mesh.colors is not None:
        mesh = _with_colors(mesh, _glb_colors(data, len(mesh.vertices)))
    if not y_up:
        return mesh
    normals = None if mesh.normals is None else world_from_y_up(mesh.normals).astype(np.float32)
    return Mesh(np.asarray(world_from_y_up(mesh.vertices), np.float64), mesh.faces, mesh.colors, normals)


def _load(data: bytes, suffix: str, doing: str) -> Mesh:
    """Lets trimesh read the bytes, without access to other files, and checks what comes out."""
    import trimesh

    try:
        # GLB parts that share vertices must stay as they are, so that colours can be read beside them.
        scene = trimesh.load_scene(
            io.BytesIO(data), file_type=suffix[1:], resolver={}, process=False, skip_materials=True
        )
        meshes = [g for g in scene.dump() if isinstance(g, trimesh.Trimesh) and len(g.faces)]
        found: Any = trimesh.util.concatenate(meshes) if len(meshes) > 1 else meshes[0] if meshes else None
        if found is not None and suffix == ".stl":
            found.merge_vertices()  # STL repeats every corner
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:200]
        raise ReconError(doing, f"it is broken ({text})", "a whole mesh file", "export it again") from error
    if found is None:
        raise ReconError(doing, "it holds no triangles", "a triangle mesh (for splats or points use their own readers)")
    faces = np.asarray(found.faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or not 0 <= faces.min() <= faces.max() < len(found.vertices):
        raise ReconError(doing, "its faces name vertices that do not exist", "a whole mesh file", "export it again")
    vertices = np.array(found.vertices, np.float64)
    if not np.isfinite(vertices[faces]).all():
        raise ReconError(doing, "corners of its faces are NaN or infinite", "finite positions", "repair it first")
    vertices = np.nan_to_num(vertices, nan=0.0, posinf=0.0, neginf=0.0)  # no face uses these
    colors = None
    if getattr(found.visual, "kind", None) == "vertex":
        colors = np.array(found.visual.vertex_colors[:, :3], np.uint8)
    return Mesh(vertices, faces.astype(np.int32), colors, _given_normals(found))


def _given_normals(found: Any) -> npt.NDArray[np.float32] | None:
    """The file's own normals, where it had any that can be used."""
    normals = found._cache.cache.get("vertex_normals") if hasattr(found, "_cache") else None
    if normals is None or np.shape(normals) != np.shape(found.vertices) or not np.isfinite(normals).all():
        return None
    return np.array(normals, np.float32)


def _with_colors(mesh: Mesh, colors: npt.NDArray[np.uint8] | None) -> Mesh:
    """Takes the exact colours where the file's layout let them be read, else turns trimesh's from linear light."""
    if colors is None:
        assert mesh.colors is not None
        colors = srgb_from_linear(mesh.colors / 255)
    return Mesh(mesh.vertices, mesh.faces, colors, mesh.normals)


def _vertical_axis(data: bytes, suffix: str) -> str:
    """Returns which axis points up in an OBJ or PLY file: "y" or "z"."""
    default = "y" if suffix == ".obj" else "z"
    found = _VERTICAL.search(data[:_COMMENT_BYTES]) if suffix in (".obj", ".ply") else None
    if found is None:
        return default
    try:
        axis = [float(number) for number in found.groups()]
    except ValueError:
        return default
    return "y" if axis == [0, 1, 0] else "z" if axis == [0, 0, 1] else default


# ---- checks before anything is parsed --------------------------------------------------------------------------------


def _broken(doing: str, found: str) -> ReconError:
    return ReconError(doing, found, "a whole mesh file", "export it again")


def _check_stl(data: bytes, doing: str) -> None:
    if data[:5].lower() == b"solid" and b"facet" in data[:2048]:
        return
    if len(data) < 84:
        raise _broken(doing, f"it has {len(data)} bytes, a binary STL at least 84")
    count = int(np.frombuffer(data, "<u4", 1, 80)[0])
    if len(data) < 84 + 50 * count:
        raise _broken(doing, f"its header promises {count} triangles, the file holds {(len(data) - 84) // 50}")
    if count == 0:
        raise ReconError(doing, "it holds no triangles", "a triangle mesh")


def _check_obj(data: bytes, doing: str) -> None:
    if b"\0" in data[:4096]:
        raise _broken(doing, "it is not text")
    faces = b" ".join(re.findall(rb"^[ \t]*f[ \t]([^\r\n]*)", data, re.MULTILINE))
    if not faces:
        raise ReconError(doing, "it holds no faces", "a triangle mesh")
    # trimesh takes an index out of range for a relative one.
    count = len(re.findall(rb"^[ \t]*v[ \t]", data, re.MULTILINE))
    try:
        corners = np.array(re.findall(rb"(?:^|\s)([^\s/]+)", faces), dtype=np.int64)
    except ValueError as error:
        raise _broken(doing, "a face is not made of vertex numbers") from error
    if corners.size == 0 or (corners == 0).any() or np.abs(corners).max() > count:
        raise _broken(doing, f"its faces name vertices that do not exist (it has {count})")


def _check_ply(data: bytes, doing: str) -> None:
    header = read_ply_header(io.BytesIO(data), doing)
    vertex, face = header.element("vertex"), header.element("face")
    if vertex is None or not {"x", "y", "z"} <= vertex.property_names:
        raise ReconError(doing, "it has no vertices with x, y and z", "a mesh")
    if face is None or face.count == 0:
        fix = "splats are read by `recon view`" if "scale_0" in vertex.property_names else ""
        raise ReconError(doing, "it holds no faces", "a triangle mesh", fix)
    available = header.file_size - header.data_start
    least = sum(element.count * _least_row_bytes(element, header.format == "ascii") for element in header.elements)
    if available < least:
        raise _broken(doing, f"its header promises at least {least} bytes of rows, {available} follow")


def _least_row_bytes(element: PlyElement, text: bool) -> int:
    if text:
        return 2 * len(element.properties)
    return sum(
        np.dtype(entry.type if entry.list_count_type is None else entry.list_count_type).itemsize
        for entry in element.properties
    )


def _glb_parts(data: bytes, doing: str) -> tuple[dict[str, Any], bytes]:
    """Returns the JSON document of a GLB file and its binary chunk."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise _broken(doing, "it does not begin with 'glTF'")
    version, length = np.frombuffer(data, "<u4", 2, 4).tolist()
    if version != 2:
        raise ReconError(doing, f"it is glTF {version}", "glTF 2")
    if length > len(data):
        raise _broken(doing, f"its header promises {length} bytes, the file has {len(data)}")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= length:
        size = int(np.frombuffer(data, "<u4", 1, position)[0])
        kind = data[position + 4 : position + 8]
        if position + 8 + size > length:
            raise _broken(doing, f"its chunk {kind!r} promises {size} bytes, {length - position - 8} follow")
        chunks.setdefault(kind, data[position + 8 : position + 8 + size])
        position += 8 + size
    try:
        document = json.loads(chunks.get(b"JSON", b"").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(doing, f"its JSON is not readable ({error})"[:200]) from error
    if not isinstance(document, dict):
        raise _broken(doing, "its JSON is no object")
    return document, chunks.get(b"BIN\0", b"")


def _check_glb(data: bytes, doing: str) -> None:
    document, binary = _glb_parts(data, doing)
    for key in ("buffers", "bufferViews", "accessors", "nodes", "meshes", "images", "scenes"):
        entries = document.get(key, [])
        if not isinstance(entries, list) or len(entries) > _MAX_ITEMS or any(not isinstance(e, dict) for e in entries):
            raise _broken(doing, f"its {key} are not a list of objects")
    for key in ("buffers", "images"):
        if any("uri" in entry for entry in document.get(key, [])):
            raise ReconError(doing, f"its {key} refer to other files", "a GLB that holds everything itself")
    try:
        for view in document.get("bufferViews", []):
            if int(view.get("byteOffset", 0)) < 0 or int(view["byteLength"]) < 0:
                raise _broken(doing, "a buffer view has a negative size")
            if int(view.get("byteOffset", 0)) + int(view["byteLength"]) > len(binary):
                raise _broken(doing, f"a buffer view reaches beyond its {len(binary)} bytes")
        for accessor in document.get("accessors", []):
            # Accessors without a view are zeros, as many as the file likes to promise.
            size = np.dtype(_COMPONENTS[accessor["componentType"]]).itemsize * _WIDTHS[accessor["type"]]
            if not 0 <= int(accessor["count"]) * size <= max(len(binary), 1):
                raise _broken(
                    doing, f"an accessor promises {accessor['count']} items, its data has {len(binary)} bytes"
                )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _broken(doing, f"an accessor or a view is malformed ({error})"[:200]) from error
    _check_nodes(document.get("nodes", []), doing)


def _check_nodes(nodes: list[dict[str, Any]], doing: str) -> None:
    """The nodes must be trees: no node has two parents or is its own ancestor."""
    parent: dict[int, int] = {}
    for index, node in enumerate(nodes):
        children = node.get("children", [])
        if not isinstance(children, list) or any(not isinstance(c, int) or not 0 <= c < len(nodes) for c in children):
            raise _broken(doing, f"node {index} names children that do not exist")
        for child in children:
            if child in parent:
                raise _broken(doing, f"node {child} has two parents")
            parent[child] = index
    for start in range(len(nodes)):
        seen, here = 0, start
        while here in parent:
            here, seen = parent[here], seen + 1
            if seen > min(len(nodes), 1000):
                raise _broken(doing, "its nodes form a loop or are nested more than 1000 deep")


def _glb_colors(data: bytes, count: int) -> npt.NDArray[np.uint8] | None:
    """The colours of a GLB with one primitive in their own precision (trimesh keeps 8 bits); None elsewhere."""
    try:
        document, binary = _glb_parts(data, "")
        (mesh,) = document["meshes"]
        (primitive,) = mesh["primitives"]
        accessor = document["accessors"][primitive["attributes"]["COLOR_0"]]
        view = document["bufferViews"][accessor["bufferView"]]
        dtype, width = np.dtype(_COMPONENTS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        if (
            accessor["count"] != count
            or width not in (3, 4)
            or view.get("byteStride", 0) not in (0, dtype.itemsize * width)
        ):
            return None
        offset = int(view.get("byteOffset", 0)) + int(accessor.get("byteOffset", 0))
        values = np.frombuffer(binary, dtype, count * width, offset).reshape(count, width)[:, :3]
    except (KeyError, TypeError, ValueError, IndexError, ReconError):
        return None
    return srgb_from_linear(values if dtype.kind == "f" else values / np.iinfo(dtype).max)
