"""Many texts in two arrays, so that a list of hundreds of thousands costs its letters and eight bytes each.

Worker processes share the arrays instead of counting references to objects, which would copy every page they touch.
"""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


class StringsBuilder:
    """Texts while they are collected; None is kept apart from the empty text."""

    def __init__(self) -> None:
        self._letters, self._ends, self._absent = bytearray(), array("q", [0]), array("q")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, text: str | None) -> None:
        """Add one text at the end."""
        if text is None:
            self._absent.append(len(self))
        else:
            self._letters += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._letters))

    def strings(self) -> "Strings":
        """Return all texts so far."""
        letters = np.frombuffer(bytes(self._letters), dtype=np.uint8)
        return Strings(letters, np.array(self._ends, dtype=np.int64), np.array(self._absent, dtype=np.int64))


class Strings:
    """Texts [N] in a fixed order, each a str or None."""

    def __init__(self, letters: NDArray[np.uint8], ends: NDArray[np.int64], absent: NDArray[np.int64]) -> None:
        self._letters, self._ends, self._absent = letters, ends, absent

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "Strings":
        """Collect texts."""
        builder = StringsBuilder()
        for text in texts:
            builder.append(text)
        return builder.strings()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str | None:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._absent, index))
        if place < len(self._absent) and self._absent[place] == index:
            return None
        return self._letters[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str | None]:
        return (self[index] for index in range(len(self)))
