# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use.

`RECON_SHARED` names the folder with real captures (default: `../shared` beside the repository); tests that need them
skip visibly without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two threads that spin while they wait cost more than they gain on a small contended machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data() -> Path:
    """Returns the folder of real captures; it may not exist."""
    return Path(os.environ.get("RECON_SHARED", REPOSITORY.parent / "shared")) / "data"


@pytest.fixture(scope="session")
def captures() -> Path:
    """The real captures, or a visible skip."""
    folder = shared_data()
    if not folder.is_dir():
        pytest.skip(f"no real captures at {folder}: set RECON_SHARED to their folder")
    return folder


def _isas() -> tuple[str, ...]:
    from recon.kernels.native import supported_isas

    return supported_isas()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes the fixture `isa` once per instruction set of this machine."""
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", _isas(), indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Forces the CPU kernels of one instruction set for the length of a test."""
    from recon.kernels import native

    monkeypatch.setenv("RECON_ISA", request.param)
    native.native.cache_clear()
    assert native.active_isa() == request.param
    yield request.param
    native.native.cache_clear()
