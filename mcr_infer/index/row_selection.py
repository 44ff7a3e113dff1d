"""Which rows a deletion or an export is about: found by the columns, and compared with the rows themselves.

plan_deletion -> Index.delete_rows -> save_snapshots (columns) -> erase (the store) -> purge (graphs, which take long)

In the columns 64 bits of a hash stand for an id or a UID. For a search, one hit too many in 2^64 is not worth reading every
row; a row that is deleted in place of another one is lost for good.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index.columns import ABSENT, KEYS, MetadataColumns, key_of
from mcr_infer.index.filters import AllOf, AnyOf, Compare, Filter, Mask, Missing, Not, names_in
from mcr_infer.index.index import Index

SHOWN = 10
"""Ids of each kind that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deletion:
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


def plan_deletion(index: Index, where: Filter, kinds: Collection[str]) -> Deletion:
    """Find the rows of some kinds that match a filter, each compared with what the row itself says.

    Raises `QueryError` where no row of any of the kinds has a fact that the filter asks for.
    """
    with index.snapshot():
        chosen = chosen_facts(index, where, kinds)
        shown = {kind: index.rows(facts.labels[:SHOWN].tolist()) for kind, facts in chosen.items()}
    studies = {key for facts in chosen.values() for key in facts.keys["study_uid"].tolist()} - {ABSENT}
    return Deletion(
        labels={kind: facts.labels for kind, facts in chosen.items()},
        shown={kind: [row.id for row in rows.values()] for kind, rows in shown.items()},
        studies=len(studies),
    )


def unreachable(index: Index, kind: str) -> int:
    """Return how many vectors of deleted rows the graph file of a kind holds; they can be found by nobody."""
    graph = index.state(kind).graph
    return 0 if graph is None else max(0, graph.elements - index.count(kind))


def compact(index: Index) -> bool:
    """Make the store without the room of deleted rows, and graphs without their vectors; what `Index.erase` returns.

    Raises `EmbeddingIndexError` where the disk has no room for a second copy of the store; the index is then as it was.
    """
    erased = index.erase()
    index.save_snapshots(purge=True)
    return erased


Values = Mapping[str, Sequence[str | None]]
"""What some rows really have in the columns of keys, by name."""


@dataclass(frozen=True, slots=True)
class Among:
    """`name in (values)`, for many values of one of the columns of keys."""

    name: str
    values: frozenset[str]

    def mask(self, facts: MetadataColumns) -> Mask:
        """Return which rows match [N]."""
        keys = np.fromiter((key_of(value) for value in self.values), dtype=np.uint64, count=len(self.values))
        return np.asarray(np.isin(facts.keys[self.name], keys))


def chosen_facts(index: Index, where: Filter, kinds: Collection[str]) -> Mapping[str, MetadataColumns]:
    """Return the facts of the rows of some kinds that match a filter, by kind; to be called inside `snapshot`.

    Raises `QueryError` where no row of any of the kinds has a fact that the filter asks for.
    """
    found: dict[str, MetadataColumns] = {}
    refusals: list[QueryError] = []
    for kind in kinds:
        facts = index.facts(kind)
        try:
            chosen = facts.at(where.mask(facts))
        except QueryError as error:  # reports have no view, say
            refusals.append(error)
            continue
        found[kind] = chosen.at(_exactly(index, kind, where, chosen))
    if refusals and not found:
        raise refusals[0]
    return found


def chosen_labels(index: Index, where: Filter | None, kinds: Collection[str]) -> Mapping[str, NDArray[np.int64]]:
    """Return the labels of the rows that match a filter (None: of all), by kind; as `chosen_facts`."""
    if where is None:
        return {kind: index.labels(kind) for kind in kinds}
    return {kind: facts.labels for kind, facts in chosen_facts(index, where, kinds).items()}


def _exactly(index: Index, kind: str, where: Filter, chosen: MetadataColumns) -> Mask:
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


def _mask(where: Filter, facts: MetadataColumns, values: Values) -> Mask:
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
