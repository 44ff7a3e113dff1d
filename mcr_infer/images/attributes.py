"""The attributes of a DICOM header as plain values: what cannot be understood is absent and leaves a note."""

import math
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError

UNREADABLE = object()
"""Stands for a value that the parser refused to convert."""


class Attributes:
    """The values of a header by keyword, as the parser converted them. Notes name attributes and never quote values."""

    def __init__(self, values: Mapping[str, object], *, little_endian: bool = True) -> None:
        self._values = values
        self._order = "<" if little_endian else ">"
        self.notes: list[str] = []

    def _several(self, keyword: str) -> tuple[object, ...]:
        value = self._values.get(keyword)
        if value is UNREADABLE:
            self.notes.append(f"{keyword} cannot be read: ignored")
            return ()
        if value is None or value == "":
            return ()
        if isinstance(value, bytes):  # a VR between US and SS that the parser could not settle
            return tuple(np.frombuffer(value[: len(value) & ~1], f"{self._order}u2").tolist())
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return all values as stripped text; empty where absent."""
        return tuple(str(value).strip(" \0") for value in self._several(keyword))

    def text(self, keyword: str) -> str | None:
        """Return the first value as text; None where absent or empty."""
        return next(iter(self.texts(keyword)), None) or None

    def code(self, keyword: str) -> str | None:
        """Return a code string in upper case; None where absent or where it is no code (CS in PS3.5 table 6.2-1)."""
        text = (self.text(keyword) or "").upper()
        return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else None

    def uid(self, keyword: str) -> str | None:
        """Return a UID; None where absent or where it is none (PS3.5 9.1)."""
        text = self.text(keyword)
        if text is None or re.fullmatch(r"[0-9.]{1,64}", text):
            return text
        self.notes.append(f"{keyword} is no UID: ignored")
        return None

    def identifier(self, keyword: str) -> str:
        """Return all that an identifier says; empty where absent.

        Values that a backslash parts, which cannot stand in one (PS3.5 6.2), are one identifier with it. Raises
        `BrokenImageError` (`identifier`) where it is there and cannot be read: nothing else will do in its place.
        """
        value = self._values.get(keyword)
        parts = value if isinstance(value, list) else [value]
        if value is UNREADABLE or any(isinstance(part, (bytes, list, dict)) for part in parts):
            raise BrokenImageError(f"{keyword} cannot be read: correct the header", reason="identifier")
        return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return all values as finite numbers; empty where absent or where one of them is none."""
        try:
            numbers = tuple(float(str(value)) for value in self._several(keyword))
        except ValueError:
            numbers = (math.nan,)
        if all(map(math.isfinite, numbers)):
            return numbers
        self.notes.append(f"{keyword} is no number: ignored")
        return ()

    def number(self, keyword: str, default: float) -> float:
        """Return the first value as a number, or the default where there is none."""
        return next(iter(self.numbers(keyword)), default)

    def integer(self, keyword: str) -> int:
        """Return the first value as an integer; raises `BrokenImageError` (`missing_attribute`) where there is none."""
        for number in self.numbers(keyword):
            return int(number)
        raise BrokenImageError(f"the DICOM header has no usable {keyword}", reason="missing_attribute")

    def item(self, keyword: str) -> "Attributes | None":
        """Return the first item of a sequence, sharing the notes; None where there is none."""
        value = self._values.get(keyword)
        if value is UNREADABLE:
            self.notes.append(f"{keyword} cannot be read: ignored")
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            return None
        item = Attributes(value[0], little_endian=self._order == "<")
        item.notes = self.notes
        return item

    def words(self, keyword: str, count: int) -> NDArray[np.int64] | None:
        """Return the first `count` unsigned numbers [count] of 16 or 8 bits, however packed; None where there are fewer."""
        value = self._values.get(keyword)
        if isinstance(value, bytes):
            packed = value
        else:
            numbers = [int(number) & 0xFFFF for number in self.numbers(keyword)]
            packed = np.array(numbers, dtype=f"{self._order}u2").tobytes()
        width = 2 if len(packed) >= 2 * count else 1
        if len(packed) < count:
            return None
        return np.frombuffer(packed, dtype=f"{self._order}u{width}", count=count).astype(np.int64)
