# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for every architecture, without a GPU, and keeps to its budget; and the cache of code."""

from __future__ import annotations

import ctypes
import subprocess
import tomllib
from pathlib import Path, PurePath

import pytest

from recon.errors import ReconError
from recon.kernels.cuda import compiler, sources
from recon.kernels.cuda.compiler import ARCHITECTURES, cached_cubin, compile_unit
from recon.kernels.cuda.cubin import resources
from recon.kernels.cuda.resources import complaints, measured, read_table
from recon.kernels.cuda.sources import PACKAGE, UNITS, kernels, struct_of

SMALLEST = "kernels/rearrange/cuda.cu"


@pytest.fixture(autouse=True)
def _nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECON_CACHE", str(sources.PACKAGE.parent / "build" / "cuda-cache"))
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed: pip install 'recon[cuda]'")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_and_keeps_to_its_budget(architecture: int) -> None:
    found = measured(architecture)
    assert found.keys() == kernels().keys()
    assert not complaints(architecture, found)


def test_the_table_lists_every_kernel_once() -> None:
    assert set(read_table()) == {(name, architecture) for name in kernels() for architecture in ARCHITECTURES}


def test_a_frame_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An array that is indexed by a number that only the run knows goes to local memory."""
    source = tmp_path / "kernels" / "frame.cu"
    source.parent.mkdir()
    source.write_text(
        'extern "C" __global__ void frame(int* p) { int a[40]; for (int i = 0; i < 40; ++i) a[i] = p[i] * i;'
        " for (int i = 0; i < 40; ++i) p[i] = a[p[i] & 31] + a[(p[i] * 7) & 31]; }"
        ' extern "C" __global__ void none(int* p) { __shared__ int s[100]; s[threadIdx.x] = p[threadIdx.x];'
        " __syncthreads(); p[threadIdx.x] = s[99 - threadIdx.x]; }"
    )
    monkeypatch.setattr(compiler, "PACKAGE", tmp_path)
    found = resources(compile_unit("kernels/frame.cu", 90))
    assert found["frame"].local_bytes >= 128
    assert found["none"].local_bytes == 0
    assert found["none"].shared_bytes >= 400


def test_code_is_kept_and_mended(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_cubin(SMALLEST, 90)
    (entry,) = cache.iterdir()
    compiled: list[str] = []

    def note(unit: str, architecture: int) -> bytes:
        compiled.append(unit)
        return compile_unit(unit, architecture)

    monkeypatch.setattr(compiler, "compile_unit", note)
    assert cached_cubin(SMALLEST, 90) == first
    assert not compiled
    content = entry.read_bytes()
    for damaged in (content[:-1], content[:40], b"", content[:-5] + b"x" + content[-4:], b"junk" * 30):
        entry.write_bytes(damaged)
        assert cached_cubin(SMALLEST, 90) == first
        assert entry.read_bytes() == content
    assert len(compiled) == 5
    cached_cubin(SMALLEST, 80)
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RECON_CACHE", str(blocked))
    assert cached_cubin(SMALLEST, 90).startswith(b"\x7fELF")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ReconError, match="sm_30"):
        compile_unit(SMALLEST, 30)


def test_a_compile_error_names_the_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "broken.cu").write_text('extern "C" __global__ void broken() { nonsense(); }')
    monkeypatch.setattr(compiler, "PACKAGE", tmp_path)
    with pytest.raises(ReconError, match=r"broken\.cu\(1\)"):
        compile_unit("kernels/broken.cu", 90)


def test_missing_packages_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ReconError, match=r"pip install 'recon\[cuda\]'"):
        compile_unit(SMALLEST, 90)


def test_structs_are_laid_out_as_the_compiler_does() -> None:
    """The emulation compares every struct's size; here are a few offsets that alignment decides."""
    params = struct_of("SsimParams")
    assert params.mask_is_alpha.offset + 4 == params.l1_weight.offset
    assert struct_of("TsdfAllocateParams").first_block.size == 12
    assert ctypes.sizeof(struct_of("UpdateLaunch")) % 8 == 0
    assert struct_of("UpdateLaunch").update.size == ctypes.sizeof(struct_of("UpdateParams"))


# ---- the lists of sources ------------------------------------------------------------------------------------------


def test_every_source_is_found_and_belongs_somewhere() -> None:
    assert set(UNITS) == {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.cu")}
    assert {kernel.unit for kernel in kernels().values()} == set(UNITS)
    for unit in UNITS:
        assert unit in sources.units_with(unit)
        for other in sources.units_with(unit):
            assert set(sources.units_with(other)) == set(sources.units_with(unit))


def test_splats_compile_nothing_of_other_methods() -> None:
    of_splats = sources.units_with("kernels/blend/cuda.cu")
    names = {"projection", "binning", "blend", "ssim", "update", "density"}
    assert {Path(unit).parent.name for unit in of_splats} == names
    assert "kernels/tsdf/cuda.cu" not in of_splats
    assert sources.units_with("kernels/cuda/sort.cu") == ("kernels/cuda/clear.cu", "kernels/cuda/sort.cu")


def test_a_source_depends_on_what_it_includes_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "small"
    folder.mkdir(parents=True)
    (folder / "cuda.cu").write_text(
        '#include "recon/kernels/small/near.h"\nextern "C" __global__ void one(int* p) { f(p); }'
    )
    (folder / "near.h").write_text('#include "recon/kernels/small/far.h"\n__device__ void f(int* p) { *p = g(); }')
    (folder / "far.h").write_text("__device__ int g() { return 3; }")
    (folder / "other.h").write_text("")
    monkeypatch.setattr(compiler, "PACKAGE", tmp_path)
    before = compiler._fingerprint("kernels/small/cuda.cu", 90)
    assert "one" in resources(compile_unit("kernels/small/cuda.cu", 90))
    (folder / "other.h").write_text("int unused;")
    assert compiler._fingerprint("kernels/small/cuda.cu", 90) == before
    (folder / "far.h").write_text("__device__ int g() { return 4; }")
    assert compiler._fingerprint("kernels/small/cuda.cu", 90) != before


def test_the_wheel_holds_what_nvrtc_needs() -> None:
    """The wheel's packages and exclusions, applied to the files that the compiler opens."""
    root = Path(__file__).resolve().parents[3]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]
    assert wheel["packages"] == ["recon"]
    needed = {name for unit in UNITS for name in (unit, *sources.included_by(unit))}
    assert len(needed) > 20
    assert not [name for name in needed if not (PACKAGE / name).is_file()]
    left_out = [name for name in needed for rule in wheel["exclude"] if PurePath(f"recon/{name}").match(rule)]
    assert not left_out
    # What git does not know, the build does not take either.
    told = subprocess.run(
        ["git", "check-ignore", "--", *(f"recon/{name}" for name in needed)], cwd=root, capture_output=True, check=False
    )
    assert told.stdout == b""
