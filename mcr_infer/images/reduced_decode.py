"""A codestream decoded at 1/2, 1/4 or 1/8: what its header offers, whether that serves, and where the pixels lie.

The header is read before a codec sees it, because a codec allocates whatever a codestream asks for.

A codec that leaves levels out returns ceil(H / f) x ceil(W / f) values, and these do not lie where a picture made smaller
would have them. Those of a wavelet are centered on every f-th pixel, the first on the first one, so the picture seems
shifted by (f - 1) / 2 pixels; the last row and column of either transform may stand for less than f pixels, so it seems
stretched. At the size of a tower's input that is up to half a pixel, which costs more of an embedding than all that the
levels held. The values are therefore interpolated once, onto a grid that divides the picture evenly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.pixel_format import Stored

Transform = Literal["cosine", "5/3", "9/7"]
"""Of 8 x 8 blocks, or one of the two wavelets of JPEG 2000, without loss and with it."""

MOST_HALVINGS = 3
"""Nothing is decoded below 1/8: JPEG cannot, and a radiograph of which 1/16 serves is small enough at once."""

_SOT, _SOD, _EOC, _COD, _COC = 0xFF90, 0xFF93, 0xFFD9, 0xFF52, 0xFF53


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """What the header of a codestream says about itself."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    halvings: int = 0
    """How often the codestream can be decoded at half the size of the time before, at most `MOST_HALVINGS`."""
    transform: Transform = "cosine"
    """Where `halvings` is not 0: what the values of a smaller version are coefficients of."""


def describe_jpeg(data: bytes) -> Codestream:
    """Find the frame header of JPEG (ITU-T T.81 B.2.2) or JPEG-LS (T.87 C.2.2); raises `ValueError` or `IndexError`."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no SOI marker")
    position = 2
    while True:
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise ValueError("no marker where one must be")
        if marker == 0xFF:
            position += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            frame = data[position + 4 : position + 10]
            # Blocks of the cosine transform, 8 x 8, can be transformed back to 4 x 4, 2 x 2 or 1 x 1.
            blocks = marker in (0xC0, 0xC1, 0xC2) and frame[0] == 8
            return Codestream(
                precision=frame[0],
                rows=int.from_bytes(frame[1:3], "big"),
                columns=int.from_bytes(frame[3:5], "big"),
                components=frame[5],
                halvings=MOST_HALVINGS if blocks else 0,
            )
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def describe_jpeg2000(data: bytes) -> Codestream:
    """Read the SIZ segment (ITU-T T.800 A.5.1), which some writers precede with the boxes of a JP2 file.

    Raises `ValueError` or `IndexError`.
    """
    start = data.index(b"\xff\x4f\xff\x51") + 2
    siz = start + 2
    right, bottom, left, top = (int.from_bytes(data[siz + i : siz + i + 4], "big") for i in (4, 8, 12, 16))
    depth = data[siz + 38]
    levels, wavelets = _coding_styles(data, start)
    # A smaller version cannot be had without any level, nor be placed where the picture does not begin at the origin of its
    # grid or its tiles were made by different wavelets.
    usable = levels and len(wavelets) == 1 and (left, top) == (0, 0)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=int.from_bytes(data[siz + 36 : siz + 38], "big"),
        precision=(depth & 0x7F) + 1,
        signed=depth >= 0x80,
        halvings=min(MOST_HALVINGS, *levels) if usable else 0,
        transform="5/3" if wavelets == {1} else "9/7",
    )


def _coding_styles(data: bytes, position: int) -> tuple[list[int], set[int]]:
    """Return levels and wavelets that the COD and COC segments name (T.800 A.6.1, A.6.2), of the whole and of its tiles.

    Nothing where the segments cannot be followed: decoding in full will say what is wrong.
    """
    levels: list[int] = []
    wavelets: set[int] = set()
    tile_end: int | None = None
    while position + 10 <= len(data):
        marker = int.from_bytes(data[position : position + 2], "big")
        if marker == _EOC or (marker == _SOD and tile_end is None):
            break
        if marker == _SOD:
            position, tile_end = tile_end or 0, None
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker < 0xFF30 or length < 2:
            return [], set()
        if marker == _SOT:
            tile_length = int.from_bytes(data[position + 6 : position + 10], "big")
            # 12 bytes of SOT and 2 of SOD at least; 0 means that the last tile runs to the end.
            tile_end = position + tile_length if tile_length >= 14 else None
        elif marker in (_COD, _COC):
            # Levels, two sizes of a code block, its style, the wavelet.
            style = position + (9 if marker == _COD else 6)
            levels.append(data[style])
            wavelets.add(data[style + 4])
        position += 2 + length
    return levels, wavelets


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
