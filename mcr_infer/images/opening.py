"""An image file is opened, or refused in words: the first step of every reader."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mcr_infer.errors import BrokenImageError

ImageSource = str | Path | BinaryIO
"""What a reader takes: a path, or an open stream that can be sought, such as a member of an archive or `io.BytesIO`."""

_READ_AHEAD = 1 << 18
"""Bytes of the first read: a whole DICOM header as a rule, so that parsing it does not wait for a slow share."""


@contextmanager
def opened(source: ImageSource) -> Iterator[BinaryIO]:
    """Open a path for the length of the block, or go to the first byte of a stream, which stays open.

    A stream is read from its beginning to its end, and its end is asked for: where going back means to unpack again, as in
    a compressed member of a zip archive, read it into `io.BytesIO` first. Raises `BrokenImageError` as `open_image` does.
    Failures of the file system inside the block are put into words, too.
    """
    try:
        if isinstance(source, str | Path):
            with open_image(source) as file:
                yield file
            return
        if source.seek(0, os.SEEK_END) == 0:
            raise _empty()
        source.seek(0)
        yield source
    except OSError as error:
        raise unreadable(error) from error


def open_image(path: str | Path) -> BinaryIO:
    """Open a regular, non-empty file.

    Raises `BrokenImageError` with the reason `missing`, `unreadable` or `empty_file`.
    """
    try:
        # Opening a named pipe would wait for a writer for ever, so its kind is asked first.
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
            raise BrokenImageError(f"{path} is {kind}, expected an image file", reason="unreadable")
        if status.st_size == 0:
            raise _empty()
        return Path(path).open("rb", buffering=_READ_AHEAD)
    except FileNotFoundError as error:
        raise BrokenImageError(f"{path} does not exist", reason="missing") from error
    except (OSError, ValueError) as error:
        raise unreadable(error) from error


def _empty() -> BrokenImageError:
    return BrokenImageError("the file is empty (0 bytes)", reason="empty_file")


def unreadable(error: OSError | ValueError) -> BrokenImageError:
    """Put a failure of the file system, or a path that no file system takes, into words."""
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return BrokenImageError(f"the file cannot be opened or read: {why}", reason="unreadable")
