"""The CUDA driver as the towers use it: which GPU this is, memory on it and beside it, streams and graphs.

The only module that imports cuda.bindings (of cuda-python), and only when a GPU is asked for. Every call is checked.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from mcr_infer.errors import BackendError

_INSTALL = "pip install 'mcr-infer[tensorrt]' or 'mcr-infer[tensorrt-rtx]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The GPU that this process uses: device 0, which CUDA_VISIBLE_DEVICES chooses."""

    sm: str
    """Its architecture, as `sm86`."""

    name: str


def import_runtime() -> Any:
    """Import the bindings of the CUDA runtime; raises `BackendError` with the line to type where they are not there."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as exc:
        raise BackendError(f"the CUDA bindings of Python are not installed: {_INSTALL}") from exc
    except (ImportError, OSError, RuntimeError) as exc:
        raise BackendError(f"the CUDA bindings of Python do not load ({exc}): {_INSTALL}") from exc


def check(runtime: Any, answer: tuple[Any, ...], what: str) -> Any:
    """Return the value of a call of the CUDA runtime, None where it has none; raises `BackendError` when it failed."""
    status, *values = answer
    if status != runtime.cudaError_t.cudaSuccess:
        raise BackendError(
            f"CUDA failed to {what}: {getattr(status, 'name', status)}; check the driver with nvidia-smi"
        )
    return values[0] if values else None


def find_gpu(runtime: Any | None = None) -> Gpu | None:
    """Describe the GPU of this process; None where there is no GPU or no driver. Raises `BackendError` without bindings."""
    cuda = runtime or import_runtime()
    status, count = cuda.cudaGetDeviceCount()
    if status != cuda.cudaError_t.cudaSuccess or not count:
        return None
    properties = check(cuda, cuda.cudaGetDeviceProperties(0), "describe the GPU")
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(sm=f"sm{properties.major}{properties.minor}", name=name.strip("\0"))
