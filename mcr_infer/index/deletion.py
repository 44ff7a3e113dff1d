"""What a deletion takes away, told before it is done; and how what it leaves behind leaves the disk.

doomed -> Index.delete_rows -> save_snapshots (vectors, facts) -> erase (the store) -> purge (graphs, which take long)
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index.facts import ABSENT
from mcr_infer.index.filters import Filter
from mcr_infer.index.index import Index
from mcr_infer.index.selection import chosen_facts

SHOWN = 10
"""Ids of each kind that are shown."""


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
    with index.snapshot():
        chosen = chosen_facts(index, where, kinds)
        shown = {kind: index.rows(facts.labels[:SHOWN].tolist()) for kind, facts in chosen.items()}
    studies = {key for facts in chosen.values() for key in facts.keys["study_uid"].tolist()} - {ABSENT}
    return Doomed(
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
