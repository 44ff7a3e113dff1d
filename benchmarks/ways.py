"""Every way to run a tower that the matrix knows: a backend and a precision, opened, or the reason why there is none here.

The same network with the same weights: `train.model` in PyTorch, and everywhere else the bundle exported from it. What runs
on a GPU is written against the documented interfaces and has not been run on one by us.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Clock, cuda_clock
from mcr_infer.errors import BackendError, McrError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.tower import Side

Inputs = Mapping[str, NDArray[Any]]
Call = Callable[[Inputs], NDArray[np.float32]]

RUNTIMES = {
    "ONNX Runtime CPU": ("cpu", ("fp32", "int8")),
    "ONNX Runtime CUDA": ("cuda", ("fp32", "fp16")),
    "TensorRT": ("tensorrt", ("fp32", "fp16", "int8-qdq")),
}
"""Devices of the wheel, with the precisions that it serves on them."""

NOT_THERE = {
    ("ONNX Runtime CPU", "fp16"): "on a CPU the optimised graph computes in fp32 again: the wheel refuses it",
    ("ONNX Runtime CPU", "bf16"): "no kernels for bfloat16 on x86 (python -m benchmarks.towers)",
    ("ONNX Runtime CUDA", "bf16"): "export writes no bfloat16",
    ("ONNX Runtime CUDA", "int8"): "the int8 of export is measured for CPUs alone",
    ("TensorRT", "bf16"): "export writes no bfloat16",
    ("torch.compile", "bf16"): "left out: compiling takes a minute a tower, fp32 shows what it brings",
    ("torch.compile", "int8"): "left out, as bf16",
}
"""Ways that no machine has here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One backend in one precision."""

    backend: str
    precision: str
    call: Call | None = None
    """None where it does not run here."""

    why_not: str = ""
    opened: float = 0.0
    """Seconds of loading or converting; what is compiled is compiled in the first call."""

    clock: Clock | None = None
    """None is the clock on the wall."""

    middle_only: bool = False
    """Whether each further shape would cost as long as opening did."""

    def __post_init__(self) -> None:
        if (self.call is None) != bool(self.why_not):
            raise ValueError(f"{self.name} either runs or has a reason why it does not")

    @property
    def name(self) -> str:
        """Backend and precision."""
        return f"{self.backend}, {self.precision}"

    @property
    def on_gpu(self) -> bool:
        """Whether the processor does none of the work."""
        return self.backend == "TensorRT" or self.backend.endswith("CUDA")

    def run(self, inputs: Inputs) -> NDArray[np.float32]:
        """Embed one batch to unit vectors [N, D]."""
        if self.call is None:
            raise ValueError(f"{self.name} does not run here: {self.why_not}")
        return self.call(inputs)


def ways(bundle: Bundle, model: Any, side: Side, *, threads: int, compiled: bool) -> Iterator[Way]:
    """Open every way to run one tower; `model` is the torch module in evaluation mode whose weights the bundle has."""
    import torch

    torch.set_num_threads(threads)
    yield from _torch_cpu(model, side, compiled=compiled)
    yield from _torch_cuda(model, side)
    for backend, (device, precisions) in RUNTIMES.items():
        missing = ""
        for precision in precisions:
            started = time.perf_counter()
            try:
                # Once the runtime itself is missing, that is why, and not what the bundle lacks besides.
                if missing:
                    raise BackendError(missing)
                tower = open_tower(bundle, side, device=device, precision=precision, threads=threads, purpose="bulk")
            except McrError as error:
                missing = str(error).split(":")[0][:100]
                yield Way(backend=backend, precision=precision, why_not=missing)
                continue
            yield Way(
                backend=backend,
                precision=precision,
                # Returns once the vectors are in memory of the host: the clock on the wall sees all of it.
                call=lambda inputs, tower=tower: tower.run(inputs, ("embedding",))["embedding"],
                opened=time.perf_counter() - started,
            )
    for (backend, precision), reason in NOT_THERE.items():
        yield Way(backend=backend, precision=precision, why_not=reason)


def _torch_cpu(model: Any, side: Side, *, compiled: bool) -> Iterator[Way]:
    yield Way(backend="torch eager", precision="fp32", call=_torch(model, side))
    for precision in ("bf16", "fp16"):
        yield Way(backend="torch eager", precision=precision, call=_torch(model, side, precision=precision))
    started = time.perf_counter()
    smaller = _quantised(model)
    opened = time.perf_counter() - started
    yield Way(backend="torch eager", precision="int8", call=_torch(smaller, side), opened=opened)
    if compiled:
        yield Way(backend="torch.compile", precision="fp32", call=_torch(model, side, compiled=True), middle_only=True)
    else:
        why_not = "left out of the quick run: compiling takes a minute"
        yield Way(backend="torch.compile", precision="fp32", why_not=why_not)


def _torch_cuda(model: Any, side: Side) -> Iterator[Way]:
    import torch

    wanted = [("torch eager CUDA", precision) for precision in ("fp32", "bf16", "fp16")]
    wanted.append(("torch.compile CUDA", "fp16"))
    if not torch.cuda.is_available():
        for backend, precision in wanted:
            yield Way(backend=backend, precision=precision, why_not="PyTorch finds no GPU")
        return
    started = time.perf_counter()
    moved = copy.deepcopy(model).to("cuda")
    torch.cuda.synchronize()
    opened = time.perf_counter() - started
    for backend, precision in wanted:
        compiled = backend.startswith("torch.compile")
        call = _torch(moved, side, precision=precision, device="cuda", compiled=compiled)
        yield Way(
            backend=backend, precision=precision, call=call, opened=opened, clock=cuda_clock, middle_only=compiled
        )


def _torch(model: Any, side: Side, *, precision: str = "fp32", device: str = "cpu", compiled: bool = False) -> Call:
    """Return a call from arrays to unit vectors [N, D], copies to and from the device included."""
    import torch

    encode = model.encode_image if side == "image" else model.encode_text
    called = torch.compile(encode) if compiled else encode
    form = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def run(inputs: Inputs) -> NDArray[np.float32]:
        given = [torch.from_numpy(array).to(device) for array in inputs.values()]
        with torch.inference_mode(), torch.autocast(device, form, enabled=form is not None):
            embedding: NDArray[np.float32] = called(*given)[0].float().cpu().numpy()
        return embedding

    return run


def _quantised(model: Any) -> Any:
    """Quantise the linear layers as PyTorch documents it for CPUs: int8 weights, activations by their range in each call."""
    import torch

    with warnings.catch_warnings():
        # It is announced to move to a package of its own.
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
