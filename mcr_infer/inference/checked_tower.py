"""What the towers of every runtime share: checks of what they take and give, and batches of one item a call.

A runtime adds where its shapes come from and how a batch is computed; see `inference.tower.Tower` for the protocol.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BackendError
from mcr_infer.inference.tower import TensorSpec, Tower


class CheckedTower(ABC):
    """A tower of one file on one device. What it computes has been checked: names, types and shapes of the inputs."""

    _remedy: ClassVar[str] = ""
    """What to do about a shape that is not taken."""

    def __init__(
        self, path: Path, *, device: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        self._path, self._device = path, device
        self._inputs, self._outputs = inputs, outputs

    @property
    def device(self) -> str:
        """Where it really runs: `cpu`, `cuda`, `tensorrt` or `tensorrt-rtx`."""
        return self._device

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs, all of them required."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The outputs that may be asked for."""
        return self._outputs

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run one batch; raises `BackendError` when inputs do not fit the tower or the runtime fails."""
        if set(inputs) != set(self._inputs):
            raise BackendError(f"{self._path} takes {sorted(self._inputs)}, got {sorted(inputs)}")
        for name, spec in self._inputs.items():
            array = inputs[name]
            if array.dtype != np.dtype(spec.dtype) or array.size == 0 or not self._takes(name, array.shape):
                raise BackendError(
                    f"{self._path}: {name} must be {spec.dtype} {self._wanted(name)}, got {array.dtype} of shape "
                    f"{list(array.shape)}{self._remedy}"
                )
        names = tuple(self._outputs) if outputs is None else tuple(outputs)
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise BackendError(f"{self._path} has no output {unknown}; it gives {list(self._outputs)}")
        return self._compute({name: inputs[name] for name in self._inputs}, names)

    @abstractmethod
    def _takes(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether an input may have a shape."""

    @abstractmethod
    def _wanted(self, name: str) -> str:
        """Say which shapes an input may have."""

    @abstractmethod
    def _compute(self, inputs: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Run one batch that fits, inputs in the order of `inputs`; raises `BackendError` when the runtime fails."""


class OneItemTower:
    """A tower that takes one unpadded item a call, for precisions in which a row would depend on its neighbors.

    Dynamic int8 scales its activations by the range of the whole batch: with another row, or with padding, beside it, the
    same item would get another vector. Taken alone it always gets the same one, and on a CPU a batch gains nothing.
    """

    def __init__(self, tower: Tower) -> None:
        self._tower = tower

    @property
    def device(self) -> str:
        """Where the tower really runs."""
        return self._tower.device

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs of the tower."""
        return self._tower.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The outputs of the tower."""
        return self._tower.outputs

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run the items of a batch one by one; outputs are 0 where the item had padding.

        Raises `BackendError` as the tower does, and where padding is not at the end of its row.
        """
        mask = inputs.get("attention_mask")
        if not inputs or any(array.ndim < 2 or len(array) == 0 for array in inputs.values()):
            return self._tower.run(inputs, outputs)  # names what does not fit
        rows = {len(array) for array in inputs.values()}
        if len(rows) != 1:
            raise BackendError(f"the inputs of a batch have {sorted(rows)} rows, expected as many each")
        count, length = next(iter(inputs.values())).shape[:2]
        ends = np.full(count, length) if mask is None else (mask > 0).sum(axis=1)
        if mask is not None and not np.array_equal(mask > 0, np.arange(length) < ends[:, None]):
            raise BackendError("attention_mask must be 1 for the words and 0 for the padding after them")
        parts = [
            self._tower.run({name: array[row : row + 1, :end] for name, array in inputs.items()}, outputs)
            for row, end in enumerate(ends)
        ]
        return {name: _joined([part[name] for part in parts], length, self.outputs[name]) for name in parts[0]}


def _joined(parts: Sequence[NDArray[Any]], length: int, spec: TensorSpec) -> NDArray[Any]:
    """Stack outputs [1, ...] of single items; those with an axis of their length are filled up with 0."""
    if len(spec.shape) < 2 or spec.shape[1] is not None:
        return np.concatenate(parts)
    whole = np.zeros((len(parts), length, *parts[0].shape[2:]), dtype=parts[0].dtype)
    for row, part in enumerate(parts):
        whole[row, : part.shape[1]] = part[0]
    return whole
