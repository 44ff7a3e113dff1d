"""One object of a manifest: every value that is taken from it is checked, and named in the error."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from mcr_infer.errors import BundleError

WORD = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class ManifestSection:
    """A JSON object of the file `path`, standing there under the dotted name `where`."""

    def __init__(self, values: dict[str, object], path: Path, where: str = "") -> None:
        self._values, self._path, self._where = values, path, where

    def refuse(self, key: str, expected: str) -> BundleError:
        """Make the error that says what must stand under a key, and what does."""
        got = repr(self._values[key])[:80] if key in self._values else "nothing"
        return BundleError(f"{self._path}: {self._where}{key} must be {expected}, got {got}")

    def take(self, key: str, kind: type[T], expected: str) -> T:
        """Return a value of a JSON type."""
        value = self._values.get(key)
        # JSON's true is an int to isinstance.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.refuse(key, expected)
        return value

    def section(self, key: str) -> "ManifestSection":
        """Return the object under a key."""
        return ManifestSection(self.take(key, dict, "an object"), self._path, f"{self._where}{key}.")

    def line(self, key: str) -> str:
        """Return text that may be printed on a terminal: one line without control characters."""
        expected = "one line of at most 500 printable characters"
        text = self.take(key, str, expected)
        if not text.isprintable() or not 0 < len(text) <= 500:
            raise self.refuse(key, expected)
        return text

    def count(self, key: str, *, least: int = 1) -> int:
        """Return a whole number, by default from 1 on."""
        expected = f"a whole number from {least} to 2^40"
        number = self.take(key, int, expected)
        if not least <= number <= 2**40:
            raise self.refuse(key, expected)
        return number

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refuse(key, "a number")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._values.get(key)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """Return a list of words in lower case, at least one."""
        values = self.take(key, list, "a list of words")
        if not values or not all(isinstance(one, str) and WORD.fullmatch(one) for one in values):
            raise self.refuse(key, "a list of words")
        return tuple(values)

    def digest(self, key: str) -> str:
        """Return a SHA-256."""
        text = self.take(key, str, "64 hexadecimal digits")
        if not _DIGEST.fullmatch(text):
            raise self.refuse(key, "64 hexadecimal digits")
        return text

    def file(self, key: str, files: Mapping[str, object]) -> str:
        """Return the name of one of the files."""
        name = self.take(key, str, "a name among files")
        if name not in files:
            raise self.refuse(key, "a name among files")
        return name

    def rest(self, *known: str) -> dict[str, object]:
        """Return all that stands here under other keys than the known ones, unchecked."""
        return {key: value for key, value in self._values.items() if key not in known}

    @property
    def keys(self) -> list[str]:
        """The keys that are there."""
        return list(self._values)
