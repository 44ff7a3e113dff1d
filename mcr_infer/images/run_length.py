"""RLE (PS3.5 annex G): the bytes of the pixels, one plane after the other, each packed by PackBits."""

import numpy as np

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.layout import PixelFormat


def unpack_runs(data: bytes, layout: PixelFormat) -> bytes:
    """Decode one segment a byte of the pixel, the most significant first; return little endian.

    Raises `BrokenImageError` (`truncated`, `corrupt`).
    """
    planes, count = layout.bits_allocated // 8, layout.rows * layout.columns
    header = np.frombuffer(data[:64].ljust(64, b"\0"), dtype="<u4").tolist()
    starts = [*header[1 : planes + 1], len(data)]
    if header[0] != planes or starts[0] < 64 or starts != sorted(starts):
        raise BrokenImageError(
            f"the RLE data have a header that does not fit {planes} segment(s) in {len(data)} bytes", reason="corrupt"
        )
    cells = np.empty((count, planes), dtype=np.uint8)
    for plane in range(planes):
        segment = _unpack_segment(data[starts[plane] : starts[plane + 1]], count)
        cells[:, planes - 1 - plane] = np.frombuffer(segment, dtype=np.uint8)
    return cells.tobytes()


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
