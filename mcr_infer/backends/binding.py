"""Inputs and outputs of a session in memory of its device, taken once for each shape and used again for every batch.

    inputs -> bound inputs (in place) -> session -> bound outputs -> arrays

Without this, ONNX Runtime takes memory for every batch and copies from and to it as it sees fit. Written against the
documented IOBinding and OrtValue, which work on the CPU too: there the same code runs in the tests. Not yet run on a GPU by
its authors. Copies start from ordinary memory: this interface offers pinned memory to providers that are plugins only.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = 32
"""Shapes of a thread whose memory is kept; the one that was not used for longest makes room."""

Axes = tuple[int | str | None, ...]
"""Lengths of an array, or the names that the graph gives to them."""

Key = tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]


class BoundSession:
    """A session whose inputs and outputs lie on its device. Threads may share it: each has its own memory."""

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
