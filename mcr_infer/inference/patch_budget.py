"""The patch budget: which patches of a radiograph an image tower sees when it is not given all of them.

    patches [N, P*P] of the whole square -> ground or picture, rim inwards -> even spread -> positions [K], ascending

What shows nothing is left out first: black borders and the padding of the square, then collimation and empty background,
black, grey or white. Among what remains the choice is an even spread over the grid, whatever the patches show: to take
those of the most texture would blind the tower to a quiet lung field.

The order in which patches are taken does not depend on how many are wanted, so a smaller budget sees a subset of what a
larger one sees. Nothing is drawn by chance: the same pixels give the same patches.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ConfigError

RECOMMENDED = "recommended"
"""What a user says instead of a number for the budget that the bundle names."""

BLACK = 0.05
"""Pixels below this, of [0, 1], are black: air beside the body, shutters, padding. The rounding of 8 bits is 0.002."""

_GROUND = ((0.01, 0.9), (0.015, 0.75))
"""Standard deviation of a patch below which it is flat, and share of its pixels above which it is black, first strictly,
then with room for noise and for the edge of a body. A quarter of a patch is the least that shows more than an edge."""

_SHUTTER = 4
"""Flat ground that is not black is no deeper than the fourth part of the picture: beyond that it is a body without detail,
an abdomen or a lung that is white throughout, and no collimator leaves less than half of a chest."""

_SCALE = 2**28
"""Of the kernel of the spread in whole numbers, whose sums are the same on every machine."""

_TAKEN = 2**61
"""Above what a cell can gather, which is the sum of the whole kernel, 2 pi * 2^56, for a grid of any size."""


def parse_budget(text: str) -> float | None:
    """Read a patch budget as a user writes it: a share in (0, 1], or `recommended`, which is None.

    Raises `ConfigError` for anything else.
    """
    if text == RECOMMENDED:
        return None
    try:
        return checked_budget(float(text))
    except ValueError:
        raise ConfigError(f"a patch budget is a number in (0, 1] or the word {RECOMMENDED}, got {text!r}") from None


def checked_budget(budget: float) -> float:
    """Return a budget; raises `ConfigError` where it is no share in (0, 1]."""
    if not 0.0 < budget <= 1.0:
        raise ConfigError(
            f"a patch budget is the share of the patches that the image tower sees, in (0, 1]; got {budget:g}"
        )
    return budget


def count_of(budget: float, patches: int) -> int:
    """Return K, how many of all patches a budget is: at least one. Raises `ConfigError` as `checked_budget`."""
    return max(1, round(checked_budget(budget) * patches))


def chosen_positions(patches: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Choose `count` of the patches [N, P*P] of a whole square, row by row, of values in [0, 1].

    Returns their positions [count], ascending.
    """
    order = np.lexsort((spread(math.isqrt(len(patches))), emptiness(patches)))
    return np.sort(order[:count]).astype(np.int64)


def emptiness(patches: NDArray[np.float32]) -> NDArray[np.int64]:
    """Say of each patch [N, P*P] how little it shows, [N]: 3 black, 2 and 1 empty ground, strictly and roughly, 0 picture.

    Ground reaches a patch from the rim, in a straight line through ground alone: what is flat in the middle of the picture
    may be a heart, and stays.
    """
    side = math.isqrt(len(patches))
    black = (patches < BLACK).mean(axis=1).reshape(side, side)
    deviation = patches.std(axis=1).reshape(side, side)
    border = _border(black == 1.0)
    found = np.zeros((side, side), dtype=np.int64)
    for flat, share in _GROUND:
        found += _from_the_rim((black > share) | (border & (deviation < flat)))
    found += (found == len(_GROUND)) & (black == 1.0)
    return found.reshape(-1)


def _border(black: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the cells of a grid [S, S] that a shutter may cover: the outer parts of the picture, without its black frame."""
    near = []
    for axis in (1, 0):
        lines = np.flatnonzero(~black.all(axis=axis))
        if not lines.size:
            return np.ones_like(black)
        first, last = int(lines[0]), int(lines[-1])
        depth = max(1, (last - first + 1) // _SHUTTER)
        places = np.arange(len(black))
        near.append((places < first + depth) | (places > last - depth))
    rows, columns = near
    return rows[:, None] | columns[None, :]


def _from_the_rim(ground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the cells of a grid [S, S] that a straight line of ground connects to one of the four sides."""
    unbroken = np.logical_and.accumulate
    down, up = unbroken(ground, axis=0), unbroken(ground[::-1], axis=0)[::-1]
    right, left = unbroken(ground, axis=1), unbroken(ground[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(down | up | right | left)


@functools.cache
def spread(side: int) -> NDArray[np.int64]:
    """Rank the cells of a square grid of `side` cells a side, row by row [side * side]: the first K are spread evenly.

    Each next cell is the one with the fewest neighbours taken, weighted by a Gaussian of one cell: the largest void
    (Ulichney, The void-and-cluster method for dither array generation, SPIE 1913, 1993). Of equals the first is taken.
    """
    weights = [round(_SCALE * math.exp(-(distance**2) / 2)) for distance in range(side)]
    kernel = np.array([*weights[:0:-1], *weights], dtype=np.int64)
    """Around its middle, at side - 1."""
    ranks = np.empty(side * side, dtype=np.int64)
    crowd = np.zeros((side, side), dtype=np.int64)
    row = column = side // 2
    for rank in range(side * side):
        ranks[row * side + column] = rank
        down = kernel[side - 1 - row : 2 * side - 1 - row]
        crowd += np.outer(down, kernel[side - 1 - column : 2 * side - 1 - column])
        crowd[row, column] = _TAKEN
        row, column = divmod(int(crowd.argmin()), side)
    ranks.setflags(write=False)  # everybody is given the same array
    return ranks
