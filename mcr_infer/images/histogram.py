"""How many pixels have each stored value, and what is computed from that: histogram equalization.

A histogram is counted only when it is needed, since it is the slowest step of rendering. Equalization equals that of
OpenCV's `equalizeHist` bit for bit, after the reduction to 8 bits that MIMIC-CXR-JPG used. The paper of that data set (arXiv
1901.07042) names the steps: subtract the lowest value, divide by the highest that remains, multiply by 255, truncate; invert
where needed; equalize.
"""

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.pixel_format import Stored

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


def equalized_levels(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the new level of each of 256 levels from the pixels that have it [256].

    The lowest level in use becomes 0 and is left out of the sum; the others become their share of the pixels in float32,
    rounded half to even. One level alone stays as it is.
    """
    lowest = int(np.flatnonzero(counts)[0])
    rest = int(counts.sum() - counts[lowest])
    if rest == 0:
        return np.arange(256, dtype=np.uint8)
    below = np.cumsum(counts)
    below -= counts[lowest]
    below[:lowest] = 0
    scaled = below.astype(np.float32) * (np.float32(255) / np.float32(rest))
    levels: NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return levels


def mimic_cxr_jpg_levels(counts: NDArray[np.int64], *, inverted: bool) -> NDArray[np.uint8]:
    """Return the level of 8 bits for each stored value [L] from the lowest to the highest, given their pixels [L]."""
    values = np.arange(len(counts), dtype=np.float64)
    eight_bits = (values / max(len(counts) - 1, 1) * 255).astype(np.uint8)
    if inverted:
        eight_bits = 255 - eight_bits
    pixels = np.bincount(eight_bits, weights=counts, minlength=256).astype(np.int64)
    return equalized_levels(pixels)[eight_bits]
