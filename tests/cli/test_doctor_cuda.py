# SPDX-License-Identifier: Apache-2.0
"""The advice on NVIDIA GPUs, for machines that we do not have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recon.cli.doctor_cuda import CudaFacts, findings, look

GOOD = CudaFacts("13.0", (("NVIDIA H200", (9, 0)),), (13, 0), (13, 0))

TROUBLES = {
    "a CPU build of torch": (replace(GOOD, torch_cuda="", gpus=()), "NVIDIA GPU", "CUDA build of torch"),
    "no GPU seen": (replace(GOOD, gpus=()), "NVIDIA GPU", "CUDA_VISIBLE_DEVICES"),
    "an old GPU": (replace(GOOD, gpus=(("Tesla P100", (6, 0)),)), "NVIDIA GPU", "--device cpu"),
    "an old driver": (replace(GOOD, driver=(12, 4)), "NVIDIA driver", "recon[cuda12]"),
    "no NVRTC": (replace(GOOD, nvrtc=None), "CUDA compiler (NVRTC)", "recon[cuda]"),
    "no NVRTC beside CUDA 12": (replace(GOOD, torch_cuda="12.8", nvrtc=None), "CUDA compiler (NVRTC)", "recon[cuda12]"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_has_its_line(name: str) -> None:
    facts, about, advice = TROUBLES[name]
    bad = [finding for finding in findings(facts) if not finding.ok]
    assert [finding.name for finding in bad] == [about]
    assert advice in bad[0].advice


def test_a_good_machine_gets_no_advice() -> None:
    for facts in (GOOD, replace(GOOD, nvrtc=(12, 9)), CudaFacts(), CudaFacts(nvrtc=(13, 0))):
        assert all(finding.ok for finding in findings(facts))


def test_several_gpus_are_listed() -> None:
    found = findings(replace(GOOD, gpus=GOOD.gpus * 2))[0]
    assert found.ok
    assert "CUDA_VISIBLE_DEVICES" in found.found


def test_this_machine_can_be_looked_at() -> None:
    assert len(findings(look())) == 3
