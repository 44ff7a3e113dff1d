"""What the nearest vectors really are, and how many of them a search found.

    queries, blocks of vectors -> nearest_scores: the k-th best score of each query -> recall of any engine's ids

A found vector counts where its own score reaches the k-th best of exact search, less `ROUNDING`: of vectors with the same
score either is right, and no engine is judged by the order in which it adds up a product.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

ROUNDING = 1e-6
"""What two float32 sums of the same product of unit vectors differ by at 512 dimensions: a few units in the last place."""


def nearest_scores(queries: Vectors, blocks: Iterable[Vectors], *, k: int) -> Vectors:
    """Return the k-th best score [Q] of each query [Q, D] over all vectors of blocks [n, D], which hold k at least."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    for block in blocks:
        scores = np.concatenate([best, queries @ block.T], axis=1)
        best = scores if scores.shape[1] <= k else np.partition(scores, -k, axis=1)[:, -k:]
    if best.shape[1] < k:
        raise ValueError(f"there are {best.shape[1]} vectors, expected {k} at least")
    kth: Vectors = best.min(axis=1)
    return kth


def recall(found: NDArray[np.int64], queries: Vectors, vectors: Vectors, kth: Vectors) -> NDArray[np.float64]:
    """Return the share [Q] of the k nearest that the found rows [Q, k] hold; a row below 0 stands for nothing found.

    `kth` [Q] is what `nearest_scores` returned for the same queries [Q, D] over all vectors [N, D]. A row that is named
    twice counts once.
    """
    shares = np.empty(len(found))
    for place, (rows, query, least) in enumerate(zip(found, queries, kth, strict=True)):
        own = np.unique(rows[rows >= 0])
        shares[place] = np.count_nonzero(vectors[own] @ query >= least - ROUNDING) / found.shape[1]
    return shares
