# SPDX-License-Identifier: Apache-2.0
"""How much memory there is, so that a run that cannot fit is refused before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from recon.errors import ReconError


def available_bytes() -> int | None:
    """Returns the bytes that a new program may still take from main memory; None where the system does not say."""
    limits = [limit for limit in (_available_in_meminfo(), _available_in_group()) if limit is not None]
    if limits:
        return min(limits)
    try:  # macOS and others: all of the memory is the best that is known.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def available_device_bytes(device: str) -> int | None:
    """Returns the free bytes of the device ("cpu", "cuda"); None where it does not say."""
    if device != "cuda":
        return available_bytes()
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def require_memory(doing: str, needs: Mapping[str, float], available: int | None, lower: str) -> None:
    """Refuses what does not fit into nine tenths of the memory at hand.

    Args:
        doing: the operation, for the message.
        needs: bytes by what they are for.
        available: bytes at hand; None lets everything through.
        lower: which options to lower.

    Raises:
        ReconError: it does not fit.
    """
    total = sum(needs.values())
    if available is None or total <= 0.9 * available:
        return
    parts = ", ".join(f"{_gib(size)} for {name}" for name, size in sorted(needs.items(), key=lambda item: -item[1]))
    raise ReconError(doing, f"it needs about {_gib(total)} of memory ({parts})", f"{_gib(available)} are free", lower)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _available_in_meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _available_in_group() -> int | None:
    """What a container's limit leaves (Linux control groups, version 2)."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        cached = 0
        for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                cached = int(line.split()[1])
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used + cached, 0)
