"""Filters: `view=PA and study_year>=2020` becomes a mask over the facts of rows. Nothing of it reaches SQL.

    filter     = any
    any        = all ("or" all)*
    all        = one ("and" one)*
    one        = "not" one | "(" any ")" | comparison
    comparison = NAME ("=" | "!=" | "<" | "<=" | ">" | ">=") VALUE
               | NAME ["not"] "in" "(" VALUE ("," VALUE)* ")"
               | NAME "is" ["not"] "missing"

A value is a word, a number, or text in quotes. A row without the fact matches no comparison but `!=`, `not in` and `is
missing`: `a != b` is `not a = b`, always. Numbers compare as numbers; words as they are written, which puts ISO dates in
order.
"""

import difflib
import math
import operator
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index.columns import ABSENT, KEYS, Column, MetadataColumns, key_of

Mask = NDArray[np.bool_]

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<operator><=|>=|!=|<>|==|[=<>(),])|(?P<word>[^\s"'=<>!(),]+))"""
)
_COMPARE: Mapping[str, Callable[[typing.Any, typing.Any], typing.Any]] = {
    "=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_SAME = {"==": "=", "<>": "!="}
_RESERVED = frozenset({"and", "or", "not", "in", "is", "missing"})
_MAX_LENGTH = 100_000
_MAX_DEPTH = 100
_SHOWN = 8


class Filter(Protocol):
    """What rows of a kind a search, an export or a deletion is about."""

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows match [N]. Raises `QueryError` for a name that no row has, or a value that is of no use."""
        ...


@dataclass(frozen=True, slots=True)
class Compare:
    """`name operator value`, where the operator is one of = < <= > >=."""

    name: str
    operator: str
    value: str

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows match [N]."""
        if self.name in KEYS:
            if self.operator != "=":
                raise QueryError(f"--where: {self.name} is compared with = and !=, got {self.operator}")
            return np.asarray(facts.keys[self.name] == key_of(self.value))
        column = _column(facts, self.name)
        compare, number = _COMPARE[self.operator], _number(self.value)
        if number is not None and column.has_numbers:
            with np.errstate(invalid="ignore"):
                return np.asarray(compare(column.numbers, number), dtype=np.bool_)
        if not column.words and column.has_numbers:
            raise QueryError(f"--where: {self.name} holds numbers, got {self.value!r}")
        # One comparison a different word, however many rows there are; the last place stands for no word.
        matches = np.array([*(bool(compare(word, self.value)) for word in column.words), False])
        return np.asarray(matches[column.codes])


@dataclass(frozen=True, slots=True)
class Missing:
    """`name is missing`."""

    name: str

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows do not have the fact [N]."""
        if self.name in KEYS:
            return np.asarray(facts.keys[self.name] == ABSENT)
        column = _column(facts, self.name)
        return np.asarray(np.isnan(column.numbers) & (column.codes < 0))


@dataclass(frozen=True, slots=True)
class Not:
    """Rows that another filter does not match."""

    other: Filter

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows match [N]."""
        return ~self.other.mask(facts)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Rows that every one of several filters matches."""

    parts: tuple[Filter, ...]

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows match [N]."""
        return np.asarray(np.logical_and.reduce([part.mask(facts) for part in self.parts]))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Rows that at least one of several filters matches."""

    parts: tuple[Filter, ...]

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows match [N]."""
        return np.asarray(np.logical_or.reduce([part.mask(facts) for part in self.parts]))


def parse_filter(text: str) -> Filter:
    """Read a filter. Raises `QueryError` that says where it stops making sense."""
    if len(text) > _MAX_LENGTH:
        raise QueryError(f"--where has {len(text)} characters, at most {_MAX_LENGTH} are read")
    return _Parser(text).all_of_it()


def describe_values(facts: MetadataColumns, name: str) -> str:
    """Return in words what a fact is, for somebody whose filter matched nothing."""
    if name in KEYS:
        return f"{name} is compared as a whole"
    column = _column(facts, name)
    told = []
    if column.has_numbers:
        told.append(f"numbers from {np.nanmin(column.numbers):g} to {np.nanmax(column.numbers):g}")
    if column.words:
        words = ", ".join(sorted(column.words)[:_SHOWN])
        told.append(f"{words}{', ...' if len(column.words) > _SHOWN else ''}")
    return f"{name} holds {' and '.join(told) or 'nothing'}"


def names_in(where: Filter) -> list[str]:
    """Return the facts that a filter asks for, each once, in their order."""
    if isinstance(where, Compare | Missing):
        return [where.name]
    parts = where.parts if isinstance(where, AllOf | AnyOf) else (where.other,) if isinstance(where, Not) else ()
    return list(dict.fromkeys(name for part in parts for name in names_in(part)))


def _column(facts: MetadataColumns, name: str) -> Column:
    column = facts.columns.get(name)
    if column is None:
        known = sorted({*KEYS, *facts.columns})
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; {near[0]}?" if near else ""
        raise QueryError(f"--where: no row has {name!r}{meant} There are: {', '.join(known)}")
    return column


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class _Parser:
    """One pass over the tokens, a method a rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        self._depth = 0
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(at, "a character that cannot stand here, or a quote that does not end")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match.group(kind), match.start(kind)))
            at = match.end()
        self._next = 0

    def all_of_it(self) -> Filter:
        found = self._any()
        if self._next < len(self._tokens):
            raise self._error(self._tokens[self._next][2], "expected `and`, `or` or the end")
        return found

    def _any(self) -> Filter:
        parts = [self._all()]
        while self._takes("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Filter:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self) -> Filter:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(self._at(), f"more than {_MAX_DEPTH} brackets and `not` in each other")
        try:
            if self._takes("not"):
                return Not(self._one())
            if self._takes("("):
                inner = self._any()
                self._expect(")")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Filter:
        name = self._name()
        if self._takes("is"):
            negated = self._takes("not")
            self._expect("missing")
            found: Filter = Missing(name)
            return Not(found) if negated else found
        negated = self._takes("not")
        if self._takes("in"):
            self._expect("(")
            values = [self._value()]
            while self._takes(","):
                values.append(self._value())
            self._expect(")")
            found = AnyOf(tuple(Compare(name, "=", value) for value in values))
            return Not(found) if negated else found
        sign = self._sign() if not negated else None
        if sign is None:
            raise self._error(self._at(), f"expected =, !=, <, <=, >, >=, `in` or `is` after {name}")
        return Not(Compare(name, "=", self._value())) if sign == "!=" else Compare(name, sign, self._value())

    def _name(self) -> str:
        kind, token, at = self._token("the name of a fact")
        if kind == "operator" or (kind == "word" and token.lower() in _RESERVED):
            raise self._error(at, "expected the name of a fact")
        return _unquoted(token) if kind == "quoted" else token

    def _value(self) -> str:
        kind, token, at = self._token("a value")
        if kind == "operator" or (kind == "word" and token.lower() in _RESERVED):
            raise self._error(at, "expected a value; put a word such as `and` into quotes")
        return _unquoted(token) if kind == "quoted" else token

    def _sign(self) -> str | None:
        kind, token, _ = self._token("a comparison")
        if kind != "operator" or token in "(),":
            self._next -= 1
            return None
        return _SAME.get(token, token)

    def _takes(self, token: str) -> bool:
        if self._next < len(self._tokens):
            kind, found, _ = self._tokens[self._next]
            if kind != "quoted" and found.lower() == token:
                self._next += 1
                return True
        return False

    def _expect(self, token: str) -> None:
        if not self._takes(token):
            raise self._error(self._at(), f"expected `{token}`")

    def _token(self, what: str) -> tuple[str, str, int]:
        if self._next >= len(self._tokens):
            raise self._error(len(self._text), f"expected {what}")
        self._next += 1
        return self._tokens[self._next - 1]

    def _at(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)

    def _error(self, at: int, what: str) -> QueryError:
        return QueryError(
            f"--where cannot be read at character {at + 1}: {what}. Got {self._text!r}; "
            "write such as: view=PA and study_year>=2020"
        )


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1])
