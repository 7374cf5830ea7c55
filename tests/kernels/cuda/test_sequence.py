# SPDX-License-Identifier: Apache-2.0
"""Launches that are recorded and replayed, one by one and as a graph of a driver that is not there."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from kernels.cuda.build import EmulatedProgram
from kernels.cuda.fake_driver import FakeDriver

from recon.errors import ReconError
from recon.kernels.cuda import program as programs
from recon.kernels.cuda.graph import Graph
from recon.kernels.cuda.program import CudaProgram, params_of, program_for
from recon.kernels.cuda.sequence import Sequence, recorded

CPU = torch.device("cpu")


def record(numbers: torch.Tensor, words: torch.Tensor) -> Sequence:
    """Clears `words` and puts 1, 2, 3, 4 into `numbers`."""
    with recorded() as sequence:
        program_for(CPU).clear(words)
        put = params_of("PutParams", to=numbers)
        put.values[:] = (1.0, 2.0, 3.0, 4.0)
        program_for(CPU).launch_blocks("put_numbers", 1, put)
        put.values[0] = 9.0  # what was recorded is a copy
    return sequence


def graph_of(driver: FakeDriver, sequence: Sequence) -> Graph:
    return Graph(driver, programs._checked, sequence, lambda kernel: kernel)


def test_recording_starts_nothing_and_replaying_does(emulated: EmulatedProgram) -> None:
    numbers, words = torch.zeros(4), torch.arange(5000, dtype=torch.int32)
    sequence = record(numbers, words)
    assert emulated.launches == []
    assert not bool(numbers.any())
    emulated.replay(sequence)
    assert emulated.launches == ["clear_words", "put_numbers"]
    assert not bool(words.any())
    assert numbers.tolist() == [1, 2, 3, 4]
    (put,) = sequence.of("put_numbers")
    put.params.values[1] = -1.0
    emulated.replay(sequence)
    assert numbers.tolist() == [1, -1, 3, 4]


@pytest.mark.parametrize("count", [0, 1, 1024, 1025])
def test_memory_is_cleared_and_no_more(emulated: EmulatedProgram, count: int) -> None:
    words = torch.full((count + 7,), 3, dtype=torch.int32)
    emulated.clear(words[:count])
    assert not bool(words[:count].any())
    assert bool((words[count:] == 3).all())


def test_another_thread_goes_on_while_one_records(emulated: EmulatedProgram) -> None:
    words = torch.ones(8)
    with recorded() as sequence:
        other = threading.Thread(target=lambda: program_for(CPU).clear(words))
        other.start()
        other.join()
    assert not sequence.launches
    assert not bool(words.any())


def test_an_error_ends_the_recording(emulated: EmulatedProgram) -> None:
    def fail() -> None:
        with recorded():
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert program_for(CPU) is emulated


def test_a_graph_replays_the_launches_in_order(emulated: EmulatedProgram) -> None:
    numbers, words = torch.zeros(4), torch.ones(300)
    sequence, driver = record(numbers, words), FakeDriver(emulated)
    graph = graph_of(driver, sequence)
    graph.replay(0)
    assert driver.started == [["clear_words", "put_numbers"]]
    assert numbers.tolist() == [1, 2, 3, 4]
    assert graph.updates == 0
    words.fill_(1)
    (put,) = sequence.of("put_numbers")
    put.params.values[3] = 7.0
    graph.replay(0)
    assert graph.updates == 1
    assert numbers.tolist() == [1, 2, 3, 7]
    assert not bool(words.any())
    graph.replay(0)
    assert graph.updates == 1
    assert driver.calls.count("cuGraphInstantiate") == 1
    del graph
    gc.collect()
    assert driver.alive == 0


@pytest.mark.parametrize("call", ["cuGraphCreate", "cuGraphAddKernelNode", "cuGraphInstantiate"])
def test_what_the_driver_refuses_is_told(emulated: EmulatedProgram, call: str) -> None:
    driver = FakeDriver(emulated)
    driver.refuses = call
    with pytest.raises(ReconError, match="CUDA_ERROR_1"):
        graph_of(driver, record(torch.zeros(4), torch.ones(3)))


class _OnFakeGpu(CudaProgram):
    """Without a GPU and its torch."""

    def __init__(self, emulated: EmulatedProgram) -> None:
        self._emulated, self.graphs = emulated, True
        self._device = torch.device("cuda", 0)

    def function(self, kernel: Any) -> Any:
        return kernel

    def start(self, kernel: Any, blocks: int, params: Any) -> None:
        self._emulated.start(kernel, blocks, params)

    def _stream(self) -> Any:
        return 0


@pytest.fixture
def fake_gpu(emulated: EmulatedProgram, monkeypatch: pytest.MonkeyPatch) -> tuple[CudaProgram, FakeDriver]:
    driver = FakeDriver(emulated)
    monkeypatch.setattr(programs, "_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return _OnFakeGpu(emulated), driver


def test_the_program_makes_a_graph_once(fake_gpu: tuple[CudaProgram, FakeDriver]) -> None:
    program, driver = fake_gpu
    numbers, words = torch.zeros(4), torch.ones(5)
    sequence = record(numbers, words)
    for _ in range(3):
        program.replay(sequence)
    assert driver.calls.count("cuGraphInstantiate") == 1
    assert driver.calls.count("cuGraphLaunch") == 3
    assert numbers.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("call", ["cuGraphCreate", "cuGraphInstantiate"])
def test_without_graphs_the_launches_are_made_one_by_one(
    fake_gpu: tuple[CudaProgram, FakeDriver], call: str, caplog: pytest.LogCaptureFixture
) -> None:
    program, driver = fake_gpu
    driver.refuses = call
    numbers, words = torch.zeros(4), torch.ones(5)
    sequences = [record(numbers, words) for _ in range(2)]
    for sequence in sequences * 2:
        numbers.zero_()
        words.fill_(1)
        program.replay(sequence)
        assert numbers.tolist() == [1, 2, 3, 4]
        assert not bool(words.any())
    assert driver.started == []
    assert driver.calls.count(call) == 1
    assert "CUDA graphs are not used" in caplog.text


def test_the_bindings_take_what_a_graph_gives_them() -> None:
    """The real structure of a node, which needs no GPU."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    node = driver.CUDA_KERNEL_NODE_PARAMS()
    for name in ("gridDimX", "gridDimY", "gridDimZ", "blockDimX", "blockDimY", "blockDimZ", "sharedMemBytes"):
        setattr(node, name, 3)
        assert int(getattr(node, name)) == 3
    node.func, node.kernelParams = driver.CUfunction(16), 4096
    assert int(node.func) == 16
    assert node.kernelParams == 4096
    for name in (
        "Create",
        "AddKernelNode",
        "Instantiate",
        "ExecKernelNodeSetParams",
        "Launch",
        "ExecDestroy",
        "Destroy",
    ):
        assert callable(getattr(driver, f"cuGraph{name}"))
