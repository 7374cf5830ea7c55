# SPDX-License-Identifier: Apache-2.0
"""The container part of PLY: the header, and the rows of an element in text or either byte order.

Format: http://paulbourke.net/dataformats/ply/.  Nothing in a header is believed: before rows are read, what it
promises is compared with the size of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from recon.errors import ReconError

MAX_HEADER_BYTES = 1 << 20
MAX_PROPERTIES = 4096

SCALAR_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}


@dataclass(frozen=True)
class PlyProperty:
    """A column; `type` is numpy's letters ("f4"); `list_count_type` is None unless the property is a list."""

    name: str
    type: str
    list_count_type: str | None = None


@dataclass(frozen=True)
class PlyElement:
    """A table of `count` rows."""

    name: str
    count: int
    properties: tuple[PlyProperty, ...]

    @property
    def property_names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.properties)

    @property
    def has_lists(self) -> bool:
        return any(entry.list_count_type is not None for entry in self.properties)

    def is_list(self, name: str) -> bool:
        """Whether the property `name` is a list."""
        return any(entry.name == name and entry.list_count_type is not None for entry in self.properties)

    def dtype(self, byte_order: str) -> np.dtype[Any]:
        """Returns the structured dtype of a row; the element must have no lists."""
        assert not self.has_lists
        return np.dtype([(entry.name, byte_order + entry.type) for entry in self.properties])


@dataclass(frozen=True)
class PlyHeader:
    """What a header says; `data_start` is the offset of the first byte after it, `file_size` the file's length."""

    format: Literal["ascii", "binary_little_endian", "binary_big_endian"]
    comments: tuple[str, ...]
    elements: tuple[PlyElement, ...]
    data_start: int
    file_size: int

    def element(self, name: str) -> PlyElement | None:
        """Returns the element of that name, None where there is none."""
        return next((entry for entry in self.elements if entry.name == name), None)

    @property
    def _byte_order(self) -> str:
        return ">" if self.format == "binary_big_endian" else "<"

    def seek_to(self, file: BinaryIO, element: PlyElement, doing: str) -> None:
        """Moves to the first row of `element` after checking that the file can hold what the header promises.

        Raises:
            ReconError: the file is shorter or longer than the header says, or lists stand before the element.
        """
        index = self.elements.index(element)
        before, after = self.elements[:index], self.elements[index + 1 :]
        if element.has_lists or any(entry.has_lists for entry in before):
            raise ReconError(doing, f"list properties stand before or in its element '{element.name}'", "scalars only")
        if self.format == "ascii":
            self._check_text_size(element, doing)
            file.seek(self.data_start)
            for _ in islice(file, sum(entry.count for entry in before)):
                pass
            return
        offset = self.data_start + sum(entry.count * entry.dtype("<").itemsize for entry in before)
        stride = element.dtype("<").itemsize
        available = self.file_size - offset
        if available < element.count * stride:
            raise ReconError(
                doing,
                f"its header promises {element.count} rows of '{element.name}' ({element.count * stride} bytes), "
                f"the file holds {max(available, 0) // stride} ({max(available, 0)} bytes)",
                "a whole file",
                "copy or export it again",
            )
        if not any(entry.has_lists for entry in after):
            end = offset + element.count * stride + sum(entry.count * entry.dtype("<").itemsize for entry in after)
            file.seek(end)
            surplus = self.file_size - end
            if surplus >= stride or file.read(surplus).strip():
                raise ReconError(
                    doing,
                    f"{surplus} bytes follow the {element.count} rows of '{element.name}' that its header promises",
                    "a file that ends with its last row",
                    "export it again",
                )
        file.seek(offset)

    def _check_text_size(self, element: PlyElement, doing: str) -> None:
        """Refuses a count that even one-digit numbers would not fit."""
        least = element.count * 2 * len(element.properties) - 1
        if self.file_size - self.data_start < least:
            raise ReconError(
                doing,
                f"its header promises {element.count} rows of '{element.name}', at least {least} bytes of text; "
                f"{self.file_size - self.data_start} bytes follow",
                "a whole file",
                "copy or export it again",
            )

    def rows(self, file: BinaryIO, element: PlyElement, rows_per_chunk: int, doing: str) -> Iterator[npt.NDArray[Any]]:
        """Yields the rows of `element` in pieces, as structured arrays; the file stands where `seek_to` left it."""
        dtype = element.dtype("<" if self.format == "ascii" else self._byte_order)
        for start in range(0, element.count, rows_per_chunk):
            count = min(rows_per_chunk, element.count - start)
            if self.format == "ascii":
                yield _text_rows(file, dtype, start, count, doing)
            else:
                data = file.read(count * dtype.itemsize)
                if len(data) != count * dtype.itemsize:
                    raise ReconError(doing, "it became shorter while it was read", "a whole file")
                yield np.frombuffer(data, dtype)
        if self.format == "ascii" and self.elements[-1] is element and file.read().strip():
            raise ReconError(
                doing,
                f"more lines follow the {element.count} rows of '{element.name}' that its header promises",
                "a file that ends with its last row",
                "export it again",
            )


def _text_rows(file: BinaryIO, dtype: np.dtype[Any], start: int, count: int, doing: str) -> npt.NDArray[Any]:
    """Parses `count` lines of numbers; values beyond the type of their property are an error, as in a C reader."""
    assert dtype.names is not None
    lines = [line.split() for line in islice(file, count)]
    if len(lines) < count:
        raise ReconError(
            doing,
            f"its text ends at row {start + len(lines)}",
            "as many rows as its header promises",
            "export it again",
        )
    for index, words in enumerate(lines):
        if len(words) != len(dtype.names):
            raise ReconError(
                doing, f"row {start + index} has {len(words)} values", f"{len(dtype.names)}, as its header says"
            )
    try:
        table = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise ReconError(doing, f"its rows hold text that is no number ({error})"[:300], "numbers") from error
    rows = np.empty(count, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for column, name in enumerate(dtype.names):
            rows[name] = table[:, column]
    return rows


def read_ply_header(file: BinaryIO, doing: str) -> PlyHeader:
    """Reads the header of an open PLY file.

    Args:
        file: a seekable binary file.
        doing: the operation, for messages.

    Raises:
        ReconError: the file is not a PLY, or its header is broken.
    """
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read(min(file_size, MAX_HEADER_BYTES))
    if data[:3] != b"ply" or data[3:4] not in (b"\n", b"\r"):
        raise ReconError(doing, "it does not begin with the line 'ply'" if data else "it is empty", "a PLY file")
    lines, data_start = _header_lines(data, doing)
    encoding: str | None = None
    comments: list[str] = []
    elements: list[tuple[str, int, list[PlyProperty]]] = []
    for line in lines[1:-1]:
        keyword, _, rest = line.partition(" ")
        words = rest.split()
        if keyword in ("comment", "obj_info"):
            comments.append(rest.strip())
        elif keyword == "format" and encoding is None and len(words) == 2 and words[0] in _FORMATS:
            encoding = words[0]
        elif keyword == "element" and len(words) == 2 and words[1].isascii() and words[1].isdigit():
            # Python refuses to convert absurdly long digit strings; no file has a count beyond 64 bits.
            count = int(words[1]) if len(words[1]) <= 19 else 10**19
            elements.append((words[0], count, []))
        elif keyword == "property" and elements:
            elements[-1][2].append(_property(words, line, doing))
        elif line.strip():
            raise ReconError(
                doing, f"its header has the line {line[:80]!r}", "PLY's format, element and property lines"
            )
    if encoding is None:
        raise ReconError(doing, "its header has no format line", " or ".join(_FORMATS))
    built = tuple(PlyElement(name, count, tuple(entries)) for name, count, entries in elements)
    _check_names(built, doing)
    return PlyHeader(encoding, tuple(comments), built, data_start, file_size)  # type: ignore[arg-type]


_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")


def _header_lines(data: bytes, doing: str) -> tuple[list[str], int]:
    """Returns the header's lines, from "ply" to "end_header", and the offset of what follows."""
    lines: list[str] = []
    position = 0
    while True:
        end = data.find(b"\n", position)
        if end < 0:
            raise ReconError(
                doing, f"its header does not end within {len(data)} bytes", "a line 'end_header'", "export it again"
            )
        try:
            line = data[position:end].decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise ReconError(doing, f"line {len(lines) + 1} of its header is not text", "a PLY header") from error
        lines.append(line)
        position = end + 1
        if line.strip() == "end_header":
            return lines, position


def _property(words: list[str], line: str, doing: str) -> PlyProperty:
    """Parses what follows the word `property`."""
    if len(words) == 4 and words[0] == "list" and words[1] in SCALAR_TYPES and words[2] in SCALAR_TYPES:
        return PlyProperty(words[3], SCALAR_TYPES[words[2]], SCALAR_TYPES[words[1]])
    if len(words) == 2 and words[0] in SCALAR_TYPES:
        return PlyProperty(words[1], SCALAR_TYPES[words[0]])
    raise ReconError(doing, f"its header has the line {line[:80]!r}", f"a type among {', '.join(SCALAR_TYPES)}")


def _check_names(elements: tuple[PlyElement, ...], doing: str) -> None:
    names = [element.name for element in elements]
    if len(set(names)) < len(names):
        raise ReconError(doing, "its header names an element twice", "different names")
    for element in elements:
        if len(element.properties) > MAX_PROPERTIES:
            raise ReconError(doing, f"'{element.name}' has {len(element.properties)} properties", f"{MAX_PROPERTIES}")
        if len(element.property_names) < len(element.properties):
            raise ReconError(doing, f"its header names a property of '{element.name}' twice", "different names")
        if not element.properties and element.count:
            raise ReconError(doing, f"its element '{element.name}' has no properties", "at least one")
