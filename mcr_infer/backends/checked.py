"""What the towers of every runtime share: what they take and give, and the refusal of anything else.

A runtime adds where its shapes come from and how a batch is computed; see `mcr_infer.backends.Tower` for the protocol.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mcr_infer.backends import TensorSpec
from mcr_infer.errors import BackendError


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
