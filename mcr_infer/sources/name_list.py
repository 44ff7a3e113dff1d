"""A list of names, as other programs write it: one a line or NUL-separated, from a file or from standard input."""

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.opening import unreadable

STANDARD_INPUT = "-"

_LONGEST_NAME = 1 << 16
"""Bytes; Linux takes 4,096 for a path, and an address of a PACS can be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameList:
    """Where names stand. They are read while they are asked for, so the program that writes them need not have ended."""

    path: str
    """A file, or `-` for standard input."""
    null: bool = False
    """Names end with NUL instead of the end of a line, as `find -print0` writes them: they may contain line ends."""

    def __post_init__(self) -> None:
        if self.path == STANDARD_INPUT:
            return
        try:
            Path(self.path or "\0").stat()
        except (OSError, ValueError) as error:
            raise BrokenImageError(
                f"{self.path!r} is not there; expected a list of names, or - for standard input", reason="missing"
            ) from error

    @property
    def once(self) -> bool:
        """True where the names can be read only once: standard input, a pipe."""
        return self.path == STANDARD_INPUT or not stat.S_ISREG(Path(self.path).stat().st_mode)

    def __iter__(self) -> Iterator[str]:
        """Yield the names in order, without empty ones; bytes that are not UTF-8 become surrogates.

        Raises `BrokenImageError` where the list cannot be read, or where something is too long for a name.
        """
        try:
            if self.path == STANDARD_INPUT:
                yield from self._split(sys.stdin.buffer)
            else:
                with Path(self.path).open("rb") as stream:
                    yield from self._split(stream)
        except OSError as error:
            raise unreadable(error) from error

    def _split(self, stream: IO[bytes]) -> Iterator[str]:
        separator, rest = (b"\0" if self.null else b"\n"), b""
        # read1 returns what is there: names of a slow pipe are worked on while it thinks about the next.
        read = getattr(stream, "read1", stream.read)
        while piece := read(_LONGEST_NAME):
            *names, rest = (rest + piece).split(separator)
            if len(rest) > _LONGEST_NAME:
                raise BrokenImageError(
                    f"a name of more than {_LONGEST_NAME} bytes: is this a list, and are its names separated by "
                    f"{'NUL' if self.null else 'line ends'}? --null says NUL",
                    reason="corrupt",
                )
            yield from filter(None, map(self._name, names))
        if name := self._name(rest):
            yield name

    def _name(self, data: bytes) -> str:
        return os.fsdecode(data if self.null else data.removesuffix(b"\r"))
