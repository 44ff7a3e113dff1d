"""Text files as reports come in them: the encoding by the byte order mark, physical lines of bounded length."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

LONGEST_LINE = 1 << 22
"""Characters of a line that are held; the rest of a longer one is read past."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The mark of UTF-16 begins that of UTF-32.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(start: bytes) -> str:
    """Return the encoding that the first four bytes of a file announce, UTF-8 where they announce none."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def open_text(path: Path) -> TextIO:
    """Open a text file with its line ends as they are. Raises `OSError`.

    What is not valid in its encoding becomes surrogates, so that only the row that holds it need be refused.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    return path.open(encoding=encoding, errors=errors, newline="")


class Line(NamedTuple):
    """A physical line with its end."""

    number: int
    """From 1."""
    text: str
    """Of a line longer than `LONGEST_LINE` the beginning."""
    cut: bool = False
    """True for the beginning of a longer line."""
    quotes_beyond: int = 0
    """How often `"` stands in the rest of such a line."""

    @property
    def quotes(self) -> int:
        """How often `"` stands in the line."""
        return self.text.count('"') + self.quotes_beyond


class Lines:
    """The physical lines of a stream, which end with LF, CR LF or CR; lines can be put back."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._back: list[Line] = []
        self._number = 0

    def take(self) -> Line | None:
        """Return the next line, None at the end. Raises `OSError`, and `UnicodeError` where nothing more can be decoded."""
        if self._back:
            return self._back.pop()
        text = self._stream.readline(LONGEST_LINE)
        if not text:
            return None
        self._number += 1
        if len(text) < LONGEST_LINE or text.endswith(("\n", "\r")):
            return Line(self._number, text)
        quotes = 0
        while (rest := self._stream.readline(LONGEST_LINE)) and not rest.endswith(("\n", "\r")):
            quotes += rest.count('"')
        return Line(self._number, text, cut=True, quotes_beyond=quotes + rest.count('"'))

    def put_back(self, lines: Sequence[Line]) -> None:
        """Let `take` return these lines again, in their order."""
        self._back += reversed(lines)
