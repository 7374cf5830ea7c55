# SPDX-License-Identifier: Apache-2.0
"""Small sound splat files of every format, and mutations of them that lie, break or explode."""

from __future__ import annotations

import functools
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard
from formats.foreign_writers import ksplat_bytes, spz_bytes, spz_payload
from formats.splat_cases import scene_splats

from recon.formats.splat_files import write_splats

EXTREMES = (0, 1, 2, 3, 255, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    b"\xff\xff\xff\x7f",
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\x7f",
    b"\x00\x00\x80\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
)

Mutated = tuple[str, bytes | dict[str, bytes]]
"""The name of a file and its bytes, or of a folder and its files."""


class Hostile:
    """Makes mutation number `seed` of one format; the same number gives the same file."""

    def __init__(self, folder: Path) -> None:
        splats = scene_splats(40, 2, antialiased=True)
        self.sound: dict[str, bytes] = {}
        for name in ("s.ply", "s.compressed.ply", "s.spz", "s.sog", "s.splat", "s.glb", "s.gltf"):
            write_splats(splats, folder / name)
            self.sound[name] = (folder / name).read_bytes()
        self.binary = (folder / "s.bin").read_bytes()
        self.sound["s.ksplat"] = ksplat_bytes(splats, 1)
        self.sound["packed.ksplat"] = ksplat_bytes(splats, 2)
        for version in (1, 2, 3):
            self.sound[f"v{version}.spz"] = spz_bytes(splats, version, 2, flags=2, records=struct.pack("<II", 7, 0))
        self.payload = spz_payload(splats, 3, 2)

    def formats(self) -> list[str]:
        """Returns the formats' names for `make`."""
        return ["ply", "compressed", "spz4", "spz", "sog", "sog-folder", "splat", "ksplat", "glb", "gltf"]

    def make(self, kind: str, seed: int) -> Mutated:
        """Returns mutation `seed` of a format."""
        rng = np.random.default_rng([seed, sum(kind.encode())])
        makers: dict[str, Callable[[np.random.Generator], Mutated]] = {
            "ply": lambda rng: ("x.ply", _text_or_bytes(self.sound["s.ply"], rng)),
            "compressed": lambda rng: ("x.compressed.ply", _text_or_bytes(self.sound["s.compressed.ply"], rng)),
            "spz4": self._spz4,
            "spz": self._spz,
            "sog": self._sog,
            "sog-folder": self._sog_folder,
            "splat": lambda rng: ("x.splat", mutated(self.sound["s.splat"], rng)),
            "ksplat": lambda rng: (
                "x.ksplat",
                mutated(self.sound[str(rng.choice(["s.ksplat", "packed.ksplat"]))], rng, 5200),
            ),
            "glb": self._glb,
            "gltf": self._gltf,
        }
        return makers[kind](rng)

    def _spz4(self, rng: np.random.Generator) -> Mutated:
        data = self.sound["s.spz"]
        choice = rng.integers(4)
        if choice == 0:
            return "x.spz", mutated(data, rng, 32 + 16 * 6)
        if choice == 1:
            return "x.spz", mutated(data, rng)
        head, streams = bytearray(data[:32]), _spz_streams(data)
        if choice == 2:
            index = int(rng.integers(len(streams)))
            streams[index] = mutated(streams[index], rng)
        else:
            # A bomb: the header and the table agree that there is a lot, and the frames are tiny.
            count = int(rng.choice([2**24, 2**28, 2**32 - 1]))
            struct.pack_into("<I", head, 8, count)
            frames = [_zstd_zeros(1 << 26) for _ in streams]
            sizes = [count * width for width in (9, 1, 3, 3, 4, 24)]
            table = b"".join(struct.pack("<QQ", len(frame), size) for frame, size in zip(frames, sizes))
            return "x.spz", bytes(head) + table + b"".join(frames)
        frames = [zstandard.compress(stream) for stream in streams]
        lie = int(rng.choice([0, 0, 1, 2**40]))
        table = b"".join(struct.pack("<QQ", len(f), len(s) + lie) for f, s in zip(frames, streams))
        return "x.spz", bytes(head) + table + b"".join(frames)

    def _spz(self, rng: np.random.Generator) -> Mutated:
        choice = rng.integers(4)
        if choice == 0:
            return "x.spz", mutated(self.sound[f"v{rng.integers(1, 4)}.spz"], rng)
        if choice == 1:
            return "x.spz", gzip.compress(mutated(self.payload, rng, 40), 1)
        if choice == 2:
            return "x.spz", mutated(self.payload, rng, 40)
        head = bytearray(self.payload[:16])
        struct.pack_into("<I", head, 8, int(rng.choice([2**20, 2**26, 2**32 - 1])))
        return "x.spz", _gzip_zeros(bytes(head), int(rng.choice([1 << 20, 1 << 26, 1 << 28])))

    def _members(self) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(self.sound["s.sog"])) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def _sog_members(self, rng: np.random.Generator) -> dict[str, bytes]:
        members = self._members()
        choice = rng.integers(6)
        name = str(rng.choice(list(members)))
        if choice == 0:
            members[name] = mutated(members[name], rng)
        elif choice == 1:
            members["meta.json"] = _lying_json(members["meta.json"], rng)
        elif choice == 2:
            meta = json.loads(members["meta.json"])
            section = meta[str(rng.choice(["means", "quats", "scales", "sh0", "shN"]))]
            evil = [
                "../../etc/passwd",
                "/etc/passwd",
                "..\\x",
                "C:\\x",
                "",
                ".",
                "..",
                "a/b.webp",
                "\0",
                "x" * 5000,
                7,
                None,
            ]
            section["files"] = [evil[int(rng.integers(len(evil)))]] * 2
            members["meta.json"] = json.dumps(meta).encode()
        elif choice == 3:
            members[name] = _webp_bomb(rng) if name != "meta.json" else b"[" * 200_000
        elif choice == 4:
            del members[name]
        else:
            other = str(rng.choice(list(members)))
            members[name], members[other] = members[other], members[name]
        return members

    def _sog(self, rng: np.random.Generator) -> Mutated:
        choice = rng.integers(4)
        if choice == 0:
            return "x.sog", mutated(self.sound["s.sog"], rng)
        members = self._sog_members(rng)
        if choice == 1:
            members[str(rng.choice(["../../evil", "/tmp/evil", "a/../../b", "meta.json/x"]))] = b"evil"
        bomb = str(rng.choice(list(members))) if choice == 2 else None
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                packed = name == bomb
                archive.writestr(
                    zipfile.ZipInfo(name),
                    bytes(1 << 23) if packed else data,
                    zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED,
                )
        return "x.sog", file.getvalue()

    def _sog_folder(self, rng: np.random.Generator) -> Mutated:
        return "folder", self._sog_members(rng)

    def _glb(self, rng: np.random.Generator) -> Mutated:
        data = self.sound["s.glb"]
        choice = rng.integers(3)
        if choice == 0:
            return "x.glb", mutated(data, rng, 20)
        if choice == 1:
            return "x.glb", mutated(data, rng)
        size = struct.unpack_from("<I", data, 12)[0]
        text = _lying_json(data[20 : 20 + size], rng)
        text += b" " * (-len(text) % 4)
        rest = data[20 + size :]
        head = b"glTF" + struct.pack("<IIII", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
        return "x.glb", head + text + rest

    def _gltf(self, rng: np.random.Generator) -> Mutated:
        text = self.sound["s.gltf"]
        choice = rng.integers(5)
        if choice == 0:
            text = mutated(text, rng)
        elif choice == 4:
            return "x", {"x.gltf": text, "s.bin": mutated(self.binary, rng)}
        elif choice == 1:
            text = _lying_json(text, rng)
        elif choice == 2:
            document = json.loads(text)
            evil = [
                "../x.gltf",
                "/etc/passwd",
                "data:,",
                "data:;base64,AAAA",
                "file:///etc/passwd",
                "%2e%2e/x",
                "",
                5,
                ".",
            ]
            document["buffers"][0]["uri"] = evil[int(rng.integers(len(evil)))]
            text = json.dumps(document).encode()
        else:
            document = json.loads(text)
            document["nodes"] = [{"children": [0, 0, 0]}, {"mesh": 10**9}]
            if rng.integers(2):
                document["nodes"] = [{"mesh": 0, "matrix": rng.choice([0.0, 1.0, 1e38, float("nan")], 16).tolist()}]
            text = json.dumps(document).encode()
        return "x", {"x.gltf": text, "s.bin": self.binary}


def mutated(data: bytes, rng: np.random.Generator, within: int | None = None) -> bytes:
    """Returns bytes cut short, flipped, overwritten by extreme numbers, doubled or with pieces gone; within the first
    `within` bytes where that is given."""
    result = bytearray(data)
    end = min(within or len(data), len(data))
    for _ in range(int(rng.integers(1, 4))):
        place, choice = int(rng.integers(max(end, 1))), rng.integers(7)
        if choice == 0:
            del result[place:]
        elif choice == 1:
            for flip in rng.integers(0, max(end, 1), int(rng.integers(1, 9))):
                if flip < len(result):
                    result[flip] ^= 1 << int(rng.integers(8))
        elif choice == 2:
            result[place // 4 * 4 : place // 4 * 4 + 4] = struct.pack("<I", EXTREMES[int(rng.integers(len(EXTREMES)))])
        elif choice == 3:
            result[place // 4 * 4 : place // 4 * 4 + 4] = WORDS[int(rng.integers(len(WORDS)))]
        elif choice == 4:
            del result[place : place + int(rng.integers(1, 64))]
        elif choice == 5:
            result[place:place] = rng.bytes(int(rng.integers(1, 64)))
        else:
            result += result[: int(rng.integers(1, 5000))]
    return bytes(result)


def _text_or_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """A PLY with a lying header, or with broken bytes."""
    if rng.integers(2):
        return mutated(data, rng)
    end = data.index(b"end_header\n")
    lines, choice = data[:end].split(b"\n"), rng.integers(5)
    index = int(rng.integers(len(lines)))
    if choice == 0:
        del lines[index]
    elif choice == 1:
        lines.insert(index, lines[int(rng.integers(len(lines)))])
    elif choice == 2:
        number = str(rng.choice([0, 1, 255, 257, 10**6, 10**12, 10**18, 10**30])).encode()
        lines = [b" ".join([*line.split()[:2], number]) if line.startswith(b"element") else line for line in lines]
    elif choice == 3:
        kinds = [b"float", b"double", b"uchar", b"int", b"list uchar int", b"quark"]
        lines[index] = lines[index].replace(b"float", kinds[int(rng.integers(6))])
    else:
        lines[1] = [b"format ascii 1.0", b"format binary_big_endian 1.0", b"format x"][int(rng.integers(3))]
    return b"\n".join(lines) + data[end:]


def _lying_json(text: bytes, rng: np.random.Generator) -> bytes:
    """Returns a document with some value replaced by an absurd one."""
    document = json.loads(text)
    values = [
        0,
        -1,
        2**31,
        2**63,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "x",
        None,
        True,
        [],
        {},
        [[]],
        "\ud800",
        [1e30] * 256,
    ]
    for _ in range(int(rng.integers(1, 3))):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = keys[int(rng.integers(len(keys)))]
            if isinstance(place[key], dict | list) and place[key] and rng.integers(4):
                place = place[key]
                continue
            place[key] = values[int(rng.integers(len(values)))]
            break
    try:
        return json.dumps(document).encode()
    except ValueError:
        # Python will not print a number of 400 digits; a file may hold it all the same.
        return text.replace(b"1", b"1" + b"0" * 5000, 3)


def _spz_streams(data: bytes) -> list[bytes]:
    count, table = data[15], struct.unpack_from("<I", data, 16)[0]
    start, streams = table + 16 * count, []
    for index in range(count):
        packed = struct.unpack_from("<Q", data, table + 16 * index)[0]
        streams.append(zstandard.decompress(data[start : start + packed]))
        start += packed
    return streams


@functools.cache
def _zstd_zeros(size: int) -> bytes:
    return zstandard.compress(bytes(size), 1)


@functools.cache
def _gzip_zeros(head: bytes, size: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def _webp_bomb(rng: np.random.Generator) -> bytes:
    """A picture of one colour that says it has 16383 × 16383 pixels, or whose sizes disagree."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGBA", (256, 256), (1, 2, 3, 4)).save(file, "WEBP", lossless=True)
    data = bytearray(file.getvalue())
    bits = struct.unpack_from("<I", data, 21)[0]
    wide, high = (int(rng.choice([1, 256, 1000, 16384])) - 1 for _ in range(2))
    struct.pack_into("<I", data, 21, bits & ~0xFFFFFFF | wide | high << 14)
    if rng.integers(3) == 0:
        size = (wide + 1 - 1).to_bytes(3, "little") + high.to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<I", 10) + bytes([0x10, 0, 0, 0]) + size + bytes(data[12:])
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return bytes(data)
