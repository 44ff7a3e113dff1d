"""The header of a JPEG or JPEG 2000 codestream: what it says of its own size, depth and smaller versions.

It is read before a codec is, which allocates whatever a codestream asks for.
"""

from dataclasses import dataclass
from typing import Literal

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
