# SPDX-License-Identifier: Apache-2.0
"""Registers, spills and shared memory of every kernel on every architecture: a table beside each source (`cuda.tsv`
beside `cuda.cu`), and the budget that they are held to.

    python -m recon.kernels.cuda.resources          compares what is compiled now with the tables
    python -m recon.kernels.cuda.resources --write  writes the tables anew

What was compiled before is taken from the cache of machine code.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from recon.kernels.cuda.compiler import ARCHITECTURES, cubins, nvrtc_version
from recon.kernels.cuda.cubin import Resources, resources
from recon.kernels.cuda.sources import PACKAGE, UNITS, kernels

MOST_STATIC_SHARED = 48 * 1024
"""A block gets no more shared memory than this without being asked for."""

_REGISTER_FILE = 64 * 1024
_REGISTERS_GROWTH = 8
_HEADER = "kernel\tarchitecture\tthreads\tregisters\tlocal bytes\tshared bytes"


@dataclass(frozen=True)
class Budget:
    """What a kernel may take: registers of a thread, bytes of a frame, and warps that a multiprocessor must hold by its
    registers, so that there is work while others wait for memory."""

    registers: int = 96
    local_bytes: int = 0
    warps: int = 16


BUDGETS = {
    # Eight channels in registers, twice; for depth, normals and features, never in a step of colours.
    "blend_backward_8": Budget(registers=144, warps=12),
    # Its shared memory lets a multiprocessor hold no more than 20 warps as it is.
    "blend_backward_3": Budget(registers=128),
    # 32 sums and what they are made of; their shared memory lets a multiprocessor of sm_75 hold one block as it is.
    "mlp_forward": Budget(registers=120),
    "mlp_backward": Budget(registers=136, warps=15),
    # The division of doubles is a routine that keeps a word of its caller's.
    "tsdf_allocate": Budget(local_bytes=8),
    # Sixteen pairs and their ranks.
    "sort_pass": Budget(registers=128),
}
"""The kernels that need another budget than the usual one."""


def measured(architecture: int) -> dict[str, Resources]:
    """Compiles everything for an architecture and returns what each kernel takes; raises as `compile_unit`."""
    return {name: found for cubin in cubins(architecture).values() for name, found in resources(cubin).items()}


def read_table() -> dict[tuple[str, int], Resources]:
    """Returns the tables by kernel and architecture."""
    paths = [(PACKAGE / unit).with_suffix(".tsv") for unit in UNITS]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    rows = [line.split("\t") for line in lines if not line.startswith(("#", "kernel\t"))]
    return {(name, int(sm)): Resources(int(regs), int(local), int(shared)) for name, sm, _, regs, local, shared in rows}


def write_table() -> None:
    """Compiles everything for every architecture and writes the tables."""
    from recon.files import write_text

    found = {architecture: measured(architecture) for architecture in ARCHITECTURES}
    for unit in UNITS:
        lines = [f"# NVRTC {'.'.join(map(str, nvrtc_version()))}", _HEADER]
        for name in sorted(name for name, kernel in kernels().items() if kernel.unit == unit):
            for architecture in ARCHITECTURES:
                now = found[architecture][name]
                numbers = (kernels()[name].threads, now.registers, now.local_bytes, now.shared_bytes)
                lines.append("\t".join(map(str, (name, architecture, *numbers))))
        write_text((PACKAGE / unit).with_suffix(".tsv"), "\n".join(lines) + "\n")


def complaints(architecture: int, found: dict[str, Resources]) -> list[str]:
    """Returns what is over a budget, or far from the table, in words; none if all is well."""
    table, said = read_table(), []
    for name, now in found.items():
        budget, where = BUDGETS.get(name, Budget()), f"{name} on sm_{architecture}"
        if now.registers > budget.registers:
            said.append(f"{where} takes {now.registers} registers, more than {budget.registers}")
        if now.local_bytes > budget.local_bytes:
            said.append(f"{where} has a frame of {now.local_bytes} bytes (spills or indexed arrays)")
        if now.shared_bytes > MOST_STATIC_SHARED:
            said.append(f"{where} takes {now.shared_bytes} bytes of shared memory")
        warps = _REGISTER_FILE // (-(-now.registers // 8) * 8 * 32)
        if warps < budget.warps:
            said.append(f"{where} lets a multiprocessor hold {warps} warps, fewer than {budget.warps}")
        before = table.get((name, architecture))
        if before is None:
            said.append(f"{where} is not in the table")
        elif now.registers > before.registers + _REGISTERS_GROWTH or now.shared_bytes > before.shared_bytes:
            said.append(f"{where} takes more than the table says: {now} after {before}")
    return said


def main() -> int:
    if "--write" in sys.argv[1:]:
        write_table()
        return 0
    said = [line for architecture in ARCHITECTURES for line in complaints(architecture, measured(architecture))]
    print("\n".join(said) or "every kernel keeps to its budget")
    return 1 if said else 0


if __name__ == "__main__":
    raise SystemExit(main())
