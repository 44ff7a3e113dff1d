"""The attributes of a DICOM header as plain values: what cannot be understood is absent and leaves a note."""

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np

from mcr_infer.errors import BrokenImageError


class Unusable(Enum):
    """Stands for a value that cannot be used, and says why not."""

    UNREADABLE = "cannot be read"  # the parser refused to convert it
    CONTRADICTORY = "is stated several times with different values"


_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
_MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")


def _why_unusable(value: object) -> str:
    return (value if isinstance(value, Unusable) else Unusable.UNREADABLE).value


class Attributes:
    """The values of a header by keyword, as the parser converted them. Notes name attributes and never quote values."""

    def __init__(self, values: Mapping[str, object], *, little_endian: bool = True) -> None:
        self._values = values
        self._order = "<" if little_endian else ">"
        self.notes: list[str] = []

    def has_value(self, keyword: str) -> bool:
        """Tell whether an attribute is there and not empty, whatever its value means."""
        return isinstance(self._values.get(keyword), Unusable) or self.text(keyword) is not None

    def require_one_value(self, *keywords: str) -> None:
        """Raise `BrokenImageError` (`corrupt`) where one of them is stated several times with different values.

        A data set has each element once (PS3.5 7.1), and nothing says which of the two is right.
        """
        for keyword in keywords:
            if (value := self._values.get(keyword)) is Unusable.CONTRADICTORY:
                raise BrokenImageError(f"{keyword} {value.value}: correct the header", reason="corrupt")

    def _several(self, keyword: str) -> tuple[object, ...]:
        value = self._values.get(keyword)
        if isinstance(value, Unusable):
            self.notes.append(f"{keyword} {value.value}: ignored")
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
        if not text or re.fullmatch(r"[A-Z0-9_ ]{1,16}", text):
            return text or None
        self.notes.append(f"{keyword} is not a code: ignored")
        return None

    def uid(self, keyword: str) -> str | None:
        """Return a UID; None where absent or where it is none (PS3.5 9.1).

        A number without a point is none: where elements were exchanged, it may be the id of a patient.
        """
        text = self.text(keyword)
        if text is None or (len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)+", text, re.ASCII)):
            return text
        self.notes.append(f"{keyword} is not a UID: ignored")
        return None

    def identifier(self, keyword: str) -> str:
        """Return all that an identifier says; empty where absent.

        Values that a backslash parts, which cannot stand in one (PS3.5 6.2), are one identifier with it. Raises
        `BrokenImageError` (`identifier`) where it is there and cannot be read: nothing else will do in its place.
        """
        value = self._values.get(keyword)
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, (Unusable, bytes, list, dict)) for part in parts):
            raise BrokenImageError(f"{keyword} {_why_unusable(value)}: correct the header", reason="identifier")
        return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return all values as finite numbers; empty where absent or where one of them is none."""
        return self._usable(keyword, self.texts(keyword))

    def first_number(self, keyword: str) -> float | None:
        """Return the first value as a finite number, whatever follows; None where absent or where it is none."""
        return next(iter(self._usable(keyword, self.texts(keyword)[:1])), None)

    def number(self, keyword: str, default: float) -> float:
        """Return the first value as a number, or the default where there is none."""
        number = self.first_number(keyword)
        return default if number is None else number

    def essential_number(self, keyword: str, default: float) -> float:
        """Return the first value as a number, or the default where it is absent or empty.

        Raises `BrokenImageError` (`corrupt`) where it is there and is no number: nothing else will do in its place.
        """
        if not self.has_value(keyword):
            return default
        number = self.first_number(keyword)
        if number is None:
            raise BrokenImageError(f"{keyword} is no number: correct the header", reason="corrupt")
        if (count := len(self.texts(keyword))) > 1:
            self.notes.append(f"first of {count} values of {keyword} used")
        return number

    def _usable(self, keyword: str, texts: Sequence[str]) -> tuple[float, ...]:
        numbers = tuple(self._decimal(keyword, text) for text in texts)
        if all(map(math.isfinite, numbers)):
            return numbers
        self.notes.append(f"{keyword} is not a number: ignored")
        return ()

    def _decimal(self, keyword: str, text: str) -> float:
        """Read a decimal string (DS in PS3.5 table 6.2-1), with a decimal comma, too; NaN where it is none.

        A comma before exactly three digits may part thousands, and what cannot be decided is no number.
        """
        if _DECIMAL_COMMA.fullmatch(text) and not _MAYBE_THOUSANDS.fullmatch(text):
            self.notes.append(f"{keyword} has a decimal comma: read as a point")
            text = text.replace(",", ".")
        return float(text) if _DECIMAL.fullmatch(text) else math.nan

    def integer(self, keyword: str) -> int:
        """Return the first value as an integer; raises `BrokenImageError` (`missing_attribute`) where there is none."""
        for number in self.numbers(keyword):
            return int(number)
        raise BrokenImageError(f"the DICOM header has no usable {keyword}", reason="missing_attribute")

    def item(self, keyword: str, *, essential: bool = False) -> "Attributes | None":
        """Return the first item of a sequence, sharing the notes; None where there is none.

        Raises `BrokenImageError` (`corrupt`) where an `essential` one is there and cannot be read.
        """
        value = self._values.get(keyword)
        if value is None or value == []:
            return None
        if not isinstance(value, list) or not isinstance(value[0], dict):
            if essential:
                raise BrokenImageError(f"{keyword} cannot be read: correct the header", reason="corrupt")
            self.notes.append(f"{keyword} {_why_unusable(value)}: ignored")
            return None
        if len(value) > 1:
            self.notes.append(f"first of {len(value)} items of {keyword} used")
        item = Attributes(value[0], little_endian=self._order == "<")
        item.notes = self.notes
        return item

    def packed(self, keyword: str) -> bytes:
        """Return the value of an element of a look-up table as it is stored, in little-endian words; empty where absent."""
        value = self._values.get(keyword)
        return value if isinstance(value, bytes) else b""
