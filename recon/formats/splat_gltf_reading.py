# SPDX-License-Identifier: Apache-2.0
"""Reading splats from glTF; what the attributes mean is told in `recon.formats.splat_gltf`.

All primitives with the extension are joined, each moved by the nodes that lead to it.  Scales below zero, which
drafts of the extension stored as logarithms, are taken as such.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError
from recon.formats.splat_axes import UP_AXES, UpAxis
from recon.formats.splat_gltf import BINARY_CHUNK, EXTENSION, GLB_MAGIC, JSON_CHUNK, data_uri_bytes
from recon.formats.splat_parts import (
    FloatArray,
    NotFinite,
    SplatParts,
    check_budget,
    file_bytes,
    log_scales_of,
    refusing,
)
from recon.progress import SILENT, Progress
from recon.scene import Similarity
from recon.splats import Splats

MOST_JSON_BYTES = 16 << 20
MOST_NODES = 10_000
MOST_DEPTH = 64
BYTES_PER_SPLAT = 240
LIMIT_LOGIT = 17.0
"""Of an opacity that float32 cannot tell from 1."""

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_EXPECTED = "glTF 2.0 with KHR_gaussian_splatting"


def read_splat_gltf(
    path: Path,
    not_finite: NotFinite = "refuse",
    progress: Progress = SILENT,
    up: UpAxis | Literal["auto"] = "auto",
) -> Splats:
    """Reads the splats of a .glb or .gltf; the arguments and errors are those of
    `recon.formats.splat_files.read_splats`."""
    doing = f"reading the splats of {path}"
    document, binary = _open(Path(path), doing)
    # A number where an object should be is found out when it is used as one.
    with refusing(doing, "its JSON does not fit glTF", TypeError, AttributeError):
        found = _Reader(document, binary, Path(path).parent, doing, progress).parts()
    if not found:
        raise ReconError(doing, f"it has no primitive with {EXTENSION}: it is a mesh or a point cloud", _EXPECTED)
    pieces = [_moved(parts, place, doing, not_finite, progress) for parts, place in found]
    splats = _joined(pieces)
    from recon.formats.splat_axes import world_from_splats

    return world_from_splats(splats, found[0][0].up if up == "auto" else up)


def holds_splats(path: Path) -> bool:
    """Returns whether a .glb or .gltf uses the extension, by its JSON."""
    try:
        document, _ = _open(Path(path), f"looking at {path}")
    except ReconError:
        return False
    used = document.get("extensionsUsed")
    return isinstance(used, list) and EXTENSION in used


def _open(path: Path, doing: str) -> tuple[dict[str, Any], bytes | None]:
    """Returns the JSON document and, of a .glb, the binary chunk."""
    data = file_bytes(path, doing)
    binary = None
    if data[:4] == GLB_MAGIC:
        with refusing(doing, "its chunks are broken"):
            version, length = struct.unpack_from("<II", data, 4)
            size, kind = struct.unpack_from("<II", data, 12)
            if version != 2 or length > len(data) or kind != JSON_CHUNK or 20 + size > length:
                raise ReconError(doing, "its header does not fit its size", "a whole GLB of version 2")
            text, place = data[20 : 20 + size], 20 + size
            if place + 8 <= length:
                size, kind = struct.unpack_from("<II", data, place)
                if kind == BINARY_CHUNK and place + 8 + size <= length:
                    binary = data[place + 8 : place + 8 + size]
    else:
        text = data
    if len(text) > MOST_JSON_BYTES and binary is not None:
        raise ReconError(doing, f"its JSON has {len(text)} bytes", f"at most {MOST_JSON_BYTES}")
    with refusing(doing, "its JSON is broken"):
        document = json.loads(text)
    asset = document.get("asset") if isinstance(document, dict) else None
    if not isinstance(asset, dict) or not str(asset.get("version")).startswith("2."):
        raise ReconError(doing, "it is no glTF 2.0", _EXPECTED)
    return document, binary


@dataclass
class _Reader:
    document: dict[str, Any]
    binary: bytes | None
    folder: Path
    doing: str
    progress: Progress
    buffers: dict[int, bytes] = field(default_factory=dict)
    rows: int = 0

    def parts(self) -> list[tuple[SplatParts, npt.NDArray[np.float64]]]:
        """Returns each splat primitive with the matrix of its node."""
        found = []
        for mesh, matrix in self._meshes():
            for primitive in self._entry("meshes", mesh).get("primitives", []):
                if EXTENSION in (primitive.get("extensions") or {}):
                    found.append((self._primitive(primitive), matrix))
        return found

    def _entry(self, name: str, index: Any) -> dict[str, Any]:
        entries = self.document.get(name)
        if not isinstance(index, int) or isinstance(index, bool) or not isinstance(entries, list):
            raise ReconError(self.doing, f"its {name} are no list, or {str(index)[:40]} is none of them", _EXPECTED)
        if not 0 <= index < len(entries) or not isinstance(entries[index], dict):
            raise ReconError(self.doing, f"it has no {name}[{index}]", _EXPECTED)
        return entries[index]

    def _meshes(self) -> list[tuple[int, npt.NDArray[np.float64]]]:
        """Returns the meshes of the scene with their matrices; all meshes where there is no scene."""
        if not self.document.get("nodes") or not self.document.get("scenes"):
            return [(index, np.eye(4)) for index in range(len(self.document.get("meshes") or []))]
        scene = self._entry("scenes", self.document.get("scene", 0))
        waiting = [(node, np.eye(4), 0) for node in scene.get("nodes", [])]
        found, visited = [], 0
        while waiting:
            index, above, depth = waiting.pop()
            visited += 1
            if visited > MOST_NODES or depth > MOST_DEPTH:
                raise ReconError(self.doing, "its nodes are too many or lead back to themselves", "a tree of nodes")
            node = self._entry("nodes", index)
            matrix = above @ _matrix(node)
            if node.get("mesh") is not None:
                found.append((node["mesh"], matrix))
            waiting += [(child, matrix, depth + 1) for child in node.get("children", [])]
        return found

    def _primitive(self, primitive: dict[str, Any]) -> SplatParts:
        attributes, extension = primitive.get("attributes"), primitive["extensions"][EXTENSION]
        if not isinstance(attributes, dict) or not isinstance(extension, dict):
            raise ReconError(self.doing, "a splat primitive has no attributes", _EXPECTED)
        if extension.get("kernel", "ellipse") != "ellipse":
            self.progress.log(f"its kernel {str(extension['kernel'])[:40]!r} is unknown; shown as ellipsoids")
        if extension.get("colorSpace", "srgb_rec709_display") != "srgb_rec709_display":
            self.progress.log(f"its colours are {str(extension['colorSpace'])[:40]!r}; shown as they are, as sRGB")
        means = self._attribute(attributes, "POSITION", 3)
        count = len(means)
        # The same bytes may stand for many splats, if attributes, primitives or nodes share them.
        self.rows += count
        check_budget(self.rows * BYTES_PER_SPLAT, sum(map(len, self.buffers.values())), self.doing)
        quats, scales = (
            self._attribute(attributes, "ROTATION", 4, count),
            self._attribute(attributes, "SCALE", 3, count),
        )
        opacity = self._attribute(attributes, "OPACITY", 1, count)[:, 0].astype(np.float64)
        degree = max(d for d in range(4) if d == 0 or f"{EXTENSION}:SH_DEGREE_{d}_COEF_0" in attributes)
        harmonics = [
            self._attribute(attributes, f"SH_DEGREE_{band}_COEF_{index}", 3, count)
            for band in range(degree + 1)
            for index in range(2 * band + 1)
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            logits = np.clip(np.log(opacity / (1 - opacity)), -LIMIT_LOGIT, LIMIT_LOGIT)
        extras = primitive.get("extras") if isinstance(primitive.get("extras"), dict) else {}
        up = extras.get("up")  # type: ignore[union-attr]
        return SplatParts(
            means=means,
            quats=quats[:, [3, 0, 1, 2]],
            log_scales=scales if bool((scales < 0).any()) else log_scales_of(scales),
            opacity_logits=logits.astype(np.float32),
            base=harmonics[0],
            rest=np.stack(harmonics[1:], 1) if degree else None,
            antialiased=extras.get("antialiased") is True,  # type: ignore[union-attr]
            up=up if up in UP_AXES else "+y",  # type: ignore[arg-type]
        )

    def _attribute(self, attributes: dict[str, Any], name: str, width: int, count: int | None = None) -> FloatArray:
        """Returns an attribute, [N, width] float32, normalised where it is stored as whole numbers."""
        index = attributes.get(name if name == "POSITION" else f"{EXTENSION}:{name}")
        if index is None:
            raise ReconError(self.doing, f"a splat primitive lacks the attribute {name}", _EXPECTED)
        accessor = self._entry("accessors", index)
        kind = _COMPONENTS.get(accessor.get("componentType", 0))
        rows, offset = _natural(accessor.get("count")), _natural(accessor.get("byteOffset", 0))
        if kind is None or _WIDTHS.get(accessor.get("type", "")) != width or "sparse" in accessor:
            raise ReconError(
                self.doing, f"the attribute {name} is of another type", f"{width} numbers each, not sparse"
            )
        if count is not None and rows != count:
            raise ReconError(self.doing, f"{name} has {rows} entries, POSITION {count}", "as many of each")
        view = self._entry("bufferViews", accessor.get("bufferView"))
        data = self._buffer(view.get("buffer"))
        start, size = _natural(view.get("byteOffset", 0)), _natural(view.get("byteLength"))
        item = np.dtype(kind).itemsize
        stride = _natural(view.get("byteStride", width * item))
        end = offset + (rows - 1) * stride + width * item
        if rows < 1 or stride < width * item or end > size or start + size > len(data):
            raise ReconError(self.doing, f"the attribute {name} ends beyond its buffer", "a whole file")
        raw = np.ndarray((rows, width), kind, data, start + offset, (stride, item))
        numbers = raw.astype(np.float32)
        if kind != "<f4" and accessor.get("normalized"):
            numbers = np.maximum(numbers / np.float32(np.iinfo(kind).max), -1)
        return numbers

    def _buffer(self, index: Any) -> bytes:
        buffer = self._entry("buffers", index)
        if index not in self.buffers:
            self.buffers[index] = self._loaded(index, buffer)
        return self.buffers[index]

    def _loaded(self, index: int, buffer: dict[str, Any]) -> bytes:
        uri = buffer.get("uri")
        if uri is None:
            if index != 0 or self.binary is None:
                raise ReconError(self.doing, f"its buffer {index} is nowhere", "a binary chunk or a file")
            return self.binary
        if not isinstance(uri, str):
            raise ReconError(self.doing, "the place of a buffer is no text", _EXPECTED)
        if uri.startswith("data:"):
            return data_uri_bytes(uri)
        plain = uri not in ("", ".", "..") and not set(uri) & set("/\\:\0%")
        path = self.folder / uri if plain else None
        if path is None or os.path.realpath(path) != os.path.join(os.path.realpath(self.folder), uri):
            raise ReconError(self.doing, f"its buffer lies at {uri[:80]!r}", "a file in its folder, by a plain name")
        return file_bytes(path, self.doing)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise ValueError(f"{str(value)[:40]} is no count")
    return value


def _matrix(node: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Returns the 4×4 matrix of a node (glTF 2.0, section 3.5.3)."""
    if node.get("matrix") is not None:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1]), np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", [1, 1, 1]), np.float64).reshape(3)
    matrix[:3, 3] = np.array(node.get("translation", [0, 0, 0]), np.float64).reshape(3)
    return matrix


def _moved(
    parts: SplatParts, matrix: npt.NDArray[np.float64], doing: str, not_finite: NotFinite, progress: Progress
) -> Splats:
    """Returns a primitive's splats where its nodes put them, in the file's axes."""
    splats = parts.splats(doing, not_finite, progress, "world")
    if np.array_equal(matrix, np.eye(4)):
        return splats
    with np.errstate(over="ignore", invalid="ignore"):
        volume = float(np.linalg.det(matrix[:3, :3])) if np.isfinite(matrix).all() else math.nan
        scale = volume ** (1 / 3) if volume > 0 else math.nan
        square = matrix[:3, :3] @ matrix[:3, :3].T / scale**2
    if not math.isfinite(scale) or scale == 0 or np.abs(square - np.eye(3)).max() > 1e-4:
        raise ReconError(doing, "a node mirrors or stretches its splats", "turns, moves and one scale for all axes")
    from recon.splat_transform import transform_splats

    return transform_splats(splats, Similarity(scale, matrix[:3, :3] / scale, matrix[:3, 3]))


def _joined(pieces: list[Splats]) -> Splats:
    """Returns all splats in one; those of a lower degree get zeros."""
    import torch

    if len(pieces) == 1:
        return pieces[0]
    most = max(piece.sh.shape[1] for piece in pieces)
    harmonics = [torch.nn.functional.pad(piece.sh, (0, 0, 0, most - piece.sh.shape[1])) for piece in pieces]
    means, quats, log_scales, logits = (
        torch.cat([getattr(piece, name) for piece in pieces])
        for name in ("means", "quats", "log_scales", "opacity_logits")
    )
    return Splats(means, quats, log_scales, logits, torch.cat(harmonics), None, pieces[0].antialiased)
