"""A codestream decoded at 1/2, 1/4 or 1/8: whether that serves, and where the pixels of the smaller picture lie.

A codec that leaves levels out returns ceil(H / f) x ceil(W / f) values, and these do not lie where a picture made smaller
would have them. Those of a wavelet are centred on every f-th pixel, the first on the first one, so the picture seems shifted
by (f - 1) / 2 pixels; the last row and column of either transform may stand for less than f pixels, so it seems stretched.
At the size of a tower's input that is up to half a pixel, which costs more of an embedding than all that the levels held.
The values are therefore interpolated once, onto a grid that divides the picture evenly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.codestream import Transform
from mcr_infer.images.layout import Stored

FACTORS = (8, 4, 2)

_NEIGHBOURS = {
    ("5/3", 2): 0.048, ("5/3", 4): 0.063, ("5/3", 8): 0.067, ("9/7", 2): -0.028, ("9/7", 4): -0.043, ("9/7", 8): -0.048,
}  # fmt: skip
"""What each neighbour of a value adds to it, so that frequencies up to 0.27 of a reduced pixel keep their strength within
1.3 percent: the least maximum of |H(f) (1 - 2c + 2c cos 2 pi f) - 1| over c, H being the low-pass of the wavelet (T.800
tables F.2 and F.3, as analysis filters of gain 1) at f / 2, f / 4, ... as often as levels are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a picture must keep of its pixels to be decoded smaller."""

    pixels: int
    """Along one side."""

    side: Literal["longer", "shorter"]
    """The side that is made to fit: the longer one where all of the picture is kept, the shorter one where it is cropped."""

    def __str__(self) -> str:
        return f"{self.pixels} pixels along the {self.side} side"


def choose_reduction(rows: int, columns: int, *, aspect: float, room: Room | None) -> int:
    """Return by how much H x W pixels may be reduced so that `room` is kept: 8, 4, 2, or 1 for not; None reduces nothing.

    Sides are compared as they are long on the picture. Where pixels are not square (`aspect`, row over column spacing), the
    side along which there are fewer of them a length decides.
    """
    if room is None:
        return 1
    sides = (rows * aspect, float(columns))
    pixels = (max if room.side == "longer" else min)(sides) * min(1.0, 1.0 / aspect)
    return next((factor for factor in FACTORS if pixels >= factor * room.pixels), 1)


def reduced_shape(shape: Sequence[int], factor: int) -> tuple[int, int]:
    """Return the shape that a codec gives of H x W pixels: rounded up, as both standards do."""
    return -(-shape[0] // factor), -(-shape[1] // factor)


def spread_evenly(values: Stored, shape: tuple[int, int], factor: int, transform: Transform) -> NDArray[np.float32]:
    """Interpolate reduced values onto a grid of round(H / f) x round(W / f) that spans the picture of `shape` H x W.

    Fine detail, which the low-pass of a wavelet raises or lowers by up to a fifth, is set right on the way. Values may lie
    beyond those given.
    """
    from PIL import Image

    rows, columns = shape
    # Half a pixel of the picture is where the first value of a wavelet is centred, and where it must not be counted from.
    start = 0.0 if transform == "cosine" else 0.5 - 0.5 / factor
    box = (start, start, start + columns / factor, start + rows / factor)
    even: NDArray[np.float32] = values.astype(np.float32)
    if box == (0, 0, values.shape[1], values.shape[0]):
        return even
    # The grid of a wavelet ends less than one value beyond the last one.
    even = np.pad(even, ((1, 2), (1, 2)), mode="edge")
    if share := np.float32(_NEIGHBOURS.get((transform, factor), 0.0)):
        even = even[1:-1] * (1 - 2 * share) + (even[:-2] + even[2:]) * share
        even = even[:, 1:-1] * (1 - 2 * share) + (even[:, :-2] + even[:, 2:]) * share
    else:
        even = even[1:-1, 1:-1]
    size = (max(1, round(columns / factor)), max(1, round(rows / factor)))
    # What a cosine transform loses in a shift of half a pixel at most is little, and Lanczos takes a third longer.
    method = Image.Resampling.BICUBIC if transform == "cosine" else Image.Resampling.LANCZOS
    picture = Image.fromarray(np.ascontiguousarray(even)).resize(size, method, box=box)
    return np.asarray(picture)
