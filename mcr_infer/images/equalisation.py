"""Histogram equalisation as OpenCV's `equalizeHist` does it, bit for bit, and the 8 bits that MIMIC-CXR-JPG made before it.

The data set's paper (arXiv 1901.07042) names the steps: lowest value subtracted, divided by the highest that remains, times
255, truncated; inverted where that is needed; equalised.
"""

import numpy as np
from numpy.typing import NDArray


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
