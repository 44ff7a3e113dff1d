"""TensorRT in its two flavors and the CUDA driver below it, imported only when an engine is built or opened.

`tensorrt` builds on the GPU that serves, versions 10 and 11. `rtx` (TensorRT-RTX, whose module is tensorrt_rtx) builds ahead
of time, without a GPU, for named architectures. Both have one interface, except where it says so. This is the only module
that imports cuda.bindings (of cuda-python); every call is checked.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from mcr_infer.errors import BackendError

Flavor = Literal["tensorrt", "rtx"]

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
FLAVORS: dict[str, Flavor] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
"""By the device that a user names."""

DEVICES = {flavor: device for device, flavor in FLAVORS.items()}
"""What a tower answers when it is asked where it runs, by flavour."""

_INSTALL = {
    "tensorrt": "pip install 'mcr-infer[tensorrt]' (its -libs packages download from NVIDIA's server while they install)",
    "rtx": "pip install 'mcr-infer[tensorrt-rtx]'",
}


def import_flavor(flavor: Flavor) -> Any:
    """Import TensorRT or TensorRT-RTX; raises `BackendError` with the line to type where it is not there."""
    if flavor not in MODULES:
        raise BackendError(f"unknown flavour {flavor!r} of TensorRT: choose one of {', '.join(MODULES)}")
    name = MODULES[flavor]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        raise BackendError(f"{name} is not installed: {_INSTALL[flavor]}") from exc
    except (ImportError, OSError, RuntimeError) as exc:
        raise BackendError(f"{name} is installed but does not load ({exc}): {_INSTALL[flavor]}") from exc


def keep_log(trt: Any) -> Any:
    """Make a logger whose `errors()` says what went wrong last: the calls themselves only answer None."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.kept.append(" ".join(message.split()))

        def errors(self) -> str:
            return " | ".join(self.kept[-3:])[:900] or "TensorRT gives no reason"

    return Log()


_INSTALL_CUDA = "pip install 'mcr-infer[tensorrt]' or 'mcr-infer[tensorrt-rtx]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The GPU that this process uses: device 0, which CUDA_VISIBLE_DEVICES chooses."""

    sm: str
    """Its architecture, as `sm86`."""

    name: str


def import_cuda() -> Any:
    """Import the bindings of the CUDA runtime; raises `BackendError` with the line to type where they are not there."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as exc:
        raise BackendError(f"the CUDA bindings of Python are not installed: {_INSTALL_CUDA}") from exc
    except (ImportError, OSError, RuntimeError) as exc:
        raise BackendError(f"the CUDA bindings of Python do not load ({exc}): {_INSTALL_CUDA}") from exc


def check_cuda(runtime: Any, answer: tuple[Any, ...], what: str) -> Any:
    """Return the value of a call of the CUDA runtime, None where it has none; raises `BackendError` when it failed."""
    status, *values = answer
    if status != runtime.cudaError_t.cudaSuccess:
        raise BackendError(
            f"CUDA failed to {what}: {getattr(status, 'name', status)}; check the driver with nvidia-smi"
        )
    return values[0] if values else None


def find_gpu(runtime: Any | None = None) -> Gpu | None:
    """Describe the GPU of this process; None where there is no GPU or no driver. Raises `BackendError` without bindings."""
    cuda = runtime or import_cuda()
    status, count = cuda.cudaGetDeviceCount()
    if status != cuda.cudaError_t.cudaSuccess or not count:
        return None
    properties = check_cuda(cuda, cuda.cudaGetDeviceProperties(0), "describe the GPU")
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(sm=f"sm{properties.major}{properties.minor}", name=name.strip("\0"))
