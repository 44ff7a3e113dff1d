"""A tower on ONNX Runtime: CPU or CUDA, in the precision of its graph.

The only module that imports onnxruntime, and only when a tower is opened.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.backends import DEVICES, Purpose, TensorSpec, installed_runtime
from mcr_infer.errors import BackendError, BundleError

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class OnnxTower:
    """One ONNX graph in a session of its own; see `mcr_infer.backends.Tower` for the protocol."""

    def __init__(
        self, path: Path, *, device: str = "cpu", threads: int | None = None, purpose: Purpose = "bulk"
    ) -> None:
        """Load a graph onto `auto`, `cpu` or `cuda`; `threads` None is one a core that the process may use.

        Raises `BackendError` when the device asked for is not the one that the session got, `BundleError` when the file
        is no graph that the runtime can load.
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
        onnxruntime.disable_telemetry_events()
        # What goes wrong is raised; the log would say it a second time, in the runtime's words.
        onnxruntime.set_default_logger_severity(4)
        self._path, self._errors = path, _errors()
        options = _options(onnxruntime, threads or len(os.sched_getaffinity(0)), purpose)
        session: Any = None
        if device != "cpu":
            session = self._open_cuda(onnxruntime, options, required=device == "cuda")
        self._device = "cpu" if session is None else "cuda"
        if session is None:
            try:
                session = self._open(onnxruntime, options, _CPU)
            except self._errors as exc:
                raise BundleError(f"{path} is not a graph that ONNX Runtime can load: {_first_line(exc)}") from exc
        self._session = session
        self._inputs = {spec.name: self._spec(spec) for spec in self._session.get_inputs()}
        self._outputs = {spec.name: self._spec(spec) for spec in self._session.get_outputs()}

    @property
    def device(self) -> str:
        """Where the graph really runs: `cpu` or `cuda`."""
        return self._device

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs of the graph, all of them required."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The outputs of the graph."""
        return self._outputs

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one batch; raises `BackendError` when inputs do not fit the graph or the runtime fails."""
        self._check(inputs)
        names = list(self._outputs) if outputs is None else list(outputs)
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise BackendError(f"{self._path} has no output {unknown}; it gives {list(self._outputs)}")
        try:
            values = self._session.run(names, dict(inputs))
        except self._errors as exc:
            raise BackendError(f"{self._path} failed on {self._device}: {_first_line(exc)}") from exc
        return dict(zip(names, values, strict=True))

    def _open(self, onnxruntime: Any, options: Any, *providers: object) -> Any:
        # The fallback would print to stdout and go on with the CPU, even in the middle of a run.
        return onnxruntime.InferenceSession(
            str(self._path), sess_options=options, providers=list(providers), enable_fallback=0
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

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        if set(inputs) != set(self._inputs):
            raise BackendError(f"{self._path} takes {sorted(self._inputs)}, got {sorted(inputs)}")
        for name, spec in self._inputs.items():
            array = inputs[name]
            fits = len(array.shape) == len(spec.shape) and all(
                want is None or want == got for want, got in zip(spec.shape, array.shape, strict=True)
            )
            if not fits or array.dtype != np.dtype(spec.dtype) or array.size == 0:
                raise BackendError(
                    f"{self._path}: {name} must be {spec.dtype} of shape {_readable(spec.shape)} and not empty, "
                    f"got {array.dtype} of shape {list(array.shape)}"
                )


def _options(onnxruntime: Any, threads: int, purpose: Purpose) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Spinning threads take the cores from decode workers and from the other tower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if purpose == "one_shot":
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
