"""The Pixel Data element (7FE0,0010) is read from a file: native bytes, or the fragments of one compressed frame.

Its lengths are claims of the file. Nothing is read, and no memory asked for, that the declared image could not need.
"""

import os
from array import array
from struct import unpack
from typing import BinaryIO

from mcr_infer.errors import BrokenImageError

_PIXEL_DATA = 0x7FE00010
_ITEM, _SEQUENCE_DELIMITATION = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_COMPRESSED_LIMIT = 4
"""A compressed frame never needs more than this many times the bytes of the image, and a little for small ones."""


def read_pixel_data(
    file: BinaryIO, *, implicit: bool, little_endian: bool, encapsulated: bool, native_bytes: int, bits_allocated: int
) -> tuple[bytes, tuple[str, ...]]:
    """Read the element that `file` stands at and return its bytes, exactly `native_bytes` of them or one codestream.

    The notes say what was left unread. Raises `BrokenImageError`: `no_pixel_data`, `truncated` or `corrupt`.
    """
    remaining = _remaining(file)
    if remaining == 0:
        raise BrokenImageError("the DICOM file has no pixel data (7FE0,0010)", reason="no_pixel_data")
    length, vr = _read_element_header(file, implicit=implicit, little_endian=little_endian)
    if encapsulated != (length == _UNDEFINED):
        raise BrokenImageError(
            f"the pixel data are {'not ' if encapsulated else ''}compressed, while the transfer syntax says the opposite; "
            "the file header does not belong to its pixels",
            reason="corrupt",
        )
    notes: list[str] = []
    if encapsulated:
        limit = _COMPRESSED_LIMIT * native_bytes + (1 << 16)
        data = _read_fragments(file, limit=limit)
    else:
        # Big-endian words that hold two 8-bit pixels hold them in exchanged places (PS3.5 8.1.1).
        swapped = vr == b"OW" and not little_endian and bits_allocated == 8
        data, notes = _read_native(file, length=length, expected=native_bytes, swapped=swapped)
    if (rest := _remaining(file)) > 0:
        notes.append(f"{rest} bytes after the pixel data not read")
    return data, tuple(notes)


def _remaining(file: BinaryIO) -> int:
    """Bytes from the present position to the end; zero where a cut element made the parser step beyond it."""
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return max(0, end - here)


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise BrokenImageError("the file ends inside its pixel data; copy it again from its source", reason="truncated")
    return data


def _read_element_header(file: BinaryIO, *, implicit: bool, little_endian: bool) -> tuple[int, bytes]:
    """Read tag, VR and length (PS3.5 7.1); return the length, and the VR or nothing where it is implicit."""
    order = "<" if little_endian else ">"
    group, element = unpack(f"{order}HH", _read(file, 4))
    if group << 16 | element != _PIXEL_DATA:
        raise BrokenImageError(
            "the pixel data are floating point (7FE0,0008 or 7FE0,0009), which no radiograph has; expected (7FE0,0010)",
            reason="no_pixel_data",
        )
    vr = b"" if implicit else _read(file, 4)[:2]
    if vr not in {b"", b"OB", b"OW", b"UN"}:
        raise BrokenImageError("the pixel data (7FE0,0010) have a VR other than OB and OW", reason="corrupt")
    length: int = unpack(f"{order}L", _read(file, 4))[0]
    return length, vr


def _read_native(file: BinaryIO, *, length: int, expected: int, swapped: bool) -> tuple[bytes, list[str]]:
    notes = check_native_length(length, expected, held=min(length, _remaining(file)))
    data = _read(file, length)
    if swapped:
        words = array("H", data[: length & ~1])
        words.byteswap()
        data = words.tobytes()
    return data[:expected], notes


def check_native_length(length: int, expected: int, *, held: int | None = None) -> list[str]:
    """Return the notes on uncompressed pixel data of `length` bytes, `held` of which the file holds.

    Raises `BrokenImageError` (`truncated`, `corrupt`) where they are not the `expected` bytes of the image with padding.
    """
    held = length if held is None else held
    if held < expected:
        raise BrokenImageError(
            f"the pixel data are too short: Rows, Columns and Bits Allocated need {expected} bytes, the file holds {held}; "
            "the file is cut or its header is wrong",
            reason="truncated",
        )
    # Writers pad to even lengths, some to whole sectors. Far more than that is an image of another size, and reading
    # it with a wrong row length would give a sheared picture that nobody notices.
    surplus = length - expected
    if surplus > max(1024, expected // 64):
        raise BrokenImageError(
            f"the pixel data are too long: Rows, Columns and Bits Allocated need {expected} bytes, the element has {length}",
            reason="corrupt",
        )
    return [f"{surplus} bytes of padding in the pixel data ignored"] if surplus > 1 else []


def _read_fragments(file: BinaryIO, *, limit: int) -> bytes:
    """Join the fragments of a single frame (PS3.5 A.4); the offset table before them says nothing that is needed."""
    fragments: list[bytes] = []
    total = 0
    while True:
        group, element, length = unpack("<HHL", _read(file, 8))
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITATION:
            break
        if tag != _ITEM or length == _UNDEFINED:
            raise BrokenImageError("the compressed pixel data are not a sequence of fragments", reason="corrupt")
        total += length
        if total > limit:
            raise BrokenImageError(
                f"the compressed pixel data are longer than {limit} bytes, {_COMPRESSED_LIMIT} times the image itself",
                reason="corrupt",
            )
        fragments.append(_read(file, length))
    frame = b"".join(fragments[1:])
    if not frame:
        raise BrokenImageError("the compressed pixel data hold no fragment", reason="no_pixel_data")
    return frame
