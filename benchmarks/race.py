"""One measurement of searches against each other: the same queries, in turn, at the breadth that reaches the same recall.

    searches -> breadth_for each -> rounds A B C A B C -> medians, and the ratio to the first of each round

What is loaded, and how many threads BLAS may take, is settled when a process starts: `in_fresh_process`.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np

from benchmarks.engines import Engine, Rows
from benchmarks.truth import Vectors, recall

BATCH = 64
"""Queries that are asked at once."""

WIDEST = 20_000
_FINE = 1.04

Search = Callable[[Vectors, int], Rows]
"""Queries [Q, D] and breadth -> rows [Q, k]."""

T = TypeVar("T")


def searching(made: Engine, threads: int, k: int = 10) -> Search:
    """Return an engine as the races take it."""

    def search(queries: Vectors, ef: int) -> Rows:
        return made.search(queries, k=k, ef=ef, threads=threads)

    return search


def in_batches(search: Search, queries: Vectors, ef: int) -> Rows:
    """Ask `BATCH` queries at a time."""
    return np.concatenate([search(queries[at : at + BATCH], ef) for at in range(0, len(queries), BATCH)])


def breadth_for(
    target: float, search: Search, queries: Vectors, vectors: Vectors, kth: Vectors, *, least: int
) -> int | None:
    """Return the smallest breadth, within 4 %, at which the mean recall reaches the target; None above `WIDEST`."""

    def reached(ef: int) -> bool:
        return float(recall(in_batches(search, queries, ef), queries, vectors, kth).mean()) >= target

    low, high = least, least
    while not reached(high):
        low, high = high, high * 2
        if high > WIDEST:
            return None
    while high > low * _FINE and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def race(
    runs: Mapping[str, Callable[[], object]], *, queries: int | Mapping[str, int], rounds: int
) -> dict[str, dict[str, Any]]:
    """Run each in turn, `rounds` times after one for warmth; each answers `queries` queries, or as many as its name has.

    Queries a second of the clock and of processor time (all threads) are medians; `ratio` is the median of the rounds'
    ratios to the first run, by the clock, and `ratio_processor` by processor time, which a busy neighbour bends least.
    """
    walls: dict[str, list[float]] = {name: [] for name in runs}
    busy: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if round_:
                busy[name].append(time.process_time() - processor)
                walls[name].append(time.perf_counter() - wall)
    counts = dict.fromkeys(runs, queries) if isinstance(queries, int) else queries
    walls = {name: [one / counts[name] for one in each] for name, each in walls.items()}
    busy = {name: [one / counts[name] for one in each] for name, each in busy.items()}
    first = next(iter(runs))
    return {
        name: {
            "per_second": _figures(1 / statistics.median(walls[name])),
            "per_processor_second": _figures(1 / statistics.median(busy[name])),
            "ratio": _ratio(walls[first], walls[name]),
            "ratio_processor": _ratio(busy[first], busy[name]),
        }
        for name in runs
    }


def in_fresh_process(function: Callable[..., T], *arguments: object, threads: int) -> T:
    """Call a function of a module in a process of its own that has `threads` cores, and as many threads of BLAS."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    with patch.dict(os.environ, dict.fromkeys(names, str(threads))):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=_keep_to, initargs=(threads,)) as pool:
            return pool.submit(function, *arguments).result()


def _keep_to(cores: int) -> None:
    """Leave this process some of its cores: the last, since what else the machine does begins with the first."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def _ratio(first: Sequence[float], other: Sequence[float]) -> float:
    return round(statistics.median(one / two for one, two in zip(first, other, strict=True)), 3)


def _figures(value: float) -> float:
    """Round to what can be told: three figures."""
    return float(f"{value:.3g}")
