# SPDX-License-Identifier: Apache-2.0
"""What a kernel takes of a multiprocessor, read from its machine code, which needs no GPU.

A cubin is an ELF file.  A kernel's code stands in the section `.text.<kernel>`, whose `sh_info` holds the number of
registers in its upper byte; `.nv.shared.<kernel>` is as long as its shared memory; and `.nv.info` lists attributes by
symbol, among them the smallest stack and the frame, where what does not fit into registers is spilled
(https://docs.nvidia.com/cuda/cuda-binary-utilities; the layout of .nv.info is that of the open tool CuAssembler).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FRAME_SIZE, _MIN_STACK_SIZE, _REGISTERS = 0x11, 0x12, 0x2F
_BY_VALUE = 0x04


@dataclass(frozen=True)
class Resources:
    """Registers of a thread, bytes of its stack frame (spills and indexed arrays), bytes of a block's shared memory."""

    registers: int
    local_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class _Section:
    name: str
    info: int
    link: int
    offset: int
    size: int


def resources(cubin: bytes) -> dict[str, Resources]:
    """Returns what each kernel of a cubin takes."""
    assert cubin[:6] == b"\x7fELF\x02\x01", "a cubin is a little-endian ELF file of 64 bits"
    sections = _sections(cubin)
    registers, frames = _attributes(cubin, sections)
    found = {}
    for section in sections:
        if not section.name.startswith(".text."):
            continue
        name = section.name.removeprefix(".text.")
        shared = sum(s.size for s in sections if s.name == f".nv.shared.{name}")
        found[name] = Resources(registers.get(name) or section.info >> 24, frames.get(name, 0), shared)
    return found


def _sections(cubin: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, start + i * size) for i in range(count)]
    strings = headers[names][4]
    return [_Section(_text(cubin, strings + h[0]), h[7], h[6], h[4], h[5]) for h in headers]


def _text(cubin: bytes, at: int) -> str:
    return cubin[at : cubin.index(b"\0", at)].decode()


def _attributes(cubin: bytes, sections: list[_Section]) -> tuple[dict[str, int], dict[str, int]]:
    """Returns registers and frame sizes by kernel, as far as .nv.info gives them."""
    symbols = _symbols(cubin, sections)
    registers: dict[str, int] = {}
    frames: dict[str, int] = {}
    for section in sections:
        if section.name != ".nv.info":
            continue
        at, end = section.offset, section.offset + section.size
        while at + 4 <= end:
            form, attribute, size = struct.unpack_from("<BBH", cubin, at)
            at += 4
            if form != _BY_VALUE:
                continue
            if size == 8:
                symbol, value = struct.unpack_from("<II", cubin, at)
                name = symbols.get(symbol, "")
                if attribute in (_FRAME_SIZE, _MIN_STACK_SIZE):
                    frames[name] = max(frames.get(name, 0), value)
                elif attribute == _REGISTERS:
                    registers[name] = value
            at += size
    return registers, frames


def _symbols(cubin: bytes, sections: list[_Section]) -> dict[int, str]:
    table = next(s for s in sections if s.name == ".symtab")
    strings = sections[table.link].offset
    return {
        i: _text(cubin, strings + struct.unpack_from("<I", cubin, table.offset + 24 * i)[0])
        for i in range(table.size // 24)
    }
