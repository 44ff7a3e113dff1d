"""A tower on ONNX Runtime: CPU or CUDA, in the precision of its graph.

The only module that imports onnxruntime, and only when a tower is opened.
"""

import contextlib
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BackendError, BundleError
from mcr_infer.inference.checked_tower import CheckedTower
from mcr_infer.inference.tower import DEVICES, Purpose, TensorSpec, installed_runtime

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class OnnxTower(CheckedTower):
    """One ONNX graph in a session of its own, which threads may share; see `inference.tower.Tower` for the protocol."""

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        purpose: Purpose = "bulk",
        io_binding: bool | None = None,
    ) -> None:
        """Load a graph onto `auto`, `cpu` or `cuda`; `threads` None is one a core that the process may use.

        `io_binding` keeps inputs and outputs in memory of the device (see `BoundSession`); None is on CUDA,
        where it saves copies, and not on the CPU, where there are none.

        Raises `BackendError` when the device asked for is not the one that the session got, or another pool of threads than
        the one asked for serves the process, `BundleError` when the file is no graph that the runtime can load.
        """
        if device not in DEVICES:
            raise BackendError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
        if threads is not None and threads < 1:
            raise BackendError(f"threads must be at least 1, got {threads}")
        runtime = installed_runtime()
        try:
            import onnxruntime
        except ImportError as exc:
            raise BackendError(
                f"{runtime} is installed but does not load ({exc}): pip install --force-reinstall {runtime}"
            ) from exc
        # What goes wrong is raised; the log would say it a second time, in the runtime's words.
        onnxruntime.set_default_logger_severity(4)
        self._path, self._errors = path, _errors()
        options = _options(onnxruntime, threads or len(os.sched_getaffinity(0)), purpose)
        session: Any = None
        if device != "cpu":
            session = self._open_cuda(onnxruntime, options, required=device == "cuda")
        used = "cpu" if session is None else "cuda"
        if session is None:
            try:
                session = self._open(onnxruntime, options, _CPU)
            except self._errors as exc:
                raise BundleError(f"{path} is not a graph that ONNX Runtime can load: {_first_line(exc)}") from exc
        self._session = session
        bound = used == "cuda" if io_binding is None else io_binding
        self._bound = BoundSession(onnxruntime, session, used) if bound else None
        super().__init__(
            path,
            device=used,
            inputs={spec.name: self._spec(spec) for spec in session.get_inputs()},
            outputs={spec.name: self._spec(spec) for spec in session.get_outputs()},
        )

    def _takes(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted = self._inputs[name].shape
        return len(shape) == len(wanted) and all(one in (None, got) for one, got in zip(wanted, shape, strict=True))

    def _wanted(self, name: str) -> str:
        return f"of shape {_readable(self._inputs[name].shape)} and not empty"

    def _compute(self, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        try:
            if self._bound is not None:
                values = self._bound.run(inputs, outputs)
            else:
                values = self._session.run(outputs, dict(inputs))
        except self._errors as exc:
            raise BackendError(f"{self._path} failed on {self._device}: {_first_line(exc)}") from exc
        return dict(zip(outputs, values, strict=True))

    def _open(self, onnxruntime: Any, options: Any, *providers: object) -> Any:
        # The fallback would print to stdout and go on with the CPU, even in the middle of a run.
        return onnxruntime.InferenceSession(
            os.fsencode(self._path).decode(), sess_options=options, providers=list(providers), enable_fallback=0
        )

    def _open_cuda(self, onnxruntime: Any, options: Any, *, required: bool) -> Any | None:
        """Make a session that really runs on CUDA; None where that fails and is not required.

        The list of providers that a build names says nothing about what loads, and a session that cannot have CUDA is
        made without it and without an error: only the session itself says where it runs.
        """
        remedy = "or choose --device cpu"
        if _CUDA not in onnxruntime.get_available_providers():
            if required:
                raise BackendError(
                    "CUDA was asked for and the installed ONNX Runtime is built without it: "
                    f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'mcr-infer[gpu]', {remedy}"
                )
            return None
        # The CUDA libraries that pip installed are not on the loader's path; stdout is for results.
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
        reason = "the CUDA libraries or the driver do not load"
        try:
            # TF32 keeps 10 bits of the mantissa: it would break fp32 parity with the golden outputs.
            session = self._open(onnxruntime, options, (_CUDA, {"use_tf32": "0"}), _CPU)
            if session.get_providers()[0] == _CUDA:
                return session
        except self._errors as exc:
            reason = _first_line(exc)
        if required:
            raise BackendError(
                f"CUDA was asked for and cannot be used ({reason}): check the driver with nvidia-smi, reinstall the "
                f"libraries with pip install --force-reinstall 'mcr-infer[gpu]', {remedy}"
            )
        return None

    def _spec(self, spec: Any) -> TensorSpec:
        if spec.type not in _DTYPES:
            raise BundleError(f"{self._path}: {spec.name} is {spec.type}, expected one of {', '.join(_DTYPES)}")
        return TensorSpec(
            dtype=_DTYPES[spec.type], shape=tuple(axis if isinstance(axis, int) else None for axis in spec.shape)
        )


def _options(onnxruntime: Any, threads: int, purpose: Purpose) -> Any:
    """Choose how a session is made, by purpose; `python -m benchmarks.sessions` measures what each is worth."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if purpose == "server":
        _share_pool(onnxruntime, threads)
        options.use_per_session_threads = False
        return options
    _refuse_own_threads(purpose)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take the cores from decode workers and from the other tower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if purpose in ("one_shot", "proof"):
        # Optimising the graph and packing the weights cost more than one call gains.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of the runtime: they share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]


def _readable(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if axis is None else str(axis) for axis in shape) + "]"


KEPT = 32
"""Shapes of a thread whose memory is kept; the one that was not used for longest makes room."""

Axes = tuple[int | str | None, ...]
"""Lengths of an array, or the names that the graph gives to them."""

Key = tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]


class BoundSession:
    """A session whose inputs and outputs lie on its device, in memory that is allocated once for each of their shapes.

    Without this, ONNX Runtime allocates memory for every batch and copies from and to it as it sees fit. Threads may share
    the session: each has its own memory. Written against the documented IOBinding and OrtValue, which work on the CPU too:
    there the same code runs in the tests. Not yet run on a GPU by its authors. Copies start from ordinary memory: this
    interface offers pinned memory to providers that are plugins only.
    """

    def __init__(self, onnxruntime: Any, session: Any, device: str) -> None:
        """Take over a session that runs on `cuda` or `cpu`."""
        self._onnxruntime, self._session, self._device = onnxruntime, session, device
        self._axes: dict[str, Axes] = {
            spec.name: tuple(spec.shape) for spec in (*session.get_inputs(), *session.get_outputs())
        }
        self._kinds = {spec.name: _KINDS[spec.type] for spec in session.get_outputs() if spec.type in _KINDS}
        self._threads = threading.local()

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]) -> list[NDArray[Any]]:
        """Run one batch and return the named outputs in their order; raises what the runtime raises."""
        kept: OrderedDict[Key, _Bound] | None = getattr(self._threads, "kept", None)
        if kept is None:
            kept = self._threads.kept = OrderedDict()
        key = tuple(array.shape for array in inputs.values()), outputs
        # Out of its place while it is used: memory of a batch that failed is not used again.
        bound = kept.pop(key, None) or self._bind(inputs, outputs)
        values = bound.run(self._session, inputs)
        kept[key] = bound
        if len(kept) > KEPT:
            kept.popitem(last=False)
        return values

    def _bind(self, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]) -> "_Bound":
        take = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
        binding = self._session.io_binding()
        given = {name: take(list(array.shape), array.dtype.type, self._device, 0) for name, array in inputs.items()}
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        lengths = {
            axis: length
            for name, array in inputs.items()
            for axis, length in zip(self._axes[name], array.shape, strict=True)
            if isinstance(axis, str)
        }
        for name in outputs:
            shape = [lengths.get(axis) if isinstance(axis, str) else axis for axis in self._axes[name]]
            if None in shape or name not in self._kinds:
                binding.bind_output(name, self._device, 0)  # the runtime takes the memory, for every batch anew
            else:
                binding.bind_ortvalue_output(name, take(shape, self._kinds[name], self._device, 0))
        return _Bound(given, binding)


class _Bound:
    """The memory of one shape."""

    def __init__(self, given: Mapping[str, Any], binding: Any) -> None:
        self._given, self._binding = given, binding

    def run(self, session: Any, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        for name, array in inputs.items():
            self._given[name].update_inplace(np.ascontiguousarray(array))
        session.run_with_iobinding(self._binding)
        # On the CPU these are the bound arrays themselves, which the next batch overwrites.
        return [np.array(value.numpy()) for value in self._binding.get_outputs()]


_KINDS: dict[str, type] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


_lock = threading.Lock()
_pool_threads: int | None = None
"""Size of the thread pool that all towers of a serving process share; None where there is none.

Each session of ONNX Runtime has threads of its own. Where a process asks two towers at once, both sets compete for the same
cores; one pool for all has a thread a core, whatever is asked. It is made once for the process and cannot be changed, and
the runtime cannot be asked for its size, which is why it is kept here. From then on the runtime refuses sessions with
threads of their own.
"""


def _share_pool(onnxruntime: Any, threads: int) -> None:
    """Make the pool, or use it where it has as many threads; raises `BackendError` where it cannot have them."""
    global _pool_threads
    with _lock:
        if _pool_threads is None:
            try:
                onnxruntime.set_global_thread_pool_sizes(threads, 1)
            except Exception as exc:  # the runtime's own class, which is none that can be imported by name
                raise BackendError(
                    f"ONNX Runtime cannot make one thread pool for this process ({exc}): another library of the process "
                    "has made it before; open the towers with purpose 'server' first"
                ) from exc
            _pool_threads = threads
        if _pool_threads != threads:
            raise BackendError(
                f"the towers of this process share one pool of {_pool_threads} threads, made by the first with purpose "
                f"'server'; got threads {threads}: name the same number for each of them"
            )


def _refuse_own_threads(purpose: str) -> None:
    """Raise `BackendError` where this process has the pool, and a tower wants threads of its own."""
    with _lock:
        if _pool_threads is not None:
            raise BackendError(
                f"the towers of this process share one pool of {_pool_threads} threads: open this one with purpose "
                f"'server', too, got {purpose!r}"
            )
