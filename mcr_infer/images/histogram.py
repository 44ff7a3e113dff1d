"""How many pixels have each stored value, counted only when somebody needs to know: it is what rendering waits for most."""

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.layout import Stored

_EVERY = 16
"""Of these rows one is in the sample."""

_BLOCK = 1 << 18
"""Pixels at a time: numpy widens indices to 64 bits, eight bytes a pixel, which should not happen to a whole image."""


class Histogram:
    """The levels [L] of stored values [H, W] from the lowest to the highest, and the pixels of each that are no padding."""

    def __init__(self, stored: Stored, padding: tuple[int, int] | None) -> None:
        self._stored, self._low = stored, int(stored.min())
        self.levels: NDArray[np.int64] = np.arange(self._low, int(stored.max()) + 1)
        self.padded: NDArray[np.bool_] = np.zeros(len(self.levels), dtype=bool)
        """Levels that are padding."""
        if padding is not None:
            self.padded = (self.levels >= padding[0]) & (self.levels <= padding[1])
        self._counts: NDArray[np.int64] | None = None

    @property
    def pixels(self) -> int:
        """All pixels, padding among them."""
        return self._stored.size

    def counts(self) -> NDArray[np.int64]:
        """Return the pixels [L] of each level, 0 for padding."""
        if self._counts is None:
            self._counts = self._count(self._stored)
        return self._counts

    def counts_of_some_rows(self) -> NDArray[np.int64]:
        """Return the pixels [L] of each level in every sixteenth row, 0 for padding."""
        return self._count(self._stored[::_EVERY])

    def _count(self, stored: Stored) -> NDArray[np.int64]:
        counts = np.zeros(len(self.levels), dtype=np.int64)
        flat = stored.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            index = flat[start : start + _BLOCK].astype(np.intp)
            index -= self._low
            counts += np.bincount(index, minlength=len(counts))
        counts[self.padded] = 0
        return counts
