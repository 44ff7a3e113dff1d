"""Where the elements of a data set lie in their file: which of them are stated twice, and whether they are in order."""

from collections.abc import Mapping
from typing import BinaryIO, Literal

from mcr_infer.images.attributes import Unusable

_UNDEFINED = 0xFFFFFFFF


class Elements:
    """The elements that a parser meets in a data set or an item of one, of which PS3.5 7.1 wants one each, by rising tags.

    Parsers keep the last one of a tag, or the first one, and do not say so.
    """

    def __init__(self, stream: BinaryIO, *, little_endian: bool) -> None:
        self.stream = stream
        self._order: Literal["little", "big"] = "little" if little_endian else "big"
        self._first_value = stream.tell() + 8
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._last = 0
        self.in_order = True
        """False where a tag follows a greater one."""

    def watch(self, tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG002 - pydicom passes all three
        """Keep an element whose value of `length` bytes begins where the stream stands; return False, for "go on"."""
        tag, place = int(tag), self.stream.tell()
        if place >= self._first_value:  # pydicom looks at the first tag once before it begins
            self._places.setdefault(tag, []).append((place, length))
            self.in_order = self.in_order and tag >= self._last
            self._last = tag
        return False

    def times(self, tag: int) -> int:
        """Return how often an element is stated."""
        return len(self._places.get(tag, ()))

    def groups(self) -> set[int]:
        """Return the groups of all elements."""
        return {tag >> 16 for tag in self._places}

    def settle(self, values: dict[str, object], tags: Mapping[str, int]) -> list[str]:
        """Leave no value to what is stated several times with different ones; return notes on what agrees."""
        notes = []
        for keyword, tag in tags.items():
            if (times := self.times(tag)) < 2:
                continue
            if self._alike(tag):
                notes.append(f"{keyword} is stated {times} times with one value")
            else:
                values[keyword] = Unusable.CONTRADICTORY
        return notes

    def _alike(self, tag: int) -> bool:
        """Tell whether all elements of a tag have one value; sequences without a length are taken to differ."""
        places = self._places[tag]
        lengths = {length for _, length in places}
        return len(lengths) <= 1 and _UNDEFINED not in lengths and len({self._value(*place) for place in places}) <= 1

    def number(self, tag: int) -> int | None:
        """Return the last value of an element of one unsigned short (VR US); None where it is absent or is none."""
        place, length = self._places.get(tag, [(0, 0)])[-1]
        return int.from_bytes(self._value(place, length), self._order) if length == 2 else None

    def _value(self, place: int, length: int) -> bytes:
        here = self.stream.tell()
        self.stream.seek(place)
        value = self.stream.read(length)
        self.stream.seek(here)
        return value
