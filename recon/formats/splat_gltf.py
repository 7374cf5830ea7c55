# SPDX-License-Identifier: Apache-2.0
"""Splats in glTF 2.0 by the extension KHR_gaussian_splatting, as .glb or as .gltf with a .bin beside it.

A primitive of points has the attributes POSITION and, each prefixed by `KHR_gaussian_splatting:`, ROTATION (xyzw),
SCALE (linear standard deviations), OPACITY (0..1) and SH_DEGREE_l_COEF_n (a colour for each harmonic).  COLOR_0 is
there for viewers that know nothing of splats.  +Y is up, as glTF demands.  glTF has no word for the screen filter; it
is kept in the primitive's extras.
Source: https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting (ratified) and the
glTF 2.0 specification, sections 3.6 (accessors) and 4.4 (GLB).
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.splat_axes import UpAxis
from recon.formats.splat_parts import bytes_of_logits, splats_to_write
from recon.splats import Splats

EXTENSION = "KHR_gaussian_splatting"
GLB_MAGIC = b"glTF"
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_BYTE = 5126, 5121
MOST_GLB_BYTES = (1 << 32) - 1


def write_splat_gltf(splats: Splats, path: Path, up: UpAxis = "+y") -> None:
    """Writes splats of our world as .glb, or as .gltf with a .bin of the same name beside it.

    Args:
        splats: N splats; features are left out.
        path: the file; its suffix says which.
        up: the axis that points up in the file; glTF demands "+y".

    Raises:
        ReconError: a value is not finite, no splats, more than a .glb can hold, or the file cannot be written.
    """
    path = Path(path)
    splats = splats_to_write(splats, path, up)
    if len(splats) == 0:
        raise ReconError(f"writing {path}", "there are no splats", "at least one: glTF has no empty arrays")
    document, size = _document(splats, up)
    if path.suffix.lower() == ".gltf":
        binary = path.with_suffix(".bin")
        document["buffers"][0]["uri"] = binary.name
        with atomic_path(binary) as temporary, temporary.open("wb") as file:
            _write_arrays(file, splats)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")
        return
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + size
    if total > MOST_GLB_BYTES:
        raise ReconError(f"writing {path}", f"it would have {total} bytes", f"at most {MOST_GLB_BYTES}", "write .gltf")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(GLB_MAGIC + struct.pack("<II", 2, total) + struct.pack("<II", len(text), JSON_CHUNK) + text)
        file.write(struct.pack("<II", size, BINARY_CHUNK))
        _write_arrays(file, splats)


def _arrays(splats: Splats) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the attributes by name, one at a time so that they need not all be in memory."""
    yield "POSITION", splats.means
    yield f"{EXTENSION}:ROTATION", torch.nn.functional.normalize(splats.quats[:, [1, 2, 3, 0]], dim=1, eps=1e-30)
    yield f"{EXTENSION}:SCALE", torch.exp(splats.log_scales.clamp(-80, 80))
    yield f"{EXTENSION}:OPACITY", torch.sigmoid(splats.opacity_logits)[:, None]
    for degree in range(splats.sh_degree + 1):
        for index in range(2 * degree + 1):
            yield f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index}", splats.sh[:, degree**2 + index]
    color = (splats.base_colors * 255).round().to(torch.uint8)
    yield "COLOR_0", torch.cat([color, torch.from_numpy(bytes_of_logits(splats.opacity_logits))[:, None]], 1)


def _write_arrays(file: BinaryIO, splats: Splats) -> None:
    for _, values in _arrays(splats):
        kind = np.uint8 if values.dtype == torch.uint8 else np.dtype("<f4")
        file.write(np.ascontiguousarray(values.numpy(), kind).data)


def _document(splats: Splats, up: UpAxis) -> tuple[dict[str, Any], int]:
    """Returns the JSON document and the size of the binary part, a multiple of 4."""
    count = len(splats)
    attributes: dict[str, int] = {}
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    place = 0
    for name, values in _arrays(splats.select(torch.arange(1))):
        width = values.shape[1]
        size = count * width * values.element_size()
        attributes[name] = len(accessors)
        views.append({"buffer": 0, "byteOffset": place, "byteLength": size, "target": 34962})
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": FLOAT if values.dtype == torch.float32 else UNSIGNED_BYTE,
            "count": count,
            "type": "SCALAR" if width == 1 else f"VEC{width}",
        }
        if name == "POSITION":
            accessor |= {"min": splats.means.amin(0).tolist(), "max": splats.means.amax(0).tolist()}
        if name == "COLOR_0":
            accessor["normalized"] = True
        accessors.append(accessor)
        place += size
    meaning = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "sortingMethod": "cameraDistance"}
    primitive = {
        "mode": 0,
        "attributes": attributes,
        "extensions": {EXTENSION: {**meaning, "projection": "perspective"}},
        "extras": {"antialiased": splats.antialiased, "up": up},
    }
    document = {
        "asset": {"version": "2.0", "generator": "recon"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "splats"}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": place}],
        "bufferViews": views,
        "accessors": accessors,
    }
    return document, place


def data_uri_bytes(uri: str) -> bytes:
    """Returns the bytes of a base64 data URI; raises ValueError for any other."""
    kind, comma, body = uri.partition(",")
    if not comma or not kind.endswith(";base64"):
        raise ValueError("it is no base64 data")
    return base64.b64decode(body, validate=True)
