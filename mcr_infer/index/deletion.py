"""Which rows a deletion is about: found by the facts, and compared with the rows themselves before any of them goes.

In the facts 64 bits of a hash stand for an id or a UID. A search that shows one hit too many in 2^64 is not worth a look at
every row; a row that is deleted for another one's sake is gone for good.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index.facts import KEYS, Facts, key_of
from mcr_infer.index.filters import AllOf, AnyOf, Compare, Filter, Mask, Missing, Not, names_in
from mcr_infer.index.index import Index

_SHOWN = 10

Values = Mapping[str, Sequence[str | None]]
"""What some rows really have in the columns of keys, by name."""


@dataclass(frozen=True, slots=True)
class Among:
    """`name in (values)`, for many values of one of the columns of keys."""

    name: str
    values: frozenset[str]

    def mask(self, facts: Facts) -> Mask:
        """Return which rows match [N]."""
        keys = np.fromiter((key_of(value) for value in self.values), dtype=np.uint64, count=len(self.values))
        return np.asarray(np.isin(facts.keys[self.name], keys))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Doomed:
    """Rows that are to be deleted."""

    labels: Mapping[str, NDArray[np.int64]]
    """By kind, ascending."""

    shown: Mapping[str, Sequence[str]]
    """The first few ids of each kind."""

    studies: int
    """How many studies they belong to."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many rows of each kind there are."""
        return {kind: len(labels) for kind, labels in self.labels.items()}


def doomed(index: Index, where: Filter, kinds: Collection[str]) -> Doomed:
    """Find the rows of some kinds that match a filter, each compared with what the row itself says.

    Raises `QueryError` where no row of any of the kinds has a fact that the filter asks for.
    """
    labels: dict[str, NDArray[np.int64]] = {}
    shown: dict[str, list[str]] = {}
    studies: set[int] = set()
    refusals: list[QueryError] = []
    with index.snapshot():
        for kind in kinds:
            facts = index.facts(kind)
            try:
                chosen = facts.at(where.mask(facts))
            except QueryError as error:  # reports have no view, say
                refusals.append(error)
                continue
            chosen = chosen.at(_exactly(index, kind, where, chosen))
            labels[kind] = chosen.labels
            studies |= set(chosen.keys["study_uid"].tolist())
            first = chosen.labels[:_SHOWN].tolist()
            rows = index.rows(first)
            shown[kind] = [rows[label].id for label in first]
    if refusals and not labels:
        raise refusals[0]
    return Doomed(labels=labels, shown=shown, studies=len(studies - {0}))


def _exactly(index: Index, kind: str, where: Filter, chosen: Facts) -> Mask:
    """Return which of the chosen rows [N] match by their full values, too."""
    names = [name for name in _key_names(where) if name in KEYS]
    if not names:
        return np.ones(len(chosen.labels), dtype=np.bool_)
    values: dict[str, list[str | None]] = {name: [] for name in names}
    for _, row in index.scan(kind, chosen.labels):
        for name, column in values.items():
            column.append(getattr(row, name))
    return _mask(where, chosen, values)


def _key_names(where: Filter) -> list[str]:
    return [where.name] if isinstance(where, Among) else names_in(where)


def _mask(where: Filter, facts: Facts, values: Values) -> Mask:
    """Answer a filter as it answers itself, but for columns of keys, where whole values are compared."""
    if isinstance(where, Not):
        return ~_mask(where.other, facts, values)
    if isinstance(where, AllOf):
        return np.asarray(np.logical_and.reduce([_mask(part, facts, values) for part in where.parts]))
    if isinstance(where, AnyOf):
        return np.asarray(np.logical_or.reduce([_mask(part, facts, values) for part in where.parts]))
    if isinstance(where, Compare | Missing | Among) and where.name in values:
        if isinstance(where, Among):
            return np.array([value in where.values for value in values[where.name]], dtype=np.bool_)
        wanted = where.value if isinstance(where, Compare) else None
        return np.array([value == wanted for value in values[where.name]], dtype=np.bool_)
    return where.mask(facts)
