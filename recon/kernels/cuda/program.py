# SPDX-License-Identifier: Apache-2.0
"""Launches the CUDA kernels on torch's memory and torch's current stream.

A `Program` is what runs kernels on one device: `CudaProgram` on a GPU.  The tests put one in its place that runs the
same sources on a CPU.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from recon.errors import ReconError
from recon.kernels.cuda.sources import Kernel, kernels, struct_of, units_with

if TYPE_CHECKING:
    from recon.kernels.cuda.sequence import Sequence

_WORD_BYTES = 4
_WORDS_PER_BLOCK = 1024


class Program(ABC):
    """Runs kernels on one device."""

    @abstractmethod
    def start(self, kernel: Kernel, blocks: int, params: ctypes.Structure) -> None:
        """Queues a kernel over `blocks` blocks; `params` may be changed as soon as this returns."""

    def launch(self, name: str, threads: int, params: ctypes.Structure) -> None:
        """Queues a kernel with at least so many threads; with none it does nothing."""
        kernel = kernels()[name]
        if threads > 0:
            self.start(kernel, -(-threads // kernel.threads), params)

    def launch_blocks(self, name: str, blocks: int, params: ctypes.Structure) -> None:
        """Queues a kernel over so many blocks; with none it does nothing."""
        if blocks > 0:
            self.start(kernels()[name], blocks, params)

    def clear(self, tensor: torch.Tensor) -> torch.Tensor:
        """Queues setting a tensor of whole words to zero, and returns it."""
        words = tensor.numel() * tensor.element_size() // _WORD_BYTES
        assert words * _WORD_BYTES == tensor.numel() * tensor.element_size()
        params = params_of("ClearParams", words=tensor, count=words)
        self.launch_blocks("clear_words", -(-words // _WORDS_PER_BLOCK), params)
        return tensor

    def replay(self, sequence: Sequence) -> None:
        """Queues recorded launches with the parameters that they have now."""
        for launch in sequence.launches:
            self.start(launch.kernel, launch.blocks, launch.params)


def params_of(name: str, **fields: Any) -> Any:
    """Returns a struct with these fields set; tensors become their addresses, and None a null pointer."""
    params = struct_of(name)()
    assign(params, **fields)
    return params


def assign(params: Any, **fields: Any) -> None:
    """Sets fields of a struct, as `params_of`."""
    for name, value in fields.items():
        if isinstance(value, torch.Tensor):
            assert value.is_contiguous(), f"{name} is not contiguous"
            value = value.data_ptr()
        setattr(params, name, value)


_programs: dict[str, Program] = {}
_recording = threading.local()


def set_recorder(recorder: Program | None) -> Program | None:
    """Lets `recorder` take this thread's launches on every device; None undoes it.  Returns who took them before."""
    before = getattr(_recording, "recorder", None)
    _recording.recorder = recorder
    return before


def program_for(device: torch.device) -> Program:
    """Returns what runs the kernels on a device.

    Raises:
        ReconError: no GPU.
    """
    recorder: Program | None = getattr(_recording, "recorder", None)
    if recorder is not None:
        return recorder
    key = _key(device)
    if key not in _programs:
        if device.type != "cuda":
            raise ReconError(
                "starting the CUDA kernels", f"the tensors are on {device}", "tensors on an NVIDIA GPU",
                "use --backend auto",
            )  # fmt: skip
        _programs[key] = CudaProgram(device)
    return _programs[key]


def can_run_on(device: torch.device) -> bool:
    """Whether the kernels can be tried on a device: an NVIDIA GPU, and the packages that they need are there."""
    if device.type != "cuda":
        return has_program(device)
    try:
        from recon.kernels.cuda.compiler import nvrtc

        _driver()
        nvrtc()
    except ReconError:
        return False
    return True


def has_program(device: torch.device) -> bool:
    """Whether a program for this device was installed or started."""
    return _key(device) in _programs


def install_program(device: torch.device, program: Program | None) -> None:
    """Lets `program` run the kernels for tensors on `device`; None undoes it.  For tests."""
    if program is None:
        _programs.pop(_key(device), None)
    else:
        _programs[_key(device)] = program


def _key(device: torch.device) -> str:
    if device.type == "cuda" and device.index is None:
        return f"cuda:{torch.cuda.current_device()}"
    return str(device)


@functools.cache
def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise ReconError(
            "starting the CUDA kernels", f"cuda-bindings cannot be imported ({error})", "the extra `cuda`",
            "pip install 'recon[cuda]'",
        ) from error  # fmt: skip
    return driver


class CudaProgram(Program):
    """The kernels on one GPU, in torch's own context of it.  Those of a method are compiled, or read from the cache,
    when the first of them is wanted."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.init()
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes torch's context the current one
            major, minor = torch.cuda.get_device_capability(device)
            self.architecture = 10 * major + minor
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._functions: dict[str, Any] = {}
        self._modules: list[Any] = []
        self._loading = threading.Lock()
        self.graphs = os.environ.get("RECON_CUDA_GRAPHS", "1") != "0"
        """Whether sequences are replayed as graphs; where the driver refuses one, they no longer are."""

    def start(self, kernel: Kernel, blocks: int, params: ctypes.Structure) -> None:
        if torch.cuda.current_device() != self._device.index:
            torch.cuda.set_device(self._device)
        # The driver copies what the pointers point to before it returns.
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        outcome = _driver().cuLaunchKernel(
            self.function(kernel), blocks, 1, 1, kernel.threads, 1, 1, 0, self._stream(), ctypes.addressof(pointers), 0
        )
        _checked(outcome, f"launching the kernel {kernel.name}")

    def replay(self, sequence: Sequence) -> None:
        if torch.cuda.current_device() != self._device.index:
            torch.cuda.set_device(self._device)
        if self.graphs and sequence.prepared is None:
            sequence.prepared = self._graph_of(sequence)
        if sequence.prepared is None:
            super().replay(sequence)
            return
        sequence.prepared.replay(self._stream())

    def _graph_of(self, sequence: Sequence) -> Any:
        from recon.kernels.cuda.graph import Graph

        try:
            return Graph(_driver(), _checked, sequence, self.function)
        except (ReconError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            # Bindings or a driver that know no graphs as we do: slower, and right all the same.
            logging.getLogger(__name__).warning("CUDA graphs are not used: %s", error)
            self.graphs = False
            return None

    def _stream(self) -> Any:
        return torch.cuda.current_stream(self._device).cuda_stream

    def function(self, kernel: Kernel) -> Any:
        """Returns the driver's handle of a kernel.

        Raises:
            ReconError: no NVRTC, or a driver that does not take the machine code.
        """
        if kernel.name not in self._functions:
            with self._loading:
                if kernel.name not in self._functions:
                    self._load(units_with(kernel.unit))
        return self._functions[kernel.name]

    def _load(self, units: tuple[str, ...]) -> None:
        from recon.kernels.cuda.compiler import cubins

        driver, found = _driver(), {}
        with torch.cuda.device(self._device):
            for unit, cubin in cubins(self.architecture, units).items():
                image = ctypes.create_string_buffer(cubin, len(cubin))
                loaded = driver.cuModuleLoadData(ctypes.addressof(image))
                module = _checked(loaded, f"loading the kernels of {unit}")
                self._modules.append(module)
                for kernel in kernels().values():
                    if kernel.unit == unit:
                        function = driver.cuModuleGetFunction(module, kernel.name.encode())
                        found[kernel.name] = _checked(function, f"finding the kernel {kernel.name}")
        self._functions.update(found)


def _checked(outcome: Any, doing: str) -> Any:
    """Returns what a call of the driver gave besides its status."""
    status, *results = outcome
    if int(status) != 0:
        name = status.name
        raise ReconError(
            doing,
            f"the driver reports {name}",
            "success",
            "update the NVIDIA driver, or install the NVRTC of its CUDA version (see `recon doctor`)"
            if name
            in ("CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_IMAGE", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
            else "",
        )
    return results[0] if results else None
