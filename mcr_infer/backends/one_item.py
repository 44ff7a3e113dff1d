"""A tower that takes one unpadded item a call, for precisions in which a row would depend on its neighbours.

Dynamic int8 scales its activations by the range of the whole batch: with another row, or with padding, beside it, the same
item would get another vector. Taken alone it gets the same one always, and on a CPU a batch gains nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.backends import TensorSpec, Tower
from mcr_infer.errors import BackendError


class OneItemTower:
    """Batches in, batches out, one item a call between; see `mcr_infer.backends.Tower` for the protocol."""

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
