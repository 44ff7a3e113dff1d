"""TensorRT in its two flavours, imported only when an engine is built or opened.

`tensorrt` builds on the GPU that serves, versions 10 and 11. `rtx` (TensorRT-RTX, whose module is tensorrt_rtx) builds ahead
of time, without a GPU, for named architectures. Both have one interface, except where it says so.
"""

import importlib
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
