"""A tower on TensorRT or TensorRT-RTX: an engine of a bundle on the GPU of this machine.

    inputs -> pinned memory -> device memory -> engine -> device memory -> pinned memory -> outputs

Buffers are allocated once, for the largest shapes of the engine's profile. Each thread has its own stream, buffers and
contexts, so that the copies of one run beside the arithmetic of another. A shape that comes again is captured into a CUDA
graph, copies included: one launch a call instead of hundreds.

Written against the documented interfaces of TensorRT 10 and 11, TensorRT-RTX 1.7 and cuda.bindings 13. Not yet run on a GPU
by its authors: nothing here is claimed until `mcr-infer verify` has measured it on yours.
"""

import ctypes
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BackendError
from mcr_infer.inference import tensorrt_api
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.checked_tower import CheckedTower
from mcr_infer.inference.engines import EngineManifest, find_record
from mcr_infer.inference.tensorrt_api import DEVICES, Flavor, import_flavor, keep_log
from mcr_infer.inference.tower import Side, TensorSpec

CAPTURED = 16
"""Shapes of a thread that keep a CUDA graph; each needs a context of its own."""

Shape = tuple[int, ...]
Key = tuple[tuple[Shape, ...], tuple[str, ...]]


class TensorRTTower(CheckedTower):
    """One engine; see `inference.tower.Tower` for the protocol."""

    _remedy = "; change --batch-size, or build with another --profile"

    def __init__(self, path: Path, *, flavor: Flavor = "tensorrt", host_code: bool = False) -> None:
        """Load an engine that has been checked. `host_code` is needed by version-compatible engines, which carry a runtime.

        Raises `BackendError` when a package is missing, there is no GPU, or the engine does not load on it.
        """
        self._flavor = flavor
        self._trt, self._cuda = import_flavor(flavor), tensorrt_api.import_cuda()
        self._log = keep_log(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise BackendError(f"engine {path} cannot be read: {exc.strerror}") from exc
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(
                f"engine {path} does not load: {self._log.errors()}; check the driver with nvidia-smi, or build it again "
                "with mcr-infer build-engine"
            )
        inputs: dict[str, TensorSpec] = {}
        outputs: dict[str, TensorSpec] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
            axes = tuple(None if axis < 0 else int(axis) for axis in self._engine.get_tensor_shape(name))
            given = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            (inputs if given else outputs)[name] = TensorSpec(dtype=kind, shape=axes)
        self._limits: dict[str, tuple[Shape, Shape]] = {}
        for name in inputs:
            smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
            self._limits[name] = tuple(smallest), tuple(largest)
        self._threads = threading.local()
        super().__init__(path, device=DEVICES[flavor], inputs=inputs, outputs=outputs)

    def _takes(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, largest = self._limits[name]
        return len(shape) == len(smallest) and all(
            low <= got <= high for low, got, high in zip(smallest, shape, largest, strict=True)
        )

    def _wanted(self, name: str) -> str:
        smallest, largest = self._limits[name]
        return f"of a shape from {list(smallest)} to {list(largest)}"

    def _compute(self, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        lane: _Lane | None = getattr(self._threads, "lane", None)
        if lane is None:
            # Which device a thread uses is a property of the thread.
            tensorrt_api.check_cuda(self._cuda, self._cuda.cudaSetDevice(0), "choose the GPU")
            specs, largest = {**self._inputs, **self._outputs}, {name: high for name, (_, high) in self._limits.items()}
            lane = self._threads.lane = _Lane(
                self._trt, self._cuda, self._engine, specs, largest, native_graphs=self._flavor == "rtx"
            )
        try:
            return lane.run(inputs, outputs)
        except BackendError as exc:
            # Its buffers and graphs may be in any state: the next call of this thread starts afresh.
            del self._threads.lane
            raise BackendError(f"{self._path} failed on {self.device}: {exc} ({self._log.errors()})") from exc


class _Lane:
    """What one thread has of an engine: a stream, buffers, contexts and captured graphs."""

    def __init__(
        self,
        trt: Any,
        runtime: Any,
        engine: Any,
        specs: Mapping[str, TensorSpec],
        largest: Mapping[str, Shape],
        *,
        native_graphs: bool,
    ) -> None:
        self._trt, self._cuda, self._engine = trt, runtime, engine
        self._specs, self._inputs, self._native = specs, tuple(largest), native_graphs
        self._undo: list[Callable[[], object]] = []
        self._graphs: OrderedDict[Key, tuple[Any, Any]] = OrderedDict()
        """By shapes and outputs, a graph and the context that it is bound to."""
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._pinned: dict[str, NDArray[np.uint8]] = {}
        self._memory: dict[str, int] = {}
        weakref.finalize(self, _release, self._undo, self._graphs, runtime.cudaGraphExecDestroy)
        self._stream = self._own(
            runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), runtime.cudaStreamDestroy, "make a stream"
        )
        # Contexts that never run at once may share their scratch memory.
        self._scratch_bytes = 0 if native_graphs else max(1, int(engine.device_memory_size_v2))
        self._scratch = None if native_graphs else self._device(self._scratch_bytes)
        self._context = self._new_context()
        self._shape(self._context, tuple(largest.values()))
        for name, spec in specs.items():
            size = math.prod(self._context.get_tensor_shape(name)) * np.dtype(spec.dtype).itemsize
            self._pinned[name] = self._host(size)
            self._memory[name] = self._device(size)

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        for name, array in inputs.items():
            np.copyto(self._view(name, array.shape), array)
        shapes = tuple(array.shape for array in inputs.values())
        key = (shapes, outputs)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            context, graph = self._graphs[key]
            self._call(self._cuda.cudaGraphLaunch(graph, self._stream), "launch a graph")
        else:
            captured = not self._native and key in self._seen
            context = self._new_context() if captured else self._context
            self._shape(context, shapes)
            # A new shape has to run once before it can be captured.
            self._submit(context, shapes, outputs)
            if captured:
                self._capture(context, key)
            self._seen[key] = None
            if len(self._seen) > 64 * CAPTURED:
                self._seen.popitem(last=False)
        self._call(self._cuda.cudaStreamSynchronize(self._stream), "finish a batch")
        return {name: self._view(name, tuple(context.get_tensor_shape(name))).copy() for name in outputs}

    def _submit(self, context: Any, shapes: tuple[Shape, ...], outputs: tuple[str, ...]) -> None:
        kinds = self._cuda.cudaMemcpyKind
        for name, shape in zip(self._inputs, shapes, strict=True):
            pinned = self._view(name, shape)
            self._call(
                self._cuda.cudaMemcpyAsync(
                    self._memory[name], pinned.ctypes.data, pinned.nbytes, kinds.cudaMemcpyHostToDevice, self._stream
                ),
                "copy inputs to the GPU",
            )
        if not context.execute_async_v3(int(self._stream)):
            raise BackendError("TensorRT could not start a batch")
        for name in outputs:
            pinned = self._view(name, tuple(context.get_tensor_shape(name)))
            self._call(
                self._cuda.cudaMemcpyAsync(
                    pinned.ctypes.data, self._memory[name], pinned.nbytes, kinds.cudaMemcpyDeviceToHost, self._stream
                ),
                "copy outputs from the GPU",
            )

    def _capture(self, context: Any, key: Key) -> None:
        """Record what a shape takes, so that its next batch is one launch.

        A graph is bound to the state of its context, which must not change afterwards: each has its own.
        Source: TensorRT developer guide, CUDA graphs.
        """
        if len(self._graphs) >= CAPTURED:
            _, (_, oldest) = self._graphs.popitem(last=False)
            self._call(self._cuda.cudaGraphExecDestroy(oldest), "drop a graph")
        # Thread-local: other threads may allocate meanwhile.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._cuda.cudaStreamBeginCapture(self._stream, mode), "begin a graph")
        try:
            self._submit(context, *key)
        finally:
            recorded = self._cuda.cudaStreamEndCapture(self._stream)
        graph = self._call(recorded, "end a graph")
        self._graphs[key] = context, self._call(self._cuda.cudaGraphInstantiate(graph, 0), "make a graph")
        self._call(self._cuda.cudaGraphDestroy(graph), "drop a recording")

    def _new_context(self) -> Any:
        if self._native:
            # TensorRT-RTX swaps kernels while it runs and captures its graphs itself.
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise BackendError("TensorRT could not make a context: the memory of the GPU may be full")
        if not self._native:
            context.set_device_memory(self._scratch, self._scratch_bytes)
        return context

    def _shape(self, context: Any, shapes: tuple[Shape, ...]) -> None:
        for name, shape in zip(self._inputs, shapes, strict=True):
            if not context.set_input_shape(name, shape):
                raise BackendError(f"TensorRT does not take {name} of shape {list(shape)}")
        for name, address in self._memory.items():
            if not context.set_tensor_address(name, address):
                raise BackendError(f"TensorRT does not take the memory of {name}")

    def _view(self, name: str, shape: Shape) -> NDArray[Any]:
        kind = np.dtype(self._specs[name].dtype)
        return self._pinned[name][: math.prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def _device(self, size: int) -> int:
        return int(self._own(self._cuda.cudaMalloc(size), self._cuda.cudaFree, f"take {size} bytes of the GPU"))

    def _host(self, size: int) -> NDArray[np.uint8]:
        address = self._own(self._cuda.cudaMallocHost(size), self._cuda.cudaFreeHost, f"pin {size} bytes")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def _own(self, answer: tuple[Any, ...], undo: Callable[[Any], object], what: str) -> Any:
        value = self._call(answer, what)
        self._undo.append(lambda: undo(value))
        return value

    def _call(self, answer: tuple[Any, ...], what: str) -> Any:
        return tensorrt_api.check_cuda(self._cuda, answer, what)


def open_engine(
    bundle: Bundle, side: Side, *, precision: str = "fp32", flavor: Flavor = "tensorrt", unverified: bool = False
) -> TensorRTTower:
    """Open the engine of a tower that fits the GPU and the installed version, every byte checked.

    Raises `BackendError` when a package, the GPU or such an engine is missing, with the command that builds it, and when
    its parity was never measured on this architecture, unless `unverified` allows that (only the gate does).
    """
    trt = import_flavor(flavor)
    gpu = tensorrt_api.find_gpu()
    if gpu is None:
        raise BackendError(
            "engines need a GPU, and this machine has none or no driver (nvidia-smi tells): --device cpu"
        )
    version = str(trt.__version__)
    record = find_record(bundle, side, precision, gpu.sm, version, flavor=flavor, unverified=unverified)
    path = EngineManifest.read(bundle).path(record)
    return TensorRTTower(path, flavor=flavor, host_code=record.version_compatible)


def _release(
    undo: list[Callable[[], object]], graphs: OrderedDict[Key, tuple[Any, Any]], destroy: Callable[[Any], object]
) -> None:
    """Give everything back, last first; what the driver says to it changes nothing any more."""
    while graphs:
        _, (_, graph) = graphs.popitem()
        destroy(graph)
    while undo:
        undo.pop()()
