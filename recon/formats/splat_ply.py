# SPDX-License-Identifier: Apache-2.0
"""Gaussian splats as PLY files, the way the 3DGS code wrote them and everybody reads them.

The vertex element holds float32 properties: x y z, (normals, zero), f_dc_0..2, f_rest_0.., opacity, scale_0..2,
rot_0..3.  `f_rest` is channel-major (every coefficient of red, then green, then blue), opacity is a logit, scales
are natural logarithms, rotations are wxyz and need not have unit length.

Up axis.  Our world is +Z up.  Readers of such files expect the axes of COLMAP, y down, so `write_splat_ply` turns
the splats to -Y up unless told otherwise (`up="world"` writes them as they are) and says so in the header, in the
words that other programs use as well (`comment Vertical axis: 0 -1 0`).  Reading turns back: by that comment where
there is one, from -Y up where there is none.

A file of ours with `up="world"` comes back bit for bit.  One with -Y up does so too except for the harmonics of
degree 2 and 3, which are rounded to float32 (see `recon.formats.splat_axes`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch

from recon.errors import ReconError
from recon.files import atomic_path
from recon.formats.ply_header import PlyElement, PlyHeader, read_ply_header
from recon.formats.splat_axes import UP_AXES, UpAxis, splats_from_world, world_from_splats
from recon.progress import SILENT, Progress
from recon.splats import Splats

SCHEMA = 1
"""Version of what our header comments mean."""

ROWS_PER_CHUNK = 16384

EXPECTED = "a 3DGS PLY: x y z f_dc_0..2 [f_rest_0..] opacity scale_0..2 rot_0..3"

FLAT_LOG_SCALE = -20.0
"""The third log scale given to 2DGS files, which have none: a disc without thickness, short of underflow."""

_UP_VECTORS = {"world": "0 0 1", "+z": "0 0 1", "-z": "0 0 -1", "+y": "0 1 0", "-y": "0 -1 0"}

OPACITY_LOGIT_LIMIT = 30.0
"""What an infinite logit becomes; the sigmoid of it is 1 in float32."""


def write_splat_ply(splats: Splats, path: Path, up: UpAxis = "-y") -> None:
    """Writes splats of our world as a binary little-endian 3DGS PLY, whole or not at all.

    Args:
        splats: N splats; features are not part of the format and are left out.
        path: the file.
        up: the axis that points up in the file.  "-y" is what readers expect; "world" keeps +Z up and every bit.

    Raises:
        ReconError: a value is not finite, or the file cannot be written.
    """
    if up not in UP_AXES:
        raise ReconError(f"writing {path}", f"the up axis is {up!r}", " or ".join(UP_AXES))
    columns = _columns(splats_from_world(splats.detach().to("cpu"), up))
    broken = int((~np.isfinite(columns).all(1)).sum()) if len(columns) else 0
    if broken:
        raise ReconError(
            f"writing {path}",
            f"{broken} of {len(columns)} splats have values that are not finite",
            "finite numbers",
            "train again with a smaller learning rate, or remove these splats first",
        )
    names = property_names(splats.sh_degree)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *header_comments(up, splats.antialiased),
        f"element vertex {len(columns)}",
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        for start in range(0, len(columns), ROWS_PER_CHUNK):
            chunk = columns[start : start + ROWS_PER_CHUNK]
            rows = np.zeros((len(chunk), len(names)), "<f4")
            # The normals between the position and the colour stay zero.
            rows[:, :3] = chunk[:, :3]
            rows[:, 6:] = chunk[:, 3:]
            file.write(rows.tobytes())


def header_comments(up: UpAxis, antialiased: bool) -> list[str]:
    """Returns the header's lines that tell what the numbers mean."""
    return [
        f"comment recon splats schema {SCHEMA}",
        f"comment Vertical axis: {_UP_VECTORS[up]}",
        f"comment SplatRenderMode: {'mip' if antialiased else 'default'}",
    ]


def property_names(sh_degree: int) -> list[str]:
    """Returns the names of a vertex's properties in the order in which they are written."""
    rest = 3 * ((sh_degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def _columns(splats: Splats) -> npt.NDArray[np.float32]:
    """Returns everything but the normals, [N, 14 + 3 (K - 1)] float32 in file order."""
    rest = splats.sh[:, 1:].transpose(1, 2).flatten(1)
    parts = [splats.means, splats.sh[:, 0], rest, splats.opacity_logits[:, None], splats.log_scales, splats.quats]
    return torch.cat([part.float() for part in parts], 1).numpy()


def read_splat_ply(
    path: Path,
    up: UpAxis | Literal["auto"] = "auto",
    not_finite: Literal["refuse", "drop"] = "refuse",
    progress: Progress = SILENT,
) -> Splats:
    """Reads a 3DGS or 2DGS PLY of any writer, by property name.

    Properties may stand in any order and be of any scalar type; unknown ones are ignored; missing f_rest mean a lower
    degree of harmonics; a missing scale_2 means flat splats.  Text and both byte orders are read.  What the file holds
    that had to be mended (infinite opacity, zero rotations, harmonics above degree 3) is told to `progress`.

    Args:
        path: the file.
        up: the axis that points up in the file; "auto" believes the header's comment and otherwise takes -Y.
        not_finite: whether splats with NaN or infinite values are an error or are left out and counted.
        progress: hears what was mended.

    Returns:
        The splats in our world (+Z up), float32 on the CPU.

    Raises:
        ReconError: no such file, not a PLY, not splats, cut short, too long, or not finite.
    """
    path = Path(path)
    doing = f"reading the splats of {path}"
    if up != "auto" and up not in UP_AXES:
        raise ReconError(doing, f"the up axis is {up!r}", " or ".join(["auto", *UP_AXES]))
    try:
        with path.open("rb") as file:
            header = read_ply_header(file, doing)
            layout = _splat_layout(header, doing)
            values = _read_parts(file, header, layout, doing)
    except FileNotFoundError as error:
        raise ReconError(doing, "there is no such file") from error
    except OSError as error:
        raise ReconError(doing, f"it cannot be read ({error.strerror})", "a readable file") from error
    splats = _mend(values, layout, doing, not_finite, progress)
    comments = meaning_of_comments(header, doing)
    return world_from_splats(replace(splats, antialiased=comments.antialiased), comments.up if up == "auto" else up)


@dataclass(frozen=True)
class CommentMeaning:
    """What comments say: the axis that points up, and whether the screen filter is on."""

    up: UpAxis = "-y"
    antialiased: bool = False


def meaning_of_comments(header: PlyHeader, doing: str) -> CommentMeaning:
    """Returns what the header's comments say about axes and filter; files that say nothing are -Y up, unfiltered."""
    meaning = CommentMeaning()
    for comment in header.comments:
        key, _, value = comment.lower().partition(":")
        if key == "vertical axis":
            meaning = replace(meaning, up=_up_axis(value.split()))
        elif key == "splatrendermode":
            meaning = replace(meaning, antialiased=value.strip() == "mip")
        elif key.startswith("antialiased"):
            meaning = replace(meaning, antialiased=key.split()[1:] == ["1"])
        elif key.startswith("recon splats schema "):
            schema = key.removeprefix("recon splats schema ")
            if schema != str(SCHEMA):
                raise ReconError(
                    doing, f"its schema is {schema[:40]}", f"schema {SCHEMA}", "use the version of recon that wrote it"
                )
    return meaning


def _up_axis(words: list[str]) -> UpAxis:
    """Returns the axis that `Vertical axis:` names.

    Three numbers are a direction (Brush, recon).  A lone "z" is what nerfstudio writes and means it.  A lone "y" was
    for years a fixed text of Brush's, over y-down data as a rule, so it says no more than no comment at all.
    """
    if len(words) == 3:
        try:
            vector = [float(word) for word in words]
        except ValueError:
            return "-y"
        directions: dict[UpAxis, float] = {"+y": vector[1], "-y": -vector[1], "+z": vector[2], "-z": -vector[2]}
        best = max(directions, key=lambda axis: directions[axis])
        return best if directions[best] > abs(vector[0]) else "-y"
    return "+z" if words[:1] in (["z"], ["+z"]) else "-y"


@dataclass(frozen=True)
class _SplatLayout:
    """Which properties make each part of a splat; harmonics come coefficient by coefficient, three channels each."""

    element: PlyElement
    means: list[str]
    quats: list[str]
    scales: list[str]
    opacity: list[str]
    harmonics: list[str]

    @property
    def parts(self) -> list[list[str]]:
        return [self.means, self.quats, self.scales, self.opacity, self.harmonics]


def _splat_layout(header: PlyHeader, doing: str) -> _SplatLayout:
    """Finds the splats' properties in the header."""
    element = header.element("vertex")
    if element is None:
        raise ReconError(doing, "its header has no element 'vertex'", EXPECTED)
    present = element.property_names
    if "packed_position" in present:
        raise ReconError(doing, "it is a compressed splat PLY", EXPECTED, "read it with recon.read_splats")
    rest = sum(name.startswith("f_rest_") for name in present)
    if rest not in (0, 9, 24, 45, 72):
        raise ReconError(doing, f"it has {rest} properties f_rest_*", "0, 9, 24 or 45 (harmonics of degree 0 to 3)")
    flat = "scale_2" not in present
    scales = ["scale_0", "scale_1"] if flat else ["scale_0", "scale_1", "scale_2"]
    channel = rest // 3
    layout = _SplatLayout(
        element,
        means=["x", "y", "z"],
        quats=["rot_0", "rot_1", "rot_2", "rot_3"],
        scales=scales,
        opacity=["opacity"],
        harmonics=[
            *("f_dc_0", "f_dc_1", "f_dc_2"),
            *(f"f_rest_{color * channel + index}" for index in range(min(channel, 15)) for color in range(3)),
        ],
    )
    names = [name for part in layout.parts for name in part]
    missing = [name for name in names if name not in present]
    if missing:
        kind = "a mesh or a point cloud" if "f_dc_0" in missing and "opacity" in missing else "not a whole splat file"
        raise ReconError(doing, f"it is {kind}: it lacks the properties {', '.join(missing)}", EXPECTED)
    lists = [name for name in names if element.is_list(name)]
    if lists:
        raise ReconError(doing, f"the properties {', '.join(lists)} are lists", "one number each")
    return layout


def _read_parts(file: BinaryIO, header: PlyHeader, layout: _SplatLayout, doing: str) -> list[npt.NDArray[np.float32]]:
    """Returns the layout's parts, [N, columns] float32 each.  Sizes are checked before anything is allocated."""
    header.seek_to(file, layout.element, doing)
    parts = [np.empty((layout.element.count, len(names)), np.float32) for names in layout.parts]
    places = {entry.name: index for index, entry in enumerate(layout.element.properties)}
    columns = [np.array([places[name] for name in names]) for names in layout.parts]
    all_float32 = {entry.type for entry in layout.element.properties} == {"f4"}
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in header.rows(file, layout.element, ROWS_PER_CHUNK, doing):
            end = start + len(rows)
            for part, names, numbers in zip(parts, layout.parts, columns):
                if all_float32 and rows.dtype[0].isnative:
                    # As a rule all is float32: then a row is an array, which is copied several times faster.
                    table = rows.view(np.float32).reshape(len(rows), -1)
                    np.take(table, numbers, axis=1, out=part[start:end], mode="clip")
                else:
                    for column, name in enumerate(names):
                        part[start:end, column] = rows[name]
            start = end
    assert start == layout.element.count
    return parts


def _mend(
    parts: list[npt.NDArray[np.float32]],
    layout: _SplatLayout,
    doing: str,
    not_finite: Literal["refuse", "drop"],
    progress: Progress,
) -> Splats:
    """Turns the parts into splats; refuses or drops what is not finite, repairs what has an obvious meaning."""
    _, _, scales, opacity, _ = parts
    # Some writers store an opacity of exactly one, or a scale of exactly nothing, as what their formulas give.
    opaque = np.isinf(opacity)
    opacity[opaque] = np.copysign(OPACITY_LOGIT_LIMIT, opacity[opaque])
    scales[np.isneginf(scales)] = FLAT_LOG_SCALE
    if opaque.any():
        progress.log(f"{int(opaque.sum())} splats had an infinite opacity logit; set to ±{OPACITY_LOGIT_LIMIT:g}")

    broken = np.logical_or.reduce([~finite_rows(part) for part in parts])
    if broken.any():
        found = f"{int(broken.sum())} of {len(broken)} splats have values that are NaN or infinite"
        if not_finite == "refuse" or broken.all():
            first = int(np.flatnonzero(broken)[0])
            values = np.concatenate([part[first] for part in parts])
            names = [name for part in layout.parts for name in part]
            name = names[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise ReconError(
                doing, f"{found} (the first is number {first}, its {name})", "finite numbers", "drop these splats"
            )
        progress.log(f"{found}; they were left out")
        parts = [part[~broken] for part in parts]

    means, quats, scales, opacity, harmonics = parts
    unturned = ~quats.any(1)
    if unturned.any():
        progress.log(f"{int(unturned.sum())} splats had a zero rotation; set to none")
        quats[unturned, 0] = 1.0
    if "f_rest_71" in layout.element.property_names:
        progress.log("harmonics above degree 3 were left out")
    if scales.shape[1] == 2:
        scales = np.concatenate([scales, np.full((len(scales), 1), FLAT_LOG_SCALE, np.float32)], 1)
    sh = harmonics.reshape(len(means), harmonics.shape[1] // 3, 3)
    tensors = [torch.from_numpy(part) for part in (means, quats, scales, opacity[:, 0], sh)]
    return Splats(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4])


def finite_rows(part: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Returns which rows of [N, D] hold finite numbers only, [N]."""
    with np.errstate(over="ignore", invalid="ignore"):
        # The sum is finite only if all numbers are.
        if np.isfinite(part.sum()):
            return np.ones(len(part), bool)
    return np.asarray(np.isfinite(part).all(1), bool)
