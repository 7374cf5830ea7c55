# SPDX-License-Identifier: Apache-2.0
"""Writers of the formats and versions that recon only reads, made from their descriptions alone, for tests."""

from __future__ import annotations

import gzip
import struct

import numpy as np

from recon.splats import SH_C0, Splats


def ksplat_bytes(
    splats: Splats, level: int, bucket_size: int = 16, block_size: float = 40.0, bound: float = 1.0
) -> bytes:
    """Two sections: the first half of the splats in full buckets and one that is not, the rest likewise."""
    count = len(splats)
    sections = [splats.select(np.arange(0, count // 2)), splats.select(np.arange(count // 2, count))]  # type: ignore[arg-type]
    header = bytearray(4096)
    struct.pack_into("<BBxxIIIIH", header, 0, 0, 1, 2, 2, count, count, level)
    struct.pack_into("<ff", header, 36, -bound, bound)
    headers, bodies = bytearray(2 * 1024), b""
    for index, section in enumerate(sections):
        full, left = divmod(len(section), bucket_size)
        buckets = full + (left > 0)
        struct.pack_into(
            "<IIIIfHxxIIIIH", headers, 1024 * index, len(section), len(section) + 3, bucket_size, buckets, block_size,
            12, 32767, 0, full, int(left > 0), section.sh_degree,
        )  # fmt: skip
        bodies += np.array([left] if left else [], "<u4").tobytes()
        bodies += _ksplat_rows(section, level, bucket_size, buckets, block_size, bound)
    return bytes(header) + bytes(headers) + bodies


def _ksplat_rows(splats: Splats, level: int, bucket_size: int, buckets: int, block_size: float, bound: float) -> bytes:
    count = len(splats)
    bucket_of = np.arange(count) // bucket_size
    means = splats.means.numpy()
    centers = np.stack([means[bucket_of == bucket].mean(0) for bucket in range(buckets)]).astype("<f4")
    number = "<f4" if level == 0 else "<f2"
    columns = []
    if level == 0:
        columns.append(means.astype("<f4"))
    else:
        steps = (means - centers[bucket_of]) / (block_size / 2 / 32767) + 32767
        assert steps.min() >= 0
        columns.append(steps.round().astype("<u2"))
    columns += [splats.scales.numpy().astype(number), splats.quats.numpy().astype(number)]
    color = np.clip((0.5 + SH_C0 * splats.sh[:, 0].numpy()) * 255, 0, 255).round()
    columns.append(np.concatenate([color, (splats.opacities.numpy() * 255).round()[:, None]], 1).astype("u1"))
    rest = splats.sh.numpy()[:, 1:]
    for band in range(1, splats.sh_degree + 1):
        numbers = rest[:, band**2 - 1 : (band + 1) ** 2 - 1].transpose(0, 2, 1).reshape(count, -1)
        if level == 2:
            columns.append(((numbers + bound) / (2 * bound) * 255).round().clip(0, 255).astype("u1"))
        else:
            columns.append(numbers.astype(number))
    rows = np.concatenate([np.ascontiguousarray(column).view("u1").reshape(count, -1) for column in columns], 1)
    # Room for three more splats, as in files that were made to grow.
    return centers.tobytes() + rows.tobytes() + bytes(3 * rows.shape[1])


def spz_payload(
    splats: Splats, version: int, degree: int, bits: int = 12, flags: int = 0, records: bytes = b""
) -> bytes:
    """The unpacked bytes of versions 1 to 3; harmonics of degree 4 are zeros above degree 3."""
    count, means = len(splats), splats.means.numpy().astype(np.float64)
    data = b"NGSP" + struct.pack("<IIBBBB", version, count, degree, bits, flags, 0)
    if version == 1:
        data += means.astype("<f2").tobytes()
    else:
        fixed = (means * 2**bits).round().astype("<i4")
        data += b"".join(struct.pack("<i", value)[:3] for value in fixed.reshape(-1).tolist())
    data += (splats.opacities.numpy() * 255).round().astype("u1").tobytes()
    data += np.clip(splats.sh[:, 0].numpy() * 0.15 * 255 + 127.5, 0, 255).round().astype("u1").tobytes()
    data += np.clip((splats.log_scales.numpy() + 10) * 16, 0, 255).round().astype("u1").tobytes()
    quats = splats.quats.numpy().astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    if version < 3:
        xyz = quats[:, 1:] * np.where(quats[:, :1] < 0, -1, 1)
        data += np.clip(xyz * 127.5 + 127.5, 0, 255).round().astype("u1").tobytes()
    else:
        data += b"".join(struct.pack("<I", _spz_rotation(row[[1, 2, 3, 0]])) for row in quats)
    coefficients = np.zeros((count, (degree + 1) ** 2 - 1, 3))
    known = min(coefficients.shape[1], splats.sh.shape[1] - 1)
    coefficients[:, :known] = splats.sh.numpy()[:, 1 : 1 + known]
    return data + np.clip(coefficients * 128 + 128, 0, 255).round().astype("u1").tobytes() + records


def _spz_rotation(xyzw: np.ndarray) -> int:
    largest = int(np.abs(xyzw).argmax())
    word, turned = largest, xyzw * (1 if xyzw[largest] >= 0 else -1)
    for index in range(4):
        if index != largest:
            word = word << 10 | int(turned[index] < 0) << 9 | round(511 * abs(turned[index]) * 2**0.5)
    return word


def spz_bytes(splats: Splats, version: int, degree: int, **more: object) -> bytes:
    return gzip.compress(spz_payload(splats, version, degree, **more), mtime=0)  # type: ignore[arg-type]
