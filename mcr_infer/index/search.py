"""Search: unit vectors in, ranked rows out. Exact where a kind has few rows, through its graph where it has many.

Whichever way candidates are found, they are scored by one and the same sum over the stored vectors, so that scores and
the order of ties depend neither on the way nor on what else is asked at the same time.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index.graph import EF_SEARCH
from mcr_infer.index.index import Index
from mcr_infer.index.rows import KINDS, Scalar

_ROUNDING = 1e-5
"""More than two float32 products of the same unit vectors can differ by, in whatever order they are summed."""

_SPARE = 16
"""Candidates beyond k that are taken from a graph, for ties and for the order within rounding."""

_BLOCK_SCORES = 1 << 23
"""Scores that exact search holds at once: 32 MiB."""

_UNIT_TOLERANCE = 1e-3

Candidates = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One row that was found; `rank` counts from 1, `score` is the cosine."""

    rank: int
    score: float
    id: str
    kind: str
    path: str | None
    metadata: Mapping[str, Scalar]


def search(
    index: Index,
    queries: NDArray[np.float32],
    *,
    kind: str = "image",
    k: int = 10,
    exclude: Collection[str] = (),
    ef_search: int = EF_SEARCH,
) -> list[list[Hit]]:
    """Find the k rows of a kind nearest to each query [Q, D] or [D], best first, equal scores by id.

    There are k hits for each query wherever the index holds k rows of the kind besides the ids in `exclude` (the radiograph
    that a search started from). `ef_search` is the breadth of the search where there is a graph. Raises `QueryError` for a
    wrong kind, k below 1, queries that are not unit vectors of the index, and an index without rows of the kind.
    """
    if kind not in KINDS:
        raise QueryError(f"--kind is {' or '.join(KINDS)}, got {kind!r}")
    if k < 1:
        raise QueryError(f"-k must be at least 1, got {k}")
    block = _checked(np.atleast_2d(queries), index)
    with index.snapshot():
        count = index.count(kind)
        if not count:
            raise QueryError(
                f"index {index.folder} holds no {kind}s: add some with `mcr-infer embed-{kind}s ... --index {index.folder}`"
            )
        wanted = min(k + len(exclude), count)
        found = None if count <= index.exact_limit else _through_graph(index, block, kind, wanted, ef_search)
        return [_ranked(index, kind, hits, k, exclude) for hits in found or _exact(index, block, kind, wanted)]


def _checked(queries: NDArray[np.float32], index: Index) -> NDArray[np.float32]:
    """Return queries [Q, D] once they are what the index can be asked."""
    if queries.ndim != 2 or queries.shape[1] != index.embedding_dim:
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


def _exact(index: Index, queries: NDArray[np.float32], kind: str, wanted: int) -> Iterator[Candidates]:
    """Score every row; give labels and cosines of all that can be among the `wanted` nearest of each query."""
    labels, vectors = index.vectors(kind)
    step = max(1, _BLOCK_SCORES // len(labels))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        for query, scores in zip(block, block @ vectors.T, strict=True):
            last = len(scores) - wanted
            near = np.flatnonzero(scores >= np.partition(scores, last)[last] - _ROUNDING)
            yield labels[near], _cosines(vectors[near], query)


def _through_graph(
    index: Index, queries: NDArray[np.float32], kind: str, wanted: int, ef_search: int
) -> list[Candidates] | None:
    """Give labels and cosines of the rows that the graph leads to; None where it leads to fewer than `wanted`."""
    graph = index.graph(kind)
    found = graph.query(queries, k=min(wanted + _SPARE, len(graph.labels)), ef=ef_search)
    if found is None:
        return None
    candidates = []
    for query, labels in zip(queries, found, strict=True):
        rows = index.rows(labels.tolist())
        vectors = np.stack([rows[label].vector for label in labels.tolist()])
        candidates.append((labels, _cosines(vectors, query)))
    return candidates


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines [N] of vectors [N, D] with a query [D]; each depends on its own vector only, to the last bit.

    A matrix product would not do: its sums depend on where in the matrix a row stands.
    """
    products = vectors.astype(np.float64) * query.astype(np.float64)
    return np.asarray(products.sum(axis=1))


def _ranked(index: Index, kind: str, candidates: Candidates, k: int, exclude: Collection[str]) -> list[Hit]:
    """Order candidates by cosine, then id, and look up the first k that are not excluded."""
    labels, scores = candidates
    wanted = min(k + len(exclude), len(scores))
    keep = scores >= np.sort(scores)[-wanted]  # with everything that ties with the last
    rows = index.rows(labels[keep].tolist())
    order = sorted(
        ((-score, rows[label]) for label, score in zip(labels[keep].tolist(), scores[keep].tolist(), strict=True)),
        key=lambda pair: (pair[0], pair[1].id),
    )
    chosen = [(score, row) for score, row in order if row.id not in exclude][:k]
    return [
        Hit(
            rank=rank,
            score=max(-1.0, min(1.0, -score)),
            id=row.id,
            kind=kind,
            path=row.path,
            metadata=row.metadata,
        )
        for rank, (score, row) in enumerate(chosen, start=1)
    ]
