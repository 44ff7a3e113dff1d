"""A file that xz compressed, unpacked in bounded memory: its header may ask for 4 GiB, and Python's own reader obeys."""

import io
import lzma
import os
from typing import BinaryIO, cast

from mcr_infer.errors import UnsupportedImageError

_MEMORY = 256 << 20
"""Bytes for unpacking; `xz -9` takes 65 MiB."""

_PIECE = 1 << 16


def open_xz(file: BinaryIO) -> BinaryIO:
    """Open the unpacked bytes of a file, to be read and stepped over forwards. Closing them leaves the file open.

    Reading raises `lzma.LZMAError` for damage, `EOFError` where the file is cut, and `UnsupportedImageError`
    (`compression`) where unpacking would take more than 256 MiB.
    """
    return cast(BinaryIO, io.BufferedReader(_XzFile(file)))


class _XzFile(io.RawIOBase):
    """The unpacked bytes, as they come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._here = file, 0
        self._unpacker = _unpacker()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._here

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Step forwards to a place that is counted from the beginning."""
        if whence != os.SEEK_SET or offset < self._here:
            raise io.UnsupportedOperation("an unpacked stream is read forwards only")
        while self._here < offset and self.read(min(_PIECE, offset - self._here)):
            pass
        return self._here

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        unpacked = b""
        while not unpacked and len(buffer):
            piece = b""
            if self._unpacker.eof:
                # Another stream may come behind the first, and zeros between them.
                piece = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(_PIECE).lstrip(b"\0")
                if not piece:
                    return 0
                self._unpacker = _unpacker()
            elif self._unpacker.needs_input:
                piece = self._file.read(_PIECE)
                if not piece:
                    raise EOFError
            try:
                unpacked = self._unpacker.decompress(piece, len(buffer))
            except lzma.LZMAError as error:
                if "limit" in str(error):
                    raise UnsupportedImageError(
                        f"unpacking the archive would take more than {_MEMORY >> 20} MiB: pack it with xz -9 or less",
                        reason="compression",
                    ) from error
                raise
        buffer[: len(unpacked)] = unpacked
        self._here += len(unpacked)
        return len(unpacked)


def _unpacker() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
