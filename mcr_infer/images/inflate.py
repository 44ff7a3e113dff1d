"""A deflated data set (PS3.5 A.5) is inflated, within limits."""

import zlib
from io import BytesIO
from typing import BinaryIO

from mcr_infer.errors import BrokenImageError, UnsupportedImageError

_LARGEST_HEADER = 64 << 20
"""Bytes that a deflated data set may have besides its pixels."""


def inflate(file: BinaryIO, max_pixels: int) -> BinaryIO:
    """Inflate the rest of a file, but never to more than the largest image and its header can need.

    Raises `BrokenImageError` (`truncated`, `corrupt`) or `UnsupportedImageError` (`too_large`).
    """
    limit = 2 * max_pixels + _LARGEST_HEADER
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = BytesIO()
    try:
        while not inflater.eof:
            piece = inflater.unconsumed_tail or file.read(1 << 20)
            part = inflater.decompress(piece, 1 << 24)
            if not (piece or part or inflater.eof):
                raise BrokenImageError("the deflated data set ends too early: the file is cut", reason="truncated")
            inflated.write(part)
            if inflated.tell() > limit:
                raise UnsupportedImageError(f"the data set inflates to more than {limit} bytes", reason="too_large")
    except zlib.error:
        raise BrokenImageError("the deflated data set cannot be inflated", reason="corrupt") from None
    inflated.seek(0)
    return inflated
