# SPDX-License-Identifier: Apache-2.0
"""A driver of a GPU that is not there: it keeps graphs as the real one does and runs kernels in the emulation."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from recon.kernels.cuda.program import Program
from recon.kernels.cuda.sources import Kernel, struct_of


class Status(int):
    """What a call returns first."""

    @property
    def name(self) -> str:
        return "CUDA_SUCCESS" if self == 0 else f"CUDA_ERROR_{int(self)}"


OK, INVALID = Status(0), Status(1)


@dataclass(eq=False)
class _Node:
    graph: Any
    after: list[Any]
    launch: Any


@dataclass(eq=False)
class _Graph:
    nodes: list[_Node] = field(default_factory=list)
    destroyed: bool = False


@dataclass(eq=False)
class _Executable:
    graph: _Graph
    launches: dict[_Node, Any]
    destroyed: bool = False


class FakeDriver:
    """Parameters are copied when a node is added or changed, never later; a function's handle is its `Kernel`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.calls: list[str] = []
        self.started: list[list[str]] = []
        """The kernels of each graph that was started."""
        self.alive = 0
        self.refuses = ""
        """The name of a call that fails."""

    def CUDA_KERNEL_NODE_PARAMS(self) -> SimpleNamespace:
        return SimpleNamespace()

    def cuGraphCreate(self, flags: int) -> tuple[Any, ...]:
        self.alive += 1
        return self._answer("cuGraphCreate", _Graph())

    def cuGraphAddKernelNode(self, graph: _Graph, after: Any, count: int, params: Any) -> tuple[Any, ...]:
        after = list(after or [])
        assert len(after) == count
        assert all(node in graph.nodes for node in after)
        node = _Node(graph, after, _copied(params))
        graph.nodes.append(node)
        return self._answer("cuGraphAddKernelNode", node)

    def cuGraphInstantiate(self, graph: _Graph, flags: int) -> tuple[Any, ...]:
        for before, node in zip(graph.nodes, graph.nodes[1:]):
            assert node.after == [before], "the nodes may run in another order"
        self.alive += 1
        return self._answer("cuGraphInstantiate", _Executable(graph, {node: node.launch for node in graph.nodes}))

    def cuGraphExecKernelNodeSetParams(self, executable: _Executable, node: _Node, params: Any) -> tuple[Any, ...]:
        if executable.destroyed or executable.graph.destroyed or node not in executable.launches:
            return (INVALID,)
        executable.launches[node] = _copied(params)
        return self._answer("cuGraphExecKernelNodeSetParams")

    def cuGraphLaunch(self, executable: _Executable, stream: Any) -> tuple[Any, ...]:
        if executable.destroyed:
            return (INVALID,)
        answer = self._answer("cuGraphLaunch")
        if answer == (OK,):
            self.started.append([kernel.name for kernel, _, _ in executable.launches.values()])
            for kernel, blocks, params in executable.launches.values():
                self._program.start(kernel, blocks, params)
        return answer

    def cuGraphExecDestroy(self, executable: _Executable) -> tuple[Any, ...]:
        executable.destroyed = True
        self.alive -= 1
        return (OK,)

    def cuGraphDestroy(self, graph: _Graph) -> tuple[Any, ...]:
        graph.destroyed = True
        self.alive -= 1
        return (OK,)

    def _answer(self, name: str, *results: Any) -> tuple[Any, ...]:
        self.calls.append(name)
        return (INVALID, *(None for _ in results)) if name == self.refuses else (OK, *results)


def _copied(params: Any) -> tuple[Kernel, int, Any]:
    kernel: Kernel = params.func
    assert (params.blockDimX, params.blockDimY, params.blockDimZ) == (kernel.threads, 1, 1)
    assert (params.gridDimY, params.gridDimZ, params.sharedMemBytes) == (1, 1, 0)
    (at,) = (ctypes.c_void_p * 1).from_address(params.kernelParams)
    struct = struct_of(kernel.params)
    return kernel, params.gridDimX, struct.from_buffer_copy(struct.from_address(at))
