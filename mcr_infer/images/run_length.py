"""RLE (PS3.5 annex G): the bytes of the pixels, one plane after the other, each packed by PackBits."""

import contextlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.pixel_format import PixelFormat, Stored
from mcr_infer.images.third_party import imagecodecs_if_installed


def unpack_runs(data: bytes, layout: PixelFormat) -> Stored:
    """Decode one segment a byte of the pixel, the most significant first; return the cells of Bits Allocated [H, W].

    Raises `BrokenImageError` (`truncated`, `corrupt`).
    """
    planes, count = layout.bits_allocated // 8, layout.rows * layout.columns
    header = np.frombuffer(data[:64].ljust(64, b"\0"), dtype="<u4").tolist()
    starts = [*header[1 : planes + 1], len(data)]
    # The first segment stands right behind the header; one that is said to begin later would be decoded from its middle.
    if header[0] != planes or starts[0] != 64 or starts != sorted(starts):
        raise BrokenImageError(
            f"the RLE data have a header that does not fit {planes} segment(s) in {len(data)} bytes", reason="corrupt"
        )
    view = memoryview(data)
    segments = [view[start:end] for start, end in pairwise(starts)]
    highest, *lower = (_unpack_fast(segment, count) for segment in segments)
    cells: Stored = highest
    for plane in lower:
        cells = cells.astype(np.uint16) << 8
        cells |= plane
    return cells.reshape(layout.rows, layout.columns)


def _unpack_fast(segment: memoryview, count: int) -> NDArray[np.uint8]:
    """Decode a segment with imagecodecs, twenty times faster than here; whatever it does not like is judged here."""
    out = np.empty(count, dtype=np.uint8)
    if (codecs := imagecodecs_if_installed()) is not None:
        # It writes no further than the end of `out`, and raises instead.
        with contextlib.suppress(RuntimeError):
            if len(codecs.packbits_decode(segment, out=out)) == count:
                return out
    return np.frombuffer(_unpack_segment(bytes(segment), count), dtype=np.uint8)


def _unpack_segment(segment: bytes, count: int) -> bytes:
    """Decode one PackBits segment to exactly `count` bytes (PS3.5 G.3.2)."""
    out = bytearray()
    position, end = 0, len(segment)
    while len(out) < count and position < end:
        control = segment[position]
        if control < 128:
            out += segment[position + 1 : position + 2 + control]
            position += control + 2
        elif control > 128:
            out += segment[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    if len(out) != count:
        reason = "truncated" if len(out) < count else "corrupt"
        raise BrokenImageError(f"an RLE segment decodes to {len(out)} bytes, expected {count}", reason=reason)
    return bytes(out)
