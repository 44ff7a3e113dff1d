"""A tower on ONNX Runtime: CPU or CUDA, in the precision of its graph.

The only module that imports onnxruntime, and only when a tower is opened.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mcr_infer.backends import DEVICES, Purpose, TensorSpec, installed_runtime, pool
from mcr_infer.backends.binding import BoundSession
from mcr_infer.backends.checked import CheckedTower
from mcr_infer.errors import BackendError, BundleError

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class OnnxTower(CheckedTower):
    """One ONNX graph in a session of its own, which threads may share; see `mcr_infer.backends.Tower` for the protocol."""

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

        `io_binding` keeps inputs and outputs in memory of the device (see `mcr_infer.backends.binding`); None is on CUDA,
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
        pool.share(onnxruntime, threads)
        options.use_per_session_threads = False
        return options
    pool.refuse_own_threads(purpose)
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
