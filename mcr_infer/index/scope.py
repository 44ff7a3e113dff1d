"""Which rows a search is about, and the way to the nearest of them: all are scored, or the graph is asked for more and more.

A filter, an excluded id, one hit a study: each turns candidates away. So candidates are taken from the best down, more of
them as long as too few remain, and in the end all of them: there are k wherever k exist.
"""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import IndexCorruptError, QueryError
from mcr_infer.index.facts import Facts, key_of
from mcr_infer.index.filters import Filter, describe_values, names_in
from mcr_infer.index.graph import Graph
from mcr_infer.index.index import Index

LARGEST_SUBSET = 50_000
"""Rows that match a filter up to which all of them may be scored, where the kind has a graph."""

_ROWS_OF_EF = 6
"""Rows of 512 dimensions that are gathered and scored in the time that a graph takes for one unit of breadth."""

_FILTERED_EF = 2.5
"""Times the breadth that keeps the recall when a filter turns candidates away, whatever its share."""

_FEW = 100
"""Rows that are turned away one by one, such as the radiograph that a search started from, and are no filter."""

_BLOCK_SCORES = 1 << 23
"""Scores that exact search holds at once: 32 MiB."""

_BLOCK_ROWS = 1 << 15
"""Vectors that are gathered at once."""

_SPARE = 16
"""Candidates beyond k that are taken from a graph, for ties and for the order within rounding."""

_GROWTH = 4
"""How many times more candidates are taken where too few remained."""

Distinct = Literal["study", "content"]
"""Of what there is one hit only: a study, or a picture or report of the same content. Rows without one all count."""


_KEY_OF: Mapping[Distinct, str] = {"study": "study_uid", "content": "content_digest"}


class Candidates(NamedTuple):
    """Rows for one query, best first."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


class Scope:
    """The rows of one kind that come into question, as the index is in the snapshot that is open."""

    def __init__(
        self,
        index: Index,
        kind: str,
        *,
        where: Filter | None = None,
        distinct: Collection[Distinct] = (),
        exclude: Collection[str] = (),
        ef_search: int | None = None,
    ) -> None:
        """Raises `QueryError` where there is no row of the kind, or the filter cannot be answered."""
        self._index, self._kind = index, kind
        self._first_of = [_KEY_OF[each] for each in distinct]
        self._ef = ef_search
        total = index.count(kind)
        if not total:
            raise QueryError(
                f"index {index.folder} holds no {kind}s: add some with `mcr-infer embed-{kind}s ... --index {index.folder}`"
            )
        self._facts: Facts | None = None
        self._allowed: NDArray[np.bool_] | None = None
        if where is not None or distinct or exclude:
            self._facts = index.facts(kind)
        if where is not None and self._facts is not None:
            self._allowed = where.mask(self._facts)
        if exclude and self._facts is not None:
            turned_away = np.isin(self._facts.keys["id"], np.array([key_of(id) for id in exclude], dtype=np.uint64))
            self._allowed = ~turned_away if self._allowed is None else self._allowed & ~turned_away
        self.count = total if self._allowed is None else int(self._allowed.sum())
        """How many rows come into question."""

        self._has_graph = total > index.exact_limit

    def nearest(self, queries: NDArray[np.float32], k: int, *, margin: float = 0.0) -> list[Candidates]:
        """Return the k best candidates of each query [Q, D]; fewer where fewer exist.

        With a margin there are more: whatever scores at most that much less than the k-th, as far as the graph leads there.
        """
        k = min(k, self.count)
        if not k:
            return [Candidates(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        if not self._has_graph:
            return self._from_all(queries, k, margin)
        graph = self._index.graph(self._kind)
        turned_away = len(graph.labels) - self.count
        if turned_away <= _FEW:
            return self._from_graph(graph, queries, k, margin, self._ef or graph.ef_search, k + turned_away)
        ef = self._ef or round(graph.ef_search * _FILTERED_EF)
        if self.count <= min(_ROWS_OF_EF * ef * len(queries), LARGEST_SUBSET):
            return self._from_all(queries, k, margin)
        # A filter that has nothing to do with the query turns away its share; what the breadth reaches costs nothing.
        wanted = max(ef, int(1.2 * k * len(graph.labels) / self.count) + 1)
        return self._from_graph(graph, queries, k, margin, ef, wanted)

    def _from_all(self, queries: NDArray[np.float32], k: int, margin: float) -> list[Candidates]:
        """Score every row that comes into question."""
        labels, vectors = self._index.vectors(self._kind)
        places = None if self._allowed is None else np.flatnonzero(self._allowed)
        count = len(labels) if places is None else len(places)
        step = max(1, _BLOCK_SCORES // count)
        found = []
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            scores = np.empty((len(block), count), dtype=np.float32)
            for first in range(0, count, _BLOCK_ROWS):
                part = slice(first, first + _BLOCK_ROWS)
                np.matmul(block, (vectors[part] if places is None else vectors[places[part]]).T, out=scores[:, part])
            of = labels if places is None else labels[places]
            found += [self._best_of(of, one, k, margin) for one in scores]
        return found

    def _best_of(self, labels: NDArray[np.int64], scores: NDArray[np.float32], k: int, margin: float) -> Candidates:
        taken = k
        while True:
            near = _best(scores, taken, margin)
            found = self._picked(Candidates(labels[near], scores[near]))
            if len(found.labels) >= k or taken == len(labels):
                return found
            taken = min(taken * _GROWTH, len(labels))

    def _from_graph(
        self, graph: Graph, queries: NDArray[np.float32], k: int, margin: float, ef: int, wanted: int
    ) -> list[Candidates]:
        """Ask the graph for as many candidates as will do, and again for more; score all rows where it leads to too few."""
        total = len(graph.labels)
        wanted = min(total, wanted + (_SPARE if margin else 0))
        found: dict[int, Candidates] = {}
        missing = np.arange(len(queries))
        while len(missing) and wanted <= min(total, LARGEST_SUBSET):
            answer = graph.query(queries[missing], k=wanted, ef=ef)
            if answer is None:
                break
            for place, labels, scores in zip(missing.tolist(), *answer, strict=True):
                one = self._picked(Candidates(labels, scores))
                if len(one.labels) >= k:
                    found[place] = one
            missing = np.array([place for place in missing.tolist() if place not in found], dtype=np.int64)
            wanted *= _GROWTH
        if len(missing):
            found |= zip(missing.tolist(), self._from_all(queries[missing], k, margin), strict=True)
        return [found[place] for place in range(len(queries))]

    def _picked(self, found: Candidates) -> Candidates:
        """Turn away what does not come into question, and what is not the first of its kind; from the graph or of all."""
        if self._facts is None:
            return found
        known = self._facts.labels
        places = np.searchsorted(known, found.labels)
        if not np.array_equal(known[np.minimum(places, len(known) - 1)], found.labels):
            raise IndexCorruptError(
                f"index {self._index.folder}: the files beside the store hold rows that it does not; run "
                f"`mcr-infer rebuild --index {self._index.folder}`"
            )
        keep = np.ones(len(places), dtype=np.bool_) if self._allowed is None else self._allowed[places]
        places, found = places[keep], Candidates(found.labels[keep], found.scores[keep])
        for name in self._first_of:
            first = _first_of_each(self._facts.keys[name][places])
            places, found = places[first], Candidates(found.labels[first], found.scores[first])
        return found


def describe_no_match(index: Index, kind: str, where: Filter) -> str:
    """Return a sentence for a filter that no row matches: which values there are of what it names."""
    facts = index.facts(kind)
    values = "; ".join(describe_values(facts, name) for name in names_in(where))
    return f"no {kind} of index {index.folder} matches --where: {values}"


def _best(scores: NDArray[np.float32], wanted: int, margin: float) -> NDArray[np.int64]:
    """Return the places of the `wanted` highest scores and of those within the margin of them, best first, then by place."""
    last = len(scores) - wanted
    near = np.flatnonzero(scores >= np.partition(scores, last)[last] - np.float32(margin))
    near = near[np.argsort(-scores[near], kind="stable")]
    return near if margin else near[:wanted]


def _first_of_each(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the places at which a key stands for the first time; rows without one all are the first."""
    seen: set[int] = set()
    first = []
    for number, key in enumerate(keys.tolist()):
        if key and key in seen:
            continue
        seen.add(key)
        first.append(number)
    return np.array(first, dtype=np.int64)
