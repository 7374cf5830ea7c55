# SPDX-License-Identifier: Apache-2.0
"""A sequence of launches as a CUDA graph: one call of the driver starts all of them.

The nodes are added one by one, each after the one before; nothing is captured from a stream, so whatever else the
process does with the GPU stays out.  Before a replay, nodes whose parameters changed since the last one get the new
ones; a replay that is still running keeps those that it started with.  RECON_CUDA_GRAPHS=0 makes the launches one by
one instead.

Source: CUDA Driver API, "Graph Management".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from recon.kernels.cuda.sequence import Launch, Sequence
from recon.kernels.cuda.sources import Kernel

Checked = Callable[[Any, str], Any]


class Graph:
    """An executable graph of a sequence.

    Args:
        driver: the bindings of the driver.
        checked: returns what a call gave besides its status, and raises where that tells of an error.
        sequence: what is replayed.
        function: returns the driver's handle of a kernel.
    """

    def __init__(self, driver: Any, checked: Checked, sequence: Sequence, function: Callable[[Kernel], Any]) -> None:
        self._driver, self._checked = driver, checked
        self._launches = list(sequence.launches)
        self._pointers: list[Any] = []
        self._nodes: list[Any] = []
        self._params: list[Any] = []
        self._graph: Any = None
        self._executable: Any = None
        self.updates = 0
        """Nodes that got new parameters, over all replays."""
        # The nodes are named in updates, so the graph that they belong to stays.
        self._graph = checked(driver.cuGraphCreate(0), "making a CUDA graph")
        for launch in self._launches:
            self._add(launch, function(launch.kernel))
        self._executable = checked(driver.cuGraphInstantiate(self._graph, 0), "making a CUDA graph executable")
        self._sent = [bytes(launch.params) for launch in self._launches]

    def _add(self, launch: Launch, function: Any) -> None:
        # The driver copies what the pointer points to, here and in each update.
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(launch.params))
        params = self._driver.CUDA_KERNEL_NODE_PARAMS()
        params.func = function
        params.gridDimX, params.gridDimY, params.gridDimZ = launch.blocks, 1, 1
        params.blockDimX, params.blockDimY, params.blockDimZ = launch.kernel.threads, 1, 1
        params.sharedMemBytes = 0
        params.kernelParams = ctypes.addressof(pointers)
        before = self._nodes[-1:]
        node = self._checked(
            self._driver.cuGraphAddKernelNode(self._graph, before or None, len(before), params),
            f"adding {launch.kernel.name} to a CUDA graph",
        )
        self._pointers.append(pointers)
        self._nodes.append(node)
        self._params.append(params)

    def replay(self, stream: Any) -> None:
        """Starts all launches with the parameters that they have now."""
        for index, launch in enumerate(self._launches):
            now = bytes(launch.params)
            if now != self._sent[index]:
                self._checked(
                    self._driver.cuGraphExecKernelNodeSetParams(
                        self._executable, self._nodes[index], self._params[index]
                    ),
                    f"changing {launch.kernel.name} in a CUDA graph",
                )
                self._sent[index] = now
                self.updates += 1
        self._checked(self._driver.cuGraphLaunch(self._executable, stream), "starting a CUDA graph")

    def __del__(self) -> None:
        # The driver keeps a graph that still runs until it is done.
        if self._executable is not None:
            self._driver.cuGraphExecDestroy(self._executable)
        if self._graph is not None:
            self._driver.cuGraphDestroy(self._graph)
