# SPDX-License-Identifier: Apache-2.0
"""From a command to a kernel one passes through seven files at most, and the README names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_scenes import small_scene

import recon.kernels.blend.op as blend_op
from recon.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
CHAIN = [
    "recon/cli/train.py",
    "recon/methods/run.py",
    "recon/methods/loop.py",
    "recon/methods/splat/train.py",
    "recon/methods/splat/step.py",
    "recon/kernels/blend/op.py",
    "recon/kernels/blend/cpu.cpp",
]


def test_a_command_reaches_its_kernel_through_seven_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chains: list[list[str]] = []
    native = blend_op.native

    def watched() -> object:
        files = []
        frame = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(Path(blend_op.__file__).parents[2]):
                name = f"recon/{path.relative_to(Path(blend_op.__file__).parents[2]).as_posix()}"
                if not files or files[-1] != name:
                    files.append(name)
            frame = frame.f_back
        chains.append(files[::-1])
        return native()

    monkeypatch.setattr(blend_op, "native", watched)
    scene = small_scene(tmp_path)
    assert main(["train", str(scene), "--out", str(tmp_path / "run"), "--steps", "3", "--json"]) == 0
    from_command = [chain[chain.index("recon/cli/train.py") :] for chain in chains if "recon/cli/train.py" in chain]
    assert CHAIN[:-1] in from_command
    assert len(CHAIN) <= 7


def test_the_readme_shows_the_chain() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    positions = [readme.find(name) for name in CHAIN]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert all((REPOSITORY / name).is_file() for name in CHAIN)
