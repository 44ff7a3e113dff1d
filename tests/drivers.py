"""A stand-in for the CUDA driver, for machines without one: device memory is host memory, kernels are ONNX Runtime.

It stands where the driver would, and only there: every name that it offers is one of the real bindings (`REAL`), and what it
does not offer fails. It is strict where a driver would be silent: freed memory, uncaptured shapes, forgotten copies.
"""

import ctypes
import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_rtx
from cuda.bindings import runtime

from mcr_infer.inference.engine_profile import Profile
from mcr_infer.inference.ort_tower import OnnxTower

REAL = {
    "runtime": runtime,
    "engine": tensorrt_rtx.ICudaEngine,
    "context": tensorrt_rtx.IExecutionContext,
}
OK = runtime.cudaError_t.cudaSuccess
KINDS = {"float32": tensorrt_rtx.float32, "int64": tensorrt_rtx.int64}


class Driver:
    """The functions of cuda.bindings.runtime that towers call; counts what is alive."""

    cudaError_t = runtime.cudaError_t
    cudaMemcpyKind = runtime.cudaMemcpyKind
    cudaStreamCaptureMode = runtime.cudaStreamCaptureMode
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking

    def __init__(self, sm: str = "86") -> None:
        self.sm = sm
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Any] | None] = {}
        """By stream, what is being captured; None outside a capture."""

        self.graphs: dict[int, list[Any]] = {}
        self.launches = self.kernels = 0
        self.fail: str | None = None
        self._next, self._lock = 1, threading.Lock()

    def _number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def cudaGetDeviceCount(self):
        return OK, 1

    def cudaGetDeviceProperties(self, _device):
        return OK, SimpleNamespace(major=int(self.sm[:-1]), minor=int(self.sm[-1]), name=b"Imaginary GPU")

    def cudaSetDevice(self, _device):
        return (OK,)

    def cudaMalloc(self, size):
        if self.fail == "cudaMalloc":
            return runtime.cudaError_t.cudaErrorMemoryAllocation, None
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, pointer):
        del self.memory[pointer]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == runtime.cudaStreamNonBlocking
        number = self._number()
        self.streams[number] = None
        return OK, number

    def cudaStreamDestroy(self, stream):
        assert self.streams.pop(stream) is None
        return (OK,)

    def enqueue(self, stream, work):
        recording = self.streams[stream]
        if recording is None:
            work()
        else:
            recording.append(work)
        return (OK,)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        pinned = {"HostToDevice": source, "DeviceToHost": target}[kind.name.removeprefix("cudaMemcpy")]
        assert {target, source} <= set(self.memory), "both ends of a copy must be memory of the driver"
        assert count <= len(self.memory[pinned])
        return self.enqueue(stream, lambda: ctypes.memmove(target, source, count))

    def cudaStreamSynchronize(self, stream):
        assert self.streams[stream] is None, "nothing may be waited for while a graph is recorded"
        return (runtime.cudaError_t.cudaErrorLaunchFailure if self.fail == "cudaStreamSynchronize" else OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.streams[stream] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        recorded, self.streams[stream] = self.streams[stream], None
        return OK, recorded

    def cudaGraphInstantiate(self, graph, _flags):
        number = self._number()
        self.graphs[number] = list(graph)
        return OK, number

    def cudaGraphDestroy(self, graph):
        graph.clear()
        return (OK,)

    def cudaGraphExecDestroy(self, graph):
        del self.graphs[graph]
        return (OK,)

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        for work in self.graphs[graph]:
            self.enqueue(stream, work)
        return (OK,)


class Engine:
    """What deserialising gives: the graph of a tower on ONNX Runtime, bounded by a profile."""

    device_memory_size_v2 = 512

    def __init__(self, driver: Driver, graph: Path, side: str, profile: Profile) -> None:
        self.driver, self.tower = driver, OnnxTower(graph, threads=1)
        self.specs = {**self.tower.inputs, **self.tower.outputs}
        self.names = list(self.specs)
        self.profiles = {
            name: profile.shapes(side, tuple(-1 if axis is None else axis for axis in spec.shape))
            for name, spec in self.tower.inputs.items()
        }
        self.num_io_tensors = len(self.names)
        self.contexts: list[Context] = []

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return KINDS[self.specs[name].dtype]

    def get_tensor_shape(self, name):
        return tuple(-1 if axis is None else axis for axis in self.specs[name].shape)

    def get_tensor_mode(self, name):
        modes = tensorrt_rtx.TensorIOMode
        return modes.INPUT if name in self.tower.inputs else modes.OUTPUT

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return list(self.profiles[name])

    def create_runtime_config(self):
        return SimpleNamespace(cuda_graph_strategy=tensorrt_rtx.CudaGraphStrategy.DISABLED)

    def create_execution_context(self, how):
        self.contexts.append(Context(self, how))
        return self.contexts[-1]


class Context:
    """Shapes and addresses of one thread; a graph that it gave to a recording holds it to what they were."""

    def __init__(self, engine: Engine, how: Any) -> None:
        self.engine, self.how = engine, how
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: int | None = None
        self.captured = False

    def set_device_memory(self, memory, size):
        assert size >= self.engine.device_memory_size_v2
        self.scratch = memory

    def set_input_shape(self, name, shape):
        assert not self.captured, "a context may not change after it was captured"
        low, _, high = self.engine.profiles[name]
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return memory in self.engine.driver.memory

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        batch, length = next(iter(self.shapes.values()))[:2]
        return tuple(
            {0: batch, 1: length}[i] if axis < 0 else axis for i, axis in enumerate(self.engine.get_tensor_shape(name))
        )

    def execute_async_v3(self, stream_handle):
        driver = self.engine.driver
        assert set(self.addresses) == set(self.engine.names), "every tensor needs an address"
        self.captured |= driver.streams[stream_handle] is not None
        driver.enqueue(stream_handle, self._compute)
        return driver.fail != "execute_async_v3"

    def _compute(self):
        self.engine.driver.kernels += 1
        inputs = {name: self._at(name).copy() for name in self.engine.tower.inputs}
        for name, value in self.engine.tower.run(inputs).items():
            self._at(name)[...] = value

    def _at(self, name: str) -> np.ndarray:
        shape, kind = self.get_tensor_shape(name), np.dtype(self.engine.specs[name].dtype)
        size = math.prod(shape) * kind.itemsize
        block = self.engine.driver.memory[self.addresses[name]]
        return np.frombuffer(block, dtype=np.uint8, count=size).view(kind).reshape(shape)


def trt_on(load: Callable[[bytes], Engine | None]) -> Any:
    """The real module, except that this turns the bytes of an engine into one."""

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, tensorrt_rtx.ILogger)

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            return load(content)

    class Module:
        def __getattr__(self, name: str) -> Any:
            return getattr(tensorrt_rtx, name)

    module = Module()
    module.Runtime = Runtime
    return module
