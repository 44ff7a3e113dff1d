"""Backends: one tower of a bundle on one runtime, behind one small protocol.

What is asked for is what runs, or an error: no backend falls back to another device in silence.
"""

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from mcr_infer.bundle import FULL, TOWER_OUTPUTS, Bundle, Precision
from mcr_infer.errors import BackendError, BundleError

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


def open_tower(
    bundle: Bundle,
    side: Side,
    *,
    device: str = "auto",
    precision: str = FULL,
    threads: int | None = None,
    purpose: Purpose = "bulk",
) -> Tower:
    """Open one tower of a bundle, its file verified, on `auto`, `cpu`, `cuda`, `tensorrt` or `tensorrt-rtx`.

    `auto` is cuda where it works, else cpu; the last two take an engine that was built and measured for this GPU.

    `threads` None is one a core that the process may use. For `purpose` see `Purpose`; `one_shot` may take the digest of a
    large file from memory (see `mcr_infer.digests`). A precision whose rows would depend on their batch runs one
    unpadded item a call, whatever `run` is given. Raises `BackendError` when the runtime is missing or cannot do what was
    asked or cannot serve the precision, `BundleError` when the bundle lacks the precision, the file is damaged or it is
    not the graph that the manifest describes.
    """
    from mcr_infer.backends.flavor import FLAVORS
    from mcr_infer.backends.one_item import OneItemTower
    from mcr_infer.backends.onnxruntime import OnnxTower

    variant = bundle.variant(precision)
    path = bundle.verified_tower(side, precision, remembered=purpose == "one_shot")
    tower: Tower
    if device in FLAVORS:
        from mcr_infer.backends.tensorrt import open_engine

        tower = open_engine(bundle, side, precision=precision, flavor=FLAVORS[device])
    else:
        if variant is not None:
            device = device if purpose == "proof" else _device_for(variant, device)
        tower = OnnxTower(path, device=device, threads=threads, purpose=purpose)
    dim, size, area = bundle.embedding_dim, bundle.preprocess.image_size, bundle.preprocess.patch_size**2
    # A tower of whole pictures has one part in each.
    parts = 1 if side == "image" and bundle.preprocess.input == "pixels" else None
    expected = {
        "patches": TensorSpec(dtype="float32", shape=(None, None, area)),
        "pixels": TensorSpec(dtype="float32", shape=(None, size, size)),
        "positions": TensorSpec(dtype="int64", shape=(None, None)),
        "input_ids": TensorSpec(dtype="int64", shape=(None, None)),
        "attention_mask": TensorSpec(dtype="int64", shape=(None, None)),
        "embedding": TensorSpec(dtype="float32", shape=(None, dim)),
        "local": TensorSpec(dtype="float32", shape=(None, parts, dim)),
        "weights": TensorSpec(dtype="float32", shape=(None, parts)),
    }
    found = {**tower.inputs, **tower.outputs}
    inputs = bundle.tower_inputs[side]
    wanted = {name: expected[name] for name in (*inputs, *TOWER_OUTPUTS)}
    if set(tower.inputs) != set(inputs) or found != wanted:
        raise BundleError(
            f"{path} is not the {side} tower that the manifest describes: it has {found}, expected {wanted}; "
            "export the bundle again"
        )
    return OneItemTower(tower) if variant is not None and variant.one_item else tower


def _device_for(variant: Precision, device: str) -> str:
    """Choose the device of a precision: the one named if it serves it, for `auto` the first that does."""
    served = [one for one in DEVICES if one in variant.runtimes]
    if device not in DEVICES:
        raise BackendError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if device in served:
        return device
    if device != "auto" or not served:
        why = {
            # Seen in onnxruntime 1.32: the optimised graph has its weights and products in fp32 again.
            ("fp16", "cpu"): ": the CPU would cast it to fp32 and gain nothing",
            ("int8", "cuda"): ": this int8 was measured on the CPU alone",
        }.get((variant.name, device), "")
        raise BackendError(
            f"{variant.name} is not served on {device}{why}; it is made for {' and '.join(variant.runtimes)}: choose "
            "another --device, or --precision fp32"
        )
    return "auto" if len(served) > 1 else served[0]


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
