# SPDX-License-Identifier: Apache-2.0
"""The random scenes of the CPU kernels through the emulated CUDA kernels, forward and backward, against float64.

`RECON_FUZZ=1000` runs that many scenes; `RECON_FUZZ_FIRST` is the first seed.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.fuzz_projection import FIELDS
from kernels.fuzz_scenes import STORED
from kernels.test_fuzz_splats import Expected, Findings, check_blending, check_lists, check_renderer

from recon.kernels.binning.op import bin_tiles
from recon.kernels.projection.op import project

FIRST = int(os.environ.get("RECON_FUZZ_FIRST", "0"))
COUNT = int(os.environ.get("RECON_FUZZ", "20"))
BLOCKS = [range(FIRST + at, FIRST + min(at + 10, COUNT)) for at in range(0, COUNT, 10)]


@pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_random_scenes(seeds: range, emulated: EmulatedProgram) -> None:
    findings = Findings()
    for seed in seeds:
        expected = Expected.of(seed)
        findings.where = f"seed {seed}"
        check_projection(expected, findings)
        tiles = bin_tiles(expected.projected, *expected.size, backend="cuda")
        check_lists(expected, tiles, findings)
        check_blending(expected, tiles, findings, "cuda")
        check_renderer(expected.scene, seed % 4 == 0, findings, "cuda")
    findings.done()


def check_projection(expected: Expected, findings: Findings) -> None:
    """Values and gradients of each row that is surely visible, and which ones are."""
    scene, bounds = expected.scene, expected.projection
    leaves = {name: getattr(scene.splats, name).clone().requires_grad_() for name in STORED}
    found = project(replace(scene.splats, **leaves), scene.pose, scene.camera, scene.options, backend="cuda")
    visible = found.visible.bool()
    findings.check(bool((visible == bounds.visible)[~bounds.in_doubt].all()), "others are visible")
    torch.autograd.backward([getattr(found, name) for name in FIELDS], [expected.upstream[name] for name in FIELDS])
    for name in FIELDS:
        findings.compare(name, bounds.excess(name, getattr(found, name).detach()))
        findings.check(bool((getattr(found, name)[~visible] == 0).all()), f"{name} of culled rows is not 0")
    for name in STORED:
        gradient = leaves[name].grad
        assert gradient is not None
        findings.compare(f"gradient of {name}", bounds.excess(f"gradient of {name}", gradient))
        findings.check(bool((gradient[~visible] == 0).all()), f"the gradient of culled {name} is not 0")
