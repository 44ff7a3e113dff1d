"""How broadly a graph must be searched to reach a recall: measured on this graph, against exact search, with real queries.

The breadth that it takes depends on the vectors, on their number, and above all on the queries: sentences lie apart from
radiographs in the space (the modality gap) and need more of it than radiographs among themselves.
"""

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index.graph import Graph
from mcr_infer.index.index import Index
from mcr_infer.index.manifest import Tuning
from mcr_infer.index.rows import KINDS

K = 10
"""Recall is that of the ten nearest."""

MOST_QUERIES = 1_000
LEAST_QUERIES = 200
"""How many vectors of the other kind are asked, and how few are too few."""

BREADTHS = tuple(sorted({round(16 * 1.2**step) for step in range(36)}))
"""What is tried: 16 to 9,446, each a fifth more than the one before."""

_SPARE = 16
_BLOCK_SCORES = 1 << 23
"""Scores that are held at once: 32 MiB."""

Vectors = NDArray[np.float32]


def queries_of_other_kind(index: Index, kind: str) -> Vectors | None:
    """Return vectors [Q, D] of the other kind to ask a kind with, evenly from all; None where there are too few.

    Those of reports come from the text tower, as the questions of users do.
    """
    (other,) = (one for one in KINDS if one != kind)
    count = index.count(other)
    if count < LEAST_QUERIES:
        return None
    _, vectors = index.vectors(other)
    return np.array(vectors[np.linspace(0, count - 1, min(count, MOST_QUERIES)).astype(np.int64)])


def tune(index: Index, kind: str, queries: Vectors, *, target_recall: float) -> Tuning:
    """Find the smallest breadth of search with which queries [Q, D] reach a mean recall@10 in the graph of a kind.

    Where none does, it is the largest, and the recall says what it reaches. Raises `QueryError` where the kind has no graph
    to tune.
    """
    if not 0.0 < target_recall <= 1.0:
        raise QueryError(f"--target-recall must lie in (0, 1], got {target_recall}")
    with index.snapshot():
        if not index.has_graph(kind):
            raise QueryError(f"{kind}s of index {index.folder} are searched exactly: there is no graph to tune")
        graph = index.graph(kind)
        labels, vectors = index.vectors(kind)
        worst = _tenth_best(queries, vectors)

        def recall(ef: int) -> float:
            return _recall(graph, queries, labels, vectors, worst, ef)

        low, high = 0, len(BREADTHS) - 1
        reached = recall(BREADTHS[high])
        if reached >= target_recall:
            while low < high:
                middle = (low + high) // 2
                found = recall(BREADTHS[middle])
                if found >= target_recall:
                    high, reached = middle, found
                else:
                    low = middle + 1
    return Tuning(
        ef_search=BREADTHS[high],
        target_recall=target_recall,
        recall=reached,
        queries=len(queries),
        rows=len(labels),
    )


def _tenth_best(queries: Vectors, vectors: Vectors) -> NDArray[np.float64]:
    """Return the cosine [Q] of the tenth nearest of each query, by exact search."""
    kept = min(K + _SPARE, len(vectors))
    worst = np.empty(len(queries))
    step = max(1, _BLOCK_SCORES // len(vectors))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        scores = block @ vectors.T
        near = np.argpartition(scores, len(vectors) - kept, axis=1)[:, -kept:]
        for place, one in enumerate(near):
            worst[start + place] = np.sort(_cosines(vectors[one], block[place]))[-min(K, kept)]
    return worst


def _recall(
    graph: Graph,
    queries: Vectors,
    labels: NDArray[np.int64],
    vectors: Vectors,
    worst: NDArray[np.float64],
    ef: int,
) -> float:
    """Return the mean share of the ten nearest that the graph finds; whatever ties with the tenth is one of them."""
    k = min(K, len(labels))
    answer = graph.query(queries, k=k, ef=ef)
    if answer is None:  # it does not even lead to k rows
        return 0.0
    places = np.searchsorted(labels, answer[0])
    hits = [
        (_cosines(vectors[one], query) >= limit).sum() for one, query, limit in zip(places, queries, worst, strict=True)
    ]
    return float(np.mean(hits)) / k


def _cosines(vectors: Vectors, query: Vectors) -> NDArray[np.float64]:
    """Return the cosines [N] of vectors [N, D] with a query [D], the same for a vector in whatever company."""
    return np.asarray((vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1))
