"""Retrieval and classification figures from scores, in numpy: ranks, chance, precision, AUROC, bootstrap intervals.

Ties are counted against the model: a relevant item loses `TIE` of its cosine before it is ranked, so that a model which
maps everything to one point gets the worst rank and not a lucky one, whatever the rounding of the matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ConfigError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

TIE = 1e-6
"""Cosines closer than this are equal: the rounding of a float32 dot product of two unit vectors."""

KS = (1, 5, 10)
"""Where recall and precision are read off, if nobody says otherwise."""

RESAMPLES = 1000
"""Bootstrap resamples behind an interval."""

LEAST_FOR_INTERVAL = 5
"""Patients with a finding, and without it, below which a bootstrap interval of its AUROC is left out: it would be narrow
because hardly anything can be drawn, not because the figure is certain."""

_CELLS = 2**23
"""Scores held at a time: 64 MiB with their masks, whatever the size of the gallery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % bootstrap interval and what a random ranking gets."""

    value: float
    low: float | None
    high: float | None
    """None, both, where there are too few cases for an interval to mean anything."""

    chance: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the four numbers."""
        return {"value": self.value, "low": self.low, "high": self.high, "chance": self.chance}

    def text(self, *, scale: float = 100.0, digits: int = 1) -> str:
        """Write the figure with its interval, in percent by default."""
        value = f"{scale * self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{value} [too few]"
        return f"{value} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


def first_hit_ranks(scores: NDArray[np.float32], relevant: Bools) -> Integers:
    """Rank of the best relevant item of each query: 1 + irrelevant items that score as high or higher.

    scores [Q, G], relevant [Q, G] -> [Q]. Other relevant items do not count, on either side. Raises `ConfigError` for a
    query that has no relevant item: it has no rank.
    """
    if not relevant.any(axis=1).all():
        raise ConfigError(f"{int((~relevant.any(axis=1)).sum())} queries have nothing relevant in the gallery")
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True) - TIE
    ranks: Integers = 1 + ((scores >= best) & ~relevant).sum(axis=1, dtype=np.int64)
    return ranks


def label_ranks(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], query_labels: Integers, gallery_labels: Integers
) -> Integers:
    """Rank of the best gallery vector [G, D] with the same label, for each query vector [Q, D]: [Q]."""
    parts = []
    for rows in _chunks(len(queries), len(gallery)):
        relevant = query_labels[rows, None] == gallery_labels[None, :]
        parts.append(first_hit_ranks(queries[rows] @ gallery.T, relevant))
    return np.concatenate(parts)


def chance_of_hit(gallery: int, relevant: Integers, k: int) -> Floats:
    """Probability that a random ranking has one of r relevant items among its first k: 1 - C(G - r, k) / C(G, k).

    relevant [Q] -> [Q].
    """
    missed = np.ones(len(relevant))
    for drawn in range(min(k, gallery)):
        missed *= np.clip(gallery - relevant - drawn, 0, None) / (gallery - drawn)
    return 1.0 - missed


def chance_median_rank(gallery: int, relevant: Integers, weights: Floats) -> int:
    """Smallest rank within which a random ranking has its first hit for half of the weight of the queries."""
    counts, inverse = np.unique(relevant, return_inverse=True)
    shares = np.bincount(inverse, weights=weights) / weights.sum()
    missed = np.ones(len(counts))
    for drawn in range(gallery):
        missed *= np.clip(gallery - counts - drawn, 0, None) / (gallery - drawn)
        if shares @ (1.0 - missed) >= 0.5 - 1e-12:
            return drawn + 1
    return gallery


def median_rank(ranks: Integers, weights: Floats) -> int:
    """Smallest rank within which half of the weight of the queries have their first hit."""
    order = np.argsort(ranks, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return int(ranks[order][np.searchsorted(share, 0.5 - 1e-12)])


def macro_weights(labels: Integers) -> Floats:
    """Weights [Q] under which each distinct label counts the same, however many queries carry it."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: Floats = 1.0 / counts[inverse]
    return weights


def resamples(groups: Integers, *, count: int, seed: int) -> Iterator[Floats]:
    """Yield blocks [B, n] of how often each of the n groups is drawn in a bootstrap resample, `count` rows in all.

    Groups are numbered from 0; drawing whole groups keeps the images of one patient together.
    """
    size = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(1, min(count, 100, _CELLS // size))
    for start in range(0, count, block):
        drawn = rng.multinomial(size, np.full(size, 1.0 / size), size=min(block, count - start))
        yield drawn.astype(np.float64)


def mean_interval(
    values: Floats, weights: Floats, groups: Integers, *, count: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Weighted mean over queries of values [Q, M] and the ends of its 95 % bootstrap interval by group: three of [M]."""
    size = int(groups.max()) + 1
    shares = np.bincount(groups, weights=weights, minlength=size)
    totals = np.stack([np.bincount(groups, weights=weights * column, minlength=size) for column in values.T], axis=1)
    means = np.concatenate([(n @ totals) / (n @ shares)[:, None] for n in resamples(groups, count=count, seed=seed)])
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return totals.sum(axis=0) / shares.sum(), low, high


def auroc(scores: Floats, positive: Bools, weights: Floats | None = None) -> Floats:
    """Probability that a positive scores above a negative; equal scores count half (Mann-Whitney).

    scores [N], positive [N], weights [B, N] (one row of ones for None) -> [B]; NaN where one of the classes is empty.
    Here a tie is worth what chance is worth, so no tie flatters the model.
    """
    order = np.argsort(scores, kind="stable")
    weights = np.ones((1, len(scores))) if weights is None else weights
    weights, there = weights[:, order], positive[order]
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    above = np.add.reduceat(weights * there, starts, axis=1)
    below = np.add.reduceat(weights * ~there, starts, axis=1)
    wins = (above * (np.cumsum(below, axis=1) - 0.5 * below)).sum(axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    shares: Floats = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return shares


def auroc_interval(scores: Floats, positive: Bools, groups: Integers, *, count: int, seed: int) -> Interval:
    """AUROC with its 95 % bootstrap interval by group; resamples without one of the classes are left out.

    Without an interval where positives or negatives come from fewer than `LEAST_FOR_INTERVAL` groups.
    """
    value = float(auroc(scores, positive)[0])
    if min(len(np.unique(groups[positive])), len(np.unique(groups[~positive]))) < LEAST_FOR_INTERVAL:
        return Interval(value=value, low=None, high=None, chance=0.5)
    drawn = np.concatenate([auroc(scores, positive, n[:, groups]) for n in resamples(groups, count=count, seed=seed)])
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Interval(value=value, low=float(low), high=float(high), chance=0.5)


def ranked_relevance(scores: Floats, relevant: Bools) -> Bools:
    """Sort `relevant` [Q, G] by falling scores [Q, G]; among ties the irrelevant items come first."""
    order = np.lexsort((relevant, TIE * relevant - scores), axis=1)
    return np.take_along_axis(relevant, order, axis=1)


def precision_at(ranked: Bools, k: int) -> Floats:
    """Share of relevant items among the first k of `ranked` [Q, G]; a gallery smaller than k counts as it is: [Q]."""
    shares: Floats = ranked[:, :k].mean(axis=1)
    return shares


def average_precision(ranked: Bools) -> Floats:
    """Mean over relevant items of the precision at their place in `ranked` [Q, G]: [Q]; NaN where nothing is relevant."""
    hits = np.cumsum(ranked, axis=1)
    precision = hits / np.arange(1, ranked.shape[1] + 1)
    count = ranked.sum(axis=1)
    total = (precision * ranked).sum(axis=1)
    means: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return means


def chance_of_average_precision(gallery: int, relevant: int) -> float:
    """Average precision that a random ranking of G items, r of them relevant, gets on average.

    An item at place i is relevant with probability r / G, and each before it then with (r - 1) / (G - 1): the mean over i
    of (1 + (i - 1) (r - 1) / (G - 1)) / i. A little above r / G, which it approaches in a large gallery.
    """
    harmonic = float((1.0 / np.arange(1, gallery + 1)).sum())
    others = (relevant - 1) / (gallery - 1) if gallery > 1 else 0.0
    return (harmonic + others * (gallery - harmonic)) / gallery


def _chunks(queries: int, gallery: int) -> Iterator[slice]:
    rows = max(1, _CELLS // max(1, gallery))
    for start in range(0, queries, rows):
        yield slice(start, start + rows)
