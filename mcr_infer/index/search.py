"""Search: unit vectors in, ranked rows out. Exact where few rows are candidates, through the graph where many are.

    queries -> scope (which rows, which way) -> nearest (labels, scores) -> rows, scored again by their own vectors -> hits

A filter, an excluded id, one hit a study: each turns candidates away. So candidates are taken from the best down, more of
them as long as too few remain, and in the end all of them: there are k hits wherever k rows qualify. Whichever way
candidates are found, hits are scored by one and the same sum over the vectors of their rows, so that scores and the order of
ties depend neither on the way nor on what else is asked at the same time.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import fingerprint_of
from mcr_infer.errors import IndexCorruptError, IndexMismatchError, QueryError
from mcr_infer.index.columns import MetadataColumns, key_of
from mcr_infer.index.filters import Filter, describe_values, names_in, parse_filter
from mcr_infer.index.graph import Graph
from mcr_infer.index.protocols import IndexReader
from mcr_infer.index.root import shown
from mcr_infer.index.rows import KINDS, Row, Scalar

_ROUNDING = 1e-5
"""More than two float32 products of the same unit vectors can differ by, in whatever order they are summed."""

_UNIT_TOLERANCE = 1e-3


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
        index: IndexReader,
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
        self._facts: MetadataColumns | None = None
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


def describe_no_match(index: IndexReader, kind: str, where: Filter) -> str:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One row that was found; `rank` counts from 1, `score` is the cosine."""

    rank: int
    score: float
    id: str
    kind: str
    path: str | None
    """That of a file of a relative path is absolute, unless the root of the index is the working folder."""
    metadata: Mapping[str, Scalar]
    label: int
    """Of the row in the store, as `Index.rows` and `Index.locals` take it in the same `snapshot`."""

    study_uid: str | None = None
    series_uid: str | None = None

    rerank_score: float | None = None
    """Cosine and late interaction together, where the row was looked at again (`mcr_infer.retrieval.reranker`)."""


def search(
    index: IndexReader,
    queries: NDArray[np.float32],
    *,
    kind: str = "image",
    k: int = 10,
    where: Filter | str | None = None,
    distinct: Collection[Distinct] = (),
    exclude: Collection[str] = (),
    ef_search: int | None = None,
    fingerprint: str | None = None,
) -> list[list[Hit]]:
    """Find the k rows of a kind nearest to each query [Q, D] or [D], best first, equal scores by id.

    There are k hits for each query wherever k rows come into question, and none where no row does: of the kind, matching
    `where`, of different studies or pictures if `distinct` says so, besides the ids in `exclude` (the radiograph that a
    search started from).
    `where` is a filter or its text, such as "view=PA". `ef_search` is the breadth of the search where there is a graph, by
    default what the index was tuned to. `fingerprint` names the embedding space of queries that do not know it, which are
    all but those of an encoder or an index (`Embeddings`). Raises `QueryError` for a wrong kind, k below 1, queries that are
    not unit vectors, a filter that cannot be answered, and an index without rows of the kind; `IndexMismatchError` for
    queries of another space than the index, or of an unknown one.
    """
    block, where = _checked(queries, index, kind, k, fingerprint), _filter(where)
    with index.snapshot():
        scope = Scope(index, kind, where=where, distinct=distinct, exclude=exclude, ef_search=ef_search)
        found = scope.nearest(block, k, margin=_ROUNDING)
        return [_ranked(index, kind, query, one, k) for query, one in zip(block, found, strict=True)]


def nearest(
    index: IndexReader,
    queries: NDArray[np.float32],
    *,
    kind: str = "image",
    k: int = 10,
    where: Filter | str | None = None,
    ef_search: int | None = None,
    fingerprint: str | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find labels [Q, k] and cosines [Q, k] of the k rows nearest to each query, best first, and look up no row.

    Where fewer than k rows come into question the arrays are as much narrower. Cosines are those of float32 sums. Raises
    what `search` raises.
    """
    block, where = _checked(queries, index, kind, k, fingerprint), _filter(where)
    with index.snapshot():
        scope = Scope(index, kind, where=where, ef_search=ef_search)
        found = scope.nearest(block, k)
        width = min(k, scope.count)
        labels = np.stack([one.labels[:width] for one in found])
        return labels, np.stack([one.scores[:width] for one in found])


def _filter(where: Filter | str | None) -> Filter | None:
    return parse_filter(where) if isinstance(where, str) else where


def _checked(
    queries: NDArray[np.float32], index: IndexReader, kind: str, k: int, fingerprint: str | None
) -> NDArray[np.float32]:
    """Return queries [Q, D] once they are what the index can be asked."""
    if kind not in KINDS:
        raise QueryError(f"--kind is {' or '.join(KINDS)}, got {kind!r}")
    if k < 1:
        raise QueryError(f"-k must be at least 1, got {k}")
    space = fingerprint_of(queries) or fingerprint
    if space is None:
        raise IndexMismatchError(
            "these query vectors carry no fingerprint of a bundle (arithmetic and other libraries lose it): where it is "
            "the bundle of this index, say so with fingerprint=index.fingerprint"
        )
    index.check_bundle(space)
    queries = np.atleast_2d(np.asarray(queries))
    if queries.ndim != 2 or not len(queries) or queries.shape[1] != index.embedding_dim:
        raise QueryError(
            f"a query for index {index.folder} has {index.embedding_dim} dimensions, got an array {list(queries.shape)}: "
            f"use the bundle {index.bundle!r} that made the index"
        )
    lengths = np.linalg.norm(queries, axis=1)
    if not np.all(np.abs(lengths - 1.0) <= _UNIT_TOLERANCE):
        raise QueryError(
            "a query must be a finite vector of length 1: the tower that made this one does not work on this device; "
            "try --device cpu, or another bundle"
        )
    return np.ascontiguousarray(queries, dtype=np.float32)


def _ranked(index: IndexReader, kind: str, query: NDArray[np.float32], found: Candidates, k: int) -> list[Hit]:
    """Look up the candidates that can be among the first k, score them from their rows, and order them by score, then id."""
    last = min(k, len(found.scores)) - 1
    if last < 0:
        return []
    keep = found.scores >= found.scores[last] - _ROUNDING  # with everything that may tie with the last
    labels = found.labels[keep].tolist()
    rows = index.rows(labels)
    scores = _cosines(np.stack([rows[label].vector for label in labels]), query)
    apart = np.abs(scores - found.scores[keep])
    if not np.all(apart <= _ROUNDING):
        raise IndexCorruptError(
            f"index {index.folder}: {kind} {rows[labels[int(apart.argmax())]].id!r} is not what the snapshots beside the "
            "store hold under its label: run `mcr-infer rebuild`"
        )
    order = sorted(zip(scores.tolist(), labels, strict=True), key=lambda pair: (-pair[0], rows[pair[1]].id))
    return [_hit(rank, score, rows[label], label) for rank, (score, label) in enumerate(order[:k], start=1)]


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines [N] of vectors [N, D] with a query [D]; each depends on its own vector only, to the last bit.

    A matrix product would not do: its sums depend on where in the matrix a row stands.
    """
    products = vectors.astype(np.float64) * query.astype(np.float64)
    return np.asarray(products.sum(axis=1))


def _hit(rank: int, score: float, row: Row, label: int) -> Hit:
    return Hit(
        rank=rank,
        score=max(-1.0, min(1.0, score)),
        id=row.id,
        kind=row.kind,
        path=shown(row.path),
        metadata=row.metadata,
        label=label,
        study_uid=row.study_uid,
        series_uid=row.series_uid,
    )
