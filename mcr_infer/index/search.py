"""Search: unit vectors in, ranked rows out. Exact where few rows come into question, through the graph where many do.

    queries -> scope (which rows, which way) -> nearest (labels, scores) -> rows, scored again by their own vectors -> hits

Whichever way candidates are found, hits are scored by one and the same sum over the vectors of their rows, so that scores
and the order of ties depend neither on the way nor on what else is asked at the same time.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import fingerprint_of
from mcr_infer.errors import IndexCorruptError, IndexMismatchError, QueryError
from mcr_infer.index.filters import Filter, parse_filter
from mcr_infer.index.index import Index
from mcr_infer.index.root import shown
from mcr_infer.index.rows import KINDS, Row, Scalar
from mcr_infer.index.scope import Candidates, Distinct, Scope

_ROUNDING = 1e-5
"""More than two float32 products of the same unit vectors can differ by, in whatever order they are summed."""

_UNIT_TOLERANCE = 1e-3


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
    index: Index,
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
    index: Index,
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
    queries: NDArray[np.float32], index: Index, kind: str, k: int, fingerprint: str | None
) -> NDArray[np.float32]:
    """Return queries [Q, D] once they are what the index can be asked."""
    if kind not in KINDS:
        raise QueryError(f"--kind is {' or '.join(KINDS)}, got {kind!r}")
    if k < 1:
        raise QueryError(f"-k must be at least 1, got {k}")
    space = fingerprint_of(queries) or fingerprint
    if space is None:
        raise IndexMismatchError(
            "these query vectors do not know which bundle made them (arithmetic and other libraries lose it): where it is "
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


def _ranked(index: Index, kind: str, query: NDArray[np.float32], found: Candidates, k: int) -> list[Hit]:
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
