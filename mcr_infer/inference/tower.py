"""The protocol of a tower: one encoder of a bundle on one runtime."""

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from mcr_infer.errors import BackendError

DEVICES = ("auto", "cpu", "cuda")
"""Those of ONNX Runtime; `tensorrt` and `tensorrt-rtx` take engines and are never chosen by `auto`."""

_RUNTIME = re.compile(r"(onnxruntime(?:_gpu)?)-.+\.(?:dist-info|egg-info)")
"""The metadata of an installed distribution. Source: PyPA specification, Recording installed projects."""

Side = Literal["image", "text"]
Purpose = Literal["one_shot", "bulk", "server", "proof"]
"""`one_shot`: the session is made for one call, so opening fast counts. `bulk`: many calls, so steady speed counts; its
threads wait without spinning. `server`: all towers of the process share one pool of threads, however many are open; the
pool spins, which only a machine without other work forgives (`python -m benchmarks.sessions` measures yours). `proof`: the
graph runs as it stands, not optimised, on the CPU even if it is made for other devices: what export measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What a tower takes or gives under one name; None in `shape` is an axis of any length."""

    dtype: str
    shape: tuple[int | None, ...]


class Tower(Protocol):
    """One encoder on one device. `run` may be called from several threads at once."""

    @property
    def device(self) -> str:
        """Where it really runs: `cpu` or `cuda`."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs that `run` wants, all of them."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The outputs that `run` can give."""

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one batch and return the named outputs, all of them for None; raises `BackendError`."""


def installed_runtime(search_path: Sequence[str] | None = None) -> str:
    """Name the one ONNX Runtime distribution that is installed; `search_path` None is `sys.path`.

    onnxruntime and onnxruntime-gpu put their files into the same module folder, so with both of them installed nobody
    knows what runs. Raises `BackendError` with the line to type when there is none or when there are both.
    """
    found: set[str] = set()
    for folder in sys.path if search_path is None else search_path:
        # importlib.metadata would do the same, and import what costs every command 10 ms.
        with contextlib.suppress(OSError):
            names = [entry.name for entry in os.scandir(folder or ".")]
            found |= {match[1] for match in map(_RUNTIME.fullmatch, names) if match}
    if not found:
        raise BackendError(
            "ONNX Runtime is not installed: pip install 'mcr-infer[cpu]', or 'mcr-infer[gpu]' on a machine with CUDA"
        )
    if len(found) > 1:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'mcr-infer[gpu]' (or 'mcr-infer[cpu]')"
        )
    return found.pop().replace("_", "-")
